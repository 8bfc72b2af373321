"""The command ``anygrpo``: trains, resumes, evaluates, draws and shows runs, and begins projects."""

try:
    import matplotlib as _matplotlib  # noqa: F401
    import rich as _rich  # noqa: F401
    import tyro as _tyro  # noqa: F401
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(f"the command anygrpo needs {error.name}: pip install 'anygrpo[cli]'") from error

from grpo_adapters.cli.command import main

__all__ = ["main"]
