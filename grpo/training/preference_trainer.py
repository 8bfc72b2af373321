"""What trainers that learn from pairs have in common, wherever the pairs come from."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from grpo.config.dpo import DPOConfig
from grpo.config.update import UpdateConfig
from grpo.data._protocols import type_name
from grpo.data.adapts import adapts
from grpo.data.decisions import Terms
from grpo.data.preferences import Preferences, check_preferences
from grpo.data.segments import Segments
from grpo.distributed.world import World
from grpo.models._evaluator import Evaluator
from grpo.models.policy import ActionsT, PolicyModel, StatesT
from grpo.objectives._checks import check_terms
from grpo.objectives.preference_objective import (
    DPOObjective,
    HingePreferenceLoss,
    IdentityPreferenceLoss,
    PreferenceObjective,
    RobustPreferenceLoss,
    SigmoidPreferenceLoss,
)
from grpo.training._agreement import check_parts
from grpo.training._metrics import StepMetrics, weighted_sums
from grpo.training._other_names import tells_other_names
from grpo.training._preference_batch import PairMicroBatch, PreferenceBatch
from grpo.training._presets import check_config, refuse_replaced
from grpo.training._requirements import reference_from
from grpo.training._rollback import UndoesFailedStep
from grpo.training.policy_trainer import PolicyTrainer

LOSSES = SigmoidPreferenceLoss | HingePreferenceLoss | IdentityPreferenceLoss | RobustPreferenceLoss
OBJECTIVE_SETTINGS = DPOConfig.model_fields.keys() - UpdateConfig.model_fields.keys() - {"reference_free"}


class PreferenceTrainer(PolicyTrainer[StatesT, ActionsT]):
    """A policy, a reference policy to compare it with, and an objective on pairs; :class:`grpo.DPOTrainer` has more."""

    config: DPOConfig

    @tells_other_names
    def __init__(
        self,
        config: DPOConfig,
        policy: PolicyModel[StatesT, ActionsT],
        reference_policy: PolicyModel[StatesT, ActionsT] | None = None,
        optimizer: torch.optim.Optimizer | None = None,
        *,
        objective: PreferenceObjective | None = None,
        world: World | None = None,
    ) -> None:
        check_config(config, DPOConfig)
        if config.reference_free and reference_policy is not None:
            raise ValueError("reference_free=True makes no use of the reference_policy that is given: drop one of them")
        _check_objective(config, objective)
        if objective is not None and adapts(objective):
            raise TypeError(
                f"objective {type_name(objective)} has a method adapt, which {type(self).__name__} does not call: a "
                f"preference objective is given no experience. Leave it out, or declare needs = "
                f"grpo.Needs(adapts=False)"
            )
        super().__init__(config, policy, reference_policy, optimizer, world=world)
        self._reference = None
        if reference_policy is not None:
            self._reference = self._evaluator_of(reference_policy, "reference_policy")
        if objective is None:
            objective = DPOObjective(
                loss=SigmoidPreferenceLoss(beta=config.beta, label_smoothing=config.label_smoothing),
                sft_coefficient=config.sft_coefficient,
            )
        self.objective = objective
        check_parts({"objective": objective}, self.world)

    @property
    def _parts(self) -> dict[str, object]:
        return {"objective": self.objective}

    def _learn(self, preferences: Preferences, metrics: StepMetrics, undo: UndoesFailedStep) -> None:
        """The updates of a step."""
        self.phases.begin("evaluating")
        if self.world.is_alone or len(preferences) > 0:
            preferences = check_preferences(preferences)
        if not self.world.any(len(preferences) > 0):
            raise ValueError("preferences is empty on all processes, expected at least one: there is nothing to learn")
        pairs, reference_log_probs = self._encoded(preferences)
        self.phases.begin("updating")
        num_pairs, num_decisions = self.world.totals(len(pairs), pairs.batch.samples.total)
        metrics.note({"num_pairs": float(num_pairs), "num_decisions": float(num_decisions)})
        metrics.note({"learning_rate": self._optimization.learning_rate})
        metrics.note_reports(self._reporting)
        undo.before_updates(may_fail_later=self._may_fail_after_an_update(int(num_pairs)))
        self._evaluator.policy.train()
        for minibatch in pairs.minibatches(self.config, self.generator, self._weights_dtype, self.world):
            with self._left_out_where_not_finite(metrics):
                self._accumulate(minibatch, partial(self._terms, pairs, reference_log_probs), metrics)
                metrics.end_update(self._make_update(pairs.batch, minibatch, undo))

    @torch.no_grad()
    def evaluate(self, preferences: Preferences) -> dict[str, float]:
        """Loss and metrics on pairs that are not learnt from, averaged over them: those of this process alone.

        The policy is in evaluation mode afterwards.

        Args:
            preferences: P pairs.

        Raises:
            TypeError, ValueError: as ``step`` does, NaN and infinite values included, whatever ``config.non_finite``.
        """
        pairs, reference_log_probs = self._encoded(check_preferences(preferences))
        self._evaluator.policy.eval()
        metrics = StepMetrics()
        for part in pairs.all(self._pairs_per_call, self._weights_dtype):
            terms = self._terms(pairs, reference_log_probs, part, trains=False)
            metrics.add(weighted_sums(terms, part.weight))
        metrics.end_update(None)
        return metrics.averages()

    def _evaluator_of(self, policy: PolicyModel[StatesT, ActionsT], role: str = "policy") -> Evaluator:
        return Evaluator(policy, role, name_sample, self.world)

    @torch.no_grad()
    def _encoded(self, preferences: Preferences) -> tuple[PreferenceBatch, Tensor]:
        """The pairs, and the reference log-probs of their actions, [P, 2]."""
        pairs = PreferenceBatch.of(preferences, self._evaluator)
        known = [preference.reference_log_probs for preference in preferences]
        if self.config.reference_free:
            if any(pair is not None for pair in known):
                raise ValueError(
                    "reference_free=True makes no use of the reference_log_probs that preferences come with: pass them "
                    "without, or leave reference_free out"
                )
            return pairs, torch.zeros(len(pairs), 2, device=pairs.rows.device)
        if not self.world.any(any(pair is None for pair in known)):
            if self.config.reference_sync is not None:
                raise ValueError(
                    "preferences come with reference_log_probs, which stay as they are while reference_sync moves the "
                    "reference policy: pass them without, or leave reference_sync out"
                )
            return pairs, torch.tensor(known, dtype=self._weights_dtype, device=pairs.rows.device).view(-1, 2)
        if self._reference is None:
            which = f"preference {known.index(None)}" if None in known else "a preference of another process"
            raise ValueError(
                f"{which} has no reference_log_probs and there is no reference policy to ask: pass "
                f"reference_policy={reference_from(self.policy)}, or preferences from "
                f"grpo.with_reference_log_probs, or set reference_free=True"
            )
        return pairs, pair_log_probs_of(self._reference, preferences, pairs, self._pairs_per_call)

    @property
    def _pairs_per_call(self) -> int | None:
        """Pairs that go through a policy at once where nothing is learnt: no more than where something is."""
        return self.config.micro_batch_size or self.config.batch_size

    def _terms(
        self, pairs: PreferenceBatch, reference_log_probs: Tensor, part: PairMicroBatch, *, trains: bool = True
    ) -> Terms:
        trains = trains and self.optimizer is not None
        log_probs = pairs.log_probs(self._evaluator, part, requires_gradient=trains)
        return check_terms(
            self.objective(pairs.pair_log_probs(part, log_probs, reference_log_probs)),
            Segments(len(part.pairs), 1, log_probs.device),
            lambda position: f"pair {part.pairs[position]}",
            requires_gradient=trains,
            unit="pair",
        )


@torch.no_grad()
def pair_log_probs_of(
    evaluator: Evaluator, preferences: Preferences, pairs: PreferenceBatch | None, pairs_per_call: int | None
) -> Tensor:
    """Log-probs of the chosen and rejected actions, [P, 2]; ``pairs`` is how the policy that is trained sees them."""
    evaluator.policy.eval()
    encoded = PreferenceBatch.of(preferences, evaluator)
    if pairs is not None:
        evaluator.check_same_segments(encoded.batch, pairs.batch)
    parts = encoded.all(pairs_per_call)
    num_of_others = evaluator.num_calls_of_others(len(parts))
    log_probs = [encoded.log_probs(evaluator, part).clone() for part in parts]
    evaluator.evaluate_nothing(num_of_others)
    return torch.cat(log_probs) if log_probs else torch.zeros(0, 2, device=encoded.rows.device)


def name_sample(sample: int) -> str:
    """What to call an action in errors, by its place in a batch of pairs."""
    return f"the {('chosen', 'rejected')[sample % 2]} action of pair {sample // 2}"


def _check_objective(config: DPOConfig, objective: object) -> None:
    if objective is None:
        return
    if isinstance(objective, type) or not callable(objective):
        raise TypeError(f"objective is {objective!r}, expected an instance or a function that can be called")
    if isinstance(objective, LOSSES):
        raise TypeError(f"objective is a loss: pass objective=DPOObjective(loss={objective!r})")
    refuse_replaced(config, OBJECTIVE_SETTINGS, "objective")
