"""Find the known failures that fit a failed run. The failures themselves are data: `known_failures.yml`, beside this module.

A cause is `likely` only where the failing line shows it, that is: no line after it speaks of another error. Everything above
is `possible`, since programs print errors that they expect and survive.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache
from itertools import islice
from pathlib import Path
from typing import Literal

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from loom.record.documents import CommandPackage, Document
from loom.record.highlights import speaks_of_error

MOST_CAUSES = 3
NEAR = 40
"""A cause with more lines than this after it, none of which speaks of an error, is only possible: the unit went on."""
LINE_MATCHED = 1000
"""Of a longer line, this much of its beginning and of its end is looked at."""


class Cause(Document, frozen=True, kw_only=True):
    """A matching known failure. `line` is its evidence, `advice` the next move."""

    code: str
    summary: str
    advice: str
    confidence: Literal["likely", "possible"] = "likely"
    """`likely`: an error of loom itself, or the line that the unit failed with. `possible`: any line before that one."""
    line: str | None = None


class Known(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """An entry of `known_failures.yml`, which documents its fields."""

    code: str
    summary: str = ""
    advice: str = ""
    ended: str | None = None
    error: str | None = None
    exit_code: int | None = None
    last: bool = False
    command: str | None = None
    output: tuple[str, ...] = ()
    unless: tuple[str, ...] = ()
    not_after: tuple[str, ...] = ()
    instead_of: tuple[str, ...] = ()
    reports: bool = False
    example: str | None = None

    def fits_step(self, failed: Failed) -> bool:
        """Whether the step is one that the entry's lines count in."""
        fits_command = self.command is None or re.search(self.command, failed.command or "") is not None
        fits = fits_command and self.exit_code in (None, failed.exit_code) and self.ended in (None, failed.ended)
        return fits and not any(_compiled(text).search(line) for text in self.not_after for line in failed.lines)

    def fits_end(self, failed: Failed) -> bool:
        """Whether the end alone says enough."""
        if self.output or self.error is not None:
            return False
        if self.exit_code is not None:
            return failed.exit_code == self.exit_code
        return failed.ended == self.ended


class InSource(Struct, frozen=True, kw_only=True):
    """What is true of a file of the checkout that the output names."""

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


class Failed(Struct, frozen=True, kw_only=True):
    """How a run, or a job of it, ended, and what it printed."""

    ended: str
    """Its status, or `interrupted`."""
    error: str | None
    error_code: str | None
    exit_code: int | None
    lines: Sequence[str]
    in_step: bool
    """Whether `lines` are those of a step, not of loom's own work."""
    command: str | None = None
    image: str | None = None
    """None: on this machine."""
    in_source: Mapping[str, InSource] = {}
    """By the line that names it."""
    indexed: CommandPackage | None = None
    """What an index in the image knows about a missing command."""
    tmpfs: Callable[[], Sequence[str]] = tuple
    """The job's mounts that are in memory."""


@cache
def table() -> tuple[Known, ...]:
    data = Path(__file__).with_suffix(".yml").read_bytes()
    return msgspec.yaml.decode(data, type=tuple[Known, ...])


@cache
def packages() -> Mapping[str, str]:
    """The package of a command: its name, or one for each package manager."""
    data = Path(__file__).with_name("packages.yml").read_bytes()
    return msgspec.yaml.decode(data, type=dict[str, str])


class _Pattern(Struct):
    """One expression of an entry. Most lines lack the text that it requires, so few are ever compiled."""

    known: Known
    text: str
    required: str

    def search(self, line: str, lowered: str) -> re.Match[str] | None:
        return _compiled(self.text).search(line) if self.required in lowered else None


@cache
def _patterns() -> list[_Pattern]:
    return [_Pattern(known, text, required_by(text)) for known in table() for text in known.output]


@cache
def _compiled(pattern: str) -> re.Pattern[str]:
    return re.compile(pattern, re.IGNORECASE)


def required_by(pattern: str) -> str:
    """Return a text, in lower case, without which the expression fits nothing: its longest plain part outside of groups."""
    plain = re.sub(r"\\.|\[[^\]]*\]", "\0", pattern)
    while plain != (plain := re.sub(r"\([^()]*\)", "\0", plain)):
        pass
    if "|" in plain:
        return ""
    return max(re.split(r".[?*+]|.\{[^}]*\}|[\0^$.]", plain), key=len).lower()


