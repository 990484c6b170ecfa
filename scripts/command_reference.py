"""Print docs/reference/commands.md, made from the commands themselves. Run by `scripts/docs commands`."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from enum import Enum
from typing import Any

import typer

from loom.cli.app import app_for

HEAD = """# Commands

This page is made from the commands themselves by `scripts/docs commands`: change the help texts in `loom/cli`, then run it again.
`loom COMMAND --help` prints the same. [How it works](../explanation/how-it-works.md#exit-codes) lists the exit codes,
[environment variables](environment.md) the variables that loom reads.
"""


def page() -> str:
    root = typer.main.get_command(app_for([]))
    return "\n".join([HEAD, *_contents(root), *_sections(root, "loom")]).rstrip() + "\n"


def _contents(root: Any) -> Iterator[str]:
    yield "| command | |"
    yield "| --- | --- |"
    for name, command in _below(root):
        yield f"| [`loom {name}`](#loom-{name}) | {_cell(_paragraphs(command.help)[0])} |"
    yield ""


def _sections(command: Any, path: str) -> Iterator[str]:
    yield f"## `{path}`"
    yield ""
    yield "```"
    yield _usage(command, path)
    yield "```"
    yield ""
    for paragraph in _paragraphs(command.help):
        yield paragraph
        yield ""
    rows = [row for parameter in command.params if not getattr(parameter, "hidden", False) for row in _row(parameter)]
    if rows:
        yield "| argument or option | |"
        yield "| --- | --- |"
        yield from rows
        yield ""
    for name, below in _below(command):
        yield from _sections(below, f"{path} {name}")


def _below(command: Any) -> list[tuple[str, Any]]:
    return [(name, one) for name, one in getattr(command, "commands", {}).items() if not one.hidden]


def _usage(command: Any, path: str) -> str:
    arguments = [_argument(one) for one in command.params if one.param_type_name == "argument"]
    return " ".join([path, "[OPTIONS]", *arguments, *(["COMMAND ..."] if _below(command) else [])])


def _argument(argument: Any) -> str:
    name = argument.metavar or argument.name.upper()
    if argument.nargs == -1 and not name.endswith("..."):
        name += "..."
    return name if argument.required or name.startswith("[") else f"[{name}]"


def _row(parameter: Any) -> Iterator[str]:
    if parameter.param_type_name == "argument":
        name = _argument(parameter)
    else:
        value = "" if getattr(parameter, "is_flag", False) else f" {parameter.metavar or _choices(parameter)}"
        flags = sorted(parameter.opts, key=len)
        name = ", ".join(flags) + value + "".join(f" / {other}" for other in parameter.secondary_opts)
    shown = " ".join((parameter.help or "").split())
    default = _default(parameter)
    yield f"| `{_cell(name)}` | {_cell(shown)}{f' Default: `{default}`.' if default else ''} |"


def _choices(parameter: Any) -> str:
    if isinstance(parameter.default, Enum):
        return "|".join(str(one.value) for one in type(parameter.default))
    return str(parameter.name).upper()


def _default(parameter: Any) -> str:
    value = parameter.default
    if value is None or value is False or callable(value) or not getattr(parameter, "show_default", True):
        return ""
    return str(value.value if isinstance(value, Enum) else value)


def _paragraphs(text: str | None) -> list[str]:
    """The help text's paragraphs, each on one line."""
    return [" ".join(one.split()) for one in re.split(r"\n\s*\n|\f", inspect.cleandoc(text or ""))]


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


if __name__ == "__main__":
    print(page(), end="")
