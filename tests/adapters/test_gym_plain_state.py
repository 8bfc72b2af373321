"""Any objects as plain data and back: they go on as if nothing had happened, or are refused."""

from __future__ import annotations

import enum
import functools
import io
import random
import threading
import types
import weakref
from collections import Counter, OrderedDict, defaultdict, deque, namedtuple
from collections.abc import Callable
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces
from state_laws import are_same, check_goes_on
from torch import nn

from grpo_adapters.gym import GymPolicy
from grpo_adapters.gym.plain_state import NotPlainError, put_state, take_state

Point = namedtuple("Point", "x y")


class Colour(enum.Enum):
    RED = 1
    BLUE = "blue"


class Rights(enum.Flag):
    READ = 1
    WRITE = 2


@dataclass(frozen=True)
class Position:
    x: int
    y: int


START = Position(0, 0)
TABLE = np.zeros(3)


@dataclass
class Player:
    name: str
    cards: list[int] = field(default_factory=list)


class Slotted:
    __slots__ = ("__dict__", "left", "right")

    def __init__(self) -> None:
        self.left: Any = None


class Names(list[str]):
    def __init__(self, owner: Any) -> None:
        super().__init__()
        self.owner = owner


class World:
    """Holds one of everything, and changes everything in each step; ``step`` tells what can be seen of it."""

    def __init__(self) -> None:
        self.count = 0
        self.generators = [np.random.default_rng(0), np.random.Generator(np.random.MT19937(1))]
        self.legacy, self.standard = np.random.RandomState(2), random.Random(3)
        self.torch_generator = torch.Generator().manual_seed(4)
        self.position, self.table = START, TABLE
        self.grid = np.zeros((3, 4))
        self.rows: list[Any] = []
        self.players: list[Player] = []
        self.turn: Any = None
        self.strategy = self.first
        self.draw = self.standard.random
        self.network = nn.LSTM(2, 2)
        self.weight: Any = self.network.weight_hh_l0
        self.seen: dict[Any, Any] = {}
        self.others: list[Any] = []
        self.space = spaces.Dict(a=spaces.Box(0, 1, (2,), seed=1), b=spaces.Discrete(9, seed=2))
        self.me = self

    def first(self) -> str:
        self.strategy = self.second
        return "first"

    def second(self) -> str:
        self.strategy = self.first
        return "second"

    def step(self) -> Any:
        self.count += 1
        number = int(self.generators[0].integers(1000))
        self._move(number)
        self._gather(number)
        with torch.no_grad():
            self.weight.add_(number)
        drawn = [number, *(float(generator.random()) for generator in (self.generators[1], self.standard))]
        drawn += [float(self.legacy.rand()), float(torch.rand((), generator=self.torch_generator)), self.draw()]
        return [self.strategy(), drawn, self.grid.tolist(), self.table.tolist(), self.seen_of_others()]

    def _move(self, number: int) -> None:
        self.position = Position(self.position.x + number, self.count)
        self.table = self.table + number
        self.grid = self.grid.copy()
        self.rows = [self.grid[1], self.grid[:, 2], self.grid]
        self.rows[0][:] += number
        self.rows[1][:] *= 2
        self.turn = Player(str(number))
        self.players = [*self.players[-2:], self.turn]
        self.turn.cards.append(number)
        self.players[0].cards.append(-number)

    def _gather(self, number: int) -> None:
        slotted, names = Slotted(), Names(self)
        slotted.left, slotted.more = self.players, number  # type: ignore[attr-defined]
        names.append(str(number))
        objects = np.empty((1, 2), dtype=object)
        objects[0] = [self.turn, None]
        queue = deque([number, slotted], maxlen=2)
        groups: Any = defaultdict(list, {number: [queue]})
        ordered = OrderedDict.fromkeys("abc")
        ordered.move_to_end("a")
        self.seen = {(number, "tuple"): frozenset({number}), None: {number}, b"bytes": range(number)}
        self.others = [
            *(slotted, names, objects, queue, groups, ordered, Counter("hello"), Point(number, self)),
            *(Colour.BLUE, Colour.RED, Rights.READ | Rights.WRITE, np.float32(number), np.datetime64(number, "D")),
            *(
                np.array(["a", str(number)]),
                np.array([b"FS"]),
                np.array(number, dtype=">i2"),
                np.array([[1, number]], dtype=np.float16),
            ),
            *(complex(1, number), slice(number), Path("a") / str(number), Fraction(1, 1 + number), bytearray(b"ab")),
            *(types.SimpleNamespace(turn=self.turn), functools.partial(max, number), weakref.ref(self.network)),
            *(
                torch.tensor([number]),
                nn.Parameter(torch.tensor([1.0 * number])),
                torch.float16,
                7 ** (100 * self.count),
            ),
            *(
                np.dtype("int8"),
                np.array([number], dtype=np.uint16),
                np.array([], dtype="S1"),
                np.longdouble(number),
                np.bool_(True),
            ),
        ]

    def seen_of_others(self) -> Any:
        slotted, names, objects, queue, groups, ordered = self.others[:6]
        point, network, namespace = self.others[7], self.others[24](), self.others[22]
        assert point.y is self.me is names.owner is self
        assert network is self.network
        assert slotted.left is self.players
        assert objects[0, 0] is namespace.turn is self.turn is self.players[-1]
        assert next(iter(groups.values()))[0] is queue
        assert groups["new"] == []
        del groups["new"]
        shown = [repr(other) for other in (*self.others[5:7], *self.others[8:22], *self.others[25:])]
        types_seen = [type(other).__qualname__ for other in self.others]
        return [
            shown,
            types_seen,
            self.position,
            self.players,
            self.seen,
            list(ordered),
            point.x,
            slotted.more,
            names[:],
        ]

    def state_dict(self) -> dict[str, Any]:
        return take_state(self)

    def load_state_dict(self, state: Any) -> None:
        put_state(state, self)


