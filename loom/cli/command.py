"""Declare commands: their arguments and options, and the implementation and completion in `loom.commands`, imported when
needed."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from functools import wraps
from importlib import import_module
from typing import Any, get_type_hints

import typer


def option(usage: str, help: str, complete: str = "", default: Any = None, **more: Any) -> Any:
    """Declare the option of a parameter, as its default. `usage`: its names and that of its value (`--output -o FILE`).

    `complete`: see `_completion`. A flag without another default is off.
    """
    words = usage.split(" ")
    names = [word for word in words if word.startswith("-")]
    metavar = " ".join(words[len(names) :]) or None
    autocompletion = _completion(complete) if complete else None
    return typer.Option(default, *names, metavar=metavar, help=help, autocompletion=autocompletion, **more)


def argument(metavar: str, help: str, complete: str = "", default: Any = None, **more: Any) -> Any:
    """Declare the argument of a parameter, as its default. Without one, `default=...` says that it has to be given."""
    autocompletion = _completion(complete) if complete else None
    return typer.Argument(default, metavar=metavar, help=help, autocompletion=autocompletion, **more)


def done_by(
    module: str, *, ahead: str = "", takes: tuple[type, ...] = ()
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Decorate a command's signature: the function of the same name in `loom.commands.<module>` implements it.

    The module is imported when the command runs. `ahead` (`module:function`) is called before, to start what runs
    meanwhile. The function gets the same arguments by name, and returns the exit code or None for 0. `--json` means
    `--format json` where a command has both: the function then gets only `form`. Of a `context` it gets the object, the
    words of a `command`. `takes`: groups of parameters that the command has besides its own, each a class with an option for
    each annotated name.
    """

    def decorate(signature: Callable[..., None]) -> Callable[..., None]:
        @wraps(signature)
        def command(**given: Any) -> None:
            if "form" in given and given.pop("as_json", False):
                given["form"] = "json"
            if (context := given.pop("context", None)) is not None:
                given["command"] = context.obj or []
            if ahead:
                first, _, called = ahead.partition(":")
                getattr(import_module(first), called)()
            function = getattr(import_module(f"loom.commands.{module}"), signature.__name__)
            raise SystemExit(function(**given) or 0)

        parameters = [*inspect.signature(signature, eval_str=True).parameters.values()]
        parameters += [parameter for group in takes for parameter in _parameters(group)]
        for parameter in parameters:
            if parameter.annotation is bool and parameter.default.default is None:
                parameter.default.default = False
        vars(command)["module"] = module
        vars(command)["__signature__"] = inspect.Signature(parameters)
        return command

    return decorate


def _parameters(group: type) -> Iterator[inspect.Parameter]:
    for name, annotation in get_type_hints(group).items():
        kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
        yield inspect.Parameter(name, kind, default=getattr(group, name), annotation=annotation)


def _completion(what: str) -> Callable[[typer.Context, str], list[Any]]:
    """Complete with `what`: a kind of `commands.completion`, or `setting:NAME` for a setting's values."""

    def complete(context: typer.Context, incomplete: str) -> list[Any]:
        found: list[Any] = import_module("loom.commands.completion").complete(what, context.params)
        return found

    return complete
