"""The example of an inference engine trains by servers, and starts one where it is asked to."""

from __future__ import annotations

from pathlib import Path

import pytest
import tyro
from engine_server import EngineServer
from transformers import AutoModelForCausalLM, AutoTokenizer

import engine
from arithmetic import make_model
from grpo_adapters.huggingface import character_tokenizer

SMALLER = ("--steps", "2", "--prompts", "4")


@pytest.fixture
def server(tmp_path: Path) -> EngineServer:
    """One of the model that the run begins with, which nobody has shown any sum."""
    start = tmp_path / "outputs" / "engine" / "start-0"
    tokenizer = character_tokenizer("0123456789+=")
    make_model(tokenizer, **engine.MODEL).save_pretrained(start)
    tokenizer.save_pretrained(start)
    model = AutoModelForCausalLM.from_pretrained(start)
    return EngineServer(model, AutoTokenizer.from_pretrained(start), max_length=16)


def run(folder: Path, monkeypatch: pytest.MonkeyPatch, *options: str) -> None:
    monkeypatch.chdir(folder)
    engine.main(tyro.cli(engine.Options, args=[*SMALLER, *options]))


def test_it_trains_by_several_servers(
    server: EngineServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with server, EngineServer(server.initial, server.tokenizer, max_length=16) as other:
        run(tmp_path, monkeypatch, "--url", server.url, other.url)
        for own in (server, other):
            assert own.requests("/collective_rpc")
            assert len(own.requests("/v1/completions")) >= 3
    assert "right answers to held-out problems" in capsys.readouterr().out


def test_it_starts_a_server_and_ends_it(server: EngineServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The command that it starts takes note of how it was called; the small server answers in its place."""
    command, called, ended = (tmp_path / name for name in ("vllm", "called", "ended"))
    command.write_text(
        f'#!/bin/sh\ntrap "touch {ended}; exit" TERM\necho "$VLLM_SERVER_DEV_MODE $@" > {called}\n'
        "while true; do sleep 0.05; done\n"
    )
    command.chmod(0o755)
    with server:
        run(tmp_path, monkeypatch, "--url", server.url, "--serve", str(command))
    told = called.read_text()
    assert told.startswith("1 serve outputs/engine/start-0 --host 127.0.0.1 --port ")
    assert f" {server.port} " in told
    assert ended.exists()


def test_it_is_short() -> None:
    assert len(Path(engine.__file__).read_text().splitlines()) <= 120
