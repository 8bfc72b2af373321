"""What each option of a language model's training saves in memory, and in time.

A step of 32 completions of 64 tokens after prompts of 12 to 20 tokens on GPT-2 with 124M parameters (random weights;
the parameters alone take 475 MiB in float32), or what the case says, each case in a process of its own. Memory is the
largest resident set of that process (``ru_maxrss``) without what it had when everything was imported; time is CPU time.
The last line holds the memory of all as JSON.

    python language_memory.py                 all cases
    python language_memory.py "as it comes"   one of them
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from dataclasses import dataclass
from typing import Any

import torch
from language_work import MAX_NEW_TOKENS, NUM_PROMPTS, Work, build_model, build_prompts, build_tokenizer, peak_mib
from our_step import VowelReward
from peft import LoraConfig
from transformers import LlamaConfig, LlamaForCausalLM

from grpo import GRPOConfig, GRPOTrainer
from grpo_adapters.huggingface import CausalLMPolicy, Completion, SamplingConfig

WORK = Work(size="gpt2")


@dataclass(frozen=True)
class Case:
    """What differs from the defaults.

    Attributes:
        policy: options of the policy.
        config: options of the trainer.
        lora: whether to train an adapter of rank 16 in place of all weights.
        reference: whether to stay near to a reference policy.
        fuses_head: whether log-probs come without all logits.
        shares_prompts: whether a prompt is computed once for its group.
        prompt_length: tokens of each prompt; None for 12 to 20.
        completion_length: tokens of each completion.
        group_size: completions of each prompt.
        num_prompts: prompts of the step.
        long_context: a Llama of 8 layers, 512 wide, with room for 8,192 tokens, in place of GPT-2.
    """

    policy: dict[str, Any]
    config: dict[str, Any]
    lora: bool = False
    reference: bool = False
    fuses_head: bool = True
    shares_prompts: bool = True
    prompt_length: int | None = None
    completion_length: int = MAX_NEW_TOKENS
    group_size: int = 8
    num_prompts: int = NUM_PROMPTS
    long_context: bool = False


SMALL = {"micro_batch_size": 8}
LONG_PROMPTS: dict[str, Any] = {"prompt_length": 256}
LONG_ROWS: dict[str, Any] = {"num_prompts": 1, "group_size": 2, "completion_length": 4080, "long_context": True}
ONE_ROW = {"micro_batch_size": 1}
CASES = {
    "all logits at once": Case({}, {}, fuses_head=False),
    "as it comes": Case({}, {}),
    "micro_batch_size=8": Case({}, SMALL),
    "micro_batch_size=8, gradient checkpointing": Case({"gradient_checkpointing": True}, SMALL),
    "micro_batch_size=8, autocast to bfloat16": Case({"autocast_dtype": torch.bfloat16}, SMALL),
    "micro_batch_size=8, a copy as reference": Case({}, SMALL, reference=True),
    "micro_batch_size=8, LoRA": Case({}, SMALL, lora=True),
    "micro_batch_size=8, LoRA, its base as reference": Case({}, SMALL, lora=True, reference=True),
    "micro_batch_size=8, two updates": Case({}, SMALL | {"num_epochs_per_update": 2}),
    "micro_batch_size=8, two updates, undo_failed_updates=False": Case(
        {}, SMALL | {"num_epochs_per_update": 2, "undo_failed_updates": False}
    ),
    "micro_batch_size=8, prompts of 256, each row whole": Case({}, SMALL, shares_prompts=False, **LONG_PROMPTS),
    "micro_batch_size=8, prompts of 256, once for a group": Case({}, SMALL, **LONG_PROMPTS),
    "Llama, 2 rows of 4,096, one at a time, all logits": Case({}, ONE_ROW, fuses_head=False, **LONG_ROWS),
    "Llama, 2 rows of 4,096, one at a time": Case({}, ONE_ROW, **LONG_ROWS),
    "Llama, 2 rows of 4,096, one at a time, gradient checkpointing": Case(
        {"gradient_checkpointing": True}, ONE_ROW, **LONG_ROWS
    ),
}


def model_of(case: Case) -> Any:
    """The model that a case trains."""
    if not case.long_context:
        return build_model(WORK)
    torch.manual_seed(0)
    sizes: dict[str, Any] = {
        "hidden_size": 512,
        "intermediate_size": 1536,
        "num_hidden_layers": 8,
        "num_attention_heads": 8,
    }
    return LlamaForCausalLM(LlamaConfig(**sizes, vocab_size=50257, max_position_embeddings=8192))


def prompts_of(case: Case) -> list[str]:
    """The prompts of a step."""
    prompts = build_prompts(WORK, case.num_prompts)
    if case.prompt_length is None:
        return prompts
    words = [prompt.split() for prompt in prompts]
    return [" ".join((own * case.prompt_length)[: case.prompt_length]) for own in words]


def measure(case: Case) -> dict[str, float]:
    """Memory and seconds of a step."""
    imported = peak_mib()
    policy = CausalLMPolicy(
        model_of(case),
        build_tokenizer(WORK),
        sampling=SamplingConfig(max_new_tokens=MAX_NEW_TOKENS),
        peft_config=LoraConfig(r=16, target_modules=["c_attn"], fan_in_fan_out=True) if case.lora else None,
        **case.policy,
    )
    policy.fuses_head = case.fuses_head
    policy._layout.shares_prompts &= case.shares_prompts
    config = GRPOConfig(
        group_size=case.group_size,
        loss_averaging="per_decision",
        kl_coefficient=0.04 if case.reference else 0.0,
        **case.config,
    )
    reference = policy.reference() if case.reference else None
    trainer: GRPOTrainer[Any, Any] = GRPOTrainer(config, policy, VowelReward(), reference)
    draw = torch.Generator().manual_seed(0)
    prompts = prompts_of(case)
    shape = (case.num_prompts, case.group_size, case.completion_length)
    tokens = torch.randint(100, 50_000, shape, generator=draw).tolist()
    texts = (["aeiou", "xyz", "abc", "e"] * 2)[: case.group_size]
    groups = [[Completion(tuple(ids), text) for ids, text in zip(group, texts, strict=True)] for group in tokens]
    start = time.process_time()
    for _ in range(2):  # the optimizer has its state from the second on
        trainer.update(trainer.collector.score(prompts, groups))
    return {"mib": peak_mib() - imported, "seconds": (time.process_time() - start) / 2}


def main() -> None:
    """Measure all cases, or the one that is named."""
    if len(sys.argv) > 1:
        print(json.dumps(measure(CASES[sys.argv[1]])))
        return
    found: dict[str, dict[str, float]] = {}
    for name in CASES:
        ran = subprocess.run([sys.executable, __file__, name], capture_output=True, text=True, check=True)
        found[name] = json.loads(ran.stdout.splitlines()[-1])
        print(f"{name:62}{found[name]['mib']:7,.0f} MiB {found[name]['seconds']:6.1f} s a step", flush=True)
    print(json.dumps({name: round(own["mib"]) for name, own in found.items()}))


if __name__ == "__main__":
    main()