def causes(failed: Failed) -> list[Cause]:
    """Return what fits, the surest first."""
    if failed.ended == "canceled":  # what it printed until then is no reason
        return [_cause(known) for known in table() if known.ended == "canceled"]
    found = [*_own(failed)]
    if not found or not failed.in_step or failed.ended == "timed_out":
        found += _in_output(failed)
    if not any(cause.confidence == "likely" for cause in found):
        found = [*[_cause(known) for known in table() if known.fits_end(failed)][:1], *found]
    return _chosen(found)


def _own(failed: Failed) -> Iterator[Cause]:
    """Loom's own words: an error with a code, or what loom knows better than the output."""
    if failed.error and failed.error_code:
        summary, _, hint = failed.error.partition("\n")
        yield Cause(code=failed.error_code.lower(), summary=summary, advice=hint)
    else:
        found = ((known, re.search(known.error, failed.error or "")) for known in table() if known.error is not None)
        yield from islice((_cause(known, **match.groupdict("")) for known, match in found if match is not None), 1)


def _chosen(found: Sequence[Cause]) -> list[Cause]:
    """The likely ones first; beside a line that is the reason, nothing is only possible."""
    codes = {cause.code for cause in found}
    hidden = {other for known in table() if known.code in codes for other in known.instead_of}
    ordered = sorted((cause for cause in found if cause.code not in hidden), key=lambda cause: cause.confidence)
    reports = {known.code for known in table() if known.reports}
    if any(cause.confidence == "likely" and cause.line and cause.code not in reports for cause in ordered):
        ordered = [cause for cause in ordered if cause.confidence == "likely"]
    return ordered[:MOST_CAUSES]


def _in_output(failed: Failed) -> list[Cause]:
    """What the lines show, the last one first. A line that only reports a failure counts where no reason stands above it."""
    found: dict[str, Cause] = {}
    reported: Cause | None = None
    surely = failed.ended not in ("timed_out", "interrupted")
    # An error of loom's that has a next move needs no second one; its words are not those of a program.
    explained = failed.error.splitlines() if failed.error and failed.error_code and "\n" in failed.error else []
    lines = [line for line in failed.lines if line.strip() and line not in explained]
    for after, line in enumerate(reversed(lines)):
        if after > NEAR and line not in failed.in_source and not speaks_of_error(line):
            continue
        known, groups = _known(line[:LINE_MATCHED] + line[LINE_MATCHED:][-LINE_MATCHED:], failed, last=after == 0)
        sure: Literal["likely", "possible"] = "likely" if surely and after <= NEAR else "possible"
        if (cause := _of_source(line, failed)) is not None:
            pass
        elif known is None:
            surely = surely and not speaks_of_error(line)
            continue
        elif known.reports:
            reported = reported or replace(_cause(known, line=line), confidence=sure)
            continue
        elif not known.summary:
            continue
        else:
            cause = _cause(known, line=line, **_values(known, groups, line, failed))
            sure = "likely" if known.last else sure
        found.setdefault(cause.code, replace(cause, confidence=sure))
        surely = False
        if len(found) == MOST_CAUSES:
            break
    if reported is None:
        return [*found.values()]
    if reported.code in found:
        surest = min(reported.confidence, found[reported.code].confidence)  # `likely` comes first
        found[reported.code] = replace(found[reported.code], confidence=surest)
        return [*found.values()]
    hides = {code for known in table() if known.code == reported.code for code in known.instead_of}
    reasons = [cause for cause in found.values() if cause.confidence == "likely" and cause.code not in hides]
    return [*found.values()] if reasons else [reported, *found.values()]


def _known(line: str, failed: Failed, *, last: bool) -> tuple[Known | None, dict[str, str]]:
    """The first entry that fits a line, and what its groups found."""
    lowered = line.lower()
    for pattern in _patterns():
        match = pattern.search(line, lowered)
        if match is None or any(_compiled(text).search(line) for text in pattern.known.unless):
            continue
        if pattern.known.fits_step(failed) and (last or not pattern.known.last):
            return pattern.known, {name: value for name, value in match.groupdict().items() if value}
    return None, {}


