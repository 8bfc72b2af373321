"""What `import grpo` costs beside `import torch`, each in a fresh interpreter, in turns."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys

ROUNDS = 15
SCRIPT = "import time; start = time.perf_counter(); import {module}; print(time.perf_counter() - start)"


def import_seconds(module: str) -> float:
    """Seconds that the import takes in an interpreter of its own."""
    command = [sys.executable, "-c", SCRIPT.format(module=module)]
    return float(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def main() -> None:
    """Print the times, and the ratio last."""
    rounds = [{module: import_seconds(module) for module in ("torch", "grpo")} for _ in range(ROUNDS)]
    seconds = {module: statistics.median(times[module] for times in rounds) for module in rounds[0]}
    for module, value in seconds.items():
        print(f"  import {module:8} {value:.3f} s")
    print(json.dumps({"import_grpo_to_torch": round(seconds["grpo"] / seconds["torch"], 3)}))


if __name__ == "__main__":
    main()
