"""A causal language model with a value head, for algorithms with a critic."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any, Self

import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from grpo import Evaluation, ValueEstimates
from grpo_adapters.huggingface.models.loading import expanded
from grpo_adapters.huggingface.policies.causal_lm_policy import CausalLMPolicy
from grpo_adapters.huggingface.policies.completion_batch import CompletionBatch

VALUE_HEAD_FILE = "value_head.safetensors"


class CausalLMActorCritic(CausalLMPolicy):
    """A :class:`CausalLMPolicy` with a critic: a linear layer on the hidden states that choose the tokens.

    The value of a decision is what the critic expects of the completion before the token is drawn. Nothing is expected
    after the last token, also where a completion was cut short: its reward is for the text as it is. The layer starts
    at 0, and is read from the model's folder where that holds one.

    Args:
        model: as for :class:`CausalLMPolicy`.
        tokenizer: the same.
        options: the same.

    Attributes:
        value_head: the linear layer, besides the attributes of :class:`CausalLMPolicy`.

    Raises:
        TypeError: as :class:`CausalLMPolicy` does, and if the model is not a body with a linear head.

    Example:
        >>> from transformers import GPT2Config, GPT2LMHeadModel
        >>> from grpo_adapters.huggingface import Completion, character_tokenizer
        >>> tokenizer = character_tokenizer("0123456789+=")
        >>> model = GPT2LMHeadModel(GPT2Config(vocab_size=len(tokenizer), n_embd=16, n_layer=1, n_head=2))
        >>> policy = CausalLMActorCritic(model, tokenizer)
        >>> policy.estimate_values(policy.encode_actions(["6+7="], [Completion((3, 5, 0), "13")])).values
        tensor([0., 0., 0.])
    """

    def __init__(
        self,
        model: str | Path | PreTrainedModel | PeftModel,
        tokenizer: PreTrainedTokenizerBase | None = None,
        **options: Any,
    ) -> None:
        super().__init__(model, tokenizer, **options)
        if not self.fuses_head:
            raise TypeError(
                f"{type(self.causal_model).__name__} is no body with a linear head, so there are no hidden states that "
                f"values could be read from: use CausalLMPolicy with an algorithm without a critic"
            )
        dtype = torch.promote_types(self.causal_model.dtype, torch.float32)
        width = self.causal_model.get_output_embeddings().in_features
        self.value_head = nn.Linear(width, 1, device=self.device, dtype=dtype)
        nn.init.zeros_(self.value_head.weight)
        nn.init.zeros_(self.value_head.bias)
        stored = Path(expanded(model), VALUE_HEAD_FILE) if isinstance(model, str | Path) else None
        if stored is not None and stored.is_file():
            self.value_head.load_state_dict(load_file(stored))

    def evaluate_actions(self, batch: CompletionBatch) -> Evaluation:
        """Log-prob, entropy and value of each token of the completions, [D] each."""
        return super().evaluate_actions(batch)

    def _evaluated(self, batch: CompletionBatch) -> Evaluation:
        with self._computing():
            states = self._at_decisions(batch)
            evaluation = self._evaluation_of(states, batch)
        return Evaluation(evaluation.log_probs, evaluation.entropy, self._values(states))

    @torch.no_grad()
    def estimate_values(self, batch: CompletionBatch) -> ValueEstimates:
        """Values at all tokens and after them, [D] each; 0 after the last of a completion."""
        return self._together(lambda: self._estimated(batch))

    def _estimated(self, batch: CompletionBatch) -> ValueEstimates:
        with self._computing():
            values = self._values(self._at_decisions(batch))
        next_values = values.roll(-1)
        next_values[batch.samples.last] = 0.0
        return ValueEstimates(values, next_values)

    def _values(self, states: Tensor) -> Tensor:
        values: Tensor = self.value_head(states.to(self.value_head.weight.dtype)).squeeze(1)
        return values

    def get_parameters(self) -> dict[str, Tensor]:
        """The model's parameters and the value head's."""
        parameters = super().get_parameters()
        if not parameters:  # the adapter is off, and so is the head
            return {}
        return parameters | {f"value_head.{name}": value for name, value in self.value_head.named_parameters()}

    def _weights(self) -> dict[str, Tensor]:
        weights = super()._weights()
        if not self._adapter_is_on:
            return weights
        return weights | {f"value_head.{name}": value for name, value in self.value_head.named_parameters()}

    def reference(self) -> Self:
        """As that of :class:`CausalLMPolicy`; its value head is not trained either."""
        reference = super().reference()
        reference.value_head = copy.deepcopy(self.value_head).requires_grad_(False)
        return reference

    def to(self, device: torch.device | str) -> Self:
        """Move the model and the value head to a device."""
        super().to(device)
        self.value_head.to(device)
        return self

    def save_pretrained(self, folder: str | Path) -> None:
        """Write the model, its tokenizer and the value head into a folder."""
        super().save_pretrained(folder)

    def _save(self, folder: Path, **options: Any) -> None:
        super()._save(folder, **options)
        save_file(dict(self.value_head.state_dict()), folder / VALUE_HEAD_FILE)
