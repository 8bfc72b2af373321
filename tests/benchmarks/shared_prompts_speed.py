"""Prompts once for their group, and rows packed, beside whole rows: a forward and backward pass of 32 after 4 prompts.

The model is the tiny GPT-2 of ``language_work.py``, on one thread, with rows that nobody sampled. Times are taken in
turns, and the gradients are compared. Where completions have 4 to 64 tokens, several rows also go through the model
end to end, in sequences of so many tokens as that many of them have in the mean. The last line holds the ratios to
whole rows as JSON.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass

import torch
from language_work import GROUP_SIZE, MAX_NEW_TOKENS, NUM_PROMPTS, Work, build_model, build_tokenizer
from torch import Tensor

from alternating import median_seconds
from grpo_adapters.huggingface import CausalLMPolicy, Completion, SamplingConfig

ROUNDS, CALLS = 15, 3
ROWS_IN_A_SEQUENCE = (4, 8, 32)


@dataclass(frozen=True, slots=True)
class Job:
    """How long prompts and completions are, in tokens, and whether rows are packed too."""

    prompt: int
    shortest: int = MAX_NEW_TOKENS
    packs: bool = False


JOBS = {
    "16 tokens, then 64": Job(16),
    "60 tokens, then 64": Job(60),
    "16 tokens, then 4 to 64": Job(16, shortest=4, packs=True),
}


def build_passes(job: Job) -> dict[str, Callable[[], list[Tensor]]]:
    """A pass for each way, which gives the gradients of the mean log-prob."""
    draw = torch.Generator().manual_seed(0)
    spans = torch.linspace(job.shortest, MAX_NEW_TOKENS, NUM_PROMPTS * GROUP_SIZE).long()
    lengths = spans[torch.randperm(len(spans), generator=draw)].tolist()
    prompts = [letter * job.prompt for letter in "abcd"[:NUM_PROMPTS] for _ in range(GROUP_SIZE)]
    rows = [torch.randint(3, 100, (length,), generator=draw).tolist() for length in lengths]
    completions = [Completion(tuple(row), "") for row in rows]
    mean_row = job.prompt + sum(lengths) / len(lengths)

    def passes(packing: int | None, *, shares_prompts: bool = False) -> Callable[[], list[Tensor]]:
        work = Work()
        sampling = SamplingConfig(max_new_tokens=MAX_NEW_TOKENS)
        policy = CausalLMPolicy(build_model(work), build_tokenizer(work), sampling=sampling, packing=packing)
        policy._layout.shares_prompts &= shares_prompts
        batch = policy.encode_actions(prompts, completions)
        parameters = list(policy.get_parameters().values())
        return lambda: list(torch.autograd.grad(policy.evaluate_actions(batch).log_probs.mean(), parameters))

    packed = {f"packed, {count}": passes(int(count * mean_row)) for count in ROWS_IN_A_SEQUENCE if job.packs}
    return {"whole rows": passes(None), "shared prompts": passes(None, shares_prompts=True), **packed}


def main() -> None:
    """Run and print."""
    torch.set_num_threads(1)
    ratios: dict[str, dict[str, float]] = {}
    for name, job in JOBS.items():
        passes = build_passes(job)
        expected = passes["whole rows"]()
        for run in passes.values():
            torch.testing.assert_close(run(), expected, rtol=1e-3, atol=1e-5)
        seconds = median_seconds(passes, rounds=ROUNDS, calls=CALLS)
        for way, own in seconds.items():
            print(f"{name:26}{way:16}{own * 1e3:8.1f} ms", flush=True)
        ratios[name] = {way: round(own / seconds["whole rows"], 2) for way, own in seconds.items()}
    print(json.dumps(ratios))


if __name__ == "__main__":
    main()
