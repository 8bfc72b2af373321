"""The rewards that the environments gave."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from grpo import World
from grpo_adapters.gym.environments.checks import check_state
from grpo_adapters.gym.networks.perceptrons import RunningNormalization
from grpo_adapters.gym.playing.trajectories import Rollout, Trajectory


class EnvironmentReward:
    """The rewards of the steps, as the environments gave them. A reward model for :class:`GymPolicy`.

    Example:
        >>> import gymnasium
        >>> from grpo_adapters.gym import EpisodeSampler, GymPolicy
        >>> policy = GymPolicy(EpisodeSampler(lambda: gymnasium.make("CartPole-v1"), num_envs=1))
        >>> [[episode]] = policy.generate_actions([0], 1)
        >>> EnvironmentReward().compute_rewards([0], [episode]).sum().item() == len(episode)  # CartPole pays 1 a step
        True
    """

    def __init__(self) -> None:
        self._device: torch.device | None = None

    def compute_rewards(self, states: Any, actions: Sequence[Trajectory]) -> Tensor:
        """Rewards of all steps end to end, [D]."""
        if isinstance(actions, Rollout):
            rewards = actions.rewards.flatten()
        else:
            rewards = torch.cat([trajectory.rewards for trajectory in actions])
        return rewards.to(self._device)

    def train(self) -> None:
        """Nothing to switch."""

    def eval(self) -> None:
        """Nothing to switch."""

    def to(self, device: torch.device | str) -> None:
        """Give the rewards on this device, and not where they were."""
        self._device = torch.empty(0, device=device).device


class NormalizedReward(EnvironmentReward):
    """The environments' rewards, divided by the running standard deviation of the discounted return, clipped to ±10.

    The return of a step is ``R_t = r_t + γ R_{t-1}``, the rewards so far. It begins anew where an episode terminated,
    and goes on over an end that only cut one short. For a :class:`FragmentSampler`: that of environment i goes on from
    rollout to rollout. Its own ``episode_return`` stays that of the rewards as they are.

    Args:
        discount: γ, the trainer's.

    Raises:
        ValueError: if the discount is not in [0, 1].

    References:
        Engstrom et al. 2020, arXiv:2005.12729, section 3.

    Example:
        >>> import gymnasium
        >>> from grpo import PPOConfig, PPOTrainer
        >>> from grpo_adapters.gym import FragmentSampler, GymActorCritic
        >>> sampler = FragmentSampler(gymnasium.make_vec("Pendulum-v1", num_envs=2), num_steps=8)
        >>> trainer = PPOTrainer(PPOConfig(), GymActorCritic(sampler), NormalizedReward(discount=0.99))
        >>> trainer.step(sampler.states)["num_samples"]
        2.0
    """

    def __init__(self, discount: float) -> None:
        super().__init__()
        if not 0 <= discount <= 1:
            raise ValueError(f"discount is {discount}, expected 0 to 1: pass the one of the trainer's config")
        self.discount = discount
        self._spread = RunningNormalization(())
        self._returns: dict[int, float] = {}
        self._world = World()

    def join_world(self, world: World) -> None:
        """Divide by what all processes have seen."""
        self._world = world

    def compute_rewards(self, states: Sequence[int], actions: Sequence[Trajectory]) -> Tensor:
        """Rewards of all steps end to end, [D]; they count before they are divided."""
        rewards = super().compute_rewards(states, actions)
        returns = [value for slot, own in zip(states, actions, strict=True) for value in self._returns_of(slot, own)]
        self._spread.update(torch.tensor(returns, dtype=torch.float64), self._world)
        scale = float((self._spread.variance + 1e-8).rsqrt())
        return (rewards * scale).clamp(-self._spread.CLIP, self._spread.CLIP)

    def _returns_of(self, slot: int, trajectory: Trajectory) -> list[float]:
        """The return at each step of an environment."""
        returns: list[float] = []
        value = self._returns.get(slot, 0.0)
        pieces = trajectory.rewards.tolist()
        for length, terminated in zip(trajectory.episode_lengths, trajectory.terminated.tolist(), strict=True):
            for reward in pieces[len(returns) : len(returns) + length]:
                value = reward + self.discount * value
                returns.append(value)
            value = 0.0 if terminated else value
        self._returns[slot] = value
        return returns

    def get_settings(self) -> dict[str, Any]:
        """The discount."""
        return {"discount": self.discount}

    def state_dict(self) -> dict[str, Any]:
        """The running statistics, and the returns that go on."""
        return {"spread": self._spread.state_dict(), "returns": dict(self._returns)}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Go on from what ``state_dict`` returned."""
        check_state(state_dict, {"spread", "returns"}, self)
        self._spread.load_state_dict(state_dict["spread"])
        self._returns = dict(state_dict["returns"])
