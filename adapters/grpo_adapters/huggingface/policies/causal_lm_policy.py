"""A causal language model as a policy: an action is a completion, a decision one of its tokens."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any, Self

import torch
from peft import PeftConfig, PeftModel
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from grpo import Evaluation
from grpo_adapters.huggingface.decoding.generation import Drawing, sample_completions
from grpo_adapters.huggingface.decoding.kept_turns import KeptTurns
from grpo_adapters.huggingface.decoding.sampling import SamplingConfig
from grpo_adapters.huggingface.models.body_and_head import described_head
from grpo_adapters.huggingface.models.model_setup import end_tokens, longest_prompt, num_embeddings
from grpo_adapters.huggingface.models.output_head import log_probs_of_logits
from grpo_adapters.huggingface.models.sharding import FSDP2Config
from grpo_adapters.huggingface.models.token_log_probs import token_log_probs
from grpo_adapters.huggingface.models.training_mode import noisy_in_training
from grpo_adapters.huggingface.policies.completion_batch import CompletionBatch, check_fits, length_metrics
from grpo_adapters.huggingface.policies.peculiarities import warn_of_peculiarities
from grpo_adapters.huggingface.policies.policy_state import adapter_settings, check_policy_state, laid_out_as
from grpo_adapters.huggingface.policies.row_layout import RowLayout
from grpo_adapters.huggingface.policies.trained_language_model import TrainedLanguageModel
from grpo_adapters.huggingface.text.completions import Completion
from grpo_adapters.huggingface.text.conversations import Action, Conversation, Turn, check_actions
from grpo_adapters.huggingface.text.prompts import encode_prompts


class CausalLMPolicy(TrainedLanguageModel):
    """A causal language model of Hugging Face and its tokenizer.

    A state is a string, a list of chat messages, which goes through the tokenizer's chat template, or a row of a
    table, ``{"prompt": string or messages, other columns}``. An action is a :class:`Completion`.

    Evaluation never makes logits of all tokens: hidden states of the completions are picked before the head, and
    log-probs come from them in chunks. GPT-2's way of writing GELU is replaced by PyTorch's, which keeps less.

    Args:
        model: a name on the hub, a folder, or a model.
        tokenizer: its tokenizer; None for the one that comes with the name or folder.
        sampling: how completions are sampled.
        peft_config: adapters to train in place of all parameters, such as a :class:`peft.LoraConfig`.
        dtype: of the parameters of a model that is loaded here; None for float32.
        autocast_dtype: compute in this precision while parameters stay in theirs; None for theirs.
        gradient_checkpointing: keep only what goes from layer to layer for the backward pass, compute the rest again.
        disable_dropout: switch dropout and other noise of training, such as jitter of routers, off for good, so that
            the policy that is trained is the one that sampled.
        packing: rows go through the model behind each other, in sequences of at most so many tokens, or one that is
            longer alone; None for rows side by side. For attention on a GPU that takes rows of different lengths, such
            as ``attn_implementation="flash_attention_2"``; with others it costs more than padding does.
        with_entropy: tell the entropy of each decision, which costs a pass over the logits.
        shard: cut the model into parts, one a process, by FSDP2; None for the whole model on each. A model that was
            cut before needs none.
        trust_remote_code: execute code that comes with a model from the hub.
        seed: of the sampling.

    Attributes:
        model: what is trained: the model of Hugging Face, in its :class:`peft.PeftModel` where there are adapters.
        causal_model: the model without what adapters wrap it in; the same object as ``model`` where there are none.
        tokenizer: its tokenizer.
        sampling: how completions are sampled, a :class:`SamplingConfig`.
        with_entropy: whether the entropy of each decision is told.
        generator: of the sampling, on the model's device.

    Raises:
        OSError: if there is no such model; the message says what to download and where to put it.
        TypeError, ValueError: if the model and its tokenizer do not go together, a PEFT method trains no weights, or a
            part of the model is wrapped for several processes in another way than by FSDP2.
        RuntimeError: if there is no process group to exchange parts by, or none that fits the device.

    Example:
        >>> from transformers import GPT2Config, GPT2LMHeadModel
        >>> from grpo_adapters.huggingface import character_tokenizer
        >>> tokenizer = character_tokenizer("0123456789+=")
        >>> model = GPT2LMHeadModel(GPT2Config(vocab_size=len(tokenizer), n_embd=16, n_layer=1, n_head=2))
        >>> policy = CausalLMPolicy(model, tokenizer, sampling=SamplingConfig(max_new_tokens=5))
        >>> [[one, other]] = policy.generate_actions(["6+7="], 2)
        >>> len(one) <= 5, policy.get_log_probabilities(["6+7="], [one]).shape
        (True, torch.Size([1]))
    """

    def __init__(
        self,
        model: str | Path | PreTrainedModel | PeftModel,
        tokenizer: PreTrainedTokenizerBase | None = None,
        *,
        sampling: SamplingConfig | None = None,
        peft_config: PeftConfig | None = None,
        dtype: torch.dtype | None = None,
        autocast_dtype: torch.dtype | None = None,
        gradient_checkpointing: bool = False,
        disable_dropout: bool = True,
        packing: int | None = None,
        with_entropy: bool = True,
        shard: FSDP2Config | None = None,
        trust_remote_code: bool = False,
        seed: int = 0,
    ) -> None:
        super().__init__(
            model,
            tokenizer,
            peft_config=peft_config,
            dtype=dtype,
            autocast_dtype=autocast_dtype,
            gradient_checkpointing=gradient_checkpointing,
            disable_dropout=disable_dropout,
            shard=shard,
            trust_remote_code=trust_remote_code,
        )
        self.sampling = sampling or SamplingConfig()
        self.with_entropy = with_entropy
        self.generator = torch.Generator(self.device).manual_seed(seed)
        self._completion_lengths: Tensor | None = None
        self._layout = RowLayout(self.causal_model, self._outputs, self._traits, packing)
        noisy = noisy_in_training(self.model, self.causal_model) if disable_dropout else []
        ends = bool(end_tokens(self.causal_model, self.tokenizer) or self.sampling.stop_strings)
        warn_of_peculiarities(self.causal_model, self._traits, self.fuses_head, noisy, ends=ends)
        if self._shards is not None:
            self._shards.begin()

    def generate_actions(
        self, states: Sequence[Any], num_actions_per_state: int, **overrides: Any
    ) -> list[list[Completion]]:
        """Sample a group of completions for each prompt.

        Args:
            states: S prompts.
            num_actions_per_state: completions of each, G.
            overrides: other values for attributes of the :class:`SamplingConfig`, except for the temperature, which
                belongs to the policy's log-probs.
        """
        return self._generate(states, num_actions_per_state, self.training_sampling(overrides))

    def turns(self, sampling: SamplingConfig) -> KeptTurns:
        """What takes the policy's turns in conversations, keeping what it has read from one turn to the next.

        Args:
            sampling: how tokens are drawn, in each turn.
        """
        return KeptTurns(self._drawing(sampling), self._sampling_mode)

    def _drawing(self, sampling: SamplingConfig) -> Drawing:
        ends = end_tokens(self.causal_model, self.tokenizer)
        return Drawing(self.causal_model, self.tokenizer, ends, sampling, self.generator, self._traits)

    def sampling_together(self) -> AbstractContextManager[None]:
        """A block in which the policy may sample any number of times, and some processes more often than others.

        Where the model lies in parts on several processes, all of them go into it equally often; what samples by
        :meth:`turns` does so around all turns.
        """
        return nullcontext() if self._shards is None else self._shards.sampling()

    def complete(self, states: Sequence[Any], **overrides: Any) -> list[Completion]:
        """One completion of each prompt, the likeliest tokens unless a ``temperature`` is given.

        Args:
            states: S prompts.
            overrides: other values for attributes of the :class:`SamplingConfig`.
        """
        sampling = self.sampling_with({"temperature": 0.0} | overrides)
        return [completion for (completion,) in self._generate(states, 1, sampling)]

    def _generate(
        self, states: Sequence[Any], num_completions: int, sampling: SamplingConfig
    ) -> list[list[Completion]]:
        longest = longest_prompt(self.causal_model, sampling.max_new_tokens)
        prompts = encode_prompts(states, self.tokenizer, longest)
        with self._sampling_mode():
            return sample_completions(self._drawing(sampling), prompts, num_completions)

    @contextmanager
    def _sampling_mode(self) -> Iterator[None]:
        """Evaluation, in the precision that was asked for; afterwards the mode is the one that was."""
        trains = self.model.training
        self.model.eval()
        try:
            with self._computing(), self.sampling_together():
                yield
        finally:
            if trains:
                self.train()

    def get_log_probabilities(self, states: Sequence[Any], actions: Sequence[Action]) -> Tensor:
        """Log-prob of each whole completion or conversation, [N], nats."""
        batch = self.encode_actions(states, actions)
        return batch.samples.sum(self.evaluate_actions(batch).log_probs)

    def encode_actions(self, states: Sequence[Any], actions: Sequence[Action]) -> CompletionBatch:
        """N prompts and completions, or conversations, which hold their prompts, as a rectangle of token ids."""
        check_actions(actions, len(states), num_embeddings(self.causal_model))
        answered = [state for state, action in zip(states, actions, strict=True) if isinstance(action, Completion)]
        prompts = iter(encode_prompts(answered, self.tokenizer))
        samples = [
            action.turns if isinstance(action, Conversation) else (Turn(next(prompts), action),) for action in actions
        ]
        batch = CompletionBatch.of(samples, [action.ended for action in actions], self.device)
        check_fits(batch, longest_prompt(self.causal_model, 0))
        self._completion_lengths = batch.samples.lengths
        return batch

    def evaluate_actions(self, batch: CompletionBatch) -> Evaluation:
        """Log-prob and entropy of each token of the completions, [D] each, at the temperature of the sampling."""
        return self._together(lambda: self._evaluated(batch))

    def _evaluated(self, batch: CompletionBatch) -> Evaluation:
        """The evaluation, by passes of this process."""
        with self._computing():
            return self._evaluation_of(self._at_decisions(batch), batch)

    def _evaluation_of(self, outputs: Tensor, batch: CompletionBatch) -> Evaluation:
        """The evaluation that follows from outputs at the decisions."""
        if self.sampling.temperature == 0:
            raise ValueError("temperature=0 is for evaluation: a policy that never draws has no log-probs to train")
        options: dict[str, Any] = {"temperature": self.sampling.temperature, "with_entropy": self.with_entropy}
        if not self.fuses_head:
            return Evaluation(*log_probs_of_logits(outputs, batch.targets, **options))
        head = described_head(self.causal_model)
        assert head is not None
        return Evaluation(*token_log_probs(outputs, head, batch.targets, **options))

    def _at_decisions(self, batch: CompletionBatch) -> Tensor:
        """Outputs where the batch's decisions are made: hidden states [D, H], or logits [D, V]."""
        return self._layout.at_decisions(batch, self._outputs)

    def training_sampling(self, overrides: Mapping[str, Any]) -> SamplingConfig:
        """The policy's sampling with other values for some of its attributes, at the temperature of its log-probs.

        Raises:
            ValueError: if another temperature is among them.
        """
        if overrides.get("temperature", self.sampling.temperature) != self.sampling.temperature:
            raise ValueError(
                f"temperature={overrides['temperature']} is not the policy's {self.sampling.temperature}, which its "
                f"log-probs are computed with: set it in the policy's SamplingConfig"
            )
        return self.sampling_with(overrides)

    def sampling_with(self, overrides: Mapping[str, Any]) -> SamplingConfig:
        """The policy's sampling with other values for some of its attributes."""
        return SamplingConfig(**(self.sampling.model_dump() | dict(overrides))) if overrides else self.sampling

    def to(self, device: torch.device | str) -> Self:
        """Move the model to a device; sampling starts anew from its seed if that is another one."""
        super().to(device)
        if self.generator.device != self.device:
            self.generator = torch.Generator(self.device).manual_seed(self.generator.initial_seed())
        return self

    def reference(self) -> Self:
        """This policy as it is without what will be trained, to stay near to: a ``reference_policy`` for a trainer.

        With adapters it is the same model, whose adapter is switched off while it evaluates, so that no weights are
        copied. Otherwise it is a frozen copy. An adapter that was trained before is switched off as well: to stay near
        to what it has learnt, take ``copy.deepcopy(policy)`` as the reference.
        """
        if not isinstance(self.model, PeftModel) and self._shards is None:
            reference = copy.deepcopy(self)
            reference.model.requires_grad_(False)
            return reference
        reference = copy.copy(self)
        reference.generator = torch.Generator(self.device)
        reference.generator.set_state(self.generator.get_state())
        if isinstance(self.model, PeftModel):
            reference._adapter_is_on = False
            return reference
        assert self._shards is not None
        shards = self._shards.frozen_copy()
        reference.model = reference.causal_model = shards.root
        reference._layout = self._layout.of_copy(shards.root)
        reference._take_part(shards)
        return reference

    def get_settings(self) -> dict[str, Any]:
        """The sampling, with the temperature of the log-probs, the configs of adapters, precision and dropout."""
        return {
            "sampling": self.sampling,
            "autocast_dtype": self.autocast_dtype,
            "disable_dropout": self._disables_dropout,
            **adapter_settings(self.model),
        }

    def state_dict(self) -> dict[str, Any]:
        """What changes in the course of a training, copied.

        It holds the weights, of adapters only where the model has any, and none in a reference that is the model with
        its adapter switched off; the state of the generator; and the lengths that :meth:`get_metrics` tells of. Weights
        that lie in parts on several processes are DTensors, as ``torch.distributed.checkpoint`` takes them.
        """
        lengths = self._completion_lengths
        return {
            "weights": {name: tensor.detach().clone() for name, tensor in self._weights().items()},
            "generator": self.generator.get_state(),
            "completion_lengths": None if lengths is None else lengths.clone(),
        }

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Go on from what ``state_dict`` of this policy, or of one constructed in the same way, returned.

        Raises:
            ValueError: if it is the state of another policy, or of one on another kind of device; nothing has changed
                then.
        """
        weights = self._weights()
        check_policy_state(state_dict, weights, self.generator, self)
        with torch.no_grad():
            for name, tensor in weights.items():
                tensor.copy_(laid_out_as(tensor, state_dict["weights"][name]))
        self.generator.set_state(state_dict["generator"].cpu())
        lengths = state_dict["completion_lengths"]
        self._completion_lengths = None if lengths is None else lengths.to(self.device, copy=True)

    def get_metrics(self) -> dict[str, float]:
        """Tokens of the completions that were last encoded, ``completions/{mean,min,max}_length``."""
        return {} if self._completion_lengths is None else length_metrics(self._completion_lengths)
