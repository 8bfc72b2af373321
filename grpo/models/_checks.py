"""Checks of what models return.

Each error names the object, what was expected, what came, and the fix.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import cast

import torch
from torch import Tensor

from grpo.data._checks import require_strided
from grpo.data._protocols import type_name
from grpo.data.action_batches import ActionBatch
from grpo.data.errors import NonFiniteError
from grpo.data.evaluation import Evaluation, ValueEstimates
from grpo.data.segments import Segments
from grpo.models._masks import check_truncated


def check_parameters(parameters: object, role: str) -> Mapping[str, Tensor]:
    """``get_parameters`` must return a mapping from names to leaf tensors of real numbers."""
    if not isinstance(parameters, Mapping) or not all(isinstance(tensor, Tensor) for tensor in parameters.values()):
        raise TypeError(
            f"{role}.get_parameters returned a {type_name(parameters)}, expected a mapping from names to tensors: "
            f"return dict(self.named_parameters()), or {{}} without any"
        )
    for name, tensor in parameters.items():
        if tensor.requires_grad and tensor.is_meta:
            raise ValueError(
                f"{role}.get_parameters returned {name!r} on device meta, where there are no values: load the weights, "
                f"or call to_empty(device=...) and set them, before the policy is trained"
            )
        if tensor.requires_grad and (tensor.is_complex() or not tensor.is_leaf or tensor.layout is not torch.strided):
            _refuse_parameter(f"{role}.get_parameters returned {name!r},", tensor)
    return parameters


def _refuse_parameter(what: str, tensor: Tensor) -> None:
    """Say what is wrong with a parameter that cannot be trained."""
    if tensor.is_complex():
        raise TypeError(
            f"{what} of dtype {tensor.dtype}, expected real numbers: keep the real and the imaginary part as a "
            f"parameter each, and make torch.complex(real, imaginary) of them where it is used"
        )
    if not tensor.is_leaf:
        raise ValueError(
            f"{what} which was computed from other tensors, expected a leaf: return the tensor that it was computed "
            f"from, so that an optimizer can change it"
        )
    require_strided(what, tensor)


def check_action_batch(batch: object, num_samples: int, source: str) -> ActionBatch:
    """``encode_actions`` must give a batch of as many samples as it was given, cut into rows that cross none."""
    samples, rows, select = (getattr(batch, name, None) for name in ("samples", "rows", "select"))
    if not isinstance(samples, Segments) or not isinstance(rows, Segments) or not callable(select):
        raise TypeError(
            f"{source} returned a {type_name(batch)}, expected a grpo.ActionBatch, with Segments as samples and rows "
            f"and a method select: grpo.TensorBatch is a ready one"
        )
    if samples.count != num_samples or rows.total != samples.total:
        raise ValueError(
            f"{source} returned {len(samples)} samples of {samples.total} decisions in rows of "
            f"{rows.total}, expected {num_samples} samples and rows that hold the same decisions"
        )
    if samples.device.type == "meta":
        raise ValueError(
            f"{source} returned a batch on device meta, where there are no values, expected that of the log-probs"
        )
    if not _cuts_within(rows, samples):
        raise ValueError(
            f"{source} returned a batch with rows {rows!r} of which one crosses from a sample to the next, expected "
            f"each sample to end with a row: a row holds decisions of one sample"
        )
    episodes = getattr(batch, "episodes", samples)
    if not isinstance(episodes, Segments) or episodes.total != samples.total or not _cuts_within(episodes, samples):
        raise ValueError(
            f"{source} returned a batch with episodes {episodes!r}, expected Segments of its {samples.total} "
            f"decisions in which no episode goes on from one sample to the next: cut them at the end of every sample"
        )
    turns = getattr(batch, "turns", None)
    if turns is not None and (
        not isinstance(turns, Segments) or turns.total != samples.total or not _cuts_within(turns, episodes)
    ):
        raise ValueError(
            f"{source} returned a batch with turns {turns!r}, expected Segments of its {samples.total} decisions in "
            f"which no turn goes on from one sample or episode to the next: cut them at the end of each"
        )
    check_truncated(batch, samples, source)
    return cast("ActionBatch", batch)


def _cuts_within(parts: Segments, samples: Segments) -> bool:
    """Whether the end of every sample is one of the parts' ends, where both cut the same entries."""
    if parts is samples or parts.uniform_length == 1 or parts.same_cut(samples):
        return True
    return bool(torch.isin(samples.last, parts.last).all())


def check_rewards(rewards: object, samples: Segments) -> Tensor:
    """Rewards as a tensor to keep, [N] or [D], float32 or better."""
    return check_values_of_samples("compute_rewards", rewards, samples)


def check_values_of_samples(source: str, values: object, samples: Segments) -> Tensor:
    """One finite entry a sample, [N], or a decision, [D], detached, in float32 or better."""
    expected = f"[{samples.count}]"
    if samples.total != samples.count:
        expected += f" (one a sample) or [{samples.total}] (one a decision)"
    if not isinstance(values, Tensor):
        raise TypeError(
            f"{source} returned a {type_name(values)}, expected a tensor of shape {expected}: "
            f"wrap it in torch.tensor(..., dtype=torch.float32)"
        )
    require_strided(f"{source} returned", values)
    if values.ndim != 1 or values.shape[0] not in (samples.count, samples.total):
        raise ValueError(f"{source} returned shape {list(values.shape)}, expected {expected}{_squeeze_hint(values)}")
    _check_floating(source, values)
    _check_device(source, values, samples.device)
    values = full_precision(values.detach()).clone()  # whoever made them may go on computing in the same memory
    if not _is_finite(values):
        index = int(torch.nonzero(~values.isfinite())[0])
        unit = "sample" if values.shape[0] == samples.count else "decision"
        raise NonFiniteError(f"{source} returned {values[index].item()} for {unit} {index}, expected finite values")
    return values


