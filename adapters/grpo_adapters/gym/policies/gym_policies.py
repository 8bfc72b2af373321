"""Policies for gymnasium's environments over any network."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import gymnasium
import numpy as np
import torch
from torch import Tensor, nn

from grpo import Batch, Evaluation, Sampler, ValueEstimates, World
from grpo_adapters.gym.actions.distributions import ActionDistribution
from grpo_adapters.gym.actions.joint_distribution import distribution_for
from grpo_adapters.gym.actions.state_dependent_exploration import StateDependentExploration
from grpo_adapters.gym.memory.memory_checks import beginning_of, check_memory
from grpo_adapters.gym.memory.memory_states import placed_state
from grpo_adapters.gym.memory.windows import Remembered
from grpo_adapters.gym.networks.default_trunk import default_trunk
from grpo_adapters.gym.networks.perceptrons import (
    MLP,
    POLICY_GAIN,
    VALUE_GAIN,
    ActorCriticMLP,
    NormalizedColumns,
    RunningNormalization,
    scaled_images,
)
from grpo_adapters.gym.observations.columns import Columns, FeatureTensors, placed, tensors
from grpo_adapters.gym.observations.encoder import ObservationEncoder, spaces_of
from grpo_adapters.gym.playing.players import decide_once
from grpo_adapters.gym.playing.stepwise import Decided
from grpo_adapters.gym.playing.trajectories import Trajectory, TrajectoryBatch
from grpo_adapters.gym.policies.row_checks import NUM_ROWS, check_network, probed_observations

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
        memory: from units [n, U] and a state to units [n, H] and a state, ``(units, state) -> (units, state)``, behind
            the trunk: :class:`LSTM`, :class:`GRU`, :class:`StackedUnits`, :class:`WindowTransformer`, or a module of
            yours. The state is a tensor with n rows, or a tuple or dictionary of such. An episode begins from the
            module's ``initial_state(n)``, or from zeros where it has no such method. None to decide on each
            observation alone.
        window: steps of a row, over which gradients go back through the memory; None for whole trajectories. What a
            trainer's ``batch_size`` counts are such rows.
        burn_in: steps before each window, fewer than ``window``, which the memory goes over without gradients, so that
            it begins with what the present weights remember, and not those that sampled (Kapturowski et al. 2019).
        hidden_sizes: of the networks that are built here; None for (64, 64), and for none behind a trunk or a memory.
        distribution: what the outputs mean, from the action space: ``partial(DiagonalGaussian, initial_std=0.5)``, say.
        normalize_observations: normalise features by their running mean and standard deviation, which are part of the
            policy's state and move once, at the end of a step.
        seed: of the initial weights and the sampling.

    Raises:
        TypeError: if a space is not supported.
        ValueError: if the network's outputs do not fit the action space, if a network mixes observations or keeps
            something from call to call, or if a memory does, or its state grows.

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
        memory: nn.Module | None = None,
        window: int | None = None,
        burn_in: int = 0,
        hidden_sizes: Sequence[int] | None = None,
        distribution: Callable[[Any], ActionDistribution] = distribution_for,
        normalize_observations: bool = False,
        seed: int = 0,
    ) -> None:
        super().__init__()
        _check_window(memory, window, burn_in)
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
            hidden_sizes = (64, 64) if self.trunk is None and memory is None else ()
        self.memory, self.window, self.burn_in = memory, window, burn_in
        self._unit_shape = self._shape_of_units()
        if trunk is not None:
            check_network("trunk", trunk, self._probed_features())
        if memory is not None:
            self._unit_shape = self._shape_behind_memory(memory)
        num_outputs = self.distribution.num_outputs
        self.actor = self._default_actor(hidden_sizes) if actor is None else actor
        fix = f"{action_space} takes [n, {num_outputs}]: end the network with {num_outputs} outputs"
        self._check_outputs("actor", self.actor, {(2, num_outputs)}, fix)
        if actor is not None:
            check_network("actor", actor, self._probed_units())

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
        sees_features = self.trunk is None and self.memory is None
        units = self._two_features() if sees_features else torch.zeros(2, *self._unit_shape, device=self.device)
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
            outputs = network.eval()(placed(features, self.device, dtype))
        except RuntimeError as error:
            came = features if isinstance(features, Columns) else f"shape {list(features.shape)}"
            raise ValueError(f"{role} cannot take 2 observations as features of {came}: {error}") from error
        finally:
            network.train(was_training)
        if not isinstance(outputs, Tensor):
            raise TypeError(
                f"{role} {type(network).__name__} returned a {type(outputs).__name__}, expected a tensor. A network "
                f"with a state, as nn.LSTM is, belongs into memory=: pass GymPolicy(..., memory=LSTM(...))"
            )
        return tuple(outputs.shape)

    def _shape_behind_memory(self, memory: nn.Module) -> tuple[int, ...]:
        if len(self._unit_shape) != 1:
            raise ValueError(
                f"memory {type(memory).__name__} takes units [n, U], but observations have features of shape "
                f"{list(self._unit_shape)}: pass a trunk that makes units of them, such as nn.Flatten()"
            )
        self._memory_like = check_memory(memory, self._probed_units(with_memory=False))
        return tuple(self._probed_units().shape[1:])

    @torch.no_grad()
    def _probed_features(self) -> Any:
        return self.features(placed(probed_observations(self.encoder), self.device, self.dtype))

    @torch.no_grad()
    def _probed_units(self, *, with_memory: bool = True) -> Any:
        """Units of observations that differ, as at the beginning of an episode."""
        modes = [(module, module.training) for module in (self.trunk, self.memory) if module is not None]
        for module, _ in modes:
            module.eval()
        features = self._probed_features()
        units = features if self.trunk is None else self.trunk(features)
        if self.memory is not None and with_memory:
            units, _ = self.memory(units, self.initial_memory(NUM_ROWS))
        for module, was_training in modes:
            module.train(was_training)
        return units

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
        burn_in = None if self.memory is None else self.burn_in
        return TrajectoryBatch.of(actions, self.device, self.dtype, burn_in=burn_in)

    def evaluate_actions(self, batch: TrajectoryBatch) -> Evaluation:
        """Log-probs and entropy of the steps, [D] each."""
        outputs = self.actor(self._units_of(batch))
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
        """The features, or what the trunk makes of them: what actor and critic see, or the memory before them.

        Without gradients, a trunk is given so many observations at a time, and its inner units are never there for all.
        """
        if self.trunk is None:
            return self.features(observations)
        if torch.is_grad_enabled() or len(observations) <= ROWS_AT_A_TIME:
            return self.trunk(self.features(observations))
        return torch.cat([self.trunk(self.features(part)) for part in observations.split(ROWS_AT_A_TIME)])

    def _units_of(self, batch: TrajectoryBatch) -> Tensor:
        """What actor and critic see at all steps."""
        return self.units(batch.observations) if self.memory is None else self._remembered(batch).units

    def _remembered(self, batch: TrajectoryBatch) -> Remembered:
        assert batch.windows is not None
        units = self.units(batch.observations)
        return batch.windows.remember(self.memory, self.initial_memory, units, self.units)

    def initial_memory(self, num_environments: int) -> Any:
        """What is remembered where so many episodes begin; None without a memory."""
        if self.memory is None:
            return None
        state = beginning_of(self.memory, num_environments, self._memory_like)
        return placed_state(state, self.device, self.dtype)

    def keeps_memory_at(self, step: int) -> bool:
        """Whether a row, or its burn-in, begins before so many steps of a rollout are played."""
        return step == 0 or (self.window is not None and (step + self.burn_in) % self.window == 0)

    def decide(
        self, observations: FeatureTensors, noise: Tensor | None, masks: Tensor | None = None, memory: Any = None
    ) -> Decided:
        """Decide for features [n, *shape]: drawn with ``noise``, the most probable for None; under no_grad."""
        units = self.units(observations)
        if self.memory is not None:
            units, memory = self.memory(units, self.initial_memory(len(units)) if memory is None else memory)
        outputs = self.actor(units)
        if noise is None:
            return Decided(self.distribution.mode(outputs, masks), memory)
        return Decided(self.distribution.sample(outputs, noise, masks), memory)

    @torch.no_grad()
    def predict(self, observations: Any, masks: Any = None, *, deterministic: bool = True) -> Any:
        """Actions for n observations, as a vector environment gives and takes them.

        A policy with a memory is asked by a :class:`Player`, which remembers for it.

        Args:
            observations: n observations.
            masks: which choices are allowed, [n, number of choices]; None for all.
            deterministic: the most probable action, or one that is drawn.

        Raises:
            TypeError: if the policy has a memory.
            NonFiniteError: if an observation is not finite.
            ValueError: if a mask allows nothing.
        """
        if self.memory is not None:
            raise TypeError(
                f"predict forgets what came before, but this {type(self).__name__} has a memory: ask a Player(policy), "
                f"which remembers from call to call"
            )
        return decide_once(self, observations, masks, None, deterministic=deterministic)[0]

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


def _normalization(encoder: ObservationEncoder) -> RunningNormalization | NormalizedColumns:
    if not encoder.is_structured:
        return RunningNormalization(encoder.shape)
    return NormalizedColumns({name: part.shape for name, part in encoder.parts.items() if part.dtype == np.float32})


class GymActorCritic(GymPolicy):
    """A :class:`GymPolicy` with a critic, a network of its own, for PPO.

    Args:
        environment: as for :class:`GymPolicy`.
        actor: as for :class:`GymPolicy`.
        critic: from what the actor sees to values, [n] or [n, 1]. None for a multilayer perceptron. Where there is no
            trunk or memory, and both are None, they are an :class:`ActorCriticMLP`, which is ``actor``, and ``critic``
            is None.
        trunk: as for :class:`GymPolicy`.
        memory: as for :class:`GymPolicy`.
        window: as for :class:`GymPolicy`.
        burn_in: as for :class:`GymPolicy`.
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
        memory: nn.Module | None = None,
        window: int | None = None,
        burn_in: int = 0,
        hidden_sizes: Sequence[int] | None = None,
        distribution: Callable[[Any], ActionDistribution] = distribution_for,
        normalize_observations: bool = False,
        seed: int = 0,
    ) -> None:
        super().__init__(
            environment,
            actor,
            trunk=trunk,
            memory=memory,
            window=window,
            burn_in=burn_in,
            hidden_sizes=hidden_sizes,
            distribution=distribution,
            normalize_observations=normalize_observations,
            seed=seed,
        )
        self.critic: nn.Module | None = critic
        if hidden_sizes is None:
            hidden_sizes = (64, 64) if self.trunk is None and self.memory is None else ()
        is_paired = actor is None and critic is None and self.trunk is None and self.memory is None
        if is_paired and len(hidden_sizes) > 0 and not isinstance(self.distribution, StateDependentExploration):
            num_inputs, num_outputs = math.prod(self.encoder.shape), self.distribution.num_outputs
            self.actor = ActorCriticMLP(num_inputs, hidden_sizes, num_outputs, generator=self.generator)
            return
        if self.critic is None:
            num_inputs = math.prod(self._unit_shape)
            self.critic = MLP(num_inputs, hidden_sizes, 1, output_gain=VALUE_GAIN, generator=self.generator)
        assert self.critic is not None
        fix = "one value is expected for each, [n] or [n, 1]: end the network with one output"
        self._check_outputs("critic", self.critic, {(2,), (2, 1)}, fix)
        if critic is not None:
            check_network("critic", critic, self._probed_units())

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
        outputs, values = self.outputs_and_values(self._units_of(batch))
        log_probs, entropy = self.distribution.log_probs_and_entropy(outputs, batch.decisions, batch.masks)
        return Evaluation(log_probs, entropy, values)

    @torch.no_grad()
    def estimate_values(self, batch: TrajectoryBatch) -> ValueEstimates:
        """Values at all steps and after them, [D] each; 0 after a step that terminated its episode."""
        assert batch.terminated is not None
        units, units_after = self._units_during_and_after(batch)
        _, values = self.outputs_and_values(units)
        _, after = self.outputs_and_values(units_after)
        next_values = values.roll(-1)
        next_values[batch.episodes.last] = after.masked_fill(batch.terminated, 0.0)
        return ValueEstimates(values, next_values)

    def _units_during_and_after(self, batch: TrajectoryBatch) -> tuple[Tensor, Tensor]:
        """What the critic sees at all steps, and after the last one of each episode."""
        assert batch.next_observations is not None
        after = self.units(batch.next_observations)
        if self.memory is None:
            return self.units(batch.observations), after
        remembered = self._remembered(batch)
        after, _ = self.memory(after, remembered.states_after(batch.episodes.last))
        return remembered.units, after


def _check_window(memory: nn.Module | None, window: int | None, burn_in: int) -> None:
    if memory is None and (window is not None or burn_in != 0):
        raise ValueError(
            f"window is {window} and burn_in {burn_in}, but there is no memory: pass memory=LSTM(...), say"
        )
    if window is not None and window < 1:
        raise ValueError(f"window is {window}, expected at least 1: steps of a row, or None for whole trajectories")
    if burn_in < 0 or (burn_in > 0 and (window is None or burn_in >= window)):
        raise ValueError(
            f"burn_in is {burn_in} and window {window}, expected fewer steps of burn-in than of a window, at least 0"
        )