class Plain(World):
    """Without the methods that would be used instead of looking into it."""

    state_dict = load_state_dict = None  # type: ignore[assignment]


class Steps:
    def __init__(self) -> None:
        self.world = Plain()

    def step(self) -> Any:
        return [self.world.step(), self.world.space.sample()["b"].item(), self.world.generators[0].spawn(1)[0].random()]

    def state_dict(self) -> dict[str, Any]:
        return take_state(self.world)

    def load_state_dict(self, state: Any) -> None:
        put_state(state, self.world)


def test_everything_goes_on() -> None:
    check_goes_on(Steps, num_before=3, num_after=3)


@pytest.mark.parametrize("num_before", [0, 1])
def test_everything_goes_on_from_its_beginning(num_before: int) -> None:
    steps = Steps()
    for _ in range(num_before):
        steps.step()
    state = steps.state_dict()
    expected = [steps.step() for _ in range(3)]
    for other in (Steps(), steps, steps):
        other.load_state_dict(state)
        assert repr([other.step() for _ in range(3)]) == repr(expected)


def test_what_fresh_objects_began_with_is_left_alone() -> None:
    """A module's constants, which attributes are bound to at first, are no place to load into."""
    steps, fresh = Steps(), Steps()
    steps.step()
    fresh.load_state_dict(steps.state_dict())
    assert fresh.world.position == steps.world.position != START == Position(0, 0)
    assert TABLE.tolist() == [0, 0, 0] != fresh.world.table.tolist()


def test_what_has_an_identity_stays_the_same_object() -> None:
    steps, fresh = Steps(), Steps()
    weight, generator = fresh.world.weight, fresh.world.standard
    steps.step()
    fresh.load_state_dict(steps.state_dict())
    assert fresh.world.weight is fresh.world.network.weight_hh_l0 is weight
    assert are_same(weight, steps.world.weight)
    assert fresh.world.standard is generator
    assert fresh.world.draw.__self__ is generator  # type: ignore[attr-defined]


def test_a_pool_of_frozen_policies_that_has_grown() -> None:
    """What a fresh one has none of is made anew from classes that it knows, or of its own modules."""

    class Pool:
        def __init__(self) -> None:
            self.policy = GymPolicy(gymnasium.make("CartPole-v1"), hidden_sizes=(4,))
            self.frozen: list[GymPolicy] = []

    pool, fresh = Pool(), Pool()
    for seed in (1, 2):
        pool.frozen.append(GymPolicy(gymnasium.make("CartPole-v1"), hidden_sizes=(4,), seed=seed).eval())
    put_state(take_state(pool), fresh)
    observations = np.ones((5, 4), dtype=np.float32)
    for one, other in zip(pool.frozen, fresh.frozen, strict=True):
        assert are_same(one.get_parameters(), other.get_parameters())
        drawn = [policy.predict(observations, deterministic=False).tolist() for policy in (one, other)]
        assert drawn[0] == drawn[1]
        assert not other.training


