"""A policy for gymnasium's environments over any network."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import chain
from typing import Any

import gymnasium
import numpy as np
import torch
from torch import Tensor, nn

from grpo import Batch, Evaluation, Sampler, World
from grpo_adapters.checksums import checksum
from grpo_adapters.gym.actions.distributions import ActionDistribution
from grpo_adapters.gym.actions.joint_distribution import distribution_for
from grpo_adapters.gym.actions.state_dependent_exploration import StateDependentExploration
from grpo_adapters.gym.memory.memory_checks import beginning_of
from grpo_adapters.gym.memory.memory_states import placed_state
from grpo_adapters.gym.memory.windows import Remembered
from grpo_adapters.gym.networks.default_trunk import default_trunk
from grpo_adapters.gym.networks.perceptrons import (
    MLP,
    POLICY_GAIN,
    NormalizedColumns,
    RunningNormalization,
    scaled_images,
)
from grpo_adapters.gym.observations.columns import Columns, FeatureTensors, tensors
from grpo_adapters.gym.observations.encoder import ObservationEncoder, spaces_of
from grpo_adapters.gym.observations.frame_stacks import gathered
from grpo_adapters.gym.playing.players import decide_once
from grpo_adapters.gym.playing.stepwise import Decided
from grpo_adapters.gym.playing.trajectories import SampledOutputs, Trajectory, TrajectoryBatch
from grpo_adapters.gym.policies.policy_settings import check_hidden_sizes, check_normalization_and_seed, check_window
from grpo_adapters.gym.policies.unit_shapes import (
    check_head,
    check_trunk,
    probed_units,
    require_modules,
    shape_of_units,
    state_of_memory,
)

ROWS_AT_A_TIME = 128
STEPS_ASKED_AGAIN = 8


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
            policy's state and move once, at the end of a step. Those of the first step are there before its updates.
        seed: of the initial weights and the sampling.

    Raises:
        TypeError: if a space is not supported, a network is no module, or a setting is of another kind.
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
        require_modules(actor=actor, trunk=trunk, memory=memory)
        check_window(memory, window, burn_in)
        check_hidden_sizes(hidden_sizes)
        check_normalization_and_seed(normalize_observations, seed)
        observation_space, action_space = spaces_of(environment)
        is_environment = isinstance(environment, gymnasium.Env | gymnasium.vector.VectorEnv)
        self.sampler: Sampler[Sequence[int], Sequence[Trajectory]] | None = None
        if not is_environment and isinstance(environment, Sampler):
            self.sampler = environment
        self.observation_space = observation_space
        self.action_space = action_space
        self.encoder = ObservationEncoder(observation_space)
        self.distribution = distribution(action_space)
        self.generator = torch.Generator().manual_seed(int(seed))
        self._world = World()
        self.normalization: Any = _normalization(self.encoder) if normalize_observations else None
        self.trunk = default_trunk(observation_space, self.generator) if actor is None and trunk is None else trunk
        self.memory, self.window, self.burn_in = memory, window, burn_in
        if hidden_sizes is None:
            hidden_sizes = (64, 64) if self.trunk is None and memory is None else ()
        self._hidden_sizes = tuple(map(int, hidden_sizes))
        self._unit_shape = shape_of_units(self)
        if trunk is not None:
            check_trunk(self, trunk)
        if memory is not None:
            self._memory_like = state_of_memory(self, memory, self._unit_shape)
            self._unit_shape = tuple(probed_units(self).shape[1:])
        num_outputs = self.distribution.num_outputs
        self.actor = self._default_actor() if actor is None else actor
        check_head(self, "actor", self.actor, {(2, num_outputs)}, self._wanted_outputs(), is_own=actor is not None)

    def _wanted_outputs(self) -> str:
        """What the actor is to end with."""
        num_outputs = self.distribution.num_outputs
        wanted = f"{self.action_space} takes [n, {num_outputs}]: end the network with {num_outputs} outputs"
        if not isinstance(self.distribution, StateDependentExploration):
            return wanted
        num_means, num_latents = self.distribution.num_dimensions, self.distribution.num_latents
        return (
            f"{wanted}, {num_means} means and num_latents={num_latents} units to explore by, or pass "
            f"distribution=partial(StateDependentExploration, num_latents=...) as many as the last hidden layer has"
        )

    def _default_actor(self) -> nn.Module:
        size, shows_hidden = self.distribution.num_outputs, False
        if isinstance(self.distribution, StateDependentExploration):
            size, shows_hidden = self.distribution.num_dimensions, True
        return MLP(
            math.prod(self._unit_shape),
            self._hidden_sizes,
            size,
            output_gain=POLICY_GAIN,
            generator=self.generator,
            shows_hidden=shows_hidden,
        )

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
        sampled = self._sampled(batch)
        outputs = self.actor(self._units_of(batch)) if sampled is None else sampled.outputs
        return Evaluation(*self.distribution.log_probs_and_entropy(outputs, batch.decisions, batch.masks))

    def get_log_probabilities(self, states: Sequence[int], actions: Sequence[Trajectory]) -> Tensor:
        """Log-prob of each trajectory, the sum over its steps, [N]."""
        batch = self.encode_actions(states, actions)
        return batch.samples.sum(self.evaluate_actions(batch).log_probs)

    def get_settings(self) -> dict[str, Any]:
        """What the outputs mean, what the networks see and are, and how far a memory learns back."""
        return {
            "distribution": self.distribution,
            "normalize_observations": self.normalization is not None,
            "trunk": self.trunk,
            "memory": self.memory,
            "actor": self.actor,
            "window": self.window,
            "burn_in": self.burn_in,
        }

    def get_parameters(self) -> dict[str, Tensor]:
        """The parameters of the networks and, for continuous actions, the standard deviations."""
        return dict(self.named_parameters())

    def features(self, observations: FeatureTensors) -> Any:
        """What the networks see: images scaled to [0, 1], and all normalised where asked for."""
        scaled = self._scaled(observations)
        return scaled if self.normalization is None else self.normalization(scaled)

    def _scaled(self, observations: FeatureTensors) -> FeatureTensors:
        if isinstance(observations, Columns):
            return Columns({name: self._scaled(part) for name, part in observations.items()})
        numbers = gathered(observations)
        return scaled_images(numbers, self.dtype) if numbers.dtype == torch.uint8 else numbers

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
        return self.units(batch.stored_observations) if self.memory is None else self._remembered(batch).units

    def _sampled(self, batch: TrajectoryBatch) -> SampledOutputs | None:
        """What was computed for the steps while they were decided, if it is what would be computed now.

        That is the case if all weights are the same, and some steps get the same when they are computed again: this
        shows whether anything else has changed, such as the mode, an activation or a number that a network holds.
        """
        if torch.is_grad_enabled() or batch.sampled is None or batch.sampled.weights != self.weights_checksum():
            return None
        num_steps = len(batch.decisions)
        rows = torch.linspace(0, num_steps - 1, min(num_steps, STEPS_ASKED_AGAIN), device=self.device).long()
        outputs, values = self._decided_by(self.units(batch.stored_observations[rows]))
        now = SampledOutputs(outputs, values, batch.sampled.weights)
        return batch.sampled if now.is_close_to(batch.sampled[rows]) else None

    def weights_checksum(self) -> str:
        """Of all parameters and buffers: another one as soon as a single bit of them is."""
        return checksum(dict(chain(self.named_parameters(), self.named_buffers())))

    def _remembered(self, batch: TrajectoryBatch) -> Remembered:
        assert batch.windows is not None
        units = self.units(batch.stored_observations)
        return batch.windows.remember(self.memory, self.initial_memory, units, self.units)

    def initial_memory(self, num_environments: int) -> Any:
        """What is remembered where so many episodes begin; None without a memory."""
        if self.memory is None:
            return None
        state = beginning_of(self.memory, num_environments, self._memory_like, self.device)
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
        outputs, values = self._decided_by(units)
        if noise is None:
            decisions = self.distribution.mode(outputs, masks)
        else:
            decisions = self.distribution.sample(outputs, noise, masks)
        if self.trunk is None or self.memory is not None:  # cheaper to compute again for all steps at once
            return Decided(decisions, memory)
        return Decided(decisions, memory, outputs, values)

    def _decided_by(self, units: Tensor) -> tuple[Tensor, Tensor | None]:
        """The actor's outputs and, where they come along with little ado, the critic's values."""
        return self.actor(units), None

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

    def has_statistics(self) -> bool:
        """Whether the running normalisation has seen anything, or there is none."""
        return self.normalization is None or self.normalization.has_statistics

    def update_statistics(self, batch: TrajectoryBatch) -> None:
        """Move the running normalisation, if there is one; of a process without samples the batch tells nothing."""
        if self.normalization is not None:
            nothing = tensors(np.zeros((0, *self.encoder.shape), dtype=self.encoder.dtype))
            self.normalization.update(getattr(batch, "stored_observations", nothing), self._world)

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
