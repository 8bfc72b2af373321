"""Log-probs of tokens from hidden states, without the logits of all tokens over the whole vocabulary at once.

The D·V logits dominate the memory of a language model's update: they, their log-softmax and its gradient. Here a range
of the vocabulary is taken at a time, the logits of all D rows over it are written into a buffer, folded into running
sums, and forgotten; the backward pass computes them once more. No array of D·V elements ever exists.

Chunks are ranges of the vocabulary and not of rows, since D is mostly the smaller of the two: the head's weight is read
once a pass instead of once a chunk, and each row of its gradient is written once, in the weight's dtype, so that no
float32 accumulator of its size is needed.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from grpo_adapters.huggingface.models.output_head import OutputHead, check_shapes, plain_token_log_probs, result_dtype

CHUNK_BYTES = 16 * 2**20
CHUNK_ALIGNMENT = 64  # columns, where there are more: what matrix products like best
PLAIN_BUFFERS = 8  # of the size of the logits, at most, in the plain computation and its backward pass


def token_log_probs(
    hidden: Tensor,
    head: OutputHead,
    targets: Tensor,
    *,
    temperature: float = 1.0,
    with_entropy: bool = False,
    chunk_bytes: int = CHUNK_BYTES,
) -> tuple[Tensor, Tensor | None]:
    """Log-prob of each row's target under p = softmax(logits / temperature), and p's entropy, a chunk at a time.

    With the gradients g of the log-probs and e of the entropies, the gradient of the logits is
    g · (onehot - p) - e · p · (log p + entropy), times 1 - tanh² under a soft cap. Where neither weight nor bias need a
    gradient, the forward pass prepares that of the hidden states, W[target] - p W, and the backward pass only
    multiplies it by g, unless entropies give a gradient too. Gradients of gradients are not supported.

    Under autocast, factors of products are rounded to its dtype, as :func:`torch.nn.functional.linear` does. Products
    of halves on CUDA stay in the float32 in which they are summed; all but products is float32 everywhere. Where all
    logits are but a fraction of a chunk, it is :func:`plain_token_log_probs` that computes.

    Args:
        hidden: h, [D, H].
        head: what turns hidden states into logits.
        targets: tokens, int64 of shape [D], in [0, V).
        temperature: what the logits are divided by, after the cap, above 0.
        with_entropy: whether to compute the entropy.
        chunk_bytes: bound on the buffers in which logits are held, of one column of the vocabulary at the least.

    Returns:
        Log-probs in nats, [D], and the entropies in nats, [D], or None; float64 for float64 input and float32 for all
        other.

    Raises:
        ValueError: if shapes do not agree or a target is not in the vocabulary.

    References:
        Milakov & Gimelshein 2018, "Online normalizer calculation for softmax", arXiv:1805.02867, algorithm 3;
        Wijmans et al. 2024, "Cut Your Losses in Large-Vocabulary Language Models", arXiv:2411.09009.

    Example:
        >>> head = OutputHead(torch.eye(2))
        >>> log_probs, _ = token_log_probs(torch.tensor([[1.0, 0.0], [2.0, 2.0]]), head, torch.tensor([0, 1]))
        >>> log_probs
        tensor([-0.3133, -0.6931])
    """
    check_shapes(hidden, head, targets)
    plan = _Plan(
        head.scale,
        head.soft_cap,
        temperature,
        _product_dtype(hidden, head.weight),
        with_entropy,
        chunk_bytes,
    )
    if plan.fits_at_once(hidden, head.weight):
        return plain_token_log_probs(hidden, head, targets, temperature=temperature, with_entropy=with_entropy)
    arguments = (hidden, head.weight, head.bias, targets)
    with torch.autocast(hidden.device.type, enabled=False):
        if torch.is_grad_enabled() and any(argument is not None and argument.requires_grad for argument in arguments):
            log_probs, entropy = _TokenLogProbs.apply(*arguments, plan)  # type: ignore[no-untyped-call]
            return log_probs, entropy
        sums = _reduce(*arguments, plan, with_hidden_gradient=False)
    return sums.log_probs, sums.entropy


def _product_dtype(hidden: Tensor, weight: Tensor) -> torch.dtype:
    """The dtype that factors are rounded to: autocast's where it is enabled and applies, else the wider of the two."""
    dtype = torch.promote_types(hidden.dtype, weight.dtype)
    kind = hidden.device.type
    return torch.get_autocast_dtype(kind) if dtype != torch.float64 and torch.is_autocast_enabled(kind) else dtype


