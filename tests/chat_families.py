"""Chat templates of model families, each with a tokenizer made here and a tiny model that speaks by a script."""

from __future__ import annotations

import functools
import importlib.util
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from grpo_adapters.huggingface import AgentSampler, CausalLMPolicy, Completion, Conversation, SamplingConfig

Message = dict[str, Any]


@dataclass(frozen=True)
class Family:
    """What is particular to models of one kind.

    Attributes:
        template: name of the file.
        special_tokens: that the template writes or the model samples.
        ends: special tokens that end a turn.
        end: the one that the template writes after an answer.
        call_end: the one after a call.
    """

    template: str
    special_tokens: tuple[str, ...]
    ends: tuple[str, ...]
    end: str
    call_end: str


QWEN3 = Family(
    "qwen3",
    (
        *("<|im_start|>", "<|im_end|>", "<|endoftext|>", "<think>", "</think>"),
        *("<tool_call>", "</tool_call>", "<tool_response>", "</tool_response>"),
    ),
    ("<|im_end|>", "<|endoftext|>"),
    "<|im_end|>",
    "<|im_end|>",
)
LLAMA_TOKENS = (
    "<|begin_of_text|>",
    "<|end_of_text|>",
    "<|start_header_id|>",
    "<|end_header_id|>",
    "<|eot_id|>",
    "<|eom_id|>",
)
LLAMA3_1 = Family(
    "llama3_1", (*LLAMA_TOKENS, "<|python_tag|>"), ("<|eot_id|>", "<|eom_id|>"), "<|eot_id|>", "<|eot_id|>"
)
LLAMA3_2 = Family(
    "llama3_2", (*LLAMA_TOKENS, "<|python_tag|>"), ("<|eot_id|>", "<|eom_id|>"), "<|eot_id|>", "<|eot_id|>"
)
GEMMA_TOKENS = ("<bos>", "<eos>", "<start_of_turn>", "<end_of_turn>")
GEMMA = Family("gemma", GEMMA_TOKENS, ("<end_of_turn>", "<eos>"), "<end_of_turn>", "<end_of_turn>")
GEMMA3 = Family("gemma3", GEMMA_TOKENS, ("<end_of_turn>", "<eos>"), "<end_of_turn>", "<end_of_turn>")
GPT_OSS = Family(
    "gptoss",
    ("<|start|>", "<|end|>", "<|message|>", "<|channel|>", "<|constrain|>", "<|call|>", "<|return|>"),
    ("<|return|>", "<|call|>"),
    "<|return|>",
    "<|call|>",
)
FAMILIES = [QWEN3, LLAMA3_1, LLAMA3_2, GEMMA, GEMMA3, GPT_OSS]


def template_text(name: str) -> str:
    """A chat template as TRL ships it; the package is not imported."""
    found = importlib.util.find_spec("trl")
    assert found is not None
    assert found.submodule_search_locations is not None
    return (Path(found.submodule_search_locations[0]) / "chat_templates" / f"{name}.jinja").read_text(encoding="utf-8")


@functools.cache
def tokenizer_of(family: Family) -> PreTrainedTokenizerFast:
    """Bytes and some frequent merges of them, so that what is sampled need not be what the tokenizer would make."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=340, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(['user\nassistant\n\n{"name": "add", "arguments": {"first": 2}}\n'] * 4, trainer)
    tokenizer.add_special_tokens([AddedToken(token, normalized=False) for token in family.special_tokens])
    bos = next((token for token in family.special_tokens if token in ("<bos>", "<|begin_of_text|>")), None)
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=family.end, bos_token=bos)
    fast.chat_template = template_text(family.template)
    return fast


def policy_of(family: Family, **sampling: Any) -> CausalLMPolicy:
    """A tiny model that often ends its turn."""
    tokenizer = tokenizer_of(family)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=8192,
    )
    model = LlamaForCausalLM(config)
    model.generation_config.eos_token_id = [ids_of(family, token)[0] for token in family.ends]
    return CausalLMPolicy(model, tokenizer, sampling=SamplingConfig(**{"max_new_tokens": 256} | sampling))


def ids_of(family: Family, text: str) -> tuple[int, ...]:
    """Text as tokens: special ones whole, all else in single bytes, as no tokenizer would have it."""
    tokenizer = tokenizer_of(family)
    pieces = re.split("(" + "|".join(map(re.escape, family.special_tokens)) + ")", text)
    ids: list[int] = []
    for piece in pieces:
        if piece in family.special_tokens:
            ids += tokenizer(piece, add_special_tokens=False)["input_ids"]
        else:
            ids += [token for byte in piece for token in tokenizer(byte, add_special_tokens=False)["input_ids"]]
    return tuple(ids)


def let_speak(policy: CausalLMPolicy, family: Family, turns: Sequence[str]) -> None:
    """Have the policy say these texts, turn after turn, with the log-probs that its model gives them."""

    class Script:
        """The turns of one conversation."""

        def __init__(self) -> None:
            self.left = iter(turns)

        def complete(self, conversations: Sequence[int], contexts: Sequence[tuple[int, ...]]) -> list[Completion]:
            text = next(self.left)
            token_ids = ids_of(family, text)
            return [Completion(token_ids, text, True, drawn_log_probs(policy, own, token_ids)) for own in contexts]

    policy.turns = lambda sampling: Script()  # type: ignore[method-assign, assignment, return-value]


def drawn_log_probs(policy: CausalLMPolicy, context: Sequence[int], token_ids: Sequence[int]) -> tuple[float, ...]:
    """Log-probs of tokens after a context, from the logits of this turn by itself."""
    with torch.no_grad():
        logits = policy.causal_model(input_ids=torch.tensor([[*context, *token_ids]])).logits[0]
    rows = torch.log_softmax(logits[len(context) - 1 : -1], -1)
    return tuple(rows.gather(1, torch.tensor(token_ids)[:, None]).squeeze(1).tolist())


def read(family: Family, token_ids: Sequence[int]) -> str:
    """Token ids as text."""
    return str(tokenizer_of(family).decode(list(token_ids), skip_special_tokens=False))


def rendered(family: Family, messages: Sequence[Message], tools: Sequence[Any] = ()) -> str:
    """Messages as the template has them, up to where the assistant speaks."""
    text = tokenizer_of(family).apply_chat_template(
        list(messages), tools=list(tools) or None, add_generation_prompt=True, tokenize=False
    )
    return str(text)


def talk(
    sampler: AgentSampler, *turns: str, states: Sequence[Any] = ("2 + 3?",), group_size: int = 1
) -> list[Conversation]:
    """What comes of turns of Qwen3 that are said in all conversations, each without the token that ends it."""
    policy = policy_of(QWEN3)
    let_speak(policy, QWEN3, [f"{turn}{QWEN3.end}" for turn in turns])
    return [own for group in sampler.sample(policy, list(states), group_size) for own in group]


def call(name: str, **arguments: Any) -> str:
    """A call of a tool as Qwen3 writes it."""
    return f"<tool_call>\n{json.dumps({'name': name, 'arguments': arguments})}\n</tool_call>"
