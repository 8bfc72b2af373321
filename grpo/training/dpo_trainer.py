"""DPO: from pairs of which one action was preferred to a policy, without a reward model."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from grpo.data.preferences import Preference, Preferences, check_preferences
from grpo.models._evaluator import Evaluator
from grpo.models.policy import ActionsT, PolicyModel, StatesT
from grpo.training._metrics import StepMetrics
from grpo.training.preference_trainer import PreferenceTrainer, name_sample, pair_log_probs_of


class DPOTrainer(PreferenceTrainer[StatesT, ActionsT]):
    """Direct preference optimisation: make the chosen actions likelier than the rejected ones, near a reference policy.

    The reference policy is asked in evaluation mode, the policy in training mode: with dropout the margins are not 0
    before the first update. A policy's statistics of what it has seen (:class:`grpo.FollowsData`) stay as they are.

    Args:
        config: how to run, and the numbers of the objective.
        policy: the policy to train, a :class:`grpo.PolicyModel` or :class:`grpo.SequentialPolicy`.
        reference_policy: the policy to compare with, usually ``copy.deepcopy(policy)``; only changed by
            ``config.reference_sync``. None where ``config.reference_free`` is set, or all preferences come with
            their reference log-probs (:func:`grpo.with_reference_log_probs`).
        optimizer: over the policy's parameters; None for AdamW at ``config.learning_rate`` without weight decay.
        objective: in place of the :class:`grpo.DPOObjective` that the config describes.
        world: the processes that train it together, each with a share of the pairs; None for this one alone.

    Raises:
        TypeError: if the policy lacks a method; the message names each.
        ValueError: if ``config`` sets numbers of an objective while ``objective`` is given; if there is a reference
            policy where none is asked for; if it shares trainable parameters with the policy; if the optimizer
            holds none of the policy's parameters.

    References:
        Rafailov et al. 2023, arXiv:2305.18290.

    Example:
        >>> import copy
        >>> from grpo import DPOConfig
        >>> from grpo_adapters.bandit import SoftmaxPolicy
        >>> policy = SoftmaxPolicy(num_arms=3)
        >>> trainer = DPOTrainer(DPOConfig(learning_rate=0.1), policy, copy.deepcopy(policy))
        >>> preferences = [Preference("the only state", chosen=1, rejected=arm) for arm in (0, 2)]
        >>> for _ in range(50):
        ...     metrics = trainer.step(preferences)
        >>> policy.probabilities().argmax().item(), metrics["rewards/accuracies"]
        (1, 1.0)
    """

    def step(self, preferences: Preferences) -> dict[str, float]:
        """Update the policy on pairs; the reference policy is asked once, however many updates there are.

        Args:
            preferences: P pairs. One process of several is given its share, which may be empty.

        Returns:
            The metrics of the step, each defined in the glossary of the documentation.

        Raises:
            TypeError, ValueError: if a preference is not one, or lacks an action, or has the same twice; if a
                policy returned what it must not. Parameters, optimizer and random generators are then as
                they were before the step, unless ``config.undo_failed_updates`` is false.
        """
        metrics = StepMetrics(self.world)
        with self._whole_step(metrics) as undo:
            self._learn(preferences, metrics, undo)
        return metrics.result()


def with_reference_log_probs(
    preferences: Preferences, reference_policy: PolicyModel[Any, Any], *, micro_batch_size: int | None = None
) -> list[Preference[Any, Any]]:
    """The same preferences with what a reference policy thinks of their actions, so that it need not be kept.

    Args:
        preferences: P pairs.
        reference_policy: the policy to compare with later; in evaluation mode afterwards.
        micro_batch_size: pairs per evaluation; None for all at once.

    Returns:
        P preferences with ``reference_log_probs``, nats of each whole action.

    Raises:
        TypeError, ValueError: if a preference is not one, or the policy returned what it must not.

    Example:
        >>> from grpo_adapters.bandit import SoftmaxPolicy
        >>> [preference] = with_reference_log_probs([Preference("the only state", 0, 1)], SoftmaxPolicy(num_arms=4))
        >>> [round(log_prob, 4) for log_prob in preference.reference_log_probs]
        [-1.3863, -1.3863]
    """
    if micro_batch_size is not None and not (isinstance(micro_batch_size, int) and micro_batch_size > 0):
        raise ValueError(f"micro_batch_size is {micro_batch_size!r}, expected a number of pairs above 0, or None")
    preferences = check_preferences(preferences)
    reference = Evaluator(reference_policy, "reference_policy", name_sample)
    log_probs = pair_log_probs_of(reference, preferences, None, micro_batch_size).tolist()
    return [
        replace(preference, reference_log_probs=(chosen, rejected))
        for preference, (chosen, rejected) in zip(preferences, log_probs, strict=True)
    ]