@dataclass(frozen=True, slots=True)
class _Plan:
    """All of a computation but its tensors."""

    scale: float
    soft_cap: float | None
    temperature: float
    product_dtype: torch.dtype
    with_entropy: bool
    chunk_bytes: int

    @property
    def result_dtype(self) -> torch.dtype:
        return result_dtype(self.product_dtype)

    @property
    def logits_per_unit(self) -> float:
        """How fast logits rise with W h + b, but for the cap's 1 - tanh²."""
        return self.scale / self.temperature

    def fits_at_once(self, hidden: Tensor, weight: Tensor) -> bool:
        """Whether all logits are so few that the plain computation, which computes them once only, is cheaper."""
        exact = hidden.dtype == weight.dtype == self.product_dtype == self.result_dtype
        num_bytes = len(hidden) * len(weight) * self.result_dtype.itemsize
        return exact and num_bytes * PLAIN_BUFFERS <= self.chunk_bytes


@dataclass(slots=True)
class _Chunk:
    """The logits of all rows over a range of the vocabulary.

    Attributes:
        columns: which of the vocabulary.
        weight: their rows of the head's weight, as a factor.
        logits: of shape [D, columns]; may be overwritten.
        tanh: of the capped logits, in a buffer of its own, the same shape; None without a cap.
        spare: a buffer of the same shape; None where no entropy is computed.
        index: of each row's target, or of any column where the target is in another chunk, [D, 1].
        holds_target: whether the target is in this one, bool [D].
    """

    columns: slice
    weight: Tensor
    logits: Tensor
    tanh: Tensor | None
    spare: Tensor | None
    index: Tensor
    holds_target: Tensor

    def exponentiate(self) -> Tensor:
        """Exponentials of the logits, in the spare buffer where there is one, else in their place."""
        return torch.exp(self.logits, out=self.logits if self.spare is None else self.spare)

    def through_cap(self, gradient: Tensor) -> Tensor:
        """The gradient of what the cap was applied to, in place; forgets ``tanh``."""
        return gradient if self.tanh is None else gradient.addcmul_(gradient, self.tanh.square_(), value=-1)


