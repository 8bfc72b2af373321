"""What is told of a gradient that is not finite."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor

from grpo.data.action_batches import ActionBatch
from grpo.distributed.parts import is_sharded, whole
from grpo.models._evaluator import Evaluator
from grpo.training._minibatches import WeightedRows


def describe_bad_gradient(
    evaluator: Evaluator, parameters: Mapping[str, Tensor], batch: ActionBatch, minibatch: Sequence[WeightedRows]
) -> str:
    """Name the parameters whose gradient is not finite, and the first row that makes it so by itself."""
    bad = [name for name, gradient in _whole_gradients(parameters) if not gradient.isfinite().all()]
    if not bad:
        return _describe_large_gradient(parameters)
    message = f"gradient of {', '.join(bad[:3])} is not finite"
    if any(is_sharded(tensor) for tensor in parameters.values()):
        return message  # which row makes it so cannot be asked of one process alone
    trainable = [tensor for tensor in parameters.values() if tensor.requires_grad]
    for micro_batch in minibatch if trainable else ():
        rows = torch.arange(len(batch.rows)) if micro_batch.rows is None else micro_batch.rows
        for row in rows.to(batch.rows.device).split(1):
            log_probs = evaluator.evaluate(batch, row).log_probs
            gradients = torch.autograd.grad(log_probs.sum(), trainable, allow_unused=True)
            if not all(gradient is None or gradient.isfinite().all() for gradient in gradients):
                return f"{message}: the gradient of the log-prob is not for {evaluator.locate(batch, row, 0)}"
    return f"{message}, though that of each log-prob is: the sum overflows, lower the scale of the rewards or beta"


def _whole_gradients(parameters: Mapping[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
    """The gradients by name, put together one after the other where they lie in parts on several processes."""
    for name, tensor in parameters.items():
        if tensor.grad is not None:
            yield name, whole(tensor.grad)


def _describe_large_gradient(parameters: Mapping[str, Tensor]) -> str:
    """Name the parameter with the largest gradient, where all are finite and their norm is not."""
    largest = {name: gradient.abs().max().item() for name, gradient in _whole_gradients(parameters)}
    if not largest:
        return "gradient of a parameter that the optimizer holds, and get_parameters does not, is not finite"
    name = max(largest, key=largest.__getitem__)
    return (
        f"gradient is finite, but its norm overflows: that of {name} has an entry of {largest[name]:.3g}: lower the "
        f"scale of the rewards or of beta"
    )
