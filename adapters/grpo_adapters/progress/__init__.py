"""How a run is getting on, on the screen while it goes on: in a terminal, in a notebook, or as lines of a log."""

try:
    import rich as _rich  # noqa: F401
except ModuleNotFoundError as error:
    raise ModuleNotFoundError("grpo_adapters.progress needs rich: pip install 'anygrpo[cli]'") from error

from grpo_adapters.progress.curve import Curve, sparkline
from grpo_adapters.progress.progress import Progress

__all__ = ["Curve", "Progress", "sparkline"]
