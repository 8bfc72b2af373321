"""Models that give a wrong answer at one call of one method, and the ways in which an answer can be wrong."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from models import Quiet
from torch import Tensor, nn

from grpo import PartialRewards, Segments, Terms
from grpo.advantages.estimator import estimate_of
from grpo.data.needs import needs_of


class DeliberateError(RuntimeError):
    """What a model raises; nothing but itself may come out of a step."""


Outcome = Literal["same", "refused", "any"]
"""What must come of an answer: the result of the right one, an error, or either with all promises kept."""


@dataclass(frozen=True)
class Way:
    """A way of being wrong.

    Attributes:
        change: from the right answer, and what the models remember, to the wrong one.
        outcome: what must come of it.
    """

    change: Callable[[Any, Memory], Any]
    outcome: Outcome = "refused"


class Memory:
    """What a model that reuses its own tensors does so with."""

    def __init__(self, parameter: Tensor) -> None:
        self.parameter = parameter
        self.buffer = torch.zeros(0)
        self.given: tuple[Any, ...] = ()

    def reused(self, values: Tensor) -> Tensor:
        """The values in the same memory at each call."""
        if values.requires_grad:
            return values
        if self.buffer.numel() < values.numel() or self.buffer.dtype != values.dtype:
            self.buffer = torch.zeros(4 * values.numel(), dtype=values.dtype)
        values = values.clone()
        self.buffer.fill_(float("nan") if values.is_floating_point() else 0)
        part = self.buffer[: values.numel()].view(values.shape)
        return part.copy_(values)


def raised(error: BaseException) -> Any:
    raise error


def put(value: float, index: int = 0) -> Callable[[Tensor, Memory], Tensor]:
    """One entry replaced."""

    def change(values: Tensor, memory: Memory) -> Tensor:
        return values.index_fill(0, torch.tensor([index % len(values)]), value)

    return change


def in_inference_mode(values: Tensor, memory: Memory) -> Tensor:
    with torch.inference_mode():
        return values.detach().clone()


def spread_out(values: Tensor, memory: Memory) -> Tensor:
    """The same values two apart in memory."""
    return torch.stack((values, torch.zeros_like(values)), dim=-1)[..., 0]


class TensorSubclass(Tensor):
    """A tensor of the user's own class."""


def nested(values: Tensor, memory: Memory) -> Tensor:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it is a prototype, PyTorch says
        return torch.nested.as_nested_tensor([values.detach()[:1], values.detach()])


