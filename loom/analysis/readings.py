"""Read what a line of output means, in the words of the tool that prints it, by the table `readings.toml` beside this module.

A reading says no more than its line: neither that the line ended the step, nor why.
"""

from __future__ import annotations

import re
import shlex
from functools import cache
from pathlib import Path

import msgspec

from loom.record.documents import Document
from loom.util.units import counted
from loom.values import Immutable


class LineReading(Document):
    """The meaning of a line. `advice` is a next move."""

    code: str
    line: str
    text: str
    advice: str


class ReadingEntry(Immutable, forbid_unknown_fields=True):
    """An entry of the table, which explains its fields."""

    code: str
    text: str
    advice: str
    it: str = "it"
    lines: tuple[str, ...] = ()
    ended: str | None = None


class Table(Immutable, forbid_unknown_fields=True):
    shell: str
    readings: tuple[ReadingEntry, ...]


class NamedFile(Immutable):
    """Facts about a file of the checkout that the output names."""

    path: str
    ignored: bool = False
    """Whether git ignores it, by `rule`."""
    rule: str | None = None
    crlf: bool = False
    script: bool = False
    """Whether it begins with `#!`, and then with `interpreter`."""
    interpreter: str | None = None
    executable: bool = True
    empty_submodule: bool = False
    not_cloned: bool = False
    """Whether it is a submodule that the job's clone lacks."""
    maker: str = ""
    """The job of which it is an artifact that this one does not get, and why."""
    undeclared: str = ""
    """The job that does not get it, as it is not among its inputs."""


class LineContext(Immutable):
    """Where a line was printed."""

    ended: str = "failure"
    """The job's status."""
    image: str | None = None
    """None: on this machine."""
    of_github: bool = False
    depth: int = 0
    """The depth of the job's clone, if that is less than the checkout's."""


_OF_GITHUB = "GitHub's machines have more programs: `--image LABEL=IMAGE` gives a label of `runs-on` another image"


@cache
def table() -> Table:
    data = Path(__file__).with_suffix(".toml").read_bytes()
    return msgspec.toml.decode(data, type=Table)


@cache
def _compiled(text: str) -> re.Pattern[str]:
    return re.compile(text.replace("{shell}", f"(?:{table().shell})"))


@cache
def required_by(text: str) -> str:
    """Return a text without which the expression fits nothing: most lines lack it, so few expressions are ever compiled."""
    plain = re.sub(r"\{shell\}|\\.|\[[^\]]*\]", "\0", text)
    while plain != (plain := re.sub(r"\([^()]*\)", "\0", plain)):
        pass
    return "" if "|" in plain else max(re.split(r".[?*+]|.\{[^}]*\}|[\0^$.]", plain), key=len)


def reading_of(line: str, context: LineContext) -> LineReading | None:
    """Return what the line means, by the first entry that fits it."""
    for entry in table().readings:
        for text in entry.lines if entry.ended in (None, context.ended) else ():
            if required_by(text) in line and (match := _compiled(text).match(line)) is not None:
                name = match.groupdict().get("name") or entry.it
                return _reading(entry, line, **_values(entry, name, context))
    return None


def _values(entry: ReadingEntry, name: str, context: LineContext) -> dict[str, str]:
    values = {"name": name, "where": "" if context.image else " (on this machine)"}
    values["checkout"] = ", nothing before `actions/checkout`" if context.of_github else ""
    values["depth"] = "`fetch-depth: 0` brings all, branches as `origin/NAME`; else: " if context.of_github else ""
    if context.depth:
        clone = f"the job's clone is {counted(context.depth, 'commit')} deep, and has the ref of its branch alone"
        values["depth"] = f'{clone}: `GIT_DEPTH: "0"` among its variables brings all of it; else '
    if "{more}" in entry.advice:
        no_engine = next(each.advice for each in table().readings if each.code == "docker_in_job")
        of_engine = context.image is not None and name in ("docker", "docker-compose")
        more = no_engine.partition(";")[0] if of_engine else _OF_GITHUB if context.of_github else ""
        values["more"] = f"; {more}" if more else ""
    return values


def reading_by_source(line: str, seen: NamedFile) -> LineReading:
    """Return what the checkout shows of the file that the line names."""
    if seen.maker:
        code = "artifact_not_taken"
    elif seen.undeclared:
        code = "undeclared_input"
    elif seen.ignored:
        code = "ignored_file"
    elif seen.empty_submodule:
        code = "submodule_not_cloned" if seen.not_cloned else "submodule_missing"
    elif seen.crlf:
        code = "crlf_file"
    else:
        code = "no_executable_bit" if seen.interpreter is None else "missing_interpreter"
    rule = f" ({seen.rule})" if seen.rule else ""
    more = {"rule": rule, "interpreter": seen.interpreter or "", "maker": seen.maker, "job": seen.undeclared}
    return _coded(code, line, path=seen.path, **more)


def reading_in_conflict(line: str, path: str, text: str) -> LineReading | None:
    """Return the reading of a line that leads to `text`, a line of the file and the one before; None without a marker of git."""
    marked = re.search(r"^<{7} |^>{7} .*\Z", text, re.MULTILINE)
    return _coded("merge_conflict", line, path=path) if marked else None


def _coded(code: str, line: str, *, path: str, **values: str) -> LineReading:
    entry = next(entry for entry in table().readings if entry.code == code)
    return _reading(entry, line, path=path, quoted=shlex.quote(path), **values)


def _reading(entry: ReadingEntry, line: str, **values: str) -> LineReading:
    """Fill the placeholders of the entry with these values."""
    texts = [entry.text, entry.advice]
    for name, value in values.items():
        texts = [text.replace(f"{{{name}}}", value) for text in texts]
    return LineReading(code=entry.code, line=line.strip()[:200], text=texts[0], advice=texts[1])
