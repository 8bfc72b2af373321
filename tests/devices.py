"""Which device tests of devices run on, what may differ there, and how often the CPU waits for it."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from pretend_device import PRETENDED, pretended_device

TOLERANCES: dict[torch.dtype, dict[str, Any]] = {
    torch.float32: {"rtol": 1e-4, "atol": 1e-6},
    torch.bfloat16: {"rtol": 2e-2, "atol": 4e-3},
}
"""How far two results may be apart that are equal but for rounding: bfloat16 has 8 bits, and every sum rounds."""
Build = Callable[[torch.device], Callable[[], Any]]
"""Makes what is trained on a device, and gives what makes a step."""


@dataclass(frozen=True)
class Machine:
    """A device with the sizes that it is fit for.

    Attributes:
        device: a GPU, or the CPU.
        language_model: of a Qwen2 with random weights, half a billion parameters on a GPU.
        completion_length: tokens that it generates.
        num_tokens, vocabulary, width: of the hidden states whose log-probs are timed.
        rounds: how often what is timed runs.
    """

    device: torch.device
    language_model: dict[str, Any]
    completion_length: int
    num_tokens: int
    vocabulary: int
    width: int
    rounds: int

    @classmethod
    def here(cls) -> Machine:
        """The first GPU, or the CPU where there is none."""
        if torch.cuda.is_available():
            return cls(
                torch.device("cuda", torch.cuda.current_device()),
                {"hidden_size": 896, "intermediate_size": 4864, "num_hidden_layers": 24, "vocab_size": 151_936}
                | {"num_attention_heads": 14, "num_key_value_heads": 2},
                completion_length=128,
                num_tokens=8192,
                vocabulary=151_936,
                width=896,
                rounds=5,
            )
        return cls(
            torch.device("cpu"),
            {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "vocab_size": 512}
            | {"num_attention_heads": 2, "num_key_value_heads": 1},
            completion_length=8,
            num_tokens=256,
            vocabulary=4096,
            width=32,
            rounds=2,
        )

    @property
    def has_gpu(self) -> bool:
        return self.device.type == "cuda"

    def seconds_and_mebibytes(self, compute: Callable[[], Any]) -> tuple[float, float]:
        """How long it takes, the least of all rounds, and the most memory of the GPU that it adds; 0 on a CPU."""
        compute()
        seconds = []
        before = self._start_peak()
        for _ in range(self.rounds):
            start = time.perf_counter()
            compute()
            self.synchronize()
            seconds.append(time.perf_counter() - start)
        peak = torch.cuda.max_memory_allocated() - before if self.has_gpu else 0
        return min(seconds), peak / 2**20

    def _start_peak(self) -> int:
        if not self.has_gpu:
            return 0
        self.synchronize()
        torch.cuda.reset_peak_memory_stats()
        return torch.cuda.memory_allocated()

    def synchronize(self) -> None:
        """Wait for the GPU."""
        if self.has_gpu:
            torch.cuda.synchronize()

    @contextmanager
    def counted_waits(self) -> Iterator[list[str]]:
        """Lists, when it is over, where the CPU waited for the GPU; nothing on a CPU."""
        places: list[str] = []
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            if self.has_gpu:
                torch.cuda.set_sync_debug_mode("warn")
            try:
                yield places
            finally:
                if self.has_gpu:
                    torch.cuda.set_sync_debug_mode("default")
        for warning in caught:
            if "synchronizing" in str(warning.message):
                places.append(f"{warning.filename}:{warning.lineno}")
            else:
                warnings.warn_explicit(warning.message, warning.category, warning.filename, warning.lineno)


def waits_of(build: Build, machine: Machine) -> list[str]:
    """Where a step waits, on a GPU once it has warmed up."""
    if machine.has_gpu:
        step = build(machine.device)
        step()
        with machine.counted_waits() as places:
            step()
        return places
    with pretended_device() as waits:
        step = build(PRETENDED)
        waits.clear()
        step()
        return list(waits.elements())