ERRORS: dict[str, Way] = {
    "ValueError": Way(lambda value, memory: raised(ValueError("deliberate"))),
    "RuntimeError": Way(lambda value, memory: raised(DeliberateError("deliberate"))),
    "KeyboardInterrupt": Way(lambda value, memory: raised(KeyboardInterrupt("deliberate"))),
    "StopIteration": Way(lambda value, memory: raised(StopIteration("deliberate"))),
    "AttributeError": Way(lambda value, memory: raised(AttributeError("deliberate"))),
}
OTHER_TYPES: dict[str, Way] = {
    "None": Way(lambda value, memory: None),
    "str": Way(lambda value, memory: "seven"),
    "float": Way(lambda value, memory: 0.5),
    "tuple": Way(lambda value, memory: (value, value)),
    "type": Way(lambda value, memory: type(value)),
}
SAME_TENSOR: dict[str, Way] = {
    "clone": Way(lambda values, memory: values.clone(), "same"),
    "reused memory": Way(lambda values, memory: memory.reused(values), "same"),
    "spread out": Way(spread_out, "same"),
    "subclass": Way(lambda values, memory: values.as_subclass(TensorSubclass), "same"),
    "double": Way(lambda values, memory: values.double() if values.is_floating_point() else values, "same"),
}
WRONG_TENSOR: dict[str, Way] = {
    **ERRORS,
    **OTHER_TYPES,
    "list": Way(lambda values, memory: values.tolist()),
    "column": Way(lambda values, memory: values.unsqueeze(1)),
    "row": Way(lambda values, memory: values.unsqueeze(0), "any"),
    "0-dimensional": Way(lambda values, memory: values.sum()),
    "empty": Way(lambda values, memory: values[:0]),
    "one short": Way(lambda values, memory: values[:-1], "any"),
    "twice": Way(lambda values, memory: torch.cat((values, values)), "any"),
    "int": Way(lambda values, memory: values.long()),
    "bool": Way(lambda values, memory: values > 0),
    "complex": Way(lambda values, memory: values.to(torch.complex64)),
    "half": Way(lambda values, memory: values.half(), "any"),
    "bfloat16": Way(lambda values, memory: values.bfloat16(), "any"),
    "meta": Way(lambda values, memory: values.to("meta")),
    "sparse": Way(lambda values, memory: values.to_sparse()),
    "nested": Way(nested),
    "nan first": Way(put(float("nan"))),
    "nan last": Way(put(float("nan"), -1)),
    "inf": Way(put(float("inf"), 1)),
    "-inf": Way(put(float("-inf"), 2)),
    "huge": Way(put(3e38, 1), "any"),
    "all huge": Way(lambda values, memory: values * 0 + 3e38, "any"),
    "detached": Way(lambda values, memory: values.detach(), "any"),
    "unconnected": Way(lambda values, memory: values.detach().clone().requires_grad_(), "any"),
    "inference mode": Way(in_inference_mode, "any"),
    "expanded parameter": Way(lambda values, memory: memory.parameter.flatten()[0].expand(values.shape), "any"),
    "parameter": Way(lambda values, memory: memory.parameter, "any"),
    "view of parameter": Way(lambda values, memory: memory.parameter.flatten()[: len(values)], "any"),
    "overflowing gradient": Way(lambda values, memory: values + 1e38 * (values - values.detach()), "any"),
    "nan gradient": Way(lambda values, memory: values + (0 * memory.parameter.sum()).sqrt(), "any"),
    "in-place later": Way(lambda values, memory: values.detach().requires_grad_().mul(1), "any"),
}
TENSOR = SAME_TENSOR | WRONG_TENSOR


class Lying:
    """A sequence whose parts do not fit together."""

    def __init__(self, entries: Sequence[Any], lie: str) -> None:
        self.entries = list(entries)
        self.lie = lie

    def __len__(self) -> Any:
        lengths: dict[str, Any] = {
            "negative": -1,
            "text": "three",
            "huge": 10**6,
            "float": float(len(self.entries)),
            "short": len(self.entries) - 1,
            "long": len(self.entries) + 1,
        }
        return lengths.get(self.lie, len(self.entries))

    def __getitem__(self, index: int) -> Any:
        if self.lie == "raises":
            raise DeliberateError("deliberate")
        if self.lie == "none":
            return None
        return self.entries[index]

    def __iter__(self) -> Iterator[Any]:
        if self.lie == "raises in turn":
            raise DeliberateError("deliberate")
        if self.lie == "not an iterator":
            return 5  # type: ignore[return-value]
        return iter(self.entries[:-1] if self.lie == "fewer" else self.entries)


LIES = ("negative", "text", "huge", "float", "short", "long", "raises", "none", "raises in turn", "not an iterator")


def cut_last(groups: Any, memory: Memory) -> Any:
    return [*groups[:-1], list(groups[-1])[:-1]]


def lying_groups(lie: str) -> Callable[[Any, Memory], Any]:
    return lambda groups, memory: Lying(groups, lie)


def lying_group(lie: str) -> Callable[[Any, Memory], Any]:
    return lambda groups, memory: [*groups[:-1], Lying(groups[-1], lie)]


def honest(groups: Any, memory: Memory) -> Any:
    return Lying([Lying(group, "") for group in groups], "")


