"""Write docs/reference/commands.md and docs/man/loom.1 from the commands themselves. Run by `scripts/docs commands`."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from enum import Enum
from importlib.metadata import version
from pathlib import Path
from typing import Any

import typer

from loom.cli.app import app_for

DOCS = Path(__file__).parents[1] / "docs"

HEAD = """# Commands

`loom COMMAND --help` prints the options of a command, `man loom` those of all; the
[documentation's site](../../CONTRIBUTING.md#daily-commands) has them below this table. All of these texts are made
from `loom/cli` by `scripts/docs commands`. [How it works](../explanation/how-it-works.md#exit-codes) lists the exit codes,
[environment variables](environment.md) the variables that loom reads.
"""


def page() -> str:
    return "\n".join([HEAD, *_contents(typer.main.get_command(app_for([])))]).rstrip() + "\n"


def options() -> str:
    """Return the sections that the site adds to the page."""
    return "\n".join(_sections(typer.main.get_command(app_for([])), "loom"))


def man_page() -> str:
    root = typer.main.get_command(app_for([]))
    lines = [
        f'.TH LOOM 1 "" "loom {version("loom-ci")}"',
        ".SH NAME",
        "loom \\- run your CI workflow on your own machine",
        ".SH SYNOPSIS",
        ".B loom",
        _roff("COMMAND [OPTIONS] [ARGUMENTS]"),
        ".SH DESCRIPTION",
        *_roff_paragraphs(root.help),
        ".SH COMMANDS",
        *(line for name, command in _below(root) for line in _man_sections(command, f"loom {name}")),
        ".SH EXIT STATUS",
        *(line for code, meaning in _exit_codes() for line in (".TP", _roff(code), _roff(meaning))),
        ".SH FILES",
        *(line for path, what in FILES for line in (".TP", f".I {_roff(path)}", _roff(what))),
    ]
    return "\n".join(lines) + "\n"


FILES = (
    (".loom/workflow.yml", "The workflow."),
    (".loom/config.yml, ~/.config/loom/config.yml", "Settings of the project and of the user."),
    (".loom/images.lock", "The exact images that the workflow's names mean."),
    ("~/.local/state/loom", "Records of runs."),
    ("~/.cache/loom", "Caches of jobs."),
)


def _man_sections(command: Any, path: str) -> Iterator[str]:
    yield f".SS {_roff(_usage(command, path))}"
    yield from _roff_paragraphs(command.help)
    for parameter in _visible(command):
        yield ".TP"
        yield f".B {_roff(_name(parameter))}"
        yield _roff(_meaning(parameter)) or "\\&"
    for name, below in _below(command):
        yield from _man_sections(below, f"{path} {name}")


def _roff_paragraphs(text: str | None) -> Iterator[str]:
    for paragraph in _paragraphs(text):
        yield ".PP"
        yield _roff(paragraph)


def _roff(text: str) -> str:
    escaped = text.replace("\\", "\\e").replace("-", "\\-").replace("`", "")
    return f"\\&{escaped}" if escaped.startswith((".", "'")) else escaped


def _exit_codes() -> list[tuple[str, str]]:
    """Read the table of exit codes, which has one place in the documentation."""
    text = (DOCS / "explanation" / "how-it-works.md").read_text().partition("## Exit codes")[2]
    return re.findall(r"^\| (\d[\d, ]*) \| (.+) \|$", text, re.MULTILINE)


def _contents(root: Any) -> Iterator[str]:
    yield "| command | |"
    yield "| --- | --- |"
    for name, command in _below(root):
        yield f"| `loom {name}` | {_cell(_paragraphs(command.help)[0])} |"
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
    if visible := _visible(command):
        yield "| argument or option | |"
        yield "| --- | --- |"
        yield from (f"| `{_cell(_name(one))}` | {_cell(_meaning(one, '`'))} |" for one in visible)
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


def _visible(command: Any) -> list[Any]:
    return [one for one in command.params if not getattr(one, "hidden", False)]


def _name(parameter: Any) -> str:
    if parameter.param_type_name == "argument":
        return _argument(parameter)
    value = "" if getattr(parameter, "is_flag", False) else f" {parameter.metavar or _choices(parameter)}"
    flags = sorted(parameter.opts, key=len)
    return ", ".join(flags) + value + "".join(f" / {other}" for other in parameter.secondary_opts)


def _meaning(parameter: Any, quote: str = "") -> str:
    shown = " ".join((parameter.help or "").split())
    default = _default(parameter)
    return shown + (f" Default: {quote}{default}{quote}." if default else "")


def _choices(parameter: Any) -> str:
    # The attribute has another name in typer 0.29 and later.
    choices = getattr(getattr(parameter, "type_descriptor", None) or parameter.type, "choices", None)
    return "|".join(getattr(one, "value", one) for one in choices or ()) or str(parameter.name).upper()


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
    (DOCS / "reference" / "commands.md").write_text(page())
    (DOCS / "man" / "loom.1").write_text(man_page())
