"""Read what a line of output means, in the words of the tool that prints it, by the table `readings.yml` beside this module.

A reading says no more than its line: neither that the line ended the step, nor why.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from loom.record.documents import Document
from loom.util.units import counted


class LineReading(Document, frozen=True, kw_only=True):
    """The meaning of a line. `advice` is a next move."""

    code: str
    line: str
    text: str
    advice: str


class Known(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """An entry of the table, which explains its fields."""

    code: str
    text: str
    advice: str
    it: str = "it"
    lines: tuple[str, ...] = ()
    ended: str | None = None


class Table(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    shell: str
    readings: tuple[Known, ...]


class InSource(Struct, frozen=True, kw_only=True):
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


class Place(Struct, frozen=True, kw_only=True):
    """Where a line was printed."""

    ended: str = "failure"
    """The job's status."""
    image: str | None = None
    """None: on this machine."""
    of_github: bool = False
    depth: int = 0
    """The depth of the job's clone, if that is less than the checkout's."""
    in_checkout: Callable[[str], bool] = lambda _: False
    """Tell whether git in the checkout knows a revision, or describes HEAD by a tag (`it`)."""


_OF_GITHUB = (
    "GitHub's machines have more programs: `github: {runs_on: ...}` in your configuration gives a label another image"
)


_NOT_CLONED = (
    "your checkout has it, and the job's clone has not: it is {deep} deep, and has the ref of its branch alone"
)
_DEEPER = '`GIT_DEPTH: "0"` among the variables of the job brings all of it (in loom\'s own language: no `git_depth`)'


@cache
def table() -> Table:
    data = Path(__file__).with_suffix(".yml").read_bytes()
    return msgspec.yaml.decode(data, type=Table)


@cache
def packages() -> Mapping[str, str]:
    """Return the package of a command: its name, or one for each package manager."""
    named = msgspec.yaml.decode(Path(__file__).with_name("packages.yml").read_bytes())
    found: dict[str, str] = named["others"] | {name: name for name in named["same"]}
    return found | {name: f"{kind}:{name}" for kind in ("pip", "npm") for name in named[kind]}


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


def reading_of(line: str, place: Place) -> LineReading | None:
    """Return what the line means, by the first entry that fits it."""
    for known in table().readings:
        for text in known.lines if known.ended in (None, place.ended) else ():
            if required_by(text) in line and (match := _compiled(text).match(line)) is not None:
                name = match.groupdict().get("name") or known.it
                if place.depth and "{depth}" in known.advice and place.in_checkout(name):
                    known = replace(known, text=f"{known.text.partition(':')[0]}: {_NOT_CLONED}", advice=_DEEPER)
                return _reading(known, line, **_values(known, name, place))
    return None


def _values(known: Known, name: str, place: Place) -> dict[str, str]:
    values = {"name": name, "where": "" if place.image else " (on this machine)"}
    values["checkout"] = ", nothing before `actions/checkout`" if place.of_github else ""
    values["deep"] = counted(place.depth, "commit")
    values["depth"] = "`fetch-depth: 0` brings all, branches as `origin/NAME`; else: " if place.of_github else ""
    if place.depth:
        values["depth"] = '`GIT_DEPTH: "0"` among its variables, and '
    if "{install}" in known.advice:
        values["install"] = how_to_install(name, place.image)
    if "{more}" in known.advice:
        no_engine = next(each.advice for each in table().readings if each.code == "docker_in_job")
        of_engine = place.image is not None and name in ("docker", "docker-compose")
        more = no_engine.partition(";")[0] if of_engine else _OF_GITHUB if place.of_github else ""
        values["more"] = f"; {more}" if more else ""
    return values


_MANAGERS = (
    (re.compile(r"alpine|busybox"), "apk", "apk add --no-cache {}"),
    (re.compile(r"fedora|centos|rocky|almalinux|redhat|/ubi|amazonlinux"), "dnf", "dnf install -y {}"),
    (re.compile(""), "apt", "apt-get update && apt-get install -y --no-install-recommends {}"),
)


def how_to_install(command: str, image: str | None) -> str:
    """Name the package of a command, as far as it is known, in the words of the image's package manager."""
    package = packages().get(command)
    kind, _, rest = (package or "").partition(":")
    if image is not None and rest and kind in ("pip", "npm"):
        return f"install it in the job: `{'pip install' if kind == 'pip' else 'npm install --save-dev'} {rest}`"
    if package is None or image is None:
        return "install it in the job (or its image)"
    manager, install = next(known for pattern, *known in _MANAGERS if pattern.search(image))
    names = dict(part.partition("=")[::2] for part in package.split() if "=" in part)
    name = names.get(manager) or package.split()[0]
    return f"install it in the job (or its image): `{install.format(name)}`"


def reading_by_source(line: str, seen: InSource) -> LineReading:
    """Return what the checkout shows of the file that the line names."""
    if seen.maker:
        code = "artifact_not_taken"
    elif seen.ignored:
        code = "ignored_file"
    elif seen.empty_submodule:
        code = "submodule_not_cloned" if seen.not_cloned else "submodule_missing"
    elif seen.crlf:
        code = "crlf_file"
    else:
        code = "no_executable_bit" if seen.interpreter is None else "missing_interpreter"
    rule = f" ({seen.rule})" if seen.rule else ""
    return _coded(code, line, path=seen.path, rule=rule, interpreter=seen.interpreter or "", maker=seen.maker)


def reading_in_conflict(line: str, path: str, text: str) -> LineReading | None:
    """Return the reading of a line that leads to `text`, a line of the file and the one before; None without a marker of git."""
    marked = re.search(r"^<{7} |^>{7} .*\Z", text, re.MULTILINE)
    return _coded("merge_conflict", line, path=path) if marked else None


def _coded(code: str, line: str, *, path: str, **values: str) -> LineReading:
    known = next(known for known in table().readings if known.code == code)
    return _reading(known, line, path=path, quoted=shlex.quote(path), **values)


def _reading(known: Known, line: str, **values: str) -> LineReading:
    """Fill the placeholders of the entry with these values."""
    texts = [known.text, known.advice]
    for name, value in values.items():
        texts = [text.replace(f"{{{name}}}", value) for text in texts]
    return LineReading(code=known.code, line=line.strip()[:200], text=texts[0], advice=texts[1])