GROUPS: dict[str, Way] = {
    **ERRORS,
    **OTHER_TYPES,
    "tuples": Way(lambda groups, memory: tuple(tuple(group) for group in groups), "same"),
    "own sequences": Way(honest, "same"),
    "empty": Way(lambda groups, memory: []),
    "flat": Way(lambda groups, memory: [action for group in groups for action in group]),
    "one group less": Way(lambda groups, memory: groups[:-1]),
    "one group more": Way(lambda groups, memory: [*groups, groups[0]]),
    "one action less": Way(cut_last),
    "empty group": Way(lambda groups, memory: [*groups[:-1], []]),
    "generator": Way(lambda groups, memory: (group for group in groups)),
    "dict": Way(lambda groups, memory: dict(enumerate(groups))),
    "nothing in it": Way(lambda groups, memory: [[None for _ in group] for group in groups], "any"),
    "0-dimensional": Way(lambda groups, memory: torch.zeros(())),
    "tensor": Way(lambda groups, memory: torch.zeros(len(groups), len(groups[0])), "any"),
    "sparse": Way(lambda groups, memory: torch.zeros(len(groups), len(groups[0])).to_sparse()),
    "ragged tensors": Way(lambda groups, memory: [torch.zeros(len(group), 2, 0) for group in groups], "any"),
    "0-dimensional groups": Way(lambda groups, memory: [torch.zeros(()) for _ in groups]),
    "mixed": Way(lambda groups, memory: [torch.zeros(len(groups[0])), *groups[1:]], "any"),
    **{f"lying {lie}": Way(lying_groups(lie), "any") for lie in (*LIES, "fewer")},
    **{f"lying group {lie}": Way(lying_group(lie), "any") for lie in (*LIES, "fewer")},
}


class WrongBatch:
    """A batch that delegates to another one, but for a few attributes."""

    def __init__(self, batch: Any, **attributes: Any) -> None:
        self._batch = batch
        self.__dict__.update(attributes)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.__dict__["_batch"], name)


def with_attributes(attributes: Callable[[Any], dict[str, Any]]) -> Callable[[Any, Memory], Any]:
    return lambda batch, memory: WrongBatch(batch, **attributes(batch))


def without_rows(batch: Any, memory: Memory) -> Any:
    class Half:
        samples = batch.samples

    return Half()


def shifted(segments: Segments) -> Segments:
    """The first segment longer by one, the last shorter, where that can be."""
    lengths = segments.lengths.clone()
    lengths[0] += 1
    lengths[-1] -= 1
    return Segments.of_lengths(lengths) if int(lengths.min()) > 0 else Segments(1, segments.total)


BATCH: dict[str, Way] = {
    **ERRORS,
    **OTHER_TYPES,
    "delegating": Way(with_attributes(lambda batch: {}), "same"),
    "without rows": Way(without_rows),
    "rows of one": Way(with_attributes(lambda batch: {"rows": Segments(1, batch.samples.total)}), "any"),
    "rows of decisions": Way(with_attributes(lambda batch: {"rows": Segments(batch.samples.total, 1)}), "any"),
    "shifted rows": Way(with_attributes(lambda batch: {"rows": shifted(batch.samples)}), "any"),
    "shifted samples": Way(with_attributes(lambda batch: {"samples": shifted(batch.samples)}), "any"),
    "rows too few": Way(with_attributes(lambda batch: {"rows": Segments(1, 1)}), "any"),
    "rows are a list": Way(with_attributes(lambda batch: {"rows": [1]})),
    "no samples": Way(with_attributes(lambda batch: {"samples": None})),
    "one sample more": Way(
        with_attributes(lambda batch: {"samples": Segments(len(batch.samples) + 1, 1), "rows": batch.rows})
    ),
    "samples elsewhere": Way(
        with_attributes(lambda batch: {"samples": Segments(len(batch.samples), 1, "meta")}), "any"
    ),
    "wrong episodes": Way(with_attributes(lambda batch: {"episodes": Segments(1, 1)}), "any"),
    "episodes across": Way(with_attributes(lambda batch: {"episodes": Segments(1, batch.samples.total)}), "any"),
    "episodes are a tensor": Way(with_attributes(lambda batch: {"episodes": torch.ones(3)})),
    "truncated all": Way(
        with_attributes(lambda batch: {"truncated": torch.ones(len(batch.samples), dtype=torch.bool)}), "any"
    ),
    "truncated floats": Way(with_attributes(lambda batch: {"truncated": torch.ones(len(batch.samples))})),
    "truncated list": Way(with_attributes(lambda batch: {"truncated": [True]})),
    "sampling log-probs": Way(
        with_attributes(lambda batch: {"sampling_log_probs": torch.full((batch.samples.total,), -0.5)}), "any"
    ),
    "sampling log-probs nan": Way(
        with_attributes(lambda batch: {"sampling_log_probs": torch.full((batch.samples.total,), torch.nan)}), "any"
    ),
    "sampling log-probs huge": Way(
        with_attributes(lambda batch: {"sampling_log_probs": torch.full((batch.samples.total,), -3e38)}), "any"
    ),
    "sampling log-probs short": Way(with_attributes(lambda batch: {"sampling_log_probs": torch.ones(1)}), "any"),
    "sampling log-probs list": Way(with_attributes(lambda batch: {"sampling_log_probs": [0.1]}), "any"),
    "select is no method": Way(with_attributes(lambda batch: {"select": None}), "any"),
    "select gives None": Way(with_attributes(lambda batch: {"select": lambda rows: None}), "any"),
    "select gives all": Way(with_attributes(lambda batch: {"select": lambda rows: batch}), "any"),
    "select raises": Way(
        with_attributes(lambda batch: {"select": lambda rows: raised(DeliberateError("deliberate"))}), "any"
    ),
}


