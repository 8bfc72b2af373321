"""The steps of a simulator in a rollout, as they come."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from grpo import NonFiniteError
from grpo_adapters.gym.environments.simulators import SimulatedStep
from grpo_adapters.gym.memory.windows import StoredMemory
from grpo_adapters.gym.playing.trajectories import Rollout


class SimulatedSteps:
    """What was seen, decided and given, on the simulator's device. Observations are stored environment by environment.

    Args:
        num_steps: T.
        observations: that the first step is decided on, [n, *shape].
        dtype: to store observations in.
    """

    def __init__(self, num_steps: int, observations: Tensor, dtype: torch.dtype) -> None:
        num_envs, *shape = observations.shape
        device = observations.device
        self.observations = torch.empty(num_envs, num_steps, *shape, dtype=dtype, device=device)
        self.after = torch.empty(num_steps, num_envs, *shape, dtype=dtype, device=device)
        self.rewards = torch.empty(num_steps, num_envs, device=device)
        self.terminated = torch.empty(num_steps, num_envs, dtype=torch.bool, device=device)
        self.done = torch.empty(num_steps, num_envs, dtype=torch.bool, device=device)
        self.decisions: list[Tensor] = []
        self.masks: Tensor | None = None

    def store_observations(self, number: int, observations: Tensor, masks: Tensor | None) -> None:
        """Note what a step is decided on, and what is allowed."""
        self.observations[:, number] = observations
        if masks is not None:
            if self.masks is None:
                num_envs, num_steps = self.observations.shape[:2]
                self.masks = masks.new_ones(num_envs, num_steps, *masks.shape[1:])
            self.masks[:, number] = masks

    def store(self, number: int, decisions: Tensor, step: SimulatedStep) -> None:
        """Note what was decided and what came of it."""
        self.decisions.append(decisions)
        self.rewards[number] = step.rewards
        self.terminated[number] = step.terminated
        self.done[number] = step.done
        after = self.after[number]
        after.copy_(step.observations if step.final is None else step.final)
        if step.final is not None and number == len(self.after) - 1:
            rows = step.done.view(-1, *[1] * (after.dim() - 1))
            after.copy_(torch.where(rows, step.final, step.observations))

    def rollout(self, sizes: Sequence[int], memory: StoredMemory | None) -> Rollout:
        """The whole, checked.

        Args:
            sizes: of the choices that a mask lists.
            memory: what the policy remembered along the way.

        Raises:
            NonFiniteError: if an observation or a reward is not finite.
            ValueError: if a mask allowed nothing.
        """
        num_steps = len(self.done)
        is_end = self.done.t().clone()
        is_end[:, -1] = True
        ends = is_end.flatten().nonzero().squeeze(1)
        slots, steps = ends // num_steps, ends % num_steps
        rollout = Rollout(
            self.observations,
            torch.stack(self.decisions, 1),
            self.rewards.t().contiguous(),
            ends,
            self.after[steps, slots],
            self.terminated[steps, slots],
            self.masks,
            memory,
        )
        _check_finite("observation", rollout.observations)
        _check_finite("reward", rollout.rewards)
        if not rollout.next_observations.isfinite().all():
            bad = ~rollout.next_observations.flatten(1).isfinite().all(1)
            raise NonFiniteError(
                _not_finite(
                    "observation", int(slots[bad][0]), int(steps[bad][0]) + 1, rollout.next_observations[bad][0]
                )
            )
        if self.masks is not None and sizes:
            _check_masks(self.masks, sizes)
        return rollout


def _check_finite(name: str, values: Tensor) -> None:
    """What a rollout holds of each environment at each step, [n, T, ...], must be finite."""
    if not values.is_floating_point() or values.sum().isfinite():
        return
    bad = ~values.flatten(2).isfinite().all(2) if values.dim() > 2 else ~values.isfinite()
    if bad.any():
        step, slot = bad.t().nonzero()[0].tolist()
        raise NonFiniteError(_not_finite(name, slot, step, values[slot, step]))


def _not_finite(name: str, slot: int, step: int, value: Tensor) -> str:
    return (
        f"environment {slot} gave the {name} {value.tolist()} at step {step} of the rollout, expected finite numbers: "
        f"end the episode before the simulation breaks down, or clip in the simulator's step"
    )


def _check_masks(masks: Tensor, sizes: Sequence[int]) -> None:
    """Masks [n, T, number of choices] must allow something of each choice."""
    nothing = ~torch.stack([part.any(-1) for part in masks.split(list(sizes), -1)]).all(0)
    if nothing.any():
        step, slot = nothing.t().nonzero()[0].tolist()
        raise ValueError(
            f"environment {slot} gave an action_mask that allows nothing at step {step} of the rollout: end the "
            f"episode where no action is left"
        )
