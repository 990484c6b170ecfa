"""Declare commands: their arguments and options, and the implementation and completion in `loom.commands`, imported when
needed."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from functools import wraps
from importlib import import_module
from typing import Any, get_type_hints

import typer
from typer.models import ArgumentInfo, OptionInfo


def option(usage: str, help: str, complete: str = "", **more: Any) -> OptionInfo:
    """Declare an option. `usage`: its names and that of its value (`--output -o FILE`); `complete`: see `_completion`."""
    words = usage.split(" ")
    names = [word for word in words if word.startswith("-")]
    metavar = " ".join(words[len(names) :]) or None
    found: OptionInfo = typer.Option(
        *names, metavar=metavar, help=help, autocompletion=_completion(complete) if complete else None, **more
    )
    return found


def argument(metavar: str, help: str, complete: str = "", **more: Any) -> ArgumentInfo:
    found: ArgumentInfo = typer.Argument(
        metavar=metavar, help=help, autocompletion=_completion(complete) if complete else None, **more
    )
    return found


def done_by(
    module: str, *, ahead: str = "", takes: tuple[type, ...] = ()
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Decorate a command's signature: the function of the same name in `loom.commands.<module>` implements it.

    The module is imported when the command runs. `ahead` (`module:function`) is called before, to start what runs
    meanwhile. The function gets the same arguments by name, and returns the exit code or None for 0. `--json` means
    `--format json` where a command has both: the function then gets only `form`. Of a `context` it gets the object, the
    words of a `command`. `takes`: groups of parameters that the command has besides its own, each a class with a default
    for each annotated name.
    """

    def decorate(signature: Callable[..., None]) -> Callable[..., None]:
        @wraps(signature)
        def command(**given: Any) -> None:
            if "form" in given and given.pop("as_json"):
                given["form"] = "json"
            if (context := given.pop("context", None)) is not None:
                given["command"] = context.obj or []
            if ahead:
                first, _, called = ahead.partition(":")
                getattr(import_module(first), called)()
            function = getattr(import_module(f"loom.commands.{module}"), signature.__name__)
            raise SystemExit(function(**given) or 0)

        own = inspect.signature(signature, eval_str=True).parameters.values()
        shared = (parameter for group in takes for parameter in _parameters(group))
        vars(command)["module"] = module
        vars(command)["__signature__"] = inspect.Signature([*shared, *own])
        return command

    return decorate


def _parameters(group: type) -> Iterator[inspect.Parameter]:
    for name, annotation in get_type_hints(group, include_extras=True).items():
        kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
        yield inspect.Parameter(name, kind, default=getattr(group, name), annotation=annotation)


def _completion(what: str) -> Callable[[typer.Context, str], list[Any]]:
    """Complete with `what`: a kind of `commands.completion`, or `setting:NAME` for a setting's values."""

    def complete(context: typer.Context, incomplete: str) -> list[Any]:
        found: list[Any] = import_module("loom.commands.completion").complete(what, context.params)
        return found

    return complete