def with_scored(scored: Callable[[int], Any]) -> Callable[[Any, Memory], Any]:
    def change(rewards: Any, memory: Memory) -> Any:
        return PartialRewards(rewards, scored(len(rewards)))

    return change


def mask(*unscored: int) -> Callable[[int], Tensor]:
    def scored(count: int) -> Tensor:
        return torch.tensor([index not in unscored for index in range(count)])

    return scored


PARTIAL: dict[str, Way] = {
    "partial, all": Way(with_scored(lambda count: torch.ones(count, dtype=torch.bool)), "any"),
    "partial, none": Way(with_scored(lambda count: torch.zeros(count, dtype=torch.bool)), "any"),
    "partial, no group whole": Way(with_scored(mask(0, 3)), "any"),
    "partial, a group gone": Way(with_scored(mask(0, 1, 2)), "any"),
    "partial, floats": Way(with_scored(torch.ones), "any"),
    "partial, short": Way(with_scored(lambda count: torch.ones(count - 1, dtype=torch.bool))),
    "partial, column": Way(with_scored(lambda count: torch.ones(count, 1, dtype=torch.bool))),
    "partial, list": Way(with_scored(lambda count: [True] * count)),
    "partial, meta": Way(with_scored(lambda count: torch.ones(count, dtype=torch.bool, device="meta"))),
    "partial, sparse": Way(with_scored(lambda count: torch.ones(count, dtype=torch.bool).to_sparse())),
    "partial, None": Way(with_scored(lambda count: None)),
    "partial, values None": Way(lambda rewards, memory: PartialRewards(None, mask()(len(rewards)))),  # type: ignore[arg-type]
    "partial, values list": Way(lambda rewards, memory: PartialRewards(rewards.tolist(), mask()(len(rewards)))),
    "partial, nested values": Way(
        lambda rewards, memory: PartialRewards(nested(rewards, memory), mask(1)(len(rewards)))
    ),
    "partial, sparse values": Way(lambda rewards, memory: PartialRewards(rewards.to_sparse(), mask(1)(len(rewards)))),
    "partial, integer values": Way(lambda rewards, memory: PartialRewards(rewards.long(), mask(1)(len(rewards)))),
    "partial, nan scored": Way(
        lambda rewards, memory: PartialRewards(put(float("nan"))(rewards, memory), mask(1)(len(rewards)))
    ),
    "partial, nan unscored": Way(
        lambda rewards, memory: PartialRewards(put(float("nan"), 1)(rewards, memory), mask(1)(len(rewards))), "any"
    ),
}