def holding(**attributes: Any) -> types.SimpleNamespace:
    return types.SimpleNamespace(**attributes)


def shared() -> Any:
    array = np.zeros(4)
    return holding(a=array, b=torch.from_numpy(array))


def cyclic() -> Any:
    inner: list[Any] = []
    inner.append((inner, 1))
    return holding(a=inner[0])


REFUSED: list[tuple[Callable[[], Any], str]] = [
    (lambda: holding(lock=threading.Lock()), r"SimpleNamespace\.lock is a lock"),
    (lambda: holding(a=[holding(b={"c": iter([])})]), r"SimpleNamespace\.a\[0\]\.b\['c'\] is a list_iterator"),
    (lambda: holding(thread=threading.Thread()), r"\.thread\..* is a (lock|_thread\.lock)"),
    (lambda: holding(file=io.StringIO()), r"\.file is a StringIO"),
    (lambda: holding(error=ValueError()), r"\.error is a ValueError"),
    (lambda: holding(go=(i for i in range(3))), r"\.go is a generator"),
    (lambda: holding(a=np.zeros(2, dtype=[("x", "i4")])), r"\.a is a ndarray of dtype \[\('x'"),
    (lambda: holding(a=np.ma.array([1])), r"\.a is a MaskedArray"),
    (lambda: holding(a=torch.ones(2, requires_grad=True) * 2), "which gradients flow back from"),
    (lambda: holding(a=torch.ones(2).to_sparse()), r"\.a is a tensor which is sparse"),
    (shared, r"\.b shares memory with SimpleNamespace\.a in a way that would be lost"),
    (cyclic, r"is a tuple that holds itself"),
]


@pytest.mark.parametrize(("make", "message"), REFUSED)
def test_what_is_no_data_is_refused(make: Callable[[], Any], message: str) -> None:
    with pytest.raises(NotPlainError, match=message):
        take_state(make())


def test_objects_that_are_nested_too_deeply() -> None:
    nested: Any = None
    for _ in range(3000):
        nested = [nested]
    with pytest.raises(NotPlainError, match="too deeply"):
        take_state(holding(nested=nested))


class Environment:
    def __init__(self, held: Any = None, function: Any = None) -> None:
        self.held, self.function, self.number = held, function, 0


class Closes:
    def __del__(self) -> None:
        raise AssertionError("was made of a file")


def test_what_cannot_be_put_back_changes_nothing() -> None:
    local = type("Local", (), {})
    states = [
        (take_state(Environment(held=local())), "which is not defined beside its classes: give it one before"),
        (take_state(Environment(function=io.BytesIO.read)), r"the state refers to .*, which the object .* not hold"),
        (take_state(Environment(held=spaces.Discrete(7))), r"the state refers to space Discrete\(7\)"),
        (take_state(Player("a")), "is not one of a Environment"),
        ({"nodes": [], "root": {"ref": 3}}, r"cannot be read \(IndexError"),
    ]
    for module in ("threading:Thread", "subprocess:Popen", "torch.optim:Adam", "builtins:object", "nowhere:Thing"):
        state = take_state(Environment(held=holding()))
        state["nodes"][1]["class"] = module
        states.append((state, f"the state holds a {module}"))
    closes = take_state(Environment(held=holding()))
    closes["nodes"][1]["class"] = f"{__name__}:Closes"
    states.append((closes, "a Closes cannot be made anew"))
    for state, message in states:
        target = Environment()
        before = dict(vars(target))
        with pytest.raises(ValueError, match=message):
            put_state(state, target)
        assert vars(target) == before


def test_a_function_that_was_exchanged_is_found_where_the_object_holds_it() -> None:
    one, other = Environment([len, max], len), Environment([len, max], len)
    one.function = max
    put_state(take_state(one), other)
    assert other.function is max
