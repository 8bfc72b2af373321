"""The files for Slurm and Kubernetes are well-formed, and what they start trains, is ended, and goes on."""

from __future__ import annotations

import json
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from cluster.fake_slurm import job_environment

FILES = Path(__file__).parent.parent.parent / "examples" / "cluster"
TRAIN = FILES / "train.py"
TIMEOUT = 240


def manifests() -> list[dict[str, Any]]:
    return list(yaml.safe_load_all((FILES / "train.yaml").read_text()))


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    commands = tmp_path / "commands"
    commands.mkdir()
    return job_environment(commands)


def waited(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + TIMEOUT
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def steps_in(folder: Path) -> list[int]:
    metrics = folder / "metrics.jsonl"
    return [json.loads(line)["step"] for line in metrics.read_text().splitlines()] if metrics.exists() else []


def test_the_batch_script_has_no_fault_that_shellcheck_knows() -> None:
    shellcheck = Path(sys.executable).parent / "shellcheck"
    subprocess.run([str(shellcheck), str(FILES / "train.sbatch")], check=True)


@pytest.mark.parametrize("version", ["1.31", "1.34", kubernetes_validate.latest_version()])
def test_the_manifests_fit_the_schemas_of_kubernetes(version: str) -> None:
    service, job = manifests()
    for manifest in (service, job):
        kubernetes_validate.validate(manifest, version, strict=True)
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(service | {"specs": {}}, version, strict=True)


def test_what_must_agree_in_the_manifests_does() -> None:
    service, job = manifests()
    pod = job["spec"]["template"]["spec"]
    variables = {variable["name"]: variable["value"] for variable in pod["containers"][0]["env"]}
    name = job["metadata"]["name"]
    assert service["spec"]["selector"] == {"job-name": name}
    assert pod["subdomain"] == service["metadata"]["name"]
    assert variables["HEAD"] == f"{name}-0.{pod['subdomain']}"
    assert int(variables["NODES"]) == job["spec"]["completions"] == job["spec"]["parallelism"]
    seconds = re.search(r"--shutdown-timeout (\d+)", pod["containers"][0]["command"][-1])
    assert seconds is not None
    assert int(seconds[1]) < pod["terminationGracePeriodSeconds"]


def test_a_job_that_is_asked_to_end_goes_back_into_the_queue_and_goes_on(
    environment: dict[str, str], tmp_path: Path
) -> None:
    run, notes = tmp_path / "run", tmp_path / "commands" / "notes"
    command = ["bash", str(FILES / "train.sbatch"), str(TRAIN), "--folder", str(run), "--starts", "3"]
    job = subprocess.Popen([*command, "--steps", "100000"], env=environment)
    waited(lambda: len(steps_in(run)) >= 2)
    job.send_signal(signal.SIGUSR1)
    assert job.wait(timeout=TIMEOUT) != 0
    assert notes.read_text() == f"requeue {environment['SLURM_JOB_ID']}"

    notes.unlink()
    [*_, reached] = steps_in(run)
    restarted = environment | {"SLURM_RESTART_COUNT": "1"}
    finished = subprocess.run(
        [*command, "--steps", str(reached + 2)], env=restarted, capture_output=True, text=True, timeout=TIMEOUT
    )
    assert finished.returncode == 0, finished.stderr
    assert f"2 processes, steps {reached} to {reached + 2}" in finished.stdout
    assert steps_in(run) == list(range(1, reached + 3))
    assert not notes.exists()


def test_a_pod_that_is_evicted_is_replaced_and_the_training_goes_on(
    environment: dict[str, str], tmp_path: Path
) -> None:
    """The very command of the pods, but for the port and what is trained."""
    run, steps = tmp_path / "run", 40
    [container] = manifests()[1]["spec"]["template"]["spec"]["containers"]
    variables = {variable["name"]: variable["value"] for variable in container["env"]}
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    training = f"{TRAIN} --folder {run} --starts 2 --steps {steps}"
    *shell, script = container["command"]
    for text, other in {":29500": f":{port}", "train.py --folder /runs/training": training}.items():
        assert text in script
        script = script.replace(text, other)

    def pod(index: int) -> subprocess.Popen[str]:
        here = {"PROCESSES_PER_NODE": "1", "HEAD": "localhost", "JOB_COMPLETION_INDEX": str(index)}
        return subprocess.Popen([*shell, script], env=environment | variables | here, stdout=subprocess.PIPE, text=True)

    first, evicted = pod(0), pod(1)
    waited(lambda: len(steps_in(run)) >= 3)
    evicted.terminate()
    evicted.communicate(timeout=TIMEOUT)
    assert evicted.returncode != 0
    reached = len(steps_in(run))
    assert reached < steps
    replaced = pod(1)
    printed = first.communicate(timeout=TIMEOUT)[0] + replaced.communicate(timeout=TIMEOUT)[0]
    assert [first.returncode, replaced.returncode] == [0, 0]
    assert f"2 processes, steps {reached} to {steps}" in printed
    assert steps_in(run) == list(range(1, steps + 1))