def given_changed(change: Callable[[Any], Any]) -> Callable[[Any, Memory], Any]:
    """The right answer, after a change of the lists that the model was given."""

    def changed(answer: Any, memory: Memory) -> Any:
        for given in memory.given:
            if isinstance(given, list):
                change(given)
        return answer

    return changed


GIVEN: dict[str, Way] = {
    "given emptied": Way(given_changed(lambda given: given.clear()), "any"),
    "given shortened": Way(given_changed(lambda given: given.pop()), "any"),
    "given reversed": Way(given_changed(lambda given: given.reverse()), "any"),
    "given longer": Way(given_changed(lambda given: given.append(given[0])), "any"),
    "given overwritten": Way(given_changed(lambda given: given.__setitem__(0, given[-1])), "any"),
}
METRICS: dict[str, Way] = {
    **ERRORS,
    **OTHER_TYPES,
    "list": Way(lambda metrics, memory: [0.5]),
    "tensor": Way(lambda metrics, memory: {"mine": torch.tensor(0.5)}),
    "int": Way(lambda metrics, memory: {"mine": 1}),
    "taken": Way(lambda metrics, memory: {"reward": 0.5}),
    "of the objective": Way(lambda metrics, memory: {"approx_kl": 0.5}, "any"),
    "no text": Way(lambda metrics, memory: {3: 0.5}),
    "nan": Way(lambda metrics, memory: {"mine": float("nan")}, "any"),
    "empty": Way(lambda metrics, memory: {}, "any"),
}
PARAMETERS: dict[str, Way] = {
    **ERRORS,
    **OTHER_TYPES,
    "list": Way(lambda parameters, memory: list(parameters.values())),
    "empty": Way(lambda parameters, memory: {}, "any"),
    "clones": Way(lambda parameters, memory: {name: own.clone() for name, own in parameters.items()}, "any"),
    "replaced": Way(
        lambda parameters, memory: {name: own.detach().clone().requires_grad_() for name, own in parameters.items()},
        "any",
    ),
    "renamed": Way(lambda parameters, memory: {f"{name}.": own for name, own in parameters.items()}, "any"),
    "detached": Way(lambda parameters, memory: {name: own.detach() for name, own in parameters.items()}, "any"),
    "one more": Way(lambda parameters, memory: parameters | {"more": torch.zeros(2, requires_grad=True)}, "any"),
    "one number more": Way(lambda parameters, memory: parameters | {"more": 0.5}),
    "integers more": Way(lambda parameters, memory: parameters | {"more": torch.zeros(2, dtype=torch.int64)}, "any"),
    "on meta": Way(lambda parameters, memory: {name: own.to("meta") for name, own in parameters.items()}, "any"),
    "complex": Way(
        lambda parameters, memory: parameters | {"more": torch.zeros(2, dtype=torch.complex64, requires_grad=True)}
    ),
}
NOTHING_RETURNED: dict[str, Way] = {**ERRORS, "a value": Way(lambda value, memory: 5, "same")}


def part_of(name: str, ways: Mapping[str, Way]) -> dict[str, Way]:
    """The same ways for an attribute of what is returned, where it has one."""

    def within(way: Way) -> Callable[[Any, Memory], Any]:
        def change(whole: Any, memory: Memory) -> Any:
            return replace(whole, **{name: way.change(getattr(whole, name), memory)})

        return change

    return {f"{name}: {how}": Way(within(way), way.outcome) for how, way in ways.items()}


def metric_of(way: Way) -> Way:
    """The same for one metric of an objective."""

    def change(terms: Terms, memory: Memory) -> Terms:
        name = next(iter(terms.metrics))
        return Terms(terms.loss, terms.metrics | {name: way.change(terms.metrics[name], memory)})

    return Way(change, "any")


def evaluation_with(**parts: Any) -> Callable[[Any, Memory], Any]:
    return lambda evaluation, memory: replace(evaluation, **parts)


