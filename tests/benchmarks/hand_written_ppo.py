"""PPO for environments with discrete actions in one file of plain PyTorch: as one writes it, and tuned for one thread.

Both share how they sample. What the tuned one does besides to be fast, none of which changes the algorithm:

- sampling evaluates the actor alone, and adds Gumbel noise that was drawn for the whole rollout; the values and the
  log-probs of the rollout come from one batch afterwards;
- all parameters lie in one vector and their gradients in another, so that clipping the norm and the optimiser are a few
  operations on one tensor;
- all epochs are shuffled and their advantages normalised before the first update, and the metrics come after the last;
- the parts of the loss are separate roots of one backward pass, weighted by the gradients that it starts from.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import gymnasium
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

HIDDEN_UNITS = 64
EPISODES_REPORTED = 100


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What defines a run. With ``anneal``, learning rate and clip range fall linearly to 0 at ``total_steps``."""

    environment: str
    num_envs: int
    num_steps: int
    batch_size: int
    num_epochs: int
    discount: float
    gae_lambda: float
    entropy_coefficient: float
    learning_rate: float
    clip_range: float
    value_coefficient: float
    max_grad_norm: float
    total_steps: int
    anneal: bool
    seed: int

    def __post_init__(self) -> None:
        if self.num_envs * self.num_steps % self.batch_size:
            raise ValueError(
                f"{self.num_envs} · {self.num_steps} steps of a rollout do not split into batches of {self.batch_size}"
            )


CART_POLE = Settings(
    environment="CartPole-v1",
    num_envs=8,
    num_steps=32,
    batch_size=256,
    num_epochs=20,
    discount=0.98,
    gae_lambda=0.8,
    entropy_coefficient=0.0,
    learning_rate=1e-3,
    clip_range=0.2,
    value_coefficient=0.5,
    max_grad_norm=0.5,
    total_steps=100_000,
    anneal=True,
    seed=0,
)
LUNAR_LANDER = Settings(
    environment="LunarLander-v3",
    num_envs=16,
    num_steps=1024,
    batch_size=64,
    num_epochs=4,
    discount=0.999,
    gae_lambda=0.98,
    entropy_coefficient=0.01,
    learning_rate=3e-4,
    clip_range=0.2,
    value_coefficient=0.5,
    max_grad_norm=0.5,
    total_steps=1_000_000,
    anneal=False,
    seed=0,
)


def build_network(num_inputs: int, num_outputs: int, gain: float, generator: torch.Generator) -> nn.Sequential:
    """Two hidden layers with tanh; weights orthogonal, of ``gain`` in the last layer, and biases 0."""
    widths = [num_inputs, HIDDEN_UNITS, HIDDEN_UNITS, num_outputs]
    layers = [nn.Linear(*pair) for pair in pairwise(widths)]
    for layer, layer_gain in zip(layers, (math.sqrt(2), math.sqrt(2), gain), strict=True):
        nn.init.orthogonal_(layer.weight, layer_gain, generator)
        nn.init.zeros_(layer.bias)
    return nn.Sequential(layers[0], nn.Tanh(), layers[1], nn.Tanh(), layers[2])


def flatten_parameters(*modules: nn.Module) -> nn.Parameter:
    """One vector of which the modules' parameters become views, and its gradient, of which theirs do."""
    parameters = [parameter for module in modules for parameter in module.parameters()]
    vector = nn.Parameter(torch.cat([parameter.detach().flatten() for parameter in parameters]))
    vector.grad = torch.zeros_like(vector)
    sizes = [parameter.numel() for parameter in parameters]
    for parameter, data, grad in zip(parameters, vector.data.split(sizes), vector.grad.split(sizes), strict=True):
        parameter.data = data.view_as(parameter)
        parameter.grad = grad.view_as(parameter)
    return vector


@dataclass(frozen=True)
class Rollout:
    """One row for each step of each environment; all but the observations are columns [N, 1]."""

    observations: Tensor
    actions: Tensor
    log_probs: Tensor
    values: Tensor
    advantages: Tensor

    @property
    def returns(self) -> Tensor:
        """What the values are fitted to."""
        return self.advantages + self.values


