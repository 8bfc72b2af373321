"""Checks of a policy."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

import torch
from torch import Tensor

from grpo.conformance._batch_checks import check_encoding_of_groups, check_sampling_log_probs
from grpo.conformance._checks import FAILED, HALF_PRECISION_TOLERANCE, TOLERANCE, Checks
from grpo.conformance._critic_checks import check_critic
from grpo.conformance._sampling_checks import check_sampling
from grpo.conformance._values import changed, value_of
from grpo.data._checks import check_groups
from grpo.data._protocols import missing_methods, type_name
from grpo.data.action_batches import ActionBatch
from grpo.data.batches import join_groups, repeat_entries, select_entries
from grpo.data.evaluation import Evaluation
from grpo.data.segments import Segments
from grpo.models._checks import check_action_batch, check_evaluation
from grpo.models._random_states import RestoresRandomStates
from grpo.models.policy import PolicyModel, SequentialPolicy
from grpo.rollout.sampler import PolicySampler, Sampler, sampler_for


class PolicyChecks(Checks):
    """What :func:`grpo.check_policy_model` does."""

    def __init__(
        self,
        model: PolicyModel[Any, Any],
        states: Any,
        generation_kwargs: Mapping[str, Any],
        *,
        sampler: Sampler[Any, Any] | None = None,
        num_actions_per_state: int | None = None,
        discrete: bool = True,
    ) -> None:
        super().__init__(model, PolicyModel)
        self.states = states
        self.options = generation_kwargs
        self.sampler = sampler_for(model, sampler)
        self.num_actions_per_state = num_actions_per_state
        self.discrete = discrete
        optional = missing_methods(model, SequentialPolicy)
        if len(optional) == 1:
            self.add(f"{optional[0]} is missing: encode_actions and evaluate_actions are of use together only")
        self.is_sequential = not optional

    def run(self, num_samples: int, given_part: Callable[[Any], Any] | None = None) -> None:
        """All checks, from what everything else rests on to what is statistical."""
        random_states = RestoresRandomStates([self.model, self.sampler])
        was_training = getattr(self.model, "training", None)
        before = self.state()
        with random_states:
            self.check_parameters()
            self.check_device_and_modes()
            self.call("eval")
            pairs = self.check_generation()
            if pairs is not None and self.check_log_probs(*pairs):
                self.check_purity(*pairs)
                self.check_training_mode(*pairs)
                self.check_gradient(*pairs)
                if self.is_sequential:
                    self.check_agreement(*pairs)
                self.call("eval")
                if num_samples > 0:
                    check_sampling(self, num_samples, given_part)
            self.call("train" if was_training in (None, True) else "eval")
            tensors = self.tensors()
            with torch.no_grad():
                for name, value in before.items():
                    if name in tensors and tensors[name].shape == value.shape:
                        tensors[name].copy_(value)
            random_states.restore()

    @property
    def parameters(self) -> dict[str, Tensor]:
        """The parameters by name; none where they are not as they must be."""
        parameters = self.call("get_parameters")
        return dict(parameters) if isinstance(parameters, Mapping) else {}

    @property
    def trainable(self) -> list[Tensor]:
        """The parameters that require a gradient."""
        return [tensor for tensor in self.parameters.values() if isinstance(tensor, Tensor) and tensor.requires_grad]

    def check_parameters(self) -> None:
        """A mapping from names to leaf tensors, the same ones each time."""
        parameters = self.call("get_parameters")
        if parameters is FAILED:
            return
        if not isinstance(parameters, Mapping):
            self.add(f"get_parameters returned a {type(parameters).__name__}, expected a mapping from names to tensors")
            return
        for name, tensor in parameters.items():
            if not isinstance(tensor, Tensor):
                self.add(f"get_parameters holds a {type(tensor).__name__} as {name!r}, expected a tensor")
            elif not tensor.is_leaf:
                self.add(
                    f"get_parameters holds {name!r}, which was computed from others: return the leaf tensor itself"
                )
        again = self.parameters
        if any(again.get(name) is not tensor for name, tensor in parameters.items()):
            self.add("get_parameters returns other tensors each time: an optimizer must change the very ones in use")

    def check_device_and_modes(self) -> None:
        """train, eval and to leave the parameters where and as they are."""
        before, values = self.parameters, self.state()
        requires_gradient = [isinstance(tensor, Tensor) and tensor.requires_grad for tensor in before.values()]
        device = next((tensor.device for tensor in before.values() if isinstance(tensor, Tensor)), torch.device("cpu"))
        self.check_modes(device)
        after = self.parameters
        if any(after.get(name) is not tensor for name, tensor in before.items()):
            self.add(
                "train, eval or to replaced the tensors in get_parameters: change them in place, optimizers hold them"
            )
        elif changed(values, self.state()):
            self.add("train, eval or to changed the values of parameters: they must only switch mode and device")
        elif [tensor.requires_grad for tensor in after.values()] != requires_gradient:
            self.add("train, eval or to changed which parameters require a gradient: they must only switch the mode")

    def tensors(self) -> dict[str, Tensor]:
        """The parameters, and buffers where the model tells them."""
        tensors = self.parameters | (dict(self.model.named_buffers()) if hasattr(self.model, "named_buffers") else {})
        return {name: tensor for name, tensor in tensors.items() if isinstance(tensor, Tensor)}

    def state(self) -> dict[str, Tensor]:
        """Copies of them."""
        return {name: tensor.detach().clone() for name, tensor in self.tensors().items()}

    def generate(self, states: Any, count: int) -> Any:
        """Groups of actions; None where they are not as they must be, which is noted."""
        known = value_of(states)
        with torch.no_grad():
            if isinstance(self.sampler, PolicySampler):
                source, groups = "generate_actions", self.call("generate_actions", states, count, **self.options)
            else:
                source, given = f"{type_name(self.sampler)}.sample", (self.model, states, count)
                groups = self.result_of(source, self.sampler.sample, *given, **self.options)
        if value_of(states) != known:
            self.add(f"{source} changes the states it is given: leave them as they are")
        if groups is FAILED:
            return None
        return groups if self.holds(check_groups, f"{source} returned", groups, len(states), count) else None

    def check_generation(self) -> tuple[Any, Any] | None:
        """The right number of groups and actions; the pairs to evaluate, None without any."""
        self.check_keywords()
        before = self.state()
        everything = torch.arange(len(self.states))
        counts = (1, 3) if self.num_actions_per_state is None else (self.num_actions_per_state,)
        groups = [self.generate(select_entries(self.states, everything), count) for count in counts]
        if changed(before, self.state()):
            self.add("generate_actions changes parameters or buffers: it must only sample")
        if groups[-1] is None:
            return None
        return repeat_entries(self.states, Segments(len(self.states), counts[-1])), join_groups(groups[-1])

    def check_keywords(self) -> None:
        """What a step is given besides the states is handed on to the policy, where it samples itself."""
        if "generate_actions" in self.missing or not isinstance(self.sampler, PolicySampler):
            return
        with suppress(TypeError, ValueError):  # written in C, and does not tell
            kinds = [each.kind for each in inspect.signature(self.model.generate_actions).parameters.values()]
            if inspect.Parameter.VAR_KEYWORD not in kinds:
                self.add(
                    "generate_actions takes no **kwargs: a trainer hands on to it what step is given besides the "
                    "states, so that it must take any keyword, and may leave it unused"
                )

    def log_probs(self, states: Any, actions: Any) -> Tensor | None:
        """Log-probs [N] in float64; None where they are not as they must be, which is noted."""
        known = value_of((states, actions))
        log_probs = self.call("get_log_probabilities", states, actions)
        if log_probs is FAILED:
            return None
        if value_of((states, actions)) != known:
            self.add("get_log_probabilities changes the batches it is given: leave them as they are")
        if not isinstance(log_probs, Tensor):
            self.add(f"get_log_probabilities returned a {type(log_probs).__name__}, expected a tensor [{len(actions)}]")
            return None
        source = "policy.get_log_probabilities"
        rows = Segments(len(actions), 1, log_probs.device)
        if not self.holds(check_evaluation, Evaluation(log_probs), rows, source, lambda position: f"pair {position}"):
            return None
        self.tolerance = TOLERANCE if torch.finfo(log_probs.dtype).bits >= 32 else HALF_PRECISION_TOLERANCE
        return log_probs.double()

    def check_log_probs(self, states: Any, actions: Any) -> bool:
        """Whether log-probs are as they must be; those above 0 are noted."""
        with torch.no_grad():
            log_probs = self.log_probs(states, actions)
        if log_probs is None:
            return False
        if self.discrete and (log_probs > self.tolerance).any():
            self.add(
                f"get_log_probabilities returned {log_probs.max().item():.4g}, a probability above 1: expected at "
                f"most 0, or check_policy_model(..., discrete=False) for densities"
            )
        return True

    @torch.no_grad()
    def check_purity(self, states: Any, actions: Any) -> None:
        """Evaluation changes nothing, repeats itself, and treats each pair by itself."""
        before = self.state()
        together = self.log_probs(states, actions)
        again = self.log_probs(states, actions)
        if changed(before, self.state()):
            self.add("get_log_probabilities changes parameters or buffers: evaluation must leave the policy as it is")
        if together is None or again is None:
            return
        if not self.close(together, again):
            self.add(
                "get_log_probabilities gives other values when it is called again in eval mode: "
                "evaluation must not be random or keep a state"
            )
            return
        alone = [
            self.log_probs(select_entries(states, index), select_entries(actions, index))
            for index in torch.arange(len(actions)).split(1)
        ]
        known = [value for value in alone if value is not None]
        if len(known) == len(alone) and not self.close(torch.cat(known), together):
            self.add(
                "get_log_probabilities gives a pair another value alone than among others: it must not depend on the "
                "rest of the batch (padding, order, normalisation over the batch)"
            )

    @torch.no_grad()
    def check_training_mode(self, states: Any, actions: Any) -> None:
        """In training mode no pair may move what the others are evaluated by, as batch normalisation lets it."""
        known, before = self.log_probs(states, actions), self.state()
        self.call("train")
        in_training = self.log_probs(states, actions)
        if known is None or in_training is None or self.close(known, in_training):
            return
        if changed(before, self.state()):
            self.add(
                "get_log_probabilities gives other values in training mode, and moves buffers, as batch normalisation "
                "does: updates would compare the policy with another one than has sampled; take nn.LayerNorm, or leave "
                "those layers in eval mode"
            )

    def check_gradient(self, states: Any, actions: Any) -> None:
        """The gradient reaches the parameters and is finite."""
        if not self.trainable:
            return
        self.call("train")
        with torch.enable_grad():
            log_probs = self.log_probs(states, actions)
        if log_probs is None:
            return
        if not log_probs.requires_grad:
            self.add(
                "get_log_probabilities has no gradient to any parameter: compute it from those in get_parameters, "
                "without detach() or no_grad()"
            )
            return
        weights = torch.linspace(1, 2, len(log_probs), dtype=log_probs.dtype, device=log_probs.device)
        gradients = torch.autograd.grad((weights * log_probs).sum(), self.trainable, allow_unused=True)
        if all(gradient is None for gradient in gradients):
            self.add("the gradient of get_log_probabilities reaches none of the tensors in get_parameters")
        elif any(gradient is not None and not gradient.isfinite().all() for gradient in gradients):
            self.add("the gradient of get_log_probabilities is not finite")

    @torch.no_grad()
    def check_agreement(self, states: Any, actions: Any) -> None:
        """encode_actions and evaluate_actions against get_log_probabilities, and rows against the whole."""
        self.call("eval")
        batch = self.call("encode_actions", states, actions)
        if batch is FAILED or not self.holds(check_action_batch, batch, len(actions), "encode_actions"):
            return
        whole = self.evaluate(batch, batch.rows)
        expected = self.log_probs(states, actions)
        if whole is None or expected is None:
            return
        check_critic(self, batch, self.tolerance)
        log_probs = whole.log_probs.double()
        check_sampling_log_probs(self, batch, log_probs)
        check_encoding_of_groups(self, actions, expected)
        if not self.close(batch.samples.sum(log_probs), expected):
            self.add(
                "evaluate_actions gives samples other log-probs, summed over decisions, than get_log_probabilities"
            )
        every = torch.arange(len(batch.rows), device=batch.rows.device)
        for chosen in (every.flip(0), *every.split(1)):  # a row alone shows what is out of place both times
            self.check_rows(batch, whole, chosen)

    def check_rows(self, batch: ActionBatch, whole: Evaluation, chosen: Tensor) -> None:
        """What is said of rows that are selected, against what is said of them among all."""
        try:
            selected = batch.select(chosen)
        except Exception as error:
            self.add(f"select raised {type(error).__name__}: {error}")
            return
        apart = self.evaluate(selected, batch.rows.select(chosen))
        if apart is None:
            return
        for name in ("log_probs", "entropy", "values"):
            among_all, by_itself = getattr(whole, name), getattr(apart, name)
            if among_all is None and by_itself is None:
                continue
            positions = batch.rows.positions(chosen)
            if among_all is None or by_itself is None or not self.close(by_itself, among_all[positions]):
                self.add(
                    f"evaluate_actions gives rows other {name} when select takes or reorders them: each entry is of "
                    f"the decision in its place, and must not depend on the rest"
                )

    def evaluate(self, batch: ActionBatch, rows: Segments) -> Evaluation | None:
        """What the policy says of all decisions; None where it is not as it must be, which is noted."""
        evaluation = self.call("evaluate_actions", batch)
        if evaluation is FAILED or not self.holds(
            check_evaluation, evaluation, rows, "policy.evaluate_actions", lambda position: f"decision {position}"
        ):
            return None
        told: Evaluation = evaluation
        return told

    def close(self, left: Tensor, right: Tensor) -> bool:
        """Equal up to rounding in the precision of the log-probs."""
        return torch.allclose(left.double(), right.double(), rtol=self.tolerance, atol=self.tolerance)
