"""Softmax policies over the arms of a bandit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from grpo import Batch, Evaluation, TensorBatch

EXTRA_STATE = "_extra_state"
"""What PyTorch calls the state of a module that is no tensor of it."""


class ContextualSoftmaxPolicy(nn.Module):
    """A softmax over K arms whose logits are a network's output for the context.

    Args:
        network: from contexts [N, ...] to logits [N, K].
        generator: to sample with, on any device; None for PyTorch's global one.

    Example:
        >>> policy = ContextualSoftmaxPolicy(nn.Linear(4, 3))
        >>> policy.generate_actions(torch.zeros(2, 4), num_actions_per_state=5).shape
        torch.Size([2, 5])
    """

    def __init__(self, network: nn.Module, generator: torch.Generator | None = None) -> None:
        super().__init__()
        self.network = network
        self.generator = generator

    def observe(self, states: Tensor | Sequence[Tensor]) -> Tensor:
        """The network's input for N states, [N, ...]."""
        return states if isinstance(states, Tensor) else torch.stack(list(states))

    def log_probabilities(self, states: Any) -> Tensor:
        """Log π of every arm in N states, [N, K], nats; [1, K] where they are the same in all states."""
        logits: Tensor = self.network(self.observe(states))
        return logits.log_softmax(-1)

    def generate_actions(self, states: Any, num_actions_per_state: int, **kwargs: Any) -> Tensor:
        """Arms, int64 of shape [S, G]."""
        probabilities = self.log_probabilities(states).exp().expand(len(states), -1)
        return drawn(probabilities, num_actions_per_state, self.generator)

    def encode_actions(self, states: Any, actions: Tensor | Sequence[int]) -> TensorBatch:
        """One decision, and one row, a pull."""
        observations = self.observe(states)
        return TensorBatch(observations, torch.as_tensor(actions, device=observations.device))

    def evaluate_actions(self, batch: TensorBatch) -> Evaluation:
        """Log-probs and entropy of the pulls."""
        log_probabilities = self.network(batch.observations).log_softmax(-1)
        entropy = -(log_probabilities.exp() * log_probabilities).sum(-1)
        if log_probabilities.shape[0] == 1:
            log_probs = log_probabilities.squeeze(0).index_select(0, batch.actions)
        else:
            log_probs = log_probabilities.gather(1, batch.actions.unsqueeze(1)).squeeze(1)
        return Evaluation(log_probs, entropy.expand_as(log_probs))

    def get_log_probabilities(self, states: Any, actions: Tensor | Sequence[int]) -> Tensor:
        """Log π(arm|context), [N], nats."""
        return self.evaluate_actions(self.encode_actions(states, actions)).log_probs

    def get_parameters(self) -> Mapping[str, Tensor]:
        """The network's parameters."""
        return dict(self.named_parameters())

    def get_extra_state(self) -> Tensor | None:
        """The state of the generator, uint8 of shape [bytes]; a state has it only where there is a generator."""
        return None if self.generator is None else self.generator.get_state()

    def set_extra_state(self, state: Tensor) -> None:
        """Go on drawing from such a state."""
        assert self.generator is not None
        self.generator.set_state(state.cpu())

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        if self.generator is None:
            destination.pop(prefix + EXTRA_STATE)

    def _load_from_state_dict(
        self,
        state_dict: Any,
        prefix: str,
        metadata: Any,
        strict: bool,
        missing_keys: list[str],
        unexpected_keys: list[str],
        error_messages: list[str],
    ) -> None:
        """A state without that of a generator is accepted: then this generator goes on from where it is."""
        key = prefix + EXTRA_STATE
        if self.generator is None and key in state_dict:
            state_dict = {name: value for name, value in state_dict.items() if name != key}
            unexpected_keys.append(key)
        super()._load_from_state_dict(
            state_dict, prefix, metadata, strict, missing_keys, unexpected_keys, error_messages
        )
        if key in missing_keys:
            missing_keys.remove(key)


class SoftmaxPolicy(ContextualSoftmaxPolicy):
    """A softmax over K logits, the same in every state: the policy of a bandit without contexts.

    Args:
        num_arms: K.
        generator: to sample with, on any device; None for PyTorch's global one.

    Example:
        >>> SoftmaxPolicy(num_arms=4).probabilities()
        tensor([0.2500, 0.2500, 0.2500, 0.2500])
    """

    def __init__(self, num_arms: int, generator: torch.Generator | None = None) -> None:
        super().__init__(_SameLogits(num_arms), generator)
        self.network: _SameLogits

    def observe(self, states: Batch[Any]) -> Tensor:
        """Nothing is observed: [N, 0]."""
        return torch.empty(len(states), 0, device=self.network.logits.device)

    @torch.no_grad()
    def probabilities(self) -> Tensor:
        """π of every arm, [K]."""
        return self.network.logits.softmax(0)


def drawn(probabilities: Tensor, count: int, generator: torch.Generator | None) -> Tensor:
    """Arms by the probabilities [S, K] of S states, int64 of shape [S, count], drawn where the generator is.

    On CUDA each is drawn by itself: drawn together they depend on sums that are taken in no fixed order.
    """
    there = probabilities if generator is None else probabilities.to(generator.device)
    if there.is_cuda:
        arms = there.repeat_interleave(count, 0).multinomial(1, generator=generator).view(-1, count)
    else:
        arms = there.multinomial(count, replacement=True, generator=generator)
    return arms.to(probabilities.device)


class _SameLogits(nn.Module):
    def __init__(self, num_arms: int) -> None:
        super().__init__()
        self.logits = nn.Parameter(torch.zeros(num_arms))

    def forward(self, observations: Tensor) -> Tensor:
        return self.logits.unsqueeze(0)
