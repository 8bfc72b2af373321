"""What tells whether a run goes on with what it was begun with."""

from __future__ import annotations

import json
from enum import Enum
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from models import Quiet
from pydantic import BaseModel, ConfigDict
from torch import Tensor, nn, tensor

from grpo import (
    CheckpointError,
    Checkpoints,
    DynamicSampling,
    GroupRelative,
    GRPOConfig,
    GRPOTrainer,
    MonteCarlo,
    Run,
    TrainerConfig,
    Until,
)
from grpo.data._settings import settings_of
from grpo_adapters.bandit import SoftmaxPolicy


class Inner(BaseModel):
    """Settings within others."""

    number: int = 1


class Kind(Enum):
    """Members that stand for objects whose text tells where they lie in memory."""

    FIRST = object()


class Rewarding(BaseModel, Quiet):
    """A reward model whose settings pydantic checks."""

    def compute_rewards(self, states: Any, actions: Any) -> Tensor:
        return tensor([float(action) for action in actions])


class Counting(Rewarding):
    """It notes what it did in fields."""

    num_calls: int = 0
    history: list[float] = []

    def compute_rewards(self, states: Any, actions: Any) -> Tensor:
        rewards = super().compute_rewards(states, actions)
        self.num_calls += 1
        self.history.extend(rewards.tolist())
        return rewards


class OfAClass(Rewarding):
    """A setting of it is a class of settings."""

    model_config = ConfigDict(frozen=True)

    kind: type[BaseModel] = Inner


class Delegating(Quiet):
    """What it has not itself it asks another object for."""

    def __init__(self) -> None:
        self.inner = Inner()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.__dict__["inner"], name)

    def compute_rewards(self, states: Any, actions: Any) -> Tensor:
        return tensor([float(action) for action in actions])


class Linked(Rewarding):
    """A setting of it leads back to itself."""

    other: Any = None


def linked() -> Linked:
    first = Linked()
    first.other = Linked(other=first)
    return first


@pytest.mark.parametrize("make", [Counting, OfAClass, Delegating, linked])
def test_a_run_goes_on_whatever_its_reward_model_is_made_of(make: Any, tmp_path: Path) -> None:
    def run() -> Run:
        trainer = GRPOTrainer(GRPOConfig(group_size=4), SoftmaxPolicy(3), make())
        return Run(trainer, ["state"], folder=tmp_path, checkpoints=Checkpoints(every=2))

    run()(Until(steps=2))
    assert run().resume()


class Cooler(SoftmaxPolicy):
    """A policy that tells a setting, which no tensor of it shows."""

    def __init__(self, temperature: float) -> None:
        super().__init__(3)
        self.temperature = temperature

    def get_settings(self) -> dict[str, Any]:
        return {"temperature": self.temperature}


def cooled(folder: Path, temperature: float) -> Run:
    trainer = GRPOTrainer(GRPOConfig(group_size=4), Cooler(temperature), Rewarding())
    return Run(trainer, ["state"], folder=folder, checkpoints=Checkpoints(every=2))


def test_what_a_policy_tells_is_written_and_compared(tmp_path: Path) -> None:
    cooled(tmp_path, 1.0)(Until(steps=2))
    assert json.loads((tmp_path / "run.json").read_text())["parts"]["policy.temperature"] == "1.0"
    assert cooled(tmp_path, 1.0).resume()
    with pytest.raises(CheckpointError, match=r"set up otherwise: policy\.temperature .'1\.0' before, '0\.5' now"):
        cooled(tmp_path, 0.5).resume()
    with pytest.warns(UserWarning, match=r"goes on with other settings: policy\.temperature"):
        assert cooled(tmp_path, 0.5).resume(override=True)


def test_what_a_checkpoint_does_not_tell_is_not_compared(tmp_path: Path) -> None:
    with pytest.MonkeyPatch.context() as earlier:
        earlier.delattr(Cooler, "get_settings")
        cooled(tmp_path, 1.0)(Until(steps=2))
    assert cooled(tmp_path, 0.5).resume()


def test_settings_that_are_no_mapping_are_refused() -> None:
    class TellsNumber(Cooler):
        def get_settings(self) -> Any:
            return self.temperature

    with pytest.raises(TypeError, match=r"TellsNumber\.get_settings returned a float, expected a mapping from names"):
        GRPOTrainer(GRPOConfig(), TellsNumber(1.0), Rewarding())


class Settings(BaseModel):
    """Settings that cannot change."""

    model_config = ConfigDict(frozen=True)

    names: frozenset[int] = frozenset()
    by_name: dict[str, set[int]] = {}
    kind: Kind = Kind.FIRST


def test_a_set_has_no_order() -> None:
    first, again = {0, 8}, {8, 0}
    assert repr(first) != repr(again)
    told = [
        settings_of("part", Settings(names=frozenset(each), by_name={"a": each}).model_copy(update={"names": each}))
        for each in (first, again)
    ]
    assert told[0] == told[1]
    assert told[0]["part.by_name"] == "{'a': {0, 8}}"


def test_a_member_of_an_enumeration_is_told_by_its_name() -> None:
    assert settings_of("part", Settings())["part.kind"] == "Kind.FIRST"


def test_a_function_with_some_arguments_given_is_told_by_what_it_is_made_of() -> None:
    told = settings_of("part", partial(round, ndigits=2))
    assert told == {
        "part": "partial",
        "part.func": "round",
        "part.args": "[]",
        "part.keywords": "{'ndigits': 2}",
    }


def test_classes_functions_and_other_objects_are_told_by_name() -> None:
    told = [settings_of("part", each)["part"] for each in (Inner, nn.Linear, linked, len, Delegating(), Inner.copy)]
    assert told == ["Inner", "Linear", "linked", "len", "Delegating", "BaseModel.copy"]


@pytest.mark.parametrize(
    "make",
    [
        GroupRelative,
        lambda function: MonteCarlo(baseline=function),
        lambda function: Until(steps=1, condition=function),
        lambda function: TrainerConfig(dynamic_sampling=DynamicSampling(max_rounds=2, draw_states=function)),
    ],
)
def test_a_function_is_shown_by_its_name(make: Any) -> None:
    assert "=linked" in repr(make(linked))
    assert " at 0x" not in repr(make(linked))
