"""Families of language models from transformers, each checked in all that a policy does.

``tests/benchmarks/families.py`` checks all families of the table; here are those that differ most from each other and
from the families of the other tests.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from family_checks import check_family
from language_model_families import FAMILIES

CHECKED = [
    "bamba",
    "bert",
    "cohere2",
    "deepseek_v3",
    "falcon",
    "falcon_h1",
    "falcon_mamba",
    "gemma3n_text",
    "gemma4_text",
    "glm4_moe",
    "gpt_neo",
    "gpt_oss",
    "granitemoehybrid",
    "jamba",
    "kimi_linear",
    "lfm2_moe",
    "llama4_text",
    "mamba2",
    "minicpm3",
    "minimax",
    "mixtral",
    "modernbert-decoder",
    "nemotron_h",
    "phi3",
    "phimoe",
    "qwen3_5_text",
    "rwkv",
]
WITHOUT_ATTENTION = {"falcon_mamba", "mamba2"}
WITHOUT_CACHE = {"minimax", "rwkv"}
WITHOUT_PADDING = {"rwkv"}
PAGE = Path(__file__).parents[2] / "docs" / "reference" / "language-model-families.md"

pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")  # by peft


@pytest.mark.parametrize("family", CHECKED)
def test_a_family(family: str) -> None:
    found = check_family(family)
    assert found.log_probs < 2e-5
    assert found.gradients < 1e-4
    assert found.greedy == 1
    assert (found.lora is None) == (family in WITHOUT_ATTENTION)
    assert found.lora is None or found.lora < 5e-5
    assert found.checkpointing is not None
    assert found.checkpointing < 1e-5
    assert found.bfloat16 < 0.2
    assert found.fuses_head
    assert found.caches == (family not in WITHOUT_CACHE)
    assert found.pads == (family not in WITHOUT_PADDING)


def test_the_page_has_all_families_of_the_table() -> None:
    rows = [line.split("|")[1].strip().strip("`") for line in PAGE.read_text().splitlines() if line.startswith("| `")]
    assert rows == list(FAMILIES)
    assert len(FAMILIES) >= 60
