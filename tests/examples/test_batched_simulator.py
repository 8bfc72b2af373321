"""The cart-poles of the example move as gymnasium's do, and what is learnt on them balances gymnasium's."""

from __future__ import annotations

import re
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch

import batched_simulator
from batched_simulator import CartPoles


def test_every_step_is_gymnasium_s() -> None:
    """In double precision, from each start to the end, all at once here and one by one there."""
    environments: list[Any] = [gymnasium.make("CartPole-v1").unwrapped for _ in range(8)]
    starts = [environment.reset(seed=seed)[0] for seed, environment in enumerate(environments)]
    assert np.abs(starts).max() <= 0.05
    poles = CartPoles(8)
    poles.state = torch.tensor(np.array([environment.state for environment in environments]).T)
    generator = torch.Generator().manual_seed(0)
    playing = set(range(8))
    while playing:
        actions = torch.randint(2, (8,), generator=generator)
        _, rewards, terminated, truncated, info = poles.step(actions)
        assert not truncated.any()
        for pole in sorted(playing):
            _, reward, has_fallen, _, _ = environments[pole].step(actions[pole].item())
            assert info["final_obs"][pole].numpy() == pytest.approx(environments[pole].state, abs=1e-12)
            assert rewards[pole].item() == reward
            assert terminated[pole].item() is has_fallen
            playing -= {pole} if has_fallen else set()


def test_episodes_begin_and_end_as_gymnasium_s_do() -> None:
    poles = CartPoles(1000)
    observations, _ = poles.reset(seed=1)
    assert 0.049 < observations.abs().max() <= 0.05
    poles.steps = torch.arange(1000.0) % 500
    before = poles.steps.clone()
    observations, _, terminated, truncated, info = poles.step(torch.ones(1000, dtype=torch.int64))
    assert torch.equal(truncated, before == 499)
    assert not terminated.any()
    assert torch.equal(poles.steps, (before + 1) % 500)
    assert observations[truncated].abs().max() <= 0.05
    assert torch.equal(observations[~truncated], info["final_obs"][~truncated])
    assert (info["final_obs"][truncated, 1] > 0.1).all()  # the push is to be seen in what came before


def test_what_is_learnt_balances_gymnasium_s(capsys: pytest.CaptureFixture[str]) -> None:
    """Here with an eighth of the cart-poles."""
    batched_simulator.main(num_envs=512)
    printed = capsys.readouterr().out
    [mean] = re.findall(r"CartPole-v1: ([\d.]+) ±", printed)
    assert float(mean) > 475
    assert "196,608 steps, " in printed
