"""What each option of a language model's training saves in memory, on GPT-2 with 124M parameters (random weights).

One step on 32 completions of 64 tokens after prompts of 12 to 20 tokens, each case in a process of its own. Memory is
the largest resident set of that process (``ru_maxrss``) without what it had when everything was imported; the
parameters alone take 475 MiB in float32. The last line holds all of it as JSON.
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
    """

    policy: dict[str, Any]
    config: dict[str, Any]
    lora: bool = False
    reference: bool = False
    fuses_head: bool = True


SMALL = {"micro_batch_size": 8}
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
}


def measure(case: Case) -> dict[str, float]:
    """Memory and seconds of a step."""
    imported = peak_mib()
    policy = CausalLMPolicy(
        build_model(WORK),
        build_tokenizer(WORK),
        sampling=SamplingConfig(max_new_tokens=MAX_NEW_TOKENS),
        peft_config=LoraConfig(r=16, target_modules=["c_attn"], fan_in_fan_out=True) if case.lora else None,
        **case.policy,
    )
    policy.fuses_head = case.fuses_head
    config = GRPOConfig(loss_averaging="per_decision", kl_coefficient=0.04 if case.reference else 0.0, **case.config)
    reference = policy.reference() if case.reference else None
    trainer: GRPOTrainer[Any, Any] = GRPOTrainer(config, policy, VowelReward(), reference)
    draw = torch.Generator().manual_seed(0)
    prompts = build_prompts(WORK, NUM_PROMPTS)
    tokens = torch.randint(100, 50_000, (NUM_PROMPTS, config.group_size, MAX_NEW_TOKENS), generator=draw).tolist()
    texts = ["aeiou", "xyz", "abc", "e"] * 2
    groups = [[Completion(tuple(ids), text) for ids, text in zip(group, texts, strict=True)] for group in tokens]
    start = time.perf_counter()
    for _ in range(2):  # the optimizer has its state from the second on
        trainer.update(trainer.collector.score(prompts, groups))
    return {"mib": peak_mib() - imported, "seconds": (time.perf_counter() - start) / 2}


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
