"""Environments of OpenEnv, behind a real server and by themselves."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import uvicorn
from chat_families import QWEN3, read, talk
from openenv.core import GenericEnvClient
from openenv.core.env_server import Action, Environment, Observation, State, create_fastapi_app

from grpo_adapters.huggingface import AgentSampler, openenv_environment


class Guessed(Action):
    number: int


class Told(Observation):
    text: str = ""


class GuessTheNumber(Environment[Guessed, Told, State]):
    """Which number from 1 to 9; the seed is the number."""

    SUPPORTS_CONCURRENT_SESSIONS = True
    open_now = 0

    def reset(self, seed: int | None = None, episode_id: str | None = None, **other: Any) -> Told:
        type(self).open_now += 1
        self.number = seed or 1
        return Told(text="Which number?")

    def step(self, action: Guessed, timeout_s: float | None = None, **other: Any) -> Told:
        right = action.number == self.number
        return Told(text="Yes." if right else "No.", reward=float(right), done=right)

    @property
    def state(self) -> State:
        return State()

    def close(self) -> None:
        type(self).open_now -= 1


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    """A server of the environment, for as many sessions as a step has conversations."""
    app = create_fastapi_app(GuessTheNumber, Guessed, Told, max_concurrent_envs=4)
    listening = socket.socket()
    listening.bind(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(app, log_level="warning"))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    yield f"http://127.0.0.1:{listening.getsockname()[1]}"
    server.should_exit = True
    thread.join()


CLIENTS: dict[str, Callable[[str], Any]] = {
    "awaits": GenericEnvClient,
    "blocks": lambda address: GenericEnvClient(address).sync(),
}


@pytest.mark.parametrize("client", CLIENTS)
def test_clients(address: str, client: str) -> None:
    """Twice the sessions that the server allows, one step after the other: each conversation gives its own back."""
    environment = openenv_environment(
        lambda: CLIENTS[client](address), action=lambda message: {"number": int(message["content"])}
    )
    sampler = AgentSampler(environment)
    for _ in range(2):
        first, second, *_ = talk(sampler, "3", "4", states=[{"prompt": "Play. ", "seed": 3}, 4], group_size=2)[::2]
        assert [turn.reward for turn in first.turns] == [1.0]
        assert [turn.reward for turn in second.turns] == [0.0, 1.0]
        assert first.ended
        assert second.ended
    assert '<|im_start|>user\nPlay. {"text": "Which number?"}<|im_end|>' in read(QWEN3, first.turns[0].context)
    assert '<|im_start|>user\n{"text": "No."}<|im_end|>' in read(QWEN3, second.turns[1].context)
    until = time.monotonic() + 10
    while GuessTheNumber.open_now and time.monotonic() < until:  # the server closes a session after its connection
        time.sleep(0.01)
    assert GuessTheNumber.open_now == 0


def test_an_environment_by_itself() -> None:
    environment = openenv_environment(
        GuessTheNumber,
        action=lambda message: Guessed(number=int(message["content"])),
        text=lambda told: told.text,
    )
    [conversation] = talk(AgentSampler(environment), "3", "4", states=[4])
    assert conversation.reward == 1.0
    assert "<|im_start|>user\nNo.<|im_end|>" in read(QWEN3, conversation.turns[1].context)