def _values(known: Known, groups: Mapping[str, str], line: str, failed: Failed) -> dict[str, str]:
    name = next(iter(groups.values()), "")
    values = {"name": name or "it", "where": "" if failed.image else " (on this machine)", "file": "", "named": ""}
    if name:
        values["file"] = values["named"] = f": {name}"
    if "{install}" in known.advice:
        values["install"] = how_to_install(name, failed.image, failed.indexed)
    if "{fullness}" in known.summary:
        values |= _fullness(f"{line} {failed.command or ''}", failed)
    return values


def _fullness(text: str, failed: Failed) -> dict[str, str]:
    """Which file system is full, as far as a path in the line or the command tells."""
    mounts = sorted({"/dev/shm", *(mount.partition(":")[0] for mount in failed.tmpfs())}, key=len, reverse=True)
    for mount in mounts if failed.image else ():
        if re.search(rf"(?<![\w/]){re.escape(mount)}(?![\w-])", text):
            key = "shm_size" if mount == "/dev/shm" else "tmpfs"
            larger = f"give it more room (`resources: {{{key}: ...}}`), or write to the workspace"
            return {"fullness": f": {mount}, which is in memory", "room": larger}
    disk = (
        "`df -h` and `df -i` name it (a disk without free inodes is full, too); `loom clean --keep-last 5` makes room"
    )
    engine = ", and `docker system df` shows what the engine holds" if failed.image else ""
    return {"fullness": "", "room": disk + engine}


_MANAGERS = (
    (re.compile(r"alpine|busybox"), "apk"),
    (re.compile(r"fedora|centos|rocky|almalinux|redhat|/ubi|amazonlinux"), "dnf"),
    (re.compile(""), "apt"),
)
_INSTALL = {
    "apk": "apk add --no-cache {}",
    "dnf": "dnf install -y {}",
    "apt": "apt-get update && apt-get install -y --no-install-recommends {}",
}


def how_to_install(command: str, image: str | None, indexed: CommandPackage | None = None) -> str:
    """Name the package of a command, as far as it is known, in the words of the image's package manager.

    An index in the image knows best which package has the command; a package that only has its name may be another thing.
    """
    package = packages().get(command)
    kind, _, rest = (package or "").partition(":")
    if image is not None and kind in ("pip", "npm"):
        return f"install it in the job: `{'pip install' if kind == 'pip' else 'npm install --save-dev'} {rest}`"
    if indexed is not None and indexed.command == command and (package is None or indexed.by == "command"):
        name = indexed.package
        manager: str = indexed.manager
    elif package is None or image is None:
        return "install it in the job (or its image)"
    else:
        manager = next(known for pattern, known in _MANAGERS if pattern.search(image))
        names = dict(part.partition("=")[::2] for part in package.split() if "=" in part)
        name = names.get(manager) or package.split()[0]
    return f"install it in the job (or its image): `{_INSTALL[manager].format(name)}`"


def missing_command(lines: Sequence[str]) -> str | None:
    """Return the command that a step with exit code 127 missed, as its last lines tell."""
    failed = Failed(ended="failure", error=None, error_code=None, exit_code=127, lines=lines, in_step=True)
    for line in reversed(lines):
        known, groups = _known(line, failed, last=False)
        if known is not None and known.code == "command_not_found":
            return next(iter(groups.values()), None)
    return None


def _of_source(line: str, failed: Failed) -> Cause | None:
    """A cause that the checkout shows and no pattern can."""
    seen = failed.in_source.get(line)
    if seen is None:
        return None
    if seen.ignored:
        code = "ignored_file"
    elif seen.empty_submodule:
        code = "submodule_missing"
    elif seen.crlf:
        code = "crlf_file"
    else:
        code = "no_executable_bit" if seen.interpreter is None else "missing_interpreter"
    known = next(known for known in table() if known.code == code)
    return _cause(
        known,
        line=line,
        path=seen.path,
        quoted=shlex.quote(seen.path),
        rule=f" ({seen.rule})" if seen.rule else "",
        interpreter=seen.interpreter or "",
    )


def _cause(known: Known, *, line: str | None = None, **values: str) -> Cause:
    """Fill the placeholders of the entry with these values."""
    texts = [known.summary, known.advice]
    for name, value in values.items():
        texts = [text.replace(f"{{{name}}}", value) for text in texts]
    shown = None if line is None else line.strip()[:200]
    return Cause(code=known.code, summary=texts[0], advice=texts[1], line=shown)
