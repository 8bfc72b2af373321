"""What every trainer has: a policy under an optimizer, in steps that leave nothing half-done."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, Generic, NoReturn, TypeVar, cast

import torch
from torch import Tensor

from grpo.config.update import UpdateConfig
from grpo.data._generators import check_generator_state
from grpo.data._part_state import check_part_states, load_part_states, part_states
from grpo.data._protocols import those_with, type_name
from grpo.data.action_batches import ActionBatch
from grpo.data.decisions import Terms
from grpo.data.errors import NonFiniteError
from grpo.data.needs import Needs
from grpo.data.phases import Phases
from grpo.data.state import require_keys
from grpo.distributed.errors import RankError
from grpo.distributed.joins import JoinsWorld
from grpo.distributed.world import World
from grpo.models._checks import check_parameters
from grpo.models._evaluator import Evaluator
from grpo.models.policy import ActionsT, ComputesTogether, PolicyModel, ReportsMetrics, StatesT
from grpo.training._agreement import (
    check_is_not_averaged,
    check_is_told_of_others,
    check_parts,
    check_same_optimizer,
    check_same_settings,
    check_same_tensors,
    check_world,
    sample_apart,
)
from grpo.training._all_samples import TermsOfAll
from grpo.training._compiled_gradient import CompiledTerms
from grpo.training._diagnosis import describe_bad_gradient
from grpo.training._metrics import StepMetrics, weighted_sums
from grpo.training._minibatches import WeightedRows
from grpo.training._optimization import Optimization, check_reference, move_all
from grpo.training._reference_sync import buffers_to_follow, check_has_own_parameters, mix_parameters
from grpo.training._requirements import check_replacement
from grpo.training._rollback import Copies, UndoesFailedStep, buffers_of, noted_buffers, put_back_buffers

PartT = TypeVar("PartT", bound=WeightedRows)
TermsOf = Callable[[PartT], Terms | CompiledTerms]


class PolicyTrainer(Generic[StatesT, ActionsT]):
    """A policy, the optimizer over its parameters, and the reference policy that may follow it.

    It is what trainers share, whatever they learn from. A trainer of your own inherits from it and writes ``step``.

    Args:
        config: how parameters are changed.
        policy: the policy to train, a :class:`grpo.PolicyModel` or :class:`grpo.SequentialPolicy`.
        reference_policy: the policy to stay near to, or None.
        optimizer: over the policy's parameters; None for AdamW at ``config.learning_rate`` without weight decay.
        world: the processes that train it together; None for this one alone.

    Attributes:
        config: how parameters are changed.
        policy: the policy.
        reference_policy: the policy to stay near to, or None.
        world: the processes that train it together.
        generator: shuffles the rows of a step, in the same way on all processes.
        phases: what the time of the last step went into, ``phases.seconds``.
        num_steps: steps so far that ended without an error, those included of which every update was left out.

    Raises:
        TypeError: if a model lacks a method; the message names each.
        ValueError: if the optimizer holds none of the policy's parameters, the reference policy shares trainable
            ones with it, or has none to follow with.
    """

    config: UpdateConfig

    def __init__(
        self,
        config: UpdateConfig,
        policy: PolicyModel[StatesT, ActionsT],
        reference_policy: PolicyModel[StatesT, ActionsT] | None = None,
        optimizer: torch.optim.Optimizer | None = None,
        *,
        world: World | None = None,
    ) -> None:
        check_is_not_averaged(policy)
        check_is_told_of_others(world)
        self.world = check_world(world)
        check_same_settings(config, self, self.world)
        self._evaluator = self._evaluator_of(policy)
        self._models: dict[str, Any] = {"policy": policy}
        if reference_policy is not None:
            self._evaluator_of(reference_policy, "reference_policy")
            self._models["reference_policy"] = reference_policy
        if config.device is not None:
            move_all(self._models.values(), config.device)
        self._optimization = Optimization(policy, optimizer, config)
        reference_parameters = None
        if reference_policy is not None:
            reference_parameters = check_parameters(reference_policy.get_parameters(), "reference_policy")
            check_reference(self._optimization.parameters, reference_parameters)
        if config.reference_sync is not None:
            check_has_own_parameters(reference_parameters, policy.get_parameters())

        self.config = config
        self.policy = policy
        self.reference_policy = reference_policy
        self.generator = torch.Generator().manual_seed(config.seed)
        self.num_steps = 0
        self.phases = Phases()
        self._reporting = those_with(ReportsMetrics, [policy])
        self._adapting: list[Any] = []
        self._small_copies = Copies()
        doubles = any(parameter.dtype == torch.float64 for parameter in self._optimization.parameters.values())
        self._weights_dtype = torch.float64 if doubles else torch.float32
        check_parts(self._models, self.world)
        self._check_same_policy("seed or load them alike on all processes before the trainer is made")
        check_same_optimizer(self.optimizer, self.world)
        fix = ": load it alike on all processes before the trainer is made"
        check_same_tensors(reference_parameters or {}, "parameters of the reference policy", self.world, fix)
        self._join_world(list(self._models.values()))

    def __setattr__(self, name: str, value: Any) -> None:
        if name in self.__dict__:
            check_replacement(f"{type(self).__name__}.{name}", name, value, self._asked)
        super().__setattr__(name, value)

    @property
    def _asked(self) -> Needs:
        """What parts needed when the trainer was made."""
        return Needs()

    def _join_world(self, models: Sequence[Any]) -> None:
        """Let models be those of one process of several."""
        if not self.world.is_alone:
            sample_apart(models, self.world)
            for model in those_with(JoinsWorld, models):
                model.join_world(self.world)

    def _check_same_policy(self, fix: str, when: str = "") -> None:
        """Raise a ValueError on all processes if their policies differ."""
        if self.world.is_alone:
            return
        parameters = self.policy.get_parameters()
        buffers = {f"{place} {name}": buffer for place, (_, name, buffer) in enumerate(buffers_of(self.policy))}
        check_same_tensors(parameters, "parameters of the policy", self.world, f"{when}: {fix}")
        check_same_tensors(buffers, "buffers of the policy", self.world, f"{when}: {fix}")

    @property
    def _parts(self) -> dict[str, object]:
        """What may have a state besides the models, by name."""
        return {}

    @property
    def optimizer(self) -> torch.optim.Optimizer | None:
        """The optimizer; None where the policy has nothing to train."""
        return self._optimization.optimizer

    @property
    def train(self) -> NoReturn:
        """What trainers of other libraries have; here the loop is around the trainer.

        :meta private:
        """
        raise AttributeError(
            f"{type(self).__name__} has no train(), since it makes one step at a time: call trainer.step(states), or "
            f"let a run do so, Run(trainer, StateLoader(rows, batch_size=...))(Until(steps=...))"
        )

    def apply_learning_rate(self) -> None:
        """Train on at ``config.learning_rate``, where a state that was loaded had another.

        The optimizer's first group is given it, the others theirs in proportion; a schedule does so at each step.
        """
        self._optimization.apply_learning_rate()

    def state_dict(self) -> dict[str, Any]:
        """All that changes in the course of a training, copied.

        It holds what the trainer was given: the policy, the reward model and the reference policy, the optimizer, the
        sampler, the advantage estimator and the objective. An object that is :class:`grpo.Stateful` tells its state
        itself; of another one it holds the parameters, the buffers of modules in its attributes, and its
        ``generator``. PyTorch's, NumPy's and Python's global random generators are nobody's, and not in it.
        """
        return {
            "num_steps": self.num_steps,
            "generator": self.generator.get_state(),
            **self._optimization.state_dict(),
            "parts": part_states(self._owned),
        }

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Go on from what ``state_dict`` of this trainer, or of one constructed in the same way, returned.

        Raises:
            ValueError: if it is the state of a trainer that was constructed otherwise; the message names what differs.
                This trainer is then as it was, unless ``config.undo_failed_updates`` is false: in that case some of
                what it was given may have its new state already.
        """
        require_keys(state_dict, {"num_steps", "generator", "optimizer", "learning_rates", "optimized", "parts"}, self)
        num_steps = state_dict["num_steps"]
        if isinstance(num_steps, bool) or not isinstance(num_steps, int) or num_steps < 0:
            raise ValueError(f"state_dict holds num_steps={num_steps!r}, expected a number of steps, at least 0")
        check_part_states(self._owned, state_dict["parts"], self)
        self._optimization.check_state(state_dict)
        check_generator_state(self.generator, state_dict["generator"], type_name(self))
        before = self.state_dict() if self.config.undo_failed_updates else None
        try:
            self._load(state_dict)
        except BaseException:
            if before is not None:
                self._load(before)
            raise

    def _load(self, state_dict: Mapping[str, Any]) -> None:
        load_part_states(self._owned, state_dict["parts"])
        self._optimization.load_state_dict(state_dict)
        self.generator.set_state(state_dict["generator"].cpu())
        self.num_steps = int(state_dict["num_steps"])

    @property
    def _owned(self) -> dict[str, Any]:
        """All that the trainer was given and that may change, by role."""
        return {**self._models, **self._parts}

    def _evaluator_of(self, policy: PolicyModel[StatesT, ActionsT], role: str = "policy") -> Evaluator:
        """The policy as the core sees it, with the name that samples have in errors."""
        return Evaluator(policy, role, world=self.world)

    @contextmanager
    def _whole_step(self, metrics: StepMetrics, collector: Any = None) -> Iterator[UndoesFailedStep]:
        """A step that either ends, and is counted, or leaves everything as it was."""
        try:
            self._optimization.refresh()
            self.phases.clear()
            undo = UndoesFailedStep(
                [*self._models.values(), *self._parts.values(), self],
                self._optimization,
                self._adapting,
                undoes_updates=self.config.undo_failed_updates,
                collector=collector,
                small_copies=self._small_copies,
            )
            with torch.enable_grad(), undo, self._counted():
                self._optimization.follow_schedule(self.num_steps)
                with self._left_out_where_not_finite(metrics):
                    yield undo
                self.num_steps += 1
                self._sync_reference(undo)
                self._stay_together()
                self.phases.end()
        except BaseException as error:
            self.world.fail(error)
            raise

    @contextmanager
    def _counted(self) -> Iterator[None]:
        """A step that is counted only if it ends well."""
        num_steps = self.num_steps
        try:
            yield
        except BaseException:
            self.num_steps = num_steps
            raise

    def _stay_together(self) -> None:
        """Return when the step has ended well on all processes, and now and then only if it has ended alike."""
        if not self.world.is_alone and self.num_steps % self.world.compare_every == 0:
            self._check_same_policy(
                "whatever the policy changes in itself must change in the same way on all processes; grpo.JoinsWorld "
                "tells it of the others",
                f" after step {self.num_steps}",
            )
        if not self.world.is_alone:
            self.world.agree()

    def _left_out_where_not_finite(self, metrics: StepMetrics) -> AbstractContextManager[None]:
        """What is not finite stops the step or, where the config says so, leaves out the block, which is counted."""
        return nullcontext() if self.config.non_finite == "raise" else self._left_out(metrics)

    @contextmanager
    def _left_out(self, metrics: StepMetrics) -> Iterator[None]:
        buffers = noted_buffers(self.policy)  # a forward pass moves the running means of batch normalisation
        try:
            yield
        except (NonFiniteError, RankError) as error:
            if isinstance(error, RankError) and not error.is_a(NonFiniteError):
                raise
            self.world.fail(error)
            put_back_buffers(buffers)
            metrics.skip()

    @property
    def _all_take_part(self) -> bool:
        """Whether processes take part in evaluations for which they have no rows."""
        return self._evaluator.computes_together

    def _evaluate_nothing(self) -> Tensor | None:
        """Take part in an evaluation of other processes; what to go backward from, if anything."""
        if not self._evaluator.computes_together:
            return None
        return cast("ComputesTogether", self.policy).evaluate_nothing()

    def _agree_on_backward(self, together: bool) -> None:
        """Go into a backward pass in which all processes take part only when all of them do."""
        if together:
            self.world.agree()

    def _accumulate(self, parts: Sequence[PartT], terms_of: TermsOf[PartT], metrics: StepMetrics) -> None:
        """Make the gradient of an optimiser step, of all processes, and note what is reported of it.

        Args:
            parts: what goes through the policy at once; of a process without rows, none.
            terms_of: evaluates a part.
            metrics: of the step.
        """
        self._optimization.drop_gradients()
        if self.world.is_alone:
            for part in parts:
                terms = terms_of(part)
                self._backward(terms, part.weight, metrics)
            return
        gradients = self._optimization.gradient_sum(self.world)
        gradients.clear()
        together = self._evaluator.computes_together
        num_parts = int(self.world.maximum(torch.tensor(len(parts)))) if self._all_take_part else len(parts)
        for place in range(num_parts):
            is_last = place == num_parts - 1
            if together:
                cast("ComputesTogether", self.policy).sum_gradients(is_last)
            if place < len(parts):
                part, terms = parts[place], terms_of(parts[place])
                self._agree_on_backward(together)
                with gradients.during(is_last):
                    self._backward(terms, part.weight, metrics)
            else:
                nothing = self._evaluate_nothing()
                self._agree_on_backward(together)
                if nothing is not None:
                    nothing.backward()
        metrics.take_sums(gradients.finish(metrics.sums_of_micro_batches()))

    def _backward(self, terms: Terms | CompiledTerms, weight: Tensor, metrics: StepMetrics) -> None:
        """Add the gradient of a micro-batch, that of (weight * loss).sum(), to that of the optimiser step."""
        if isinstance(terms, CompiledTerms):
            terms.add_gradients()
            metrics.add(terms.reported)
            return
        metrics.add(weighted_sums(terms, weight))
        if self.optimizer is None:
            return
        if isinstance(terms, TermsOfAll):
            terms.total.backward()
        else:
            torch.autograd.backward(terms.loss, weight.to(terms.loss.dtype))

    def _make_update(
        self, batch: ActionBatch, minibatch: Sequence[WeightedRows], undo: UndoesFailedStep
    ) -> float | None:
        """Make the optimiser step; the norm of the gradient before it was scaled down, None without parameters."""
        if self.optimizer is None:
            return None
        try:
            with undo.update():
                return self._optimization.make_step(self._evaluator.source)
        except NonFiniteError as error:
            description = describe_bad_gradient(self._evaluator, self._optimization.parameters, batch, minibatch)
            raise NonFiniteError(description) from error

    def _may_fail_after_an_update(self, num_rows: int) -> bool:
        """Whether anything that may fail comes after the first update, so that it must be possible to undo that."""
        if not self.world.is_alone:  # another process may fail in the same update
            return True
        return self._syncs_reference_after(self.num_steps + 1) or self.config.num_updates(num_rows) > 1

    def _syncs_reference_after(self, num_steps: int) -> bool:
        sync = self.config.reference_sync
        return sync is not None and num_steps % sync.every == 0

    def _sync_reference(self, undo: UndoesFailedStep) -> None:
        """Let the reference policy follow where it is to."""
        if self._syncs_reference_after(self.num_steps):
            assert self.reference_policy is not None
            reference = check_parameters(self.reference_policy.get_parameters(), "reference_policy")
            parameters = check_parameters(self.policy.get_parameters(), "policy")
            check_has_own_parameters(reference, parameters)
            reference_buffers, buffers = buffers_to_follow(self.reference_policy, self.policy)
            if self.config.undo_failed_updates:
                undo.also([*reference.values(), *reference_buffers.values()])
            assert self.config.reference_sync is not None
            mix_parameters(reference, parameters, self.config.reference_sync.mixing)
            mix_parameters(reference_buffers, buffers, self.config.reference_sync.mixing)
