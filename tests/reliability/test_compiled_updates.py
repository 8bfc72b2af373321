"""What is compiled, from an empty cache and from a full one, computes what is computed without compilation."""

from __future__ import annotations

from pathlib import Path

import pytest
from changing_numbers import USES, history
from torch import Tensor

NUMBERS = [(0.9, 0.5, 0.7), (0.4, 0.8, 0.5)]


def test_numbers_that_change_are_those_of_the_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where the disk holds what was compiled for others."""

    def all_of_them(values: Tensor, number: float) -> Tensor:
        return sum((use(values, number) for use in USES.values()), start=values)

    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    for numbers in NUMBERS:
        expected = history(all_of_them, numbers, compile_updates=False)
        compiled = history(all_of_them, numbers, compile_updates=True)
        assert any(tmp_path.iterdir())
        for metrics, others in zip(compiled, expected, strict=True):
            assert metrics == pytest.approx(others, rel=1e-9, abs=1e-12)
