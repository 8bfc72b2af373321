"""The gallery of examples: run them, draw them, and write their page.

    python docs/example_gallery.py run ppo tictactoe    # or all, which takes hours on one core
    python docs/example_gallery.py draw ppo tictactoe   # from what the runs left in outputs/examples
    python docs/example_gallery.py page                 # the cards, from examples.toml and examples.json

What stands on a card is told in ``docs/examples.toml``; how long an example took, and what it printed of its check, in
``docs/_static/examples/examples.json``, which only ``run`` writes.
"""

from __future__ import annotations

import json
import os
import re
import resource
import shlex
import shutil
import subprocess
import sys
import time
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

DOCS = Path(__file__).parent
ROOT = DOCS.parent
PICTURES = DOCS / "_static" / "examples"
RESULTS = PICTURES / "examples.json"
RUNS = ROOT / "outputs" / "examples"
PAGE = DOCS / "start" / "examples.md"
BEGIN, END = "% written by docs/example_gallery.py page", "% end of what is written"

Card = Mapping[str, Any]


def cards() -> list[Card]:
    """What ``examples.toml`` says of each example, in the order of the page."""
    examples: list[Card] = tomllib.loads((DOCS / "examples.toml").read_text(encoding="utf-8"))["example"]
    return examples


def results() -> dict[str, Any]:
    """What running each example gave, by its name."""
    return {own["name"]: own for own in json.loads(RESULTS.read_text(encoding="utf-8"))} if RESULTS.exists() else {}


def run(card: Card) -> None:
    """Run an example in a folder of its own, and note how long it took, and what it told of its check."""
    folder = RUNS / card["name"]
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    command = card.get("measured", card["command"])
    program, *arguments = shlex.split(command)
    programs = {"python": [sys.executable], "torchrun": [sys.executable, "-m", "torch.distributed.run"]}
    paths = [
        str(ROOT / argument) if argument.startswith(("examples/", "docs/")) else argument for argument in arguments
    ]
    clock = processor_seconds if ends_with_its_processes(card) else time.monotonic
    before = clock()
    finished = subprocess.run(  # noqa: S603
        [*programs[program], *paths],
        cwd=folder,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    seconds = clock() - before
    (folder / "printed.txt").write_text(finished.stdout, encoding="utf-8")
    checked = [line.strip() for line in finished.stdout.splitlines() if re.search(card["told"], line)]
    if not checked:
        raise SystemExit(f"{card['name']} printed nothing that matches {card['told']!r}:\n{finished.stdout}")
    entry = {"name": card["name"], "command": command, "seconds": round(seconds, 1), "checked": checked}
    told = results() | {card["name"]: entry}
    RESULTS.write_text(json.dumps([told[name] for name in sorted(told)], indent=1, ensure_ascii=False) + "\n", "utf-8")
    print(f"{card['name']}: {seconds:.0f} s", *checked, sep="\n  ", flush=True)


def ends_with_its_processes(card: Card) -> bool:
    """Whether all that an example starts ends with it, and not in a service beside it, as Ray's workers do."""
    return not card.get("has_services", False)


def processor_seconds() -> float:
    """What all processes that ended before took of a core; other programs on the machine hardly change it."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def draw(card: Card) -> None:
    """The picture of an example, where it does not make its own."""
    from example_pictures import PICTURES as DRAWINGS  # which imports the examples

    if card["name"] in DRAWINGS:
        figure: Any = DRAWINGS[card["name"]](RUNS / card["name"]).get_figure()
        figure.savefig(PICTURES / f"{card['name']}.svg", metadata={"Date": None})


def write_page() -> None:
    """Put the cards in their place on the page."""
    before, _, rest = PAGE.read_text(encoding="utf-8").partition(BEGIN)
    _, _, after = rest.partition(END)
    PAGE.write_text(f"{before}{BEGIN}\n\n{all_cards()}\n\n{END}{after}", encoding="utf-8")


def all_cards() -> str:
    """The cards, by domain."""
    told = results()
    domains = dict.fromkeys(card["domain"] for card in cards())
    parts = []
    for domain in domains:
        own = (card_text(card, told.get(card["name"])) for card in cards() if card["domain"] == domain)
        parts.append("\n\n".join([f"## {domain}", "::::{container} examples", *own, "::::"]))
    return "\n\n".join(parts)


def card_text(card: Card, told: Mapping[str, Any] | None) -> str:
    """One card: picture, what is learnt, what checks it, command, time, and what was printed, where it was run."""
    lines = [f"**{card['title']}**", card["shows"], f"*Check:* {card['check']}"]
    if told is not None:
        lines.insert(0, f"![{card['alt']}](../_static/examples/{card['name']}.svg)")
        short = "" if told["command"] == card["command"] else f" All of this is of `{told['command']}`."
        of_what = " of a core" if ends_with_its_processes(card) else " on two cores"
        taken = f"*Time:* about {duration(told['seconds'])}{of_what}."
        lines.append(f"*Picture:* {card['picture']} {taken}{short}")
    lines.append(f"```console\n$ {card['command']}\n```")
    if told is not None:
        printed = "```text\n" + "\n".join(told["checked"]) + "\n```"
        lines += ["<details><summary>What it printed of its check</summary>", printed, "</details>"]
    return "\n\n".join([":::{container} example", *lines, ":::"])


def duration(seconds: float) -> str:
    """To two digits: 40 s, 3 min."""
    if seconds >= 100:
        return f"{seconds / 60:.0f} min"
    return f"{seconds:.0f} s" if seconds < 10 else f"{round(seconds, -1 if seconds >= 20 else 0):.0f} s"


def main(arguments: Sequence[str]) -> None:
    """Do as the first argument says, with the examples that the others name, or all."""
    [task, *names] = arguments
    if task == "page":
        return write_page()
    for card in cards():
        if not names or card["name"] in names:
            {"run": run, "draw": draw}[task](card)
    return None


if __name__ == "__main__":
    main(sys.argv[1:])
