"""Each command line that loom or its documentation names can be typed: the real parser takes it."""

import ast
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

from loom.cli.app import app_for

ROOT = Path(__file__).parents[2]
COMMANDS: Any = typer.main.get_command(app_for([]))
QUOTED = re.compile(r"`((?:[A-Z_]+=\S+ )*loom [a-z][^`]*)`")
ALONE = re.compile(r"(?:^|: |\n *(?:\$ )?)((?:[A-Z_]+=\S+ )*loom [a-z][^\n`]*)(?=\n|$)")
"""A line of its own, or the end of one after a colon."""
NOT_TYPED = re.compile(r"\s+[|;&<>#(].*|;.*| {2,}.*")
"""Where the command ends: at the shell's signs, or before what a page says of it."""


def _of_python(path: Path) -> Iterator[str]:
    """Yield the texts of a module; `1` stands for each value in them."""
    source = path.read_text()
    if re.search(r"\bloom [a-z]|\"loom\"", source) is None:
        return
    tree = ast.parse(source)
    inside = {id(part) for node in ast.walk(tree) if isinstance(node, ast.JoinedStr) for part in ast.walk(node)}
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            yield "".join(str(part.value) if isinstance(part, ast.Constant) else "1" for part in node.values)
        elif isinstance(node, ast.List) and node.elts and getattr(node.elts[0], "value", None) == "loom":
            words = (str(word.value) if isinstance(word, ast.Constant) else "1" for word in node.elts)
            yield f"`{' '.join(words)}`"
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in inside:
            yield node.value


def _texts(path: Path) -> Iterator[str]:
    if path.suffix == ".py":
        yield from _of_python(path)
    else:
        yield path.read_text()


def _named(text: str) -> Iterator[str]:
    yield from QUOTED.findall(text)
    for line in ALONE.findall(text):
        # Others are sentences about loom, which has a command of the name of what it does: it runs.
        if line.partition("loom ")[2].split(" ")[0] in COMMANDS.commands and not re.match("loom runs [a-z]", line):
            yield line


GENERATED = ("changelog.md", "commands.md")
"""What was true once, and the pages that the parser itself writes."""
FILES = [
    *(path for path in (ROOT / "loom").rglob("*") if path.suffix in (".py", ".yml", ".html", ".js", ".j2")),
    *(path for path in (ROOT / "docs").rglob("*.md") if path.name not in GENERATED),
    ROOT / "README.md",
]


def refusal(line: str) -> str | None:
    """Return what the parser says against a command line; None for one that it takes, as far as it goes."""
    typed = NOT_TYPED.sub("", line).partition("loom ")[2]
    optional = re.sub(r"\[([A-Z|. ]+|--[a-z]+[A-Z ]*)\]|\.\.\.|…", r"\1", re.sub(r" N\b", " 2", typed))
    try:
        words = shlex.split(optional)
    except ValueError as error:
        return str(error)
    command, context = COMMANDS, COMMANDS.make_context("loom", [], resilient_parsing=True)
    try:
        while hasattr(command, "commands") and words:
            name = words.pop(0)
            if name not in command.commands and hasattr(command, "default"):
                words, name = [name, *words], command.default
            if name not in command.commands:
                return f"no command {name}"
            command = command.commands[name]
            context = command.make_context(name, [], parent=context, resilient_parsing=True)
        if not hasattr(command, "commands"):
            command.make_context(command.name, words, parent=context.parent)
    except Exception as error:  # noqa: BLE001  the classes are those of the parser that typer brings
        if re.search(r"'[A-Z]+' is not one of ", str(error)):
            return None  # it stands for each of them
        if type(error).__name__ in ("MissingParameter", "NoArgsIsHelpError", "BadOptionUsage", "Exit"):
            return None  # it is only named, or --help
        return f"{type(error).__name__}: {error}"
    return None


@pytest.mark.slow
def test_each_can_be_typed() -> None:
    lines = {(line, str(path.relative_to(ROOT))) for path in FILES for text in _texts(path) for line in _named(text)}
    assert len(lines) > 200
    assert [f"{file}: {line}: {said}" for line, file in sorted(lines) if (said := refusal(line)) is not None] == []