def check_evaluation(evaluation: object, rows: Segments, source: str, locate: Callable[[int], str]) -> Evaluation:
    """The evaluation of ``rows`` in float32 or better, with one finite entry a decision.

    Args:
        evaluation: what the policy returned.
        rows: the rows that it was given.
        source: the method that returned it, to name in errors.
        locate: tells where a decision of these rows comes from, to name in errors.
    """
    if not isinstance(evaluation, Evaluation):
        raise TypeError(f"{source} returned a {type_name(evaluation)}, expected a grpo.Evaluation(log_probs, entropy)")
    log_probs = _check_shape(source, "log-probs", evaluation.log_probs, rows)
    entropy, values = evaluation.entropy, evaluation.values
    named = {"log-probs": log_probs}
    if entropy is not None:
        named["an entropy"] = entropy = _check_shape(source, "an entropy", entropy, rows)
    if values is not None:
        named["values"] = values = _check_shape(source, "values", values, rows)
    if not _is_finite(*named.values()):
        for name, part in named.items():
            _check_finite(source, name, part, locate)
    return Evaluation(log_probs, entropy, values)


def check_decision_values(
    source: str, name: str, values: object, rows: Segments, locate: Callable[[int], str], unit: str = "decision"
) -> Tensor:
    """One finite entry a unit of the ``rows``, in float32 or better; ``locate`` names where an entry comes from."""
    checked = _check_shape(source, name, values, rows, unit)
    if not _is_finite(checked):
        _check_finite(source, name, checked, locate)
    return checked


def _check_shape(source: str, name: str, values: object, rows: Segments, unit: str = "decision") -> Tensor:
    """One entry a unit, in float32 or better; the words of the error are put together only when it is raised."""
    if not isinstance(values, Tensor):
        raise TypeError(f"{source} returned {name} of type {type_name(values)}, expected a tensor [{rows.total}]")
    require_strided(f"{source} returned {name}:", values)
    if values.shape != (rows.total,):
        raise ValueError(
            f"{source} returned {name} of shape {list(values.shape)}, expected [{rows.total}], one a {unit}"
            f"{_squeeze_hint(values)}"
        )
    if not values.is_floating_point() or values.device != rows.device:
        _check_floating(f"{source} returned {name}", values)
        _check_device(f"{source} returned {name}", values, rows.device)
    return full_precision(values)


def _check_finite(source: str, name: str, values: Tensor, locate: Callable[[int], str]) -> None:
    finite = values.detach().isfinite()
    if not finite.all():
        position = int(torch.nonzero(~finite)[0])
        raise NonFiniteError(
            f"{source} returned {name} with {values[position].item()} for {locate(position)}, expected finite values"
        )


def check_values(estimates: object, batch: Segments, source: str, locate: Callable[[int], str]) -> ValueEstimates:
    """A critic's estimates in float32 or better, with finite entries for every decision of the ``batch``."""
    if not isinstance(estimates, ValueEstimates):
        raise TypeError(
            f"{source} returned a {type_name(estimates)}, expected grpo.ValueEstimates(values, next_values)"
        )
    return ValueEstimates(
        check_decision_values(source, "values", estimates.values, batch, locate).detach(),
        check_decision_values(source, "next_values", estimates.next_values, batch, locate).detach(),
    )


def check_gradient_connection(log_probs: Tensor, source: str) -> None:
    """Log-probs must depend on the parameters by autograd where there are any to train."""
    if not log_probs.requires_grad:
        raise ValueError(
            f"{source} returned log-probs without gradient while there are parameters to train: compute them from "
            f"the tensors in get_parameters, without detach() or no_grad()"
        )


def full_precision(values: Tensor) -> Tensor:
    """The values in float32, or in float64 where they already are."""
    return values if values.dtype in (torch.float32, torch.float64) else values.float()


def _is_finite(*columns: Tensor) -> bool:
    """Whether all entries of columns of one length are finite numbers, which their sum nearly always tells.

    What is being compiled has no numbers yet: who compiles it asks for itself.
    """
    if torch.compiler.is_compiling():
        return True
    values = columns[0].detach() if len(columns) == 1 else torch.stack([column.detach() for column in columns])
    return math.isfinite(values.sum().item()) or bool(values.isfinite().all())


def _check_floating(what: str, values: Tensor) -> None:
    if not values.is_floating_point():
        raise TypeError(f"{what} of dtype {values.dtype}, expected a floating-point tensor: call .float() on it")


def _check_device(what: str, values: Tensor, device: torch.device) -> None:
    if values.is_meta and device.type == "meta":  # where the device is that of the values themselves
        raise ValueError(f"{what} on device meta, where there are no values, expected cpu, say: compute it there")
    if values.device != device:
        raise ValueError(f"{what} on device {values.device}, expected {device}: call .to({str(device)!r}) on it")


def _squeeze_hint(values: Tensor) -> str:
    if values.ndim == 2 and values.shape[-1] == 1:
        return ": squeeze the last dimension"
    return ""
