"""Log-probs of tokens from hidden states with their gradients, beside a plain log-softmax and gather of all logits.

Times are taken in turns on one thread. Memory is taken on Linux, each computation in a fresh process: the highest
resident size during one forward and backward pass, less the resident size before it, when inputs exist and a small
pass has loaded what passes need; so gradients count and inputs do not. The values are compared. The last line holds
the ratios, ours over plain, as JSON.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from alternating import median_seconds
from grpo_adapters.huggingface import OutputHead, token_log_probs


@dataclass(frozen=True, slots=True)
class Job:
    """Sizes, what needs a gradient, and how often to time it."""

    vocabulary: int
    width: int
    trains_head: bool = True
    trains_hidden: bool = True
    with_entropy: bool = False
    num_tokens: int = 2048
    rounds: int = 3
    calls: int = 1


JOBS = {
    "V=65,536 H=256": Job(65_536, 256),
    "V=65,536 H=256, frozen head": Job(65_536, 256, trains_head=False),
    "V=65,536 H=256, entropy": Job(65_536, 256, with_entropy=True),
    "V=65,536 H=256, no gradients": Job(65_536, 256, trains_head=False, trains_hidden=False),
    "V=50,257 H=768": Job(50_257, 768),
    "V=50,257 H=768, frozen head": Job(50_257, 768, trains_head=False),
    "V=103 H=128": Job(103, 128, rounds=15, calls=10),
}


def plain(hidden: Tensor, weight: Tensor, targets: Tensor, *, with_entropy: bool) -> tuple[Tensor, Tensor | None]:
    """As one writes it."""
    all_log_probs = torch.log_softmax(nn.functional.linear(hidden, weight), -1)
    entropy = -(all_log_probs.exp() * all_log_probs).sum(-1) if with_entropy else None
    return all_log_probs.gather(1, targets.unsqueeze(1)).squeeze(1), entropy


def ours(hidden: Tensor, weight: Tensor, targets: Tensor, *, with_entropy: bool) -> tuple[Tensor, Tensor | None]:
    """In chunks of the default size."""
    return token_log_probs(hidden, OutputHead(weight), targets, with_entropy=with_entropy)


CONTESTANTS = {"ours": ours, "plain": plain}


def build_passes(job: Job) -> dict[str, Callable[[], list[Tensor]]]:
    """For each contestant a forward and a backward pass on the same data, which gives values and gradients."""
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(job.num_tokens, job.width, generator=generator).requires_grad_(job.trains_hidden)
    weight = torch.empty(job.vocabulary, job.width).normal_(std=job.width**-0.5, generator=generator)
    weight.requires_grad_(job.trains_head)
    targets = torch.randint(job.vocabulary, (job.num_tokens,), generator=generator)
    advantages = torch.randn(job.num_tokens, generator=generator)
    inputs = [each for each in (hidden, weight) if each.requires_grad]

    def forward_and_backward(name: str) -> list[Tensor]:
        log_probs, entropy = CONTESTANTS[name](hidden, weight, targets, with_entropy=job.with_entropy)
        loss = -(advantages * log_probs).mean()
        if entropy is not None:
            loss = loss - 0.01 * entropy.mean()
        return [log_probs.detach(), *(torch.autograd.grad(loss, inputs) if inputs else ())]

    return {name: lambda name=name: forward_and_backward(name) for name in CONTESTANTS}  # type: ignore[misc]


def resident_mebibytes(field: str) -> float:
    """``VmRSS``, what is resident now, or ``VmHWM``, the most that has been."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{field}:")) / 1024


def print_peak(job: Job, contestant: str) -> None:
    """Print the peak of this process; to be called once in it."""
    torch.set_num_threads(1)
    build_passes(Job(64, 8, job.trains_head, job.trains_hidden, job.with_entropy, num_tokens=8))[contestant]()
    run = build_passes(job)[contestant]
    Path("/proc/self/clear_refs").write_text("5")  # the most that has been is what is now
    before = resident_mebibytes("VmRSS")
    run()
    print(resident_mebibytes("VmHWM") - before)


def peak_mebibytes(name: str, contestant: str) -> float:
    """The peak of a contestant in a process of its own."""
    command = [sys.executable, __file__, name, contestant]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def main() -> None:
    """Run and print."""
    torch.set_num_threads(1)
    ratios = {}
    for name, job in JOBS.items():
        peaks = {contestant: peak_mebibytes(name, contestant) for contestant in CONTESTANTS}
        passes = build_passes(job)
        for found, expected in zip(passes["ours"](), passes["plain"](), strict=True):
            torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-5)
        seconds = median_seconds(passes, rounds=job.rounds, calls=job.calls)
        for contestant in CONTESTANTS:
            print(
                f"{name:30} {contestant:6} {seconds[contestant] * 1e3:9.1f} ms {peaks[contestant]:8.1f} MiB", flush=True
            )
        ratios[name] = {"time": seconds["ours"] / seconds["plain"], "memory": peaks["ours"] / peaks["plain"]}
    print(json.dumps({name: {kind: round(ratio, 3) for kind, ratio in own.items()} for name, own in ratios.items()}))


if __name__ == "__main__":
    if len(sys.argv) == 1:
        main()
    else:
        print_peak(JOBS[sys.argv[1]], sys.argv[2])
