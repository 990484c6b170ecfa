"""Connect command-line signatures to their implementation and completion in `loom.commands`, imported when needed."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from importlib import import_module
from typing import Any

import typer


def done_by(module: str, *, ahead: str = "") -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Decorate a command's signature: the function of the same name in `loom.commands.<module>` implements it.

    The module is imported when the command runs. `ahead` (`module:function`) is called before, to start what runs
    meanwhile. The function gets the same arguments by name, and returns the exit code or None for 0. `--json` means
    `--format json` where a command has both: the function then gets only `form`.
    """

    def decorate(signature: Callable[..., None]) -> Callable[..., None]:
        @wraps(signature)
        def command(**given: Any) -> None:
            if "form" in given and given.pop("as_json"):
                given["form"] = "json"
            if ahead:
                first, _, called = ahead.partition(":")
                getattr(import_module(first), called)()
            function = getattr(import_module(f"loom.commands.{module}"), signature.__name__)
            raise SystemExit(function(**given) or 0)

        vars(command)["module"] = module
        return command

    return decorate


def completion(what: str) -> Callable[[typer.Context, str], list[Any]]:
    """Complete an argument with `what`: a kind of `commands.completion`, or `setting:NAME` for a setting's values."""

    def complete(context: typer.Context, incomplete: str) -> list[Any]:
        found: list[Any] = import_module("loom.commands.completion").complete(what, context.params)
        return found

    return complete
