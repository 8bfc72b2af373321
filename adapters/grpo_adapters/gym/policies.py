"""Policies for gymnasium's environments over any network."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import gymnasium
import numpy as np
import torch
from torch import Tensor, nn

from grpo import Batch, Evaluation, NonFiniteError, Sampler, ValueEstimates, World
from grpo_adapters.gym.checks import allows_something
from grpo_adapters.gym.columns import Columns, FeatureTensors, finite_rows, placed, tensors
from grpo_adapters.gym.default_trunk import default_trunk
from grpo_adapters.gym.distributions import ActionDistribution
from grpo_adapters.gym.joint_distribution import distribution_for
from grpo_adapters.gym.networks import (
    MLP,
    POLICY_GAIN,
    VALUE_GAIN,
    ActorCriticMLP,
    NormalizedColumns,
    RunningNormalization,
    scaled_images,
)
from grpo_adapters.gym.spaces import ObservationEncoder, spaces_of
from grpo_adapters.gym.state_dependent_exploration import StateDependentExploration
from grpo_adapters.gym.stepwise import Decided
from grpo_adapters.gym.trajectories import Trajectory, TrajectoryBatch

ROWS_AT_A_TIME = 128


class GymPolicy(nn.Module):
    """A policy for an environment, over any network that decides for each step by itself. It has no critic.

    Args:
        environment: what it is for: an environment or vector environment; or a :class:`FragmentSampler` or
            :class:`EpisodeSampler`, which a trainer then uses as its sampler if it is given no other.
        actor: from features [n, *shape], or from what ``trunk`` makes of them, to the outputs of the distribution, [n,
            num_outputs]: logits of discrete actions, means of continuous ones. None for a multilayer perceptron.
        trunk: from features [n, *shape], or :class:`Columns` of them, to units [n, U], which actor and critic share,
            computed once. None for none, and where there is no ``actor``, for a :class:`NatureCNN` of images, an
            :class:`ImpalaCNN` of small ones, and a :class:`DictEncoder` where parts of an observation stay apart.
        hidden_sizes: of the networks that are built here; None for (64, 64), and for none behind a trunk.
        distribution: what the outputs mean, from the action space: ``partial(DiagonalGaussian, initial_std=0.5)``, say.
        normalize_observations: normalise features by their running mean and standard deviation, which are part of the
            policy's state and move once, at the end of a step.
        seed: of the initial weights and the sampling.

    Raises:
        TypeError: if a space is not supported.
        ValueError: if the network's outputs do not fit the action space.

    Example:
        >>> import gymnasium
        >>> policy = GymPolicy(gymnasium.make("CartPole-v1"))
        >>> policy.predict([[0.0, 0.0, 0.1, 0.0]]).shape
        (1,)
    """

    def __init__(
        self,
        environment: Any,
        actor: nn.Module | None = None,
        *,
        trunk: nn.Module | None = None,
        hidden_sizes: Sequence[int] | None = None,
        distribution: Callable[[Any], ActionDistribution] = distribution_for,
        normalize_observations: bool = False,
        seed: int = 0,
    ) -> None:
        super().__init__()
        observation_space, action_space = spaces_of(environment)
        is_environment = isinstance(environment, gymnasium.Env | gymnasium.vector.VectorEnv)
        self.sampler: Sampler[Sequence[int], Sequence[Trajectory]] | None = None
        if not is_environment and isinstance(environment, Sampler):
            self.sampler = environment
        self.observation_space = observation_space
        self.action_space = action_space
        self.encoder = ObservationEncoder(observation_space)
        self.distribution = distribution(action_space)
        self.generator = torch.Generator().manual_seed(seed)
        self._world = World()
        self.normalization: Any = _normalization(self.encoder) if normalize_observations else None
        self.trunk = default_trunk(observation_space, self.generator) if actor is None and trunk is None else trunk
        if hidden_sizes is None:
            hidden_sizes = (64, 64) if self.trunk is None else ()
        self._unit_shape = self._shape_of_units()
        num_outputs = self.distribution.num_outputs
        self.actor = self._default_actor(hidden_sizes) if actor is None else actor
        fix = f"{action_space} takes [n, {num_outputs}]: end the network with {num_outputs} outputs"
        self._check_outputs("actor", self.actor, {(2, num_outputs)}, fix)

    def _default_actor(self, hidden_sizes: Sequence[int]) -> nn.Module:
        size, shows_hidden = self.distribution.num_outputs, False
        if isinstance(self.distribution, StateDependentExploration):
            size, shows_hidden = self.distribution.num_dimensions, True
        return MLP(
            math.prod(self._unit_shape),
            hidden_sizes,
            size,
            output_gain=POLICY_GAIN,
            generator=self.generator,
            shows_hidden=shows_hidden,
        )

    def _shape_of_units(self) -> tuple[int, ...]:
        if self.trunk is None:
            return self.encoder.shape
        shape = self._shape_for_two("trunk", self.trunk, self._two_features())
        if len(shape) != 2 or shape[0] != 2:
            raise ValueError(
                f"trunk returned shape {list(shape)} for 2 observations, but units [n, U] are expected: end it with "
                f"nn.Flatten() or a linear layer"
            )
        return shape[1:]

    def _check_outputs(self, role: str, network: nn.Module, shapes: set[tuple[int, ...]], fix: str) -> None:
        units = self._two_features() if self.trunk is None else torch.zeros(2, *self._unit_shape, device=self.device)
        shape = self._shape_for_two(role, network, units)
        if shape not in shapes:
            raise ValueError(f"{role} returned shape {list(shape)} for 2 observations, but {fix}")

    def _two_features(self) -> FeatureTensors:
        zeros = np.zeros((2, *self.encoder.shape), dtype=self.encoder.dtype)
        features: FeatureTensors = self.features(placed(tensors(zeros), self.device, self.dtype))
        return features

    @torch.no_grad()
    def _shape_for_two(self, role: str, network: nn.Module, features: FeatureTensors) -> tuple[int, ...]:
        """The shape of what a network makes of two observations, or of their units."""
        dtype = next((parameter.dtype for parameter in network.parameters()), torch.float32)
        was_training = network.training
        try:
            return tuple(network.eval()(placed(features, self.device, dtype)).shape)
        except RuntimeError as error:
            came = features if isinstance(features, Columns) else f"shape {list(features.shape)}"
            raise ValueError(f"{role} cannot take 2 observations as features of {came}: {error}") from error
        finally:
            network.train(was_training)

    @property
    def device(self) -> torch.device:
        """Where the parameters are."""
        return next((parameter.device for parameter in self.parameters()), torch.device("cpu"))

    @property
    def dtype(self) -> torch.dtype:
        """Precision of the parameters."""
        return next((parameter.dtype for parameter in self.parameters()), torch.float32)

    def get_sampler(self) -> Sampler[Sequence[int], Sequence[Trajectory]] | None:
        """The sampler that the policy was built from, None where it was built from an environment."""
        return self.sampler

    def generate_actions(
        self, states: Sequence[int], num_actions_per_state: int, **kwargs: Any
    ) -> Batch[Sequence[Trajectory]]:
        """Play: a group of trajectories for each state, which are seeds or slots, as the sampler has it."""
        if self.sampler is None:
            raise TypeError(
                "this GymPolicy was built from an environment and only predicts: give the trainer or collector a "
                "FragmentSampler or an EpisodeSampler as sampler=, or build the policy from one"
            )
        return self.sampler.sample(self, states, num_actions_per_state, **kwargs)

    def encode_actions(self, states: Sequence[int], actions: Sequence[Trajectory]) -> TrajectoryBatch:
        """All steps of the trajectories."""
        return TrajectoryBatch.of(actions, self.device, self.dtype)

    def evaluate_actions(self, batch: TrajectoryBatch) -> Evaluation:
        """Log-probs and entropy of the steps, [D] each."""
        outputs = self.actor(self.units(batch.observations))
        return Evaluation(*self.distribution.log_probs_and_entropy(outputs, batch.decisions, batch.masks))

    def get_log_probabilities(self, states: Sequence[int], actions: Sequence[Trajectory]) -> Tensor:
        """Log-prob of each trajectory, the sum over its steps, [N]."""
        batch = self.encode_actions(states, actions)
        return batch.samples.sum(self.evaluate_actions(batch).log_probs)

    def get_parameters(self) -> dict[str, Tensor]:
        """The parameters of the networks and, for continuous actions, the standard deviations."""
        return dict(self.named_parameters())

    def features(self, observations: FeatureTensors) -> Any:
        """What the networks see: images scaled to [0, 1], and all normalised where asked for."""
        scaled = self._scaled(observations)
        return scaled if self.normalization is None else self.normalization(scaled)

    def _scaled(self, observations: FeatureTensors) -> FeatureTensors:
        if isinstance(observations, Columns):
            return Columns({name: scaled_images(part, self.dtype) for name, part in observations.items()})
        return scaled_images(observations, self.dtype)

    def units(self, observations: FeatureTensors) -> Any:
        """What actor and critic see, the features, or what the trunk makes of them.

        Without gradients, a trunk is given so many observations at a time, and its inner units are never there for all.
        """
        if self.trunk is None:
            return self.features(observations)
        if torch.is_grad_enabled() or len(observations) <= ROWS_AT_A_TIME:
            return self.trunk(self.features(observations))
        return torch.cat([self.trunk(self.features(part)) for part in observations.split(ROWS_AT_A_TIME)])

    def decide(
        self, observations: FeatureTensors, noise: Tensor | None, masks: Tensor | None = None, memory: Any = None
    ) -> Decided:
        """Decide for features [n, *shape]: drawn with ``noise``, the most probable for None; under no_grad."""
        outputs = self.actor(self.units(observations))
        if noise is None:
            return Decided(self.distribution.mode(outputs, masks))
        return Decided(self.distribution.sample(outputs, noise, masks))

    @torch.no_grad()
    def predict(self, observations: Any, masks: Any = None, *, deterministic: bool = True) -> Any:
        """Actions for n observations, as a vector environment gives and takes them.

        Args:
            observations: n observations.
            masks: which choices are allowed, [n, number of choices]; None for all.
            deterministic: the most probable action, or one that is drawn.
        """
        encoded = self.encoder(observations)
        if not finite_rows(encoded).all():
            raise NonFiniteError(
                f"predict was given observations that are not finite: {observations}, expected finite numbers"
            )
        features = placed(tensors(encoded), self.device, self.dtype)
        allowed = None
        if masks is not None:
            choices = np.asarray(masks, dtype=bool)
            if not allows_something(choices, self.distribution.sizes).all():
                raise ValueError(f"predict was given masks that allow nothing: {masks}, expected a choice for each")
            allowed = torch.from_numpy(choices).to(self.device)
        noise = None
        if not deterministic:
            noise = self.distribution.noise((len(features),), self.generator).to(self.device)
        return self.distribution.actions(self.decide(features, noise, allowed).decisions)

    def join_world(self, world: World) -> None:
        """Normalise by what all processes have seen."""
        self._world = world

    def update_statistics(self, batch: TrajectoryBatch) -> None:
        """Move the running normalisation, if there is one; of a process without samples the batch tells nothing."""
        if self.normalization is not None:
            nothing = tensors(np.zeros((0, *self.encoder.shape), dtype=self.encoder.dtype))
            self.normalization.update(getattr(batch, "observations", nothing), self._world)

    def get_extra_state(self) -> Tensor:
        """The state of the random generator, uint8, which ``state_dict`` holds beside parameters and buffers."""
        return self.generator.get_state()

    def set_extra_state(self, state: Tensor) -> None:
        """Draw from where another generator was."""
        self.generator.set_state(state.cpu())

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        """Weights without the state of a generator leave the policy its own."""
        state_dict.setdefault(f"{prefix}_extra_state", self.get_extra_state())
        super()._load_from_state_dict(state_dict, prefix, *args)


def _normalization(encoder: ObservationEncoder) -> nn.Module:
    if not encoder.is_structured:
        return RunningNormalization(encoder.shape)
    return NormalizedColumns({name: part.shape for name, part in encoder.parts.items() if part.dtype == np.float32})


class GymActorCritic(GymPolicy):
    """A :class:`GymPolicy` with a critic, a network of its own, for PPO.

    Args:
        environment: as for :class:`GymPolicy`.
        actor: as for :class:`GymPolicy`.
        critic: from what the actor sees to values, [n] or [n, 1]. None for a multilayer perceptron. Where there is no
            trunk, and both are None, they are an :class:`ActorCriticMLP`, which is ``actor``, and ``critic`` is None.
        trunk: as for :class:`GymPolicy`.
        hidden_sizes: as for :class:`GymPolicy`.
        distribution: as for :class:`GymPolicy`.
        normalize_observations: as for :class:`GymPolicy`.
        seed: of the initial weights and the sampling.

    Raises:
        TypeError, ValueError: as :class:`GymPolicy` does, and if the critic does not give one value an observation.
    """

    def __init__(
        self,
        environment: Any,
        actor: nn.Module | None = None,
        critic: nn.Module | None = None,
        *,
        trunk: nn.Module | None = None,
        hidden_sizes: Sequence[int] | None = None,
        distribution: Callable[[Any], ActionDistribution] = distribution_for,
        normalize_observations: bool = False,
        seed: int = 0,
    ) -> None:
        super().__init__(
            environment,
            actor,
            trunk=trunk,
            hidden_sizes=hidden_sizes,
            distribution=distribution,
            normalize_observations=normalize_observations,
            seed=seed,
        )
        self.critic: nn.Module | None = critic
        if hidden_sizes is None:
            hidden_sizes = (64, 64) if self.trunk is None else ()
        is_paired = actor is None and critic is None and self.trunk is None and len(hidden_sizes) > 0
        if is_paired and not isinstance(self.distribution, StateDependentExploration):
            num_inputs, num_outputs = math.prod(self.encoder.shape), self.distribution.num_outputs
            self.actor = ActorCriticMLP(num_inputs, hidden_sizes, num_outputs, generator=self.generator)
            return
        if self.critic is None:
            num_inputs = math.prod(self._unit_shape)
            self.critic = MLP(num_inputs, hidden_sizes, 1, output_gain=VALUE_GAIN, generator=self.generator)
        fix = "one value is expected for each, [n] or [n, 1]: end the network with one output"
        self._check_outputs("critic", self.critic, {(2,), (2, 1)}, fix)

    def outputs_and_values(self, units: Tensor) -> tuple[Tensor, Tensor]:
        """What the actor and the critic make of n units: [n, num_outputs] and [n]."""
        if self.critic is None:
            assert isinstance(self.actor, ActorCriticMLP)
            outputs, values = self.actor.both(units)
        else:
            outputs, values = self.actor(units), self.critic(units)
        return outputs, values.view(-1)

    def evaluate_actions(self, batch: TrajectoryBatch) -> Evaluation:
        """Log-probs, entropy and values of the steps, [D] each."""
        outputs, values = self.outputs_and_values(self.units(batch.observations))
        log_probs, entropy = self.distribution.log_probs_and_entropy(outputs, batch.decisions, batch.masks)
        return Evaluation(log_probs, entropy, values)

    @torch.no_grad()
    def estimate_values(self, batch: TrajectoryBatch) -> ValueEstimates:
        """Values at all steps and after them, [D] each; 0 after a step that terminated its episode."""
        assert batch.next_observations is not None
        assert batch.terminated is not None
        _, values = self.outputs_and_values(self.units(batch.observations))
        _, after = self.outputs_and_values(self.units(batch.next_observations))
        next_values = values.roll(-1)
        next_values[batch.episodes.last] = after.masked_fill(batch.terminated, 0.0)
        return ValueEstimates(values, next_values)
