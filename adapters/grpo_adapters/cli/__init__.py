"""The command ``anygrpo``: trains, resumes, evaluates, draws and shows runs, and begins projects."""

for _name in ("matplotlib", "rich", "tyro"):
    try:
        __import__(_name)
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(f"the command anygrpo needs {_name}: pip install 'anygrpo[cli]'") from error

from grpo_adapters.cli.command import main

__all__ = ["main"]