def _chunks(
    hidden: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor, plan: _Plan, *, with_spare: bool
) -> Iterator[_Chunk]:
    """The logits chunk by chunk, each in the buffers of the one before; ``hidden`` is a factor."""
    rows, size = len(hidden), len(weight)
    num_buffers = 1 + (plan.soft_cap is not None) + with_spare
    width = max(plan.chunk_bytes // max(rows * num_buffers * plan.result_dtype.itemsize, 1), 1)
    width = min(width - width % CHUNK_ALIGNMENT if width > CHUNK_ALIGNMENT else width, size)
    buffers = hidden.new_empty((num_buffers, rows * width), dtype=plan.result_dtype)
    for start in range(0, size, width):
        columns = slice(start, min(start + width, size))
        count = columns.stop - start
        logits, *others = [buffer[: rows * count].view(rows, count) for buffer in buffers]
        factor = weight[columns].to(plan.product_dtype)
        _multiply(hidden, factor.t(), logits)
        if bias is not None:
            logits.add_(bias[columns])
        tanh = None
        if plan.soft_cap is not None:
            tanh = logits.mul_(plan.scale / plan.soft_cap).tanh_()
            logits = torch.mul(tanh, plan.soft_cap / plan.temperature, out=others.pop())
        elif plan.logits_per_unit != 1:
            logits.mul_(plan.logits_per_unit)
        local = targets - start
        index = local.clamp(0, count - 1)
        yield _Chunk(columns, factor, logits, tanh, others[0] if others else None, index.unsqueeze(1), index == local)


def _multiply(left: Tensor, right: Tensor, out: Tensor) -> Tensor:
    """The matrix product of two factors into ``out``, which may be of another dtype.

    Products of halves are rounded to halves on their way to float32 where PyTorch knows no others, as on a CPU.
    """
    if left.dtype == out.dtype:
        return torch.mm(left, right, out=out)
    if out.is_cuda and out.dtype == torch.float32 and "dtype_out" in torch.ops.aten.mm.overloads():
        return torch.mm(left, right, out_dtype=torch.float32, out=out)
    return out.copy_(torch.mm(left, right))


def _add_product(total: Tensor, left: Tensor, right: Tensor) -> None:
    """Add the matrix product of two factors to ``total``, which may be of another dtype."""
    if left.dtype == total.dtype:
        total.addmm_(left, right)
    else:
        total.add_(_multiply(left, right, torch.empty_like(total)))


@dataclass(slots=True)
class _Sums:
    """What a pass over the vocabulary leaves, each [D] but for the gradient of ``log_probs.sum()``, [D, H]."""

    log_probs: Tensor
    entropy: Tensor | None
    log_normalizer: Tensor
    hidden_gradient: Tensor | None


def _reduce(
    hidden: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor, plan: _Plan, *, with_hidden_gradient: bool
) -> _Sums:
    """Fold the chunks into sums relative to the largest logit so far, shrinking what came before when it rises."""
    factor = hidden.to(plan.product_dtype)
    largest = hidden.new_full((len(hidden),), torch.finfo(plan.result_dtype).min, dtype=plan.result_dtype)
    total, weighted_logits, target_logits = torch.zeros_like(largest), torch.zeros_like(largest), largest
    weighted_rows = torch.zeros_like(factor, dtype=plan.result_dtype) if with_hidden_gradient else None
    for chunk in _chunks(factor, weight, bias, targets, plan, with_spare=plan.with_entropy):
        target_logits = torch.where(chunk.holds_target, chunk.logits.gather(1, chunk.index).squeeze(1), target_logits)
        before, largest = largest, torch.maximum(largest, chunk.logits.amax(1))
        chunk.logits.sub_(largest.unsqueeze(1))
        exponentials = chunk.exponentiate()
        shrinkage = (before - largest).exp()
        if plan.with_entropy:
            weighted_logits = shrinkage * (weighted_logits + total * (before - largest))
            weighted_logits += chunk.logits.mul_(exponentials).sum(1)
        total = shrinkage * total + exponentials.sum(1)
        if weighted_rows is not None:
            weighted_rows.mul_(shrinkage.unsqueeze(1))
            _add_product(weighted_rows, chunk.through_cap(exponentials).to(factor.dtype), chunk.weight)
    log_total = total.log()
    entropy = log_total - weighted_logits / total if plan.with_entropy else None
    if weighted_rows is not None:
        weighted_rows.div_(-total.unsqueeze(1))
        target_rows = weight[targets].to(plan.product_dtype).to(plan.result_dtype)
        if plan.soft_cap is not None:
            target_rows *= (1 - (target_logits * (plan.temperature / plan.soft_cap)).square()).unsqueeze(1)
        weighted_rows.add_(target_rows).mul_(plan.logits_per_unit)
    return _Sums(target_logits - largest - log_total, entropy, largest + log_total, weighted_rows)


class _TokenLogProbs(torch.autograd.Function):
    """Differentiable by hidden states, weight and bias."""

    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor, plan: _Plan
    ) -> tuple[Tensor, Tensor | None]:
        """Log-probs and entropies, [D]."""
        frozen = not (ctx.needs_input_grad[1] or ctx.needs_input_grad[2])
        sums = _reduce(hidden, weight, bias, targets, plan, with_hidden_gradient=frozen)
        ctx.set_materialize_grads(False)
        ctx.plan = plan
        ctx.save_for_backward(sums.hidden_gradient, hidden, weight, bias, targets, sums.log_normalizer, sums.entropy)
        return sums.log_probs, sums.entropy

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, log_prob_gradient: Tensor | None, entropy_gradient: Tensor | None) -> tuple[Any, ...]:
        """The gradients of what :meth:`forward` was given."""
        prepared, hidden, *others = ctx.saved_tensors
        if log_prob_gradient is None and entropy_gradient is None:
            return (None,) * 5
        if prepared is not None and entropy_gradient is None:
            assert log_prob_gradient is not None
            return (prepared * log_prob_gradient.unsqueeze(1)).to(hidden.dtype), None, None, None, None
        with torch.autocast(hidden.device.type, enabled=False):
            gradients = _differentiate(
                hidden,
                *others,
                log_prob_gradient=log_prob_gradient,
                entropy_gradient=entropy_gradient,
                plan=ctx.plan,
                needed=ctx.needs_input_grad,
            )
        return *gradients, None, None


