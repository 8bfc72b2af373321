"""Online DPO: preferences of the policy's own actions, made anew for each step."""

from __future__ import annotations

from typing import Any

import torch

from grpo.collection.experience_collector import ExperienceCollector
from grpo.collection.preference_collector import check_group_size, pair_best_with_worst
from grpo.config.dpo import DPOConfig
from grpo.data._protocols import those_with
from grpo.data.experience import Experience
from grpo.data.needs import NOTHING
from grpo.distributed.world import World
from grpo.models.policy import ActionsT, PolicyModel, ReportsMetrics, StatesT
from grpo.models.reward_model import RewardModel
from grpo.objectives.preference_objective import PreferenceObjective
from grpo.rollout.sampler import Sampler
from grpo.training._agreement import check_is_not_averaged, check_parts, check_world
from grpo.training._metrics import StepMetrics
from grpo.training._optimization import move_all
from grpo.training._other_names import tells_other_names
from grpo.training._sampling_gap import SamplingGap
from grpo.training.preference_trainer import PreferenceTrainer


class OnlineDPOTrainer(PreferenceTrainer[StatesT, ActionsT]):
    """DPO on what a reward model prefers among the policy's own actions: it takes states, and makes the pairs itself.

    A step samples a group of actions for each state, and learns from the best and the worst of each group; by how much
    one is better is not told. Where no group has a pair, since its rewards or actions are all equal, the policy stays
    as it is.

    Args:
        config: how to run, and the numbers of the objective.
        policy: the policy to train, a :class:`grpo.PolicyModel` or :class:`grpo.SequentialPolicy`.
        reward_model: scores its actions.
        reference_policy: the policy to compare with, usually ``copy.deepcopy(policy)``; with
            ``ReferenceSync(mixing=1.0, every=1)`` it is the one that has sampled. None where
            ``config.reference_free`` is set.
        optimizer: over the policy's parameters; None for AdamW at ``config.learning_rate`` without weight decay.
        sampler: makes the actions; None for the policy itself, or the sampler that it was built for.
        group_size: actions sampled for each state, at least 2.
        objective: in place of the :class:`grpo.DPOObjective` that the config describes.
        world: the processes that train it together, each with a share of the states; None for this one alone.

    Attributes:
        last_experience: the groups of the last step, to look at; None before the first step and while one is under way.

    Raises:
        TypeError, ValueError: as :class:`grpo.DPOTrainer` does, and if groups are too small.

    References:
        Guo et al. 2024, arXiv:2402.04792.

    Example:
        >>> import copy
        >>> from grpo_adapters.bandit import SoftmaxPolicy, StationaryBandit
        >>> policy = SoftmaxPolicy(num_arms=3)
        >>> config, bandit = DPOConfig(learning_rate=0.1), StationaryBandit([0.1, 0.9, 0.3])
        >>> trainer = OnlineDPOTrainer(config, policy, bandit, copy.deepcopy(policy))
        >>> for _ in range(100):
        ...     metrics = trainer.step(4 * ["the only state"])
        >>> policy.probabilities().argmax().item()
        1
    """

    @tells_other_names
    def __init__(
        self,
        config: DPOConfig,
        policy: PolicyModel[StatesT, ActionsT],
        reward_model: RewardModel[StatesT, ActionsT],
        reference_policy: PolicyModel[StatesT, ActionsT] | None = None,
        optimizer: torch.optim.Optimizer | None = None,
        *,
        sampler: Sampler[StatesT, ActionsT] | None = None,
        group_size: int = 8,
        objective: PreferenceObjective | None = None,
        world: World | None = None,
    ) -> None:
        check_is_not_averaged(policy)
        self.collector = ExperienceCollector(
            policy,
            reward_model,
            sampler=sampler,
            group_size=check_group_size(group_size),
            needs=NOTHING,
            world=check_world(world),
        )
        super().__init__(config, policy, reference_policy, optimizer, objective=objective, world=world)
        if config.device is not None:
            move_all([reward_model], config.device)
        self.sampler = self.collector.sampler
        self._sampling_gap = SamplingGap(self.sampler)
        self.phases = self.collector.phases
        self.last_experience: Experience | None = None
        self._models["reward_model"] = reward_model
        check_parts({"reward_model": reward_model, "sampler": self.sampler}, self.world)
        self._join_world([reward_model, self.sampler])
        self._reporting = those_with(ReportsMetrics, [policy, reward_model, self.sampler])

    @property
    def _parts(self) -> dict[str, object]:
        return {"sampler": self.sampler, "objective": self.objective}

    def step(self, states: StatesT, **generation_kwargs: Any) -> dict[str, float]:
        """Sample actions for the states, score them, and update the policy on the pairs that they make.

        Args:
            states: S states, a list or a tensor.
            generation_kwargs: handed on to the sampler, and by it to the policy's ``generate_actions``.

        Returns:
            The metrics of the step, each defined in the glossary of the documentation. ``num_samples`` and
            ``num_decisions`` count all that was sampled, whether it is in a pair or not.

        Raises:
            TypeError, ValueError: if a model returned what it must not. Parameters, optimizer and random generators are
                then as they were before the step, unless ``config.undo_failed_updates`` is false.
        """
        metrics = StepMetrics(self.world)
        self.last_experience = None
        with self._whole_step(metrics, self.collector) as undo:
            experience = self.collector.collect(states, **generation_kwargs)
            collected = pair_best_with_worst(experience)
            if collected.metrics["num_pairs"] > 0:
                self._learn(collected.preferences, metrics, undo)
            else:
                metrics.note({"learning_rate": self._optimization.learning_rate})
                metrics.note_reports(self._reporting)
            metrics.note(collected.metrics)
            metrics.note(self._sampling_gap.metrics(experience))
        self.last_experience = experience
        return metrics.result()
