"""The steps of a rollout in running environments, noted as they come."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from grpo_adapters.gym.environments.checks import check_finite, check_masks, check_successors
from grpo_adapters.gym.environments.vector_environments import Transition
from grpo_adapters.gym.memory.memory_records import MemoryRecord
from grpo_adapters.gym.observations.columns import FeatureTensors, tensors
from grpo_adapters.gym.observations.encoder import Features
from grpo_adapters.gym.playing.observation_stores import ObservationStore
from grpo_adapters.gym.playing.stepwise import Decided, StepwisePolicy
from grpo_adapters.gym.playing.trajectories import SampledOutputs, Trajectory


class FragmentRecord:
    """The steps of a rollout as they come, [T, n, ...]."""

    def __init__(self, num_steps: int, observations: Features) -> None:
        shape = (num_steps, len(observations))
        self._observations = ObservationStore(num_steps, observations)
        self.masks: torch.Tensor | None = None
        self.decisions: list[torch.Tensor] = []
        self.outputs: list[torch.Tensor] = []
        self.values: list[torch.Tensor] = []
        self.rewards = np.zeros(shape, dtype=np.float32)
        self.terminated = np.zeros(shape, dtype=bool)
        self.done = np.zeros(shape, dtype=bool)
        self.real = np.ones(shape, dtype=bool)
        self.successors: dict[tuple[int, int], Features] = {}

    def store_observations(self, step: int, observations: Features) -> FeatureTensors:
        """Note what a step is decided on, as tensors."""
        self._observations.store(step, observations)
        return tensors(observations)

    def store_masks(self, step: int, masks: NDArray[np.bool_]) -> torch.Tensor:
        """Note what is allowed at a step, as a tensor."""
        if self.masks is None:
            self.masks = torch.ones(len(self.rewards), *masks.shape, dtype=torch.bool)
        self.masks[step] = torch.from_numpy(masks)
        return self.masks[step]

    def store(self, step: int, decided: Decided, transition: Transition) -> None:
        """Note what was decided and what came of it."""
        self.decisions.append(decided.decisions)
        if decided.outputs is not None:
            self.outputs.append(decided.outputs)
        if decided.values is not None:
            self.values.append(decided.values)
        self.rewards[step] = transition.rewards
        self.terminated[step] = transition.terminated
        self.real[step] = transition.real
        if transition.done.any():
            self.done[step] = transition.done
            for index in np.flatnonzero(transition.done):
                self.successors[step, int(index)] = transition.next_observations[index].copy()

    def check(self, last: Features, sizes: Sequence[int], seed: int) -> None:
        """Check what the environments gave; ``last`` are the successors of the last step.

        Raises:
            NonFiniteError: if an observation or a reward is not finite.
            ValueError: if a mask allowed nothing.
        """
        self._observations.check(self.real, seed)
        check_finite("reward", self.rewards, self.real, seed)
        after_last = {(len(self.real) - 1, slot): features for slot, features in enumerate(last)}
        check_successors(after_last | self.successors, self.real, seed)
        if self.masks is not None:
            check_masks(self.masks.numpy(), self.real, sizes, seed)

    def trajectories(self, last: Features, record: MemoryRecord, policy: StepwisePolicy) -> list[Trajectory]:
        """One for each environment; ``last`` are the successors of the last step."""
        decisions = torch.stack(self.decisions).cpu()
        observations = self._observations.of_real_steps(self.real)
        stored, sampled = record.stored(self.real), self._sampled_outputs(policy)
        return [
            replace(
                self._trajectory(slot, own, decisions[:, slot], last[slot]), memory=stored[slot], sampled=sampled[slot]
            )
            for slot, own in enumerate(observations)
        ]

    def _sampled_outputs(self, policy: Any) -> list[SampledOutputs | None]:
        """What was computed at the real steps of each environment, if the policy told it."""
        if not self.outputs:
            return [None] * self.real.shape[1]
        weights, outputs = policy.weights_checksum(), torch.stack(self.outputs)
        values = torch.stack(self.values) if self.values else None
        return [
            SampledOutputs(outputs[:, slot], None if values is None else values[:, slot], weights)[own]
            for slot, own in enumerate(torch.from_numpy(self.real).T)
        ]

    def _trajectory(
        self,
        slot: int,
        observations: FeatureTensors,
        decisions: torch.Tensor,
        last: Features,
    ) -> Trajectory:
        real = self.real[:, slot]
        steps = torch.from_numpy(np.flatnonzero(real))
        ends = np.flatnonzero(self.done[:, slot])
        successors = [self.successors[int(step), slot] for step in ends]
        terminated = [bool(self.terminated[step, slot]) for step in ends]
        ends_among_real = np.cumsum(real)[ends]
        if len(ends) == 0 or ends_among_real[-1] < len(steps):
            ends_among_real = np.append(ends_among_real, len(steps))
            successors.append(last)
            terminated.append(False)
        return Trajectory(
            observations=observations,
            decisions=decisions[steps],
            rewards=torch.from_numpy(self.rewards[real, slot]),
            episode_lengths=tuple(np.diff(ends_among_real, prepend=0).tolist()),
            next_observations=tensors(np.stack(successors)),
            terminated=torch.tensor(terminated),
            masks=None if self.masks is None else self.masks[steps, slot],
        )