def _differentiate(
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    targets: Tensor,
    log_normalizer: Tensor,
    entropy: Tensor | None,
    *,
    log_prob_gradient: Tensor | None,
    entropy_gradient: Tensor | None,
    plan: _Plan,
    needed: tuple[bool, ...],
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """The gradients of hidden states, weight and bias, where they are ``needed``.

    In each chunk the logits are replaced by p - onehot, and minus g multiplies the rows of its D·H factors instead of
    its own; with entropies, by minus the gradient of the logits, g · (p - onehot) + e · p · (log p + entropy).
    """
    factor = hidden.to(plan.product_dtype)
    if log_prob_gradient is None:
        log_prob_gradient = torch.zeros_like(log_normalizer)
    ones = torch.ones_like(log_normalizer)
    row_factors, at_targets = (log_prob_gradient, ones) if entropy_gradient is None else (ones, log_prob_gradient)
    row_factors = row_factors * -plan.logits_per_unit
    scaled_factor = (factor * row_factors.unsqueeze(1)).to(factor.dtype)
    hidden_gradient = torch.zeros_like(hidden, dtype=plan.result_dtype) if needed[0] else None
    weight_gradient = torch.empty_like(weight) if needed[1] else None
    bias_gradient = torch.empty_like(bias) if bias is not None and needed[2] else None
    for chunk in _chunks(factor, weight, bias, targets, plan, with_spare=entropy_gradient is not None):
        chunk.logits.sub_(log_normalizer.unsqueeze(1))
        gradient = chunk.exponentiate()
        if entropy_gradient is not None:
            assert entropy is not None
            offset = log_prob_gradient + entropy_gradient * entropy
            gradient.mul_(chunk.logits.mul_(entropy_gradient.unsqueeze(1)).add_(offset.unsqueeze(1)))
        gradient.scatter_add_(1, chunk.index, torch.where(chunk.holds_target, -at_targets, 0).unsqueeze(1))
        left = chunk.through_cap(gradient).to(factor.dtype)
        if hidden_gradient is not None:
            _add_product(hidden_gradient, left, chunk.weight)
        if weight_gradient is not None:
            _multiply(left.t(), scaled_factor, weight_gradient[chunk.columns])
        if bias_gradient is not None:
            bias_gradient[chunk.columns] = gradient.t() @ row_factors
    if hidden_gradient is not None:
        hidden_gradient = hidden_gradient.mul_(row_factors.unsqueeze(1)).to(hidden.dtype)
    return hidden_gradient, weight_gradient, bias_gradient