class HandTunedPPO:
    """PPO whose environments go on from one rollout to the next; ``env_steps`` counts the steps of all of them."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.generator = torch.Generator().manual_seed(settings.seed)
        self.environments: gymnasium.vector.VectorEnv[NDArray[np.float32], Any, Any] = gymnasium.make_vec(
            settings.environment,
            settings.num_envs,
            vectorization_mode="sync",
            vector_kwargs={"autoreset_mode": gymnasium.vector.AutoresetMode.SAME_STEP, "copy": False},
        )
        observation_space = self.environments.single_observation_space
        action_space = self.environments.single_action_space
        assert isinstance(observation_space, gymnasium.spaces.Box)
        assert isinstance(action_space, gymnasium.spaces.Discrete)
        num_features, self.num_actions = observation_space.shape[0], int(action_space.n)
        self.actor = build_network(num_features, self.num_actions, 0.01, self.generator)
        self.critic = build_network(num_features, 1, 1.0, self.generator)
        self.parameters = flatten_parameters(self.actor, self.critic)
        self.optimizer = torch.optim.Adam([self.parameters], lr=settings.learning_rate, eps=1e-5, fused=True)
        self.observations = torch.zeros(settings.num_steps + 1, settings.num_envs, num_features)
        self.observations[-1] = torch.from_numpy(self.environments.reset(seed=settings.seed)[0])
        self.running_returns = np.zeros(settings.num_envs)
        self.episode_returns: list[float] = []
        self.env_steps = 0

    def iteration(self) -> dict[str, float]:
        """Sample one rollout, make its updates and report on both."""
        rollout = self.sample()
        self.env_steps += len(rollout.actions)
        remaining = max(0.0, 1 - self.env_steps / self.settings.total_steps) if self.settings.anneal else 1.0
        metrics = self.update(rollout, self.settings.learning_rate * remaining, self.settings.clip_range * remaining)
        recent = self.episode_returns[-EPISODES_REPORTED:]
        metrics["episode_return"] = sum(recent) / len(recent) if recent else math.nan
        return metrics

    @torch.no_grad()
    def sample(self) -> Rollout:
        """Act ``num_steps`` times in every environment, and estimate the advantages of what was done."""
        num_steps, num_envs = self.settings.num_steps, self.settings.num_envs
        self.observations[0] = self.observations[-1]
        arriving = self.observations.numpy()[1:]
        actions = torch.empty(num_steps, num_envs, dtype=torch.int64)
        rewards = np.empty((num_steps, num_envs), dtype=np.float32)
        ends = np.empty((num_steps, num_envs), dtype=np.bool_)
        truncations: list[tuple[int, int]] = []
        truncated_observations: list[NDArray[np.float32]] = []
        noise = torch.empty(num_steps, num_envs, self.num_actions).exponential_(generator=self.generator).log_().neg_()
        for step, (present, gumbels, chosen) in enumerate(zip(self.observations[:-1], noise, actions, strict=True)):
            torch.argmax(self.actor(present).add_(gumbels), -1, out=chosen)
            arriving[step], rewards[step], terminated, truncated, infos = self.environments.step(chosen.tolist())
            self.running_returns += rewards[step]
            np.logical_or(terminated, truncated, out=ends[step])
            for index in np.flatnonzero(ends[step]).tolist():
                self.episode_returns.append(float(self.running_returns[index]))
                self.running_returns[index] = 0
                if not terminated[index]:
                    truncations.append((step, index))
                    truncated_observations.append(infos["final_obs"][index])

        observations = self.observations.flatten(end_dim=1)
        successors = torch.from_numpy(np.array(truncated_observations, np.float32)).view(-1, observations.shape[1])
        values, successor_values = self.critic(torch.cat([observations, successors])).split(
            [len(observations), len(successors)]
        )
        for place, value in zip(truncations, successor_values.squeeze(1).tolist(), strict=True):
            rewards[place] += self.settings.discount * value
        observations, actions = observations[: num_steps * num_envs], actions.view(-1, 1)
        return Rollout(
            observations=observations,
            actions=actions,
            log_probs=self.actor(observations).log_softmax(-1).gather(1, actions),
            values=values[: num_steps * num_envs],
            advantages=self.estimate_advantages(rewards, values.view(num_steps + 1, num_envs).numpy(), ends),
        )

    def estimate_advantages(
        self, rewards: NDArray[np.float32], values: NDArray[np.float32], ends: NDArray[np.bool_]
    ) -> Tensor:
        """Generalised advantage estimation; rewards of truncated steps hold the value of what would have followed."""
        continues = (~ends).astype(np.float32)
        errors = rewards + self.settings.discount * continues * values[1:] - values[:-1]
        decays = self.settings.discount * self.settings.gae_lambda * continues
        for step in range(len(errors) - 2, -1, -1):
            errors[step] += decays[step] * errors[step + 1]
        return torch.from_numpy(errors).view(-1, 1)

    def update(self, rollout: Rollout, learning_rate: float, clip_range: float) -> dict[str, float]:
        """Make the minibatch updates of all epochs."""
        settings, size = self.settings, self.settings.batch_size
        grad = self.parameters.grad
        assert grad is not None
        self.optimizer.param_groups[0]["lr"] = learning_rate
        surrogate_weight = torch.full((size, 1), -1 / size)
        value_weight = torch.tensor(settings.value_coefficient)
        entropy_weight = torch.full((size, self.num_actions), settings.entropy_coefficient / size)
        columns = (rollout.observations, rollout.actions, rollout.log_probs, rollout.returns)
        surrogates, value_losses, all_log_probs, log_ratios = [], [], [], []
        epochs = [torch.randperm(len(rollout.actions), generator=self.generator) for _ in range(settings.num_epochs)]
        order = torch.cat(epochs)
        batches = [column[order].view(-1, size, column.shape[1]) for column in columns]
        advantages = rollout.advantages[order].view(-1, size, 1)
        advantages = (advantages - advantages.mean(1, keepdim=True)) / (advantages.std(1, keepdim=True) + 1e-8)
        limits = advantages + clip_range * advantages.abs()  # min(r A, clip(r) A) = min(r A, A + ε |A|)
        for observations, actions, old_log_probs, returns, advantage, limit in zip(
            *batches, advantages, limits, strict=True
        ):
            log_probs = self.actor(observations).log_softmax(-1)
            log_ratio = log_probs.gather(1, actions) - old_log_probs
            surrogate = torch.minimum(log_ratio.exp() * advantage, limit)
            value_loss = nn.functional.mse_loss(self.critic(observations), returns)
            roots, weights = [surrogate, value_loss], [surrogate_weight, value_weight]
            if settings.entropy_coefficient:
                roots.append(log_probs.exp() * log_probs)
                weights.append(entropy_weight)
            grad.zero_()
            torch.autograd.backward(roots, weights)
            grad.mul_((settings.max_grad_norm / (grad.norm() + 1e-6)).clamp_(max=1))
            self.optimizer.step()
            surrogates.append(surrogate.detach())
            value_losses.append(value_loss.detach())
            all_log_probs.append(log_probs.detach())
            log_ratios.append(log_ratio.detach())

        log_probs, log_ratio = torch.cat(all_log_probs), torch.cat(log_ratios)
        ratio = log_ratio.exp()
        metrics = {
            "policy_loss": -torch.cat(surrogates).mean(),
            "value_loss": torch.stack(value_losses).mean(),
            "entropy": -(log_probs.exp() * log_probs).sum(-1).mean(),
            "approx_kl": (ratio - 1 - log_ratio).mean(),
            "clip_fraction": ((ratio - 1).abs() > clip_range).float().mean(),
            "explained_variance": 1 - rollout.advantages.var() / rollout.returns.var(),
        }
        values = {name: value.item() for name, value in metrics.items()}
        values["loss"] = (
            values["policy_loss"]
            + settings.value_coefficient * values["value_loss"]
            - settings.entropy_coefficient * values["entropy"]
        )
        return values


class HandWrittenPPO(HandTunedPPO):
    """The same with updates as one writes them: one loss, modules' own parameters, metrics as they come."""

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings)
        num_features, num_actions = self.observations.shape[-1], self.num_actions
        self.actor = build_network(num_features, num_actions, 0.01, self.generator)
        self.critic = build_network(num_features, 1, 1.0, self.generator)
        self.trained = [*self.actor.parameters(), *self.critic.parameters()]
        self.optimizer = torch.optim.Adam(self.trained, lr=settings.learning_rate, eps=1e-5, fused=True)

    def update(self, rollout: Rollout, learning_rate: float, clip_range: float) -> dict[str, float]:
        """Make the minibatch updates of all epochs."""
        settings = self.settings
        self.optimizer.param_groups[0]["lr"] = learning_rate
        names = ("loss", "policy_loss", "value_loss", "entropy", "approx_kl", "clip_fraction")
        columns = (rollout.observations, rollout.actions, rollout.log_probs, rollout.returns, rollout.advantages)
        history = []
        for _ in range(settings.num_epochs):
            for rows in torch.randperm(len(rollout.actions), generator=self.generator).split(settings.batch_size):
                observations, actions, old_log_probs, returns, advantages = (column[rows] for column in columns)
                advantages = (advantages - advantages.mean()) / (advantages.std() + 1e-8)
                log_probs = self.actor(observations).log_softmax(-1)
                log_ratio = log_probs.gather(1, actions) - old_log_probs
                ratio = log_ratio.exp()
                clipped = ratio.clamp(1 - clip_range, 1 + clip_range)
                policy_loss = -torch.minimum(ratio * advantages, clipped * advantages).mean()
                value_loss = nn.functional.mse_loss(self.critic(observations), returns)
                entropy = -(log_probs.exp() * log_probs).sum(-1).mean()
                loss = policy_loss + settings.value_coefficient * value_loss - settings.entropy_coefficient * entropy
                self.optimizer.zero_grad()
                loss.backward()
                nn.utils.clip_grad_norm_(self.trained, settings.max_grad_norm)
                self.optimizer.step()
                with torch.no_grad():
                    approx_kl = (ratio - 1 - log_ratio).mean()
                    clip_fraction = ((ratio - 1).abs() > clip_range).float().mean()
                    history.append(torch.stack([loss, policy_loss, value_loss, entropy, approx_kl, clip_fraction]))
        metrics = dict(zip(names, torch.stack(history).mean(0).tolist(), strict=True))
        explained = 1 - rollout.advantages.var() / rollout.returns.var()
        return metrics | {"explained_variance": explained.item()}
