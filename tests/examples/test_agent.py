"""The example of agents: games that are held out are not trained on, the expert wins, a short run trains."""

from __future__ import annotations

import asyncio
import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
import tyro

import agent
import agent_start
from adventure_game import ADVENTURE, neighbour
from agent_start import as_conversation, make_policy
from calculator_game import CALCULATOR, calculator
from text_games import NUM_HELD_OUT, Game

every_game = pytest.mark.parametrize("game", [CALCULATOR, ADVENTURE], ids=["calculator", "adventure"])


@every_game
def test_held_out_games_are_not_trained_on(game: Game) -> None:
    for seed in range(2):
        rows, held_out = game.make_rows(seed)
        keys = [json.dumps(row, sort_keys=True) for row in (*rows, *held_out)]
        assert len(held_out) == NUM_HELD_OUT
        assert len(set(keys)) == len(keys)
    assert game.make_rows(0) == game.make_rows(0) != game.make_rows(1)


@every_game
def test_the_expert_wins_within_the_limits_and_is_read_as_a_model_plays(game: Game) -> None:
    """Its conversations are those of a model that says the same: one row."""
    policy = make_policy(game, seed=0)
    for row in game.make_rows(0)[1][:10]:
        messages = asyncio.run(game.solved(row))
        conversation = as_conversation(game, messages, policy.tokenizer)
        assert len(conversation.turns) <= game.max_turns
        assert max(len(turn.completion) for turn in conversation.turns) <= game.longest_turn
        [[played]] = game.sampler().sample(policy, [row], 1)
        assert conversation.turns[0].context == played.turns[0].context
        batch = policy.encode_actions([row], [conversation])
        assert batch.rows.count == 1
        assert policy.tokenizer.unk_token_id not in batch.tokens


def test_the_calculator() -> None:
    assert [calculator(own) for own in ("12+34", "0046*5", "99*99")] == ["0046", "0230", "9801"]
    assert [calculator(own) for own in ("9801*9", "1+", "", "1-1", "1+2+3")] == ["E"] * 5


def test_rooms_have_walls_around_them() -> None:
    assert [neighbour("E", direction) for direction in "nesw"] == ["B", "F", "H", "D"]
    assert [neighbour("A", direction) for direction in "nesw"] == ["A", "B", "D", "A"]
    assert [neighbour("I", direction) for direction in "nesw"] == ["F", "I", "I", "H"]


@pytest.mark.parametrize(("name", "credit"), [("calculator", "turn"), ("adventure", "conversation")])
def test_a_short_run(
    name: Any, credit: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It begins with a model that knows next to nothing; where it is resumed at its end, nothing is left to do."""
    monkeypatch.setattr(agent, "PROMPTS", 2)
    monkeypatch.setattr(agent_start, "NUM_SHOWN", 8)
    monkeypatch.setattr(agent_start, "MOST_STEPS", 1)
    options = agent.Options(game=name, credit=credit, steps=2, folder=tmp_path)
    agent.main(options)
    [folder] = tmp_path.iterdir()
    assert folder.name == f"{name}-{credit}-0"
    assert (folder / "model" / "model.safetensors").is_file()
    agent.main(agent.Options(game=name, credit=credit, steps=2, folder=tmp_path, resume=True))
    metrics = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [own["step"] for own in metrics] == [1, 2]
    assert metrics[0]["conversations/mean_rows"] == 1
    printed = capsys.readouterr().out
    assert printed.count("supervised start: 1 steps") == 1
    assert len(re.findall(r"held-out games won: [\d.]+%", printed)) == 2


def test_a_start_follows_from_its_seed() -> None:
    weights = [make_policy(ADVENTURE, seed).get_parameters()["lm_head.weight"] for seed in (0, 0, 1)]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


def test_help_explains_every_option(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        tyro.cli(agent.Options, description=agent.__doc__, args=["--help"])
    told = " ".join(re.sub(r"[│╭╮╰╯─]", " ", capsys.readouterr().out).split())
    for name in agent.Options.__dataclass_fields__:
        assert re.search(rf"--{name}[ ,][^(]* [A-Za-z]+[^(]*\((default|required)", told), name
