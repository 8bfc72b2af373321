"""Environments of SkyRL-Gym, as the package has them."""

from __future__ import annotations

from typing import Any

import skyrl_gym
from chat_families import QWEN3, read, talk

from grpo_adapters.huggingface import AgentSampler, skyrl_environment


def row(answer: str) -> dict[str, Any]:
    about = {"reward_spec": {"method": "rule", "ground_truth": answer}, "max_turns": 3, "extra_info": {}}
    return {"prompt": [{"role": "user", "content": "2 + 3?"}], **about}


def test_sums_in_several_turns() -> None:
    sampler = AgentSampler(skyrl_environment(lambda state: skyrl_gym.make("gsm8k_multi_turn", extras=state)))
    right, other = talk(sampler, "No idea", "#### 5", "#### 6", states=[row("5"), row("6")])
    assert (len(right.turns), right.ended) == (2, True)
    assert right.turns[1].reward == 1.0
    assert other.reward > 1.0
    assert len(other.turns) == 3
    assert "#### ANSWER" in read(QWEN3, right.turns[1].context)
