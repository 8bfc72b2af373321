"""Python functions that a language model may call."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from pydantic import PydanticSchemaGenerationError, PydanticUndefinedAnnotation, ValidationError, validate_call
from transformers.utils.chat_template_utils import DocstringParsingException, TypeHintParsingException, get_json_schema

from grpo_adapters.huggingface.event_loop import called, is_async


class ToolCallError(Exception):
    """A call that the model made and that went wrong; it reads the message."""


class Tool:
    """A function as a model sees it: by a name and a schema, which its signature and its docstring give.

    Args:
        function: with an annotation for each parameter, and a docstring that describes it and, under ``Args:``, each
            parameter. It may be ``async``.

    Raises:
        TypeError: if it is no function, or annotations or descriptions are missing.

    Example:
        >>> def add(first: int, second: int) -> int:
        ...     '''Add two numbers.
        ...
        ...     Args:
        ...         first: one number.
        ...         second: the other.
        ...     '''
        ...     return first + second
        >>> tool = Tool(add)
        >>> tool.name, sorted(tool.schema["function"]["parameters"]["properties"])
        ('add', ['first', 'second'])
    """

    def __init__(self, function: Callable[..., Any]) -> None:
        name = getattr(function, "__name__", None)
        if not callable(function) or not isinstance(name, str):
            raise TypeError(f"tool {function!r:.100} is no function with a name, expected def name(argument: type)")
        self.name = name
        try:
            self.schema: dict[str, Any] = get_json_schema(function)
            self._function = validate_call(function)
        except (DocstringParsingException, TypeHintParsingException) as error:
            raise TypeError(
                f"tool {name} does not tell what it is for: {error}; a tool has an annotation for each parameter, and "
                f"a docstring that describes it and, under 'Args:', each parameter"
            ) from error
        except (PydanticSchemaGenerationError, PydanticUndefinedAnnotation, NameError) as error:
            raise TypeError(f"tool {name} has annotations that arguments cannot be checked by: {error}") from error
        self.is_async = is_async(function)
        self._title = getattr(function, "__qualname__", name)  # of errors about its arguments

    async def call(self, arguments: Any, *, timeout: float) -> str:
        """What the function makes of arguments by name, None for no argument, as text.

        Raises:
            ToolCallError: if the arguments do not fit, or the function raises, takes longer than ``timeout`` seconds,
                or returns what cannot be written as text.
        """
        arguments = {} if arguments is None else arguments
        if not isinstance(arguments, Mapping) or not all(isinstance(name, str) for name in arguments):
            raise ToolCallError(f"{self.name} takes arguments by name, as a JSON object, not {arguments!r:.100}")
        try:
            returned = await called(self._function, timeout=timeout, named=arguments)
        except ValidationError as error:
            if error.title != self._title:
                raise ToolCallError(f"{self.name} raised {type(error).__name__}: {error}") from error
            problems = "; ".join(_problem(each) for each in error.errors())
            raise ToolCallError(f"{self.name} was called with wrong arguments: {problems}") from error
        except TimeoutError as error:
            raise ToolCallError(f"{self.name} took longer than {timeout:g} seconds") from error
        except Exception as error:
            raise ToolCallError(f"{self.name} raised {type(error).__name__}: {error}") from error
        return self._as_text(returned)

    def _as_text(self, returned: Any) -> str:
        try:
            text = returned if isinstance(returned, str) else json.dumps(returned, ensure_ascii=False)
            text.encode()  # half of a character is none
            return text
        except (TypeError, ValueError, RecursionError) as error:
            raise ToolCallError(
                f"{self.name} returned a {type(returned).__name__}, which cannot be written as text"
            ) from error


def tools_by_name(functions: Iterable[Callable[..., Any] | Tool]) -> dict[str, Tool]:
    """Tools of these functions.

    Raises:
        TypeError: if one cannot be a tool, or they are no list.
        ValueError: if two have the same name.
    """
    if not isinstance(functions, Iterable):
        raise TypeError(f"tools is {functions!r:.100}, expected a list of functions")
    tools: dict[str, Tool] = {}
    for function in functions:
        tool = function if isinstance(function, Tool) else Tool(function)
        if tool.name in tools:
            raise ValueError(f"two tools have the name {tool.name!r}, by which a model calls them: rename one")
        tools[tool.name] = tool
    return tools


def _problem(error: Mapping[str, Any]) -> str:
    place = ".".join(str(part) for part in error["loc"])
    return f"{place}: {error['msg']}"
