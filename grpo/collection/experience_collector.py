"""From states to experience.

Actions are sampled and scored, and the policies asked what they think of them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Sized
from dataclasses import replace
from typing import Any, Generic, cast

import torch
from torch import Tensor

from grpo.collection._dynamic_sampling import sample_until_spread
from grpo.collection._scored_samples import ScoredSamples, require_scored
from grpo.config.rollout import DynamicSampling
from grpo.data._checks import check_groups, check_states
from grpo.data._part_state import load_whole_part_states, part_states
from grpo.data._protocols import missing_methods, require_methods, type_name
from grpo.data.action_batches import ActionBatch, NoActions
from grpo.data.batches import join_groups, own_copy, repeat_entries
from grpo.data.evaluation import ValueEstimates
from grpo.data.experience import Experience
from grpo.data.needs import Needs
from grpo.data.phases import Phases
from grpo.data.segments import Segments
from grpo.distributed.world import ALONE, World
from grpo.models._checks import check_rewards
from grpo.models._evaluator import Evaluator
from grpo.models._masks import is_dense
from grpo.models.policy import ActionsT, PolicyModel, StatesT
from grpo.models.reward_model import RewardModel
from grpo.rollout.sampler import PolicySampler, Restarts, Sampler, sampler_for

TOLD = ("truncated", "sampling_log_probs")
"""What a batch may have that decides what all processes compute together."""


class ExperienceCollector(Generic[StatesT, ActionsT]):
    """Samples a group of actions for every state, scores them, and notes what the policies thought of them.

    Args:
        policy: the policy that the actions are for.
        reward_model: scores the samples.
        reference_policy: evaluates the samples too, if given and not declared as not needed.
        sampler: makes the actions; None for the policy itself, or the sampler that it was built for.
        group_size: actions for each state, G.
        dynamic_sampling: whether groups without spread are sampled again.
        rows_per_call: rows that go through a policy at once; None for all of them.
        needs: what is to be noted of the samples (:class:`grpo.Needs`); by default whatever there is, and the log-probs
            of the policy.
        world: the processes, each of which collects for states of its own, all at the same time.

    Raises:
        TypeError: if a model lacks a method; the message names each.

    Example:
        >>> from grpo_adapters.bandit import SoftmaxPolicy, StationaryBandit
        >>> collector = ExperienceCollector(SoftmaxPolicy(num_arms=2), StationaryBandit([0.0, 1.0]), group_size=4)
        >>> experience = collector.collect(["the only state"])
        >>> experience.old_log_probs
        tensor([-0.6931, -0.6931, -0.6931, -0.6931])
    """

    def __init__(
        self,
        policy: PolicyModel[StatesT, ActionsT],
        reward_model: RewardModel[StatesT, ActionsT],
        reference_policy: PolicyModel[StatesT, ActionsT] | None = None,
        *,
        sampler: Sampler[StatesT, ActionsT] | None = None,
        group_size: int = 8,
        dynamic_sampling: DynamicSampling | None = None,
        rows_per_call: int | None = None,
        needs: Needs | None = None,
        world: World = ALONE,
    ) -> None:
        needs = Needs(old_log_probs=True) if needs is None else needs
        if not isinstance(needs, Needs):
            raise TypeError(f"needs is {needs!r}, expected grpo.Needs(...), which says what is to be noted")
        if dynamic_sampling is not None and not isinstance(dynamic_sampling, DynamicSampling):
            raise TypeError(f"dynamic_sampling is {dynamic_sampling!r}, expected a grpo.DynamicSampling or None")
        for name, number in (("group_size", group_size), ("rows_per_call", rows_per_call)):
            is_left_out = number is None and name == "rows_per_call"
            if not is_left_out and (isinstance(number, bool) or not isinstance(number, int) or number < 1):
                raise ValueError(f"{name} is {number!r}, expected at least 1, an integer")
        self._notes_old_log_probs = needs.old_log_probs
        self._world = world
        self._policy = Evaluator(policy, world=world)
        if needs.critic:
            self._policy.require_critic(needs)
        require_methods(reward_model, RewardModel, "reward_model")
        self._reference = None
        if reference_policy is not None and needs.reference is not False:
            self._reference = Evaluator(reference_policy, "reference_policy", world=world)
        self._notes_values = bool(needs.critic) or (needs.critic is None and self._policy.has_critic)
        self.reward_model = reward_model
        self.sampler = sampler_for(policy, sampler)
        self.group_size = group_size
        self.dynamic_sampling = dynamic_sampling
        self.rows_per_call = rows_per_call
        self.phases = Phases()
        self._has_sampled = False

    @torch.no_grad()
    def collect(self, states: StatesT, **generation_kwargs: Any) -> Experience:
        """Sample ``group_size`` actions for each of the S states, score and evaluate them.

        Args:
            states: S states.
            generation_kwargs: handed on to the sampler, and by it to ``generate_actions``.

        Raises:
            TypeError, ValueError: if a model returned what it must not.
        """
        self.begin()
        samples = self.sample(states, **generation_kwargs)
        experience = self.evaluate(samples, self.encode(samples), old_log_probs=self._notes_old_log_probs)
        self.phases.end()
        return experience

    @torch.no_grad()
    def score(self, states: StatesT, groups: Sequence[ActionsT]) -> Experience:
        """Experience from actions that are already there, taken for samples of the policy as it is now.

        Args:
            states: S states.
            groups: the actions given to each state, at least one each; the groups may differ in size.

        Raises:
            TypeError, ValueError: as ``collect`` does.
        """
        check_states(states)
        check_groups("score was given", groups, len(states), None)
        self._policy.policy.eval()
        sizes = Segments.of_lengths([len(group) for group in groups])
        samples = require_scored(self._score(states, groups, sizes, "score was given"))
        return self.evaluate(samples, self.encode(samples), old_log_probs=self._notes_old_log_probs)

    def sample(self, states: StatesT, **generation_kwargs: Any) -> ScoredSamples:
        """Actions for the states with their rewards, sampled again where the settings ask for it."""
        samples = require_scored(self._sample(states, generation_kwargs), self._world)
        if self.dynamic_sampling is None:
            return samples
        return sample_until_spread(
            self._checked(samples),
            lambda again: self._checked(self._sample(again, generation_kwargs)),
            self.dynamic_sampling,
        )

    def encode(self, samples: ScoredSamples) -> ActionBatch:
        """The samples made ready for evaluation by the policy; where they already are, as they are."""
        self.phases.begin("evaluating")
        batch = samples.batch
        if batch is None and len(samples.actions) > 0:
            batch = self._policy.encode(samples.states, samples.actions, samples.groups)
        return self._with_what_others_tell(batch)

    def _with_what_others_tell(self, batch: ActionBatch | None) -> ActionBatch:
        """The batch; on a process without samples an empty one, like those of the others."""
        if self._world.is_alone and batch is not None:
            return batch
        own = None if batch is None else [name for name in TOLD if getattr(batch, name, None) is not None]
        told = [names for names in self._world.gather(own) if names is not None]
        if any(names != told[0] for names in told):
            raise ValueError(
                f"batches of encode_actions have {told} on the processes that have samples, expected the same on all: "
                f"give them truncated and sampling_log_probs always or never"
            )
        if batch is not None:
            return batch
        parameters = list(self._policy.model.get_parameters().values())
        return NoActions(parameters[0].device if parameters else None, told[0])

    def evaluate(self, samples: ScoredSamples, batch: ActionBatch, *, old_log_probs: bool) -> Experience:
        """What the policies think of the samples.

        Args:
            samples: samples with their rewards.
            batch: the same encoded for the policy.
            old_log_probs: whether to note the policy's own log-probs. They are noted in any case where the batch tells
                those that it was sampled with.
        """
        is_checked = samples.segments is not None and samples.rewards.device == batch.samples.device
        sampling_log_probs = self._policy.sampling_log_probs(batch)
        notes_old = old_log_probs or sampling_log_probs is not None
        return Experience(
            states=samples.states,
            actions=samples.actions,
            batch=batch,
            groups=samples.groups.to(batch.samples.device),
            rewards=samples.rewards if is_checked else check_rewards(samples.rewards, batch.samples),
            old_log_probs=self._policy.log_probs(batch, self.rows_per_call) if notes_old else None,
            reference_log_probs=self._reference_log_probs(samples, batch),
            values=self.estimate_values(batch),
            sampling_log_probs=sampling_log_probs,
            metrics=samples.metrics,
            world=self._world,
        )

    def estimate_values(self, batch: ActionBatch) -> ValueEstimates | None:
        """What the policy's critic expects now; None where it has none or none is needed."""
        return self._policy.estimate_values(batch) if self._notes_values else None

    def state_dict(self) -> dict[str, Any]:
        """What changes in the reward model and the sampler, copied; a policy's state is told by its trainer."""
        return part_states(self._owned)

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Go on from what ``state_dict`` of this collector, or of one constructed in the same way, returned.

        Raises:
            ValueError: if it is the state of one that was constructed otherwise; this one is then as it was.
        """
        load_whole_part_states(self._owned, state_dict, self)

    @property
    def _owned(self) -> dict[str, object]:
        return {"reward_model": self.reward_model, "sampler": self.sampler}

    def begin(self) -> None:
        """From here on it is noted whether the sampler is asked, and what the time goes into."""
        self._has_sampled = False
        self.phases.clear()

    def abandon(self) -> None:
        """Let a sampler that goes on from call to call begin anew, if it was asked since :meth:`begin`."""
        if self._has_sampled and not missing_methods(self.sampler, Restarts):
            cast("Restarts", self.sampler).restart()

    def _sample(self, states: Any, generation_kwargs: dict[str, Any]) -> ScoredSamples:
        self._policy.policy.eval()
        self.phases.begin("sampling")
        if not self._world.is_alone and isinstance(states, Sized) and len(states) == 0:
            if self._policy.computes_together:
                self.sampler.sample(self._policy.model, states, self.group_size, **generation_kwargs)
            return ScoredSamples.none(self._world)
        check_states(states)
        states = own_copy(states)  # later rounds may be drawn into the same memory
        self._has_sampled = True
        num_states = len(states)
        groups = self.sampler.sample(self._policy.model, own_copy(states), self.group_size, **generation_kwargs)
        source = f"{self._source} returned"
        check_groups(source, groups, num_states, self.group_size)
        return self._score(states, groups, Segments(num_states, self.group_size), source)

    @property
    def _source(self) -> str:
        """Who made the actions, to name in errors."""
        return "generate_actions" if isinstance(self.sampler, PolicySampler) else f"{type_name(self.sampler)}.sample"

    def _score(self, states: Any, groups: Any, sizes: Segments, source: str) -> ScoredSamples:
        sample_states, actions = repeat_entries(states, sizes), join_groups(groups)
        if len(actions) != sizes.total:
            raise ValueError(
                f"{source} groups of {sizes.total} actions by their lengths, but {len(actions)} come out of them in "
                f"turn: return lists"
            )
        self.phases.begin("scoring")
        self.reward_model.eval()
        rewards = self.reward_model.compute_rewards(own_copy(sample_states), own_copy(actions))
        return replace(ScoredSamples.of(sample_states, actions, sizes, rewards), world=self._world)

    def _checked(self, samples: ScoredSamples) -> ScoredSamples:
        """The samples with rewards that are known to be theirs, encoded for it only where rewards are per decision."""
        num_samples = len(samples.actions)
        if num_samples == 0:
            return samples.checked(Segments(0, 1, samples.rewards.device))
        if is_dense(samples.rewards) and samples.rewards.shape == (num_samples,):
            return samples.checked(Segments(num_samples, 1, samples.rewards.device))
        batch = self._policy.encode(samples.states, samples.actions, samples.groups)
        return samples.checked(batch.samples, batch)

    def _reference_log_probs(self, samples: ScoredSamples, batch: ActionBatch) -> Tensor | None:
        if self._reference is None:
            return None
        self._reference.policy.eval()
        if len(batch.rows) == 0:
            return self._reference.log_probs(batch, self.rows_per_call)
        reference_batch = self._reference.encode(samples.states, samples.actions, samples.groups)
        self._reference.check_same_segments(reference_batch, batch)
        return self._reference.log_probs(reference_batch, self.rows_per_call)
