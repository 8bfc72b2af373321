"""A causal language model with its tokenizer, ready to be trained: whole or in parts, with adapters or without."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path
from typing import Any, Self, TypeVar

import torch
from peft import PeftConfig, PeftModel
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from grpo import Evaluation, ValueEstimates
from grpo_adapters.huggingface.decoding.decoding_traits import traits_of
from grpo_adapters.huggingface.models.body_and_head import all_logits, hidden_states, is_body_and_head
from grpo_adapters.huggingface.models.model_setup import (
    check_causal_lm,
    check_does_not_look_ahead,
    check_tokenizer,
    check_would_be_loaded,
    enable_checkpointing,
    model_and_tokenizer,
    use_fused_activations,
    with_adapters,
    without_adapters,
)
from grpo_adapters.huggingface.models.sharded_model import ShardedModel, sharded
from grpo_adapters.huggingface.models.sharding import FSDP2Config, check_can_be_trained
from grpo_adapters.huggingface.models.training_mode import enter_training_without_noise, switch_dropout_off
from grpo_adapters.huggingface.policies.policy_state import changing_weights

ResultT = TypeVar("ResultT", Evaluation, ValueEstimates)


class TrainedLanguageModel:
    """What is trained where a language model is the policy; :class:`CausalLMPolicy` says what the arguments are.

    Attributes:
        model: what is trained, with adapters where there are any.
        causal_model: the layers in it.
        tokenizer: the model's.
        fuses_head: whether log-probs follow from hidden states and a linear head.
    """

    def __init__(
        self,
        model: str | Path | PreTrainedModel | PeftModel,
        tokenizer: PreTrainedTokenizerBase | None,
        *,
        peft_config: PeftConfig | None,
        dtype: torch.dtype | None,
        autocast_dtype: torch.dtype | None,
        gradient_checkpointing: bool,
        disable_dropout: bool,
        shard: FSDP2Config | None,
        trust_remote_code: bool,
    ) -> None:
        model, tokenizer = model_and_tokenizer(model, tokenizer, dtype, trust_remote_code=trust_remote_code)
        check_can_be_trained(model)
        check_causal_lm(model)
        self.model: Any = with_adapters(model, peft_config)
        self.causal_model = without_adapters(self.model)
        self.tokenizer = check_tokenizer(tokenizer, self.causal_model)
        if gradient_checkpointing:
            enable_checkpointing(self.causal_model)
        if disable_dropout:
            switch_dropout_off(self.model)
        use_fused_activations(self.model)
        self._take_part(sharded(self.causal_model, self.model, shard))
        self.autocast_dtype = autocast_dtype
        self._adapter_is_on = True
        self._disables_dropout = disable_dropout
        self.model.eval()
        check_does_not_look_ahead(self.causal_model)
        self._traits = traits_of(self.causal_model)
        self.fuses_head = is_body_and_head(self.causal_model)

    def _take_part(self, shards: ShardedModel | None) -> None:
        """Hold a part of a model; only then is the policy a :class:`grpo.ComputesTogether`."""
        self._shards = shards
        if shards is not None:
            self.evaluate_nothing = shards.evaluate_nothing
            self.sum_gradients = shards.sum_gradients
            self.join_world = shards.join_world

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        device: torch.device = self.causal_model.device
        return device

    def _together(self, compute: Callable[[], ResultT]) -> ResultT:
        """An evaluation, in which all processes take part that hold parts of the model."""
        return compute() if self._shards is None else self._shards.evaluated(compute)

    def _outputs(self, tokens: Tensor, **inputs: Any) -> Tensor:
        """Hidden states at token ids [B, L], or logits where these do not follow from them by a head that is known."""
        compute = hidden_states if self.fuses_head else all_logits
        return compute(self.causal_model, tokens, **inputs)

    def _computing(self) -> AbstractContextManager[Any]:
        """In the precision that was asked for, with the adapter off where this is the reference."""
        stack = ExitStack()
        if self.autocast_dtype is not None:
            stack.enter_context(torch.autocast(self.device.type, self.autocast_dtype))
        if not self._adapter_is_on:
            stack.enter_context(self.model.disable_adapter())
        return stack

    def get_parameters(self) -> dict[str, Tensor]:
        """All parameters of the model by name; only adapters require a gradient where there are any."""
        if not self._adapter_is_on:
            return {}
        return dict(self.model.named_parameters() if self._shards is None else self._shards.parameters)

    def train(self) -> Self:
        """Enter training mode; where dropout is off, what else makes training noisy stays off with it."""
        if self._disables_dropout:
            enter_training_without_noise(self.model)
        else:
            self.model.train()
        return self

    def eval(self) -> Self:
        """Enter evaluation mode."""
        self.model.eval()
        return self

    def to(self, device: torch.device | str) -> Self:
        """Move the model to a device."""
        if self._shards is not None and torch.device(device).type != self.device.type:
            raise ValueError(
                f"the model lies in parts on {self.device.type}, and parts stay where they are: leave config.device "
                f"out, or make the policy of a model on {device}"
            )
        self.model.to(device)
        return self

    def _weights(self) -> dict[str, Tensor]:
        """The tensors that training changes, by name; tied ones once."""
        return changing_weights(self.model) if self._adapter_is_on else {}

    def save_pretrained(self, folder: str | Path) -> None:
        """Write the model, or its adapter, as safetensors, and its tokenizer into a folder.

        ``CausalLMPolicy(folder)`` loads both; an adapter of a model that was not loaded by a name or from a folder goes
        onto it by :meth:`peft.PeftModel.from_pretrained`. The sampling is not written.

        Where the model lies in parts, all processes call this, and the first one gathers it on its CPU and writes.

        Raises:
            ValueError: if a whole model is to go where an adapter lies, which would be loaded in its place.
        """
        folder = Path(folder).expanduser()
        check_would_be_loaded(self.model, folder)
        if self._shards is None:
            self._save(folder)
        else:
            self._shards.write(lambda weights: self._save(folder, state_dict=weights))

    def _save(self, folder: Path, **options: Any) -> None:
        self.model.save_pretrained(folder, **options)
        self.tokenizer.save_pretrained(folder)
