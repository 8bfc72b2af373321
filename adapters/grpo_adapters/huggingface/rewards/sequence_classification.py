"""Reward models of Hugging Face: a sequence classifier scores a prompt with its completion."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence
from transformers import AutoModelForSequenceClassification, AutoTokenizer, PreTrainedTokenizerBase

from grpo_adapters.huggingface.models.loading import load_pretrained, require_tokenizer
from grpo_adapters.huggingface.rewards.ready_rewards import text_of
from grpo_adapters.huggingface.text.completions import Completion
from grpo_adapters.huggingface.text.states import Exchange, Prompt, exchanges_of

UNLIMITED = 10**9
"""From this number of tokens on a tokenizer's limit means that it knows none."""


class SequenceClassificationReward:
    """Scores completions by a model that reads prompt and completion and puts out one number.

    It has a tokenizer of its own, so completions reach it as text. What it reads:

    - Chat messages with the completion as the assistant's, through the reward model's own chat template.
    - A string with the completion right after it, and the tokenizer's special tokens.
    - With ``pairs``, prompt and completion as two texts, with the tokenizer's separator between them. So read models
      like ``OpenAssistant/reward-model-deberta-v3-large-v2``. Of chat messages there must be only one.

    What is longer than the model reads loses the beginning of the prompt, then that of the completion.

    The model is never trained, and always in evaluation mode. It is also a function for :class:`FunctionReward`, so
    that its score can be one of several.

    Args:
        model: a name on the hub, a folder, or a model.
        tokenizer: the reward model's; None for the one that comes with the name or folder.
        batch_size: samples that it reads at a time; the rewards do not depend on it.
        pairs: whether it reads pairs; None for pairs where its tokenizer has a separator and no chat template.
        label: which of the model's outputs is the reward; None where it has only one.
        max_length: tokens that it reads at most; None for as many as tokenizer and model allow.
        dtype: of the parameters of a model that is loaded here; None for that of the checkpoint.
        trust_remote_code: execute code that comes with a model from the hub.

    Raises:
        OSError: if there is no such model; the message says what to download and where to put it.
        TypeError: if the model or the tokenizer is none.
        ValueError: if the model has several outputs and no label says which, or an option is out of its range.

    Example:
        >>> from transformers import GPT2Config, GPT2ForSequenceClassification
        >>> from grpo_adapters.huggingface.text.character_tokenizer import character_tokenizer
        >>> tokenizer = character_tokenizer("0123456789+=")
        >>> config = GPT2Config(vocab_size=len(tokenizer), n_embd=16, n_layer=1, n_head=2, num_labels=1)
        >>> reward = SequenceClassificationReward(GPT2ForSequenceClassification(config), tokenizer)
        >>> reward.compute_rewards(["6+7="], [Completion((1, 3), "13")]).shape
        torch.Size([1])
    """

    def __init__(
        self,
        model: str | Path | nn.Module,
        tokenizer: PreTrainedTokenizerBase | None = None,
        *,
        batch_size: int = 16,
        pairs: bool | None = None,
        label: int | None = None,
        max_length: int | None = None,
        dtype: torch.dtype | None = None,
        trust_remote_code: bool = False,
    ) -> None:
        if isinstance(model, str | Path):
            options: dict[str, Any] = {} if dtype is None else {"dtype": dtype}
            name, model = (
                model,
                load_pretrained(
                    AutoModelForSequenceClassification, model, trust_remote_code=trust_remote_code, **options
                ),
            )
            if tokenizer is None:
                tokenizer = load_pretrained(AutoTokenizer, name, trust_remote_code=trust_remote_code)
        elif dtype is not None:
            raise ValueError(f"dtype={dtype} is for a model that is loaded here: call model.to({dtype}) on yours")
        if batch_size < 1:
            raise ValueError(f"batch_size is {batch_size}, expected at least 1")
        self.model = _checked_model(model)
        self.label = _checked_label(self.model, label)
        self.tokenizer = require_tokenizer(tokenizer)
        self.batch_size = batch_size
        self.max_length = _checked_length(self.model, self.tokenizer, max_length)
        has_separator = self.tokenizer.sep_token is not None and self.tokenizer.chat_template is None
        self.pairs = has_separator if pairs is None else pairs
        self._padding = _padding_of(self.model, self.tokenizer)
        named = inspect.signature(_unwrapped(self.model).forward).parameters
        self._unread = {"token_type_ids"} - named.keys()
        self._options = {"use_cache": False} if "use_cache" in named else {}
        self.eval()

    @torch.no_grad()
    def compute_rewards(self, states: Sequence[Any], actions: Sequence[Completion]) -> Tensor:
        """Scores of the completions, float32 of shape [N], on the model's device.

        Args:
            states: N strings, lists of chat messages, or rows with a column ``prompt`` of either.
            actions: N completions.

        Raises:
            TypeError: if a state or an action is of a wrong kind.
            ValueError: if messages come to a tokenizer without a chat template.
        """
        return self._scores(exchanges_of(states, actions))

    @torch.no_grad()
    def __call__(self, prompts: Sequence[Prompt], completions: Sequence[Prompt], **columns: Any) -> Tensor:
        """The same for prompts and completions as reward functions get them."""
        return self._scores([Exchange(*pair) for pair in zip(prompts, map(text_of, completions), strict=True)])

    def _scores(self, exchanges: Sequence[Exchange]) -> Tensor:
        rows = [self._encoded(exchange, index) for index, exchange in enumerate(exchanges)]
        order = sorted(range(len(rows)), key=lambda row: len(rows[row]["input_ids"]), reverse=True)
        scores = torch.empty(len(rows), dtype=torch.float32, device=self.model.device)
        for start in range(0, len(order), self.batch_size):
            chosen = order[start : start + self.batch_size]
            logits = self.model(**self._stacked([rows[row] for row in chosen]), **self._options).logits
            if logits.ndim != 2:
                raise TypeError(
                    f"{type(self.model).__name__} puts out logits of shape {list(logits.shape)}, expected one row for "
                    f"each of {len(chosen)} samples: load it as an AutoModelForSequenceClassification"
                )
            scores[torch.tensor(chosen, device=scores.device)] = logits[:, self.label].float()
        return scores

    def get_settings(self) -> dict[str, Any]:
        """What the model reads of a sample, and which of its outputs is the reward."""
        return {"pairs": self.pairs, "label": self.label, "max_length": self.max_length}

    def train(self) -> Self:
        """Stay in evaluation mode."""
        return self.eval()

    def eval(self) -> Self:
        """Evaluation mode."""
        self.model.eval()
        return self

    def to(self, device: torch.device | str) -> Self:
        """Move the model to a device."""
        self.model.to(device)
        return self

    def _encoded(self, exchange: Exchange, index: int) -> dict[str, Tensor]:
        """What the model reads of a sample: token ids, and what else its tokenizer gives, [L] each."""
        options = {"return_attention_mask": True, "verbose": False}
        if self.pairs:
            encoded = self.tokenizer(self._single_text(exchange, index), exchange.text, **options)
        elif isinstance(exchange.prompt, str):
            encoded = self.tokenizer(exchange.prompt + exchange.text, **options)
        else:
            encoded = self.tokenizer(self._rendered(exchange, index), add_special_tokens=False, **options)
        kept = self._kept(encoded)
        if not kept:
            raise ValueError(f"sample {index} has no token for the reward model to read: {exchange}")
        return {name: torch.tensor(values)[kept] for name, values in encoded.items() if name not in self._unread}

    def _kept(self, encoded: Any) -> list[int]:
        """Positions of the tokens that are read: all but the first ones of the prompt, then of the completion."""
        token_ids = encoded["input_ids"]
        excess = 0 if self.max_length is None else len(token_ids) - self.max_length
        if excess <= 0:
            return list(range(len(token_ids)))
        parts = encoded.sequence_ids(0) if encoded.is_fast else [0] * len(token_ids)
        first = 1 if token_ids[0] in (self.tokenizer.bos_token_id, self.tokenizer.cls_token_id) else 0
        by_part = [[place for place in range(first, len(parts)) if parts[place] == part] for part in (0, 1)]
        dropped = set((by_part[0] + by_part[1])[:excess])
        return [place for place in range(len(token_ids)) if place not in dropped]

    def _single_text(self, exchange: Exchange, index: int) -> str:
        if isinstance(exchange.prompt, str):
            return exchange.prompt
        if len(exchange.prompt) > 1:
            raise ValueError(
                f"the prompt of sample {index} has {len(exchange.prompt)} chat messages, but this reward model reads "
                f"pairs of one text and the completion: use one with a chat template, or give prompts as strings"
            )
        return str(exchange.prompt[0]["content"])

    def _rendered(self, exchange: Exchange, index: int) -> str:
        if self.tokenizer.chat_template is None:
            raise ValueError(
                f"the prompt of sample {index} is made of chat messages, but the reward model's tokenizer has no chat "
                f"template: set its chat_template to that which the model was trained with, or give prompts as strings"
            )
        messages = [*exchange.prompt, *exchange.completion]
        try:
            return str(self.tokenizer.apply_chat_template(messages, tokenize=False))
        except Exception as error:
            raise ValueError(
                f"the reward model's chat template refuses the messages of sample {index}, {exchange}: {error}"
            ) from error

    def _stacked(self, rows: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
        """The rows filled up on the right, [B, L] each."""
        return {
            name: pad_sequence(
                [row[name] for row in rows], batch_first=True, padding_value=self._padding if name == "input_ids" else 0
            ).to(self.model.device)
            for name in rows[0]
        }


def _checked_model(model: object) -> Any:
    if not isinstance(model, nn.Module) or not hasattr(getattr(model, "config", None), "num_labels"):
        raise TypeError(
            f"model is a {type(model).__name__}, expected a name, a folder, or a model that "
            f"AutoModelForSequenceClassification loads"
        )
    return model


def _unwrapped(model: Any) -> Any:
    """The model of transformers in one that was compiled, or has adapters."""
    model = getattr(model, "_orig_mod", model)
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def _checked_label(model: Any, label: int | None) -> int:
    """Which of the model's outputs is the reward."""
    num_labels: int = model.config.num_labels
    if label is None and num_labels != 1:
        raise ValueError(
            f"{type(model).__name__} has num_labels={num_labels}, expected 1, the reward: tell which label it is by "
            f"label=0 to {num_labels - 1}, or load a model that was trained to give rewards"
        )
    if label is not None and not 0 <= label < num_labels:
        raise ValueError(f"label is {label}, expected 0 to {num_labels - 1}: {type(model).__name__} has {num_labels}")
    return label or 0


def _checked_length(model: Any, tokenizer: PreTrainedTokenizerBase, max_length: int | None) -> int | None:
    """Tokens that the model reads at most; None for any number."""
    if max_length is not None and max_length < 8:
        raise ValueError(f"max_length is {max_length}, expected at least 8 tokens for prompt and completion")
    told = (
        max_length,
        tokenizer.model_max_length,
        getattr(model.config.get_text_config(), "max_position_embeddings", None),
    )
    limits = [limit for limit in told if limit is not None and 0 < limit < UNLIMITED]
    return min(limits, default=None)


def _padding_of(model: Any, tokenizer: PreTrainedTokenizerBase) -> int:
    """The token that rows are filled up with: the one that the model finds the end of a row by."""
    config = model.config.get_text_config()
    if config.pad_token_id is None:
        config.pad_token_id = tokenizer.pad_token_id
    if config.pad_token_id is None:
        if tokenizer.eos_token_id is None:
            raise ValueError(
                "neither the reward model nor its tokenizer has a padding token or an end token: set "
                "model.config.pad_token_id to the token it was trained with"
            )
        warnings.warn(
            f"neither the reward model nor its tokenizer has a padding token: its end token "
            f"{tokenizer.eos_token!r} is used, so it reads its score before the first one of a row's end; set "
            f"model.config.pad_token_id if it was trained with another",
            stacklevel=3,
        )
        config.pad_token_id = tokenizer.eos_token_id
    padding: int = config.pad_token_id
    return padding