TERMS: dict[str, Way] = {
    **OTHER_TYPES,
    **part_of("loss", TENSOR),
    **{f"metric: {how}": metric_of(way) for how, way in TENSOR.items()},
    "metrics None": Way(lambda terms, memory: Terms(terms.loss, None)),  # type: ignore[arg-type]
    "metrics renamed": Way(lambda terms, memory: Terms(terms.loss, {"other": terms.loss.detach()}), "any"),
    "metric taken": Way(lambda terms, memory: Terms(terms.loss, {"loss": terms.loss.detach()})),
    "metric attached": Way(lambda terms, memory: Terms(terms.loss, terms.metrics | {"approx_kl": terms.loss}), "any"),
}
WAYS: dict[str, dict[str, Way]] = {
    "generate_actions": GROUPS | GIVEN,
    "sample": GROUPS,
    "get_log_probabilities": TENSOR | GIVEN,
    "encode_actions": BATCH | GIVEN,
    "evaluate_actions": {
        **OTHER_TYPES,
        **part_of("log_probs", TENSOR),
        **part_of("entropy", TENSOR | {"None": Way(lambda values, memory: None, "any")}),
        "entropy gone": Way(evaluation_with(entropy=None), "any"),
        "values gone": Way(evaluation_with(values=None), "any"),
    },
    "estimate_values": {**OTHER_TYPES, **part_of("values", TENSOR), **part_of("next_values", TENSOR)},
    "compute_rewards": TENSOR | PARTIAL | GIVEN,
    "get_parameters": PARAMETERS,
    "get_metrics": METRICS,
    "update_statistics": NOTHING_RETURNED,
    "train": NOTHING_RETURNED,
    "eval": NOTHING_RETURNED,
    "advantage_estimator": {
        **OTHER_TYPES,
        **part_of("advantages", TENSOR),
        **part_of("metrics", METRICS),
        "returns gone": Way(evaluation_with(returns=None), "any"),
    },
    "adapt": NOTHING_RETURNED,
    "objective": TERMS,
}
WAYS["evaluate_actions"] |= part_of("values", TENSOR | {"None": Way(lambda values, memory: None, "any")})


@dataclass(frozen=True)
class Fault:
    """One wrong answer.

    Attributes:
        method: whose answer.
        way: in which way it is wrong.
        call: at which call of the step, counted from 0; None for all of them.
    """

    method: str
    way: str
    call: int | None

    @property
    def change(self) -> Way:
        """What it does."""
        return WAYS[self.method.removeprefix("reference.")][self.way]


class Breaker:
    """Hands on what models return until the call at which a fault changes it."""

    def __init__(self, parameter: Tensor, faults: Sequence[Fault]) -> None:
        self.memory = Memory(parameter)
        self.faults = faults
        self.armed = False
        self.calls: Counter[str] = Counter()
        self.fired: list[Fault] = []

    def __call__(self, method: str, answer: Any, *given: Any) -> Any:
        if not self.armed:
            return answer
        call = self.calls[method]
        self.calls[method] += 1
        for fault in self.faults:
            if fault.method == method and fault.call in (call, None):
                self.fired.append(fault)
                self.memory.given = given
                answer = fault.change.change(answer, self.memory)
        return answer


class BrokenPolicy:
    """A minimal policy with a generator, a buffer and a metric of its own, whose answers go through a breaker."""

    def __init__(self, policy: Any, breaker: Breaker, role: str = "") -> None:
        self.policy = policy
        self.breaker = breaker
        self.role = role
        self.generator = torch.Generator().manual_seed(0)
        self.statistics = nn.BatchNorm1d(1, affine=False)

    def generate_actions(self, states: Any, num_actions_per_state: int, **kwargs: Any) -> Any:
        torch.rand(1, generator=self.generator)
        groups = self.policy.generate_actions(states, num_actions_per_state)
        return self.breaker(f"{self.role}generate_actions", groups, states)

    def get_log_probabilities(self, states: Any, actions: Any) -> Any:
        log_probs = self.policy.get_log_probabilities(states, actions)
        return self.breaker(f"{self.role}get_log_probabilities", log_probs, states, actions)

    def get_parameters(self) -> Any:
        return self.breaker(f"{self.role}get_parameters", self.policy.get_parameters())

    def get_metrics(self) -> Any:
        return self.breaker(f"{self.role}get_metrics", {"mine": 0.5})

    def update_statistics(self, batch: Any) -> Any:
        assert self.statistics.num_batches_tracked is not None
        self.statistics.num_batches_tracked += 1
        return self.breaker(f"{self.role}update_statistics", None)

    def train(self) -> Any:
        return self.breaker(f"{self.role}train", None)

    def eval(self) -> Any:
        return self.breaker(f"{self.role}eval", None)

    def to(self, device: Any) -> None: ...


