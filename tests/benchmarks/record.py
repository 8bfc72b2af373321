"""Run benchmarks, and keep what they printed in the files that the site's tables and plots are made from.

``record.py NAME`` runs the commands of ``docs/measured/data/NAME.json`` again and writes what was printed, the figures
in it and the date there, and the page ``docs/measured/raw/NAME.md`` from it. Without a name all are run, which takes a
day and the environments of the Makefile. For a new benchmark write a file with a title, runs with a command each, and,
where a command prints no JSON last, a pattern of what is a figure; ``labels`` of a run are told with its figures.
"""

from __future__ import annotations

import argparse
import datetime
import importlib.metadata
import json
import os
import platform
import re
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
DATA = ROOT / "docs" / "measured" / "data"
RAW = ROOT / "docs" / "measured" / "raw"


def main(names: Sequence[str], printed: Path | None) -> None:
    """Record these benchmarks, or all.

    Args:
        names: of files in ``docs/measured/data``, without their ending.
        printed: what the one benchmark has printed already; it is not run then.
    """
    if printed is not None and len(names) != 1:
        raise SystemExit(f"--printed is the output of one benchmark, got the names {names}: give one")
    for name in names or [path.stem for path in sorted(DATA.glob("*.json"))]:
        path = DATA / f"{name}.json"
        told = json.loads(path.read_text(encoding="utf-8"))
        if printed is None:
            outputs = [output_of(run["command"]) for run in told["runs"]]
        else:
            outputs = [printed.read_text(encoding="utf-8")]
        write(path, recorded(told, outputs))


def output_of(command: str) -> str:
    """What a command prints, also shown while it runs.

    Raises:
        SystemExit: if it fails.
    """
    print(f"$ {command}", flush=True)
    lines = []
    with subprocess.Popen(
        command, shell=True, cwd=ROOT, stdout=subprocess.PIPE, text=True, encoding="utf-8"
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            print(line, end="", flush=True)
            lines.append(line)
    if process.returncode:
        raise SystemExit(f"{command} ended with status {process.returncode}: nothing was recorded")
    return "".join(lines)


def recorded(told: dict[str, Any], outputs: Sequence[str]) -> dict[str, Any]:
    """The benchmark with what its commands printed now."""
    runs = []
    for run, output in zip(told["runs"], outputs, strict=True):
        lines = output.rstrip().splitlines()
        found = figures(lines, told.get("pattern"))
        if "labels" in run:
            found = [run["labels"] | each for each in found]
        runs.append({**run, "figures": found, "output": lines})
    kept = {key: value for key, value in told.items() if key not in ("measured", "machine", "note", "runs")}
    return {**kept, "measured": datetime.date.today().isoformat(), "machine": machine(), "runs": runs}


def figures(lines: Sequence[str], pattern: str | None = None) -> Any:
    """The object of JSON on the last line or, with a pattern, the named groups of each place that fits.

    Raises:
        SystemExit: if there is neither.

    >>> figures(["a 1.5 s", '{"ratio": 2.0}'])
    {'ratio': 2.0}
    >>> figures(["GRPO 1,531", "UCB1 10,867"], r"(?P<strategy>\\w+) (?P<regret>[\\d,]+)")
    [{'strategy': 'GRPO', 'regret': 1531.0}, {'strategy': 'UCB1', 'regret': 10867.0}]
    """
    if pattern is None:
        try:
            return json.loads(lines[-1])
        except (IndexError, json.JSONDecodeError):
            raise SystemExit("the last line is no JSON: print an object of figures last, or give a pattern") from None
    found = [match.groupdict() for match in re.finditer(pattern, "\n".join(lines), re.MULTILINE)]
    if not found:
        raise SystemExit(f"the pattern {pattern!r} fits nothing that was printed")
    return [{key: number(value) for key, value in each.items()} for each in found]


def number(text: str) -> float | str:
    """A number as such, other words as they are."""
    try:
        return float(text.replace(",", ""))
    except ValueError:
        return text


def machine() -> str:
    """Of what kind this one is."""
    python = ".".join(platform.python_version_tuple()[:2])
    torch = importlib.metadata.version("torch").partition("+")[0]
    devices = "a GPU" if Path("/dev/nvidia0").exists() else "no GPU"
    return (
        f"{os.cpu_count()} cores of a shared {platform.machine()} server, {devices}, Python {python}, PyTorch {torch}"
    )


def write(path: Path, told: dict[str, Any]) -> None:
    """Write the file of a benchmark, and its page."""
    path.write_text(json.dumps(told, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    (RAW / f"{path.stem}.md").write_text(page(told), encoding="utf-8")


def page(told: dict[str, Any]) -> str:
    """What was printed, as a page of the site."""
    parts = [f"# {told['title']}", f"Measured {told['measured']}: {told['machine']}."]
    if "note" in told:
        parts.append(told["note"])
    for run in told["runs"]:
        parts.append(f"```console\n$ {run['command']}\n```")
        if run["output"]:
            parts.append("\n".join(["```text", *run["output"], "```"]))
    return "\n\n".join(parts) + "\n"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help="files of docs/measured/data without .json; all where none is given")
    parser.add_argument("--printed", type=Path, help="a file with what the benchmark printed, in place of running it")
    given = parser.parse_args()
    main(given.names, given.printed)