class BrokenSequentialPolicy(BrokenPolicy):
    """The same of a sequential policy."""

    def encode_actions(self, states: Any, actions: Any) -> Any:
        return self.breaker(f"{self.role}encode_actions", self.policy.encode_actions(states, actions), states, actions)

    def evaluate_actions(self, batch: Any) -> Any:
        return self.breaker(f"{self.role}evaluate_actions", self.policy.evaluate_actions(batch))


class BrokenActorCritic(BrokenSequentialPolicy):
    """The same of an actor with a critic."""

    def estimate_values(self, batch: Any) -> Any:
        return self.breaker(f"{self.role}estimate_values", self.policy.estimate_values(batch))


class BrokenSampler:
    """Asks the policy, and goes on from call to call."""

    def __init__(self, breaker: Breaker) -> None:
        self.breaker = breaker
        self.restarts = 0

    def sample(self, policy: Any, states: Any, num_actions_per_state: int, **kwargs: Any) -> Any:
        return self.breaker("sample", policy.generate_actions(states, num_actions_per_state))

    def restart(self) -> None:
        self.restarts += 1


class BrokenRewards(Quiet):
    """Rewards of samples or of decisions, the latter where the actions tell."""

    def __init__(self, breaker: Breaker, per_decision: bool, dtype: torch.dtype) -> None:
        self.breaker = breaker
        self.per_decision = per_decision
        self.dtype = dtype

    def compute_rewards(self, states: Any, actions: Any) -> Any:
        values = [self._of(state, action) for state, action in zip(states, actions, strict=True)]
        rewards = [entry for own in values for entry in (own if self.per_decision else [sum(own)])]
        return self.breaker("compute_rewards", torch.tensor(rewards, dtype=self.dtype), states, actions)

    @staticmethod
    def _of(state: int, action: Any) -> list[float]:
        if isinstance(action, list):  # a walk
            return [float(after - before) for episode in action for before, _, after in episode]
        tokens = action if isinstance(action, tuple) else (action,)
        return [float(token == state) + 0.25 * token for token in tokens]


class BrokenEstimator:
    """An estimator whose answers go through a breaker, and that changes from step to step."""

    def __init__(self, estimator: Any, breaker: Breaker) -> None:
        self.estimator = estimator
        self.breaker = breaker
        self.needs = needs_of(estimator)
        self.steps = 0

    def __call__(self, experience: Any) -> Any:
        return self.estimate(experience).advantages

    def estimate(self, experience: Any) -> Any:
        estimate = estimate_of(self.estimator, experience)
        return self.breaker("advantage_estimator", estimate)

    def adapt(self, experience: Any, metrics: Any) -> None:
        self.steps += 1
        if hasattr(self.estimator, "adapt"):
            self.estimator.adapt(experience, metrics)
        self.breaker("adapt", None)

    def state_dict(self) -> dict[str, Any]:
        inner = self.estimator.state_dict() if hasattr(self.estimator, "state_dict") else {}
        return {"steps": self.steps, "estimator": inner}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.steps = state_dict["steps"]
        if hasattr(self.estimator, "load_state_dict"):
            self.estimator.load_state_dict(state_dict["estimator"])


class BrokenObjective:
    """An objective whose answers go through a breaker."""

    def __init__(self, objective: Any, breaker: Breaker) -> None:
        self.objective = objective
        self.breaker = breaker
        self.needs = needs_of(objective)

    def __call__(self, *arguments: Any) -> Any:
        return self.breaker("objective", self.objective(*arguments))
