"""Find the known failures that fit a failed run. The failures themselves are data: `known_failures.yml`, beside this module.

A cause comes from the words that ended the step: the last line that a rule knows, if each line after it is one that the same
tool, or the program that started it, prints with them. Programs print errors that they expect and survive, so a line before
any other line is no cause, unless the step ended with the exit code of that tool and no other error follows.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from itertools import islice
from pathlib import Path

import msgspec
from msgspec import Struct, field

from loom.record.documents import Document
from loom.record.highlights import speaks_of_error

FAR = 200
"""So many lines from the end are looked at."""
MOST_QUIET = 20
"""So many lines that speak of no error may follow words whose exit code is that of one tool."""


class Cause(Document, frozen=True, kw_only=True):
    """A matching known failure. `line` is its evidence, `advice` the next move."""

    code: str
    summary: str
    advice: str
    line: str | None = None


class Says(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The output of one tool; `known_failures.yml` documents the fields of this and the following classes."""

    tool: str
    line: str
    exit: int | tuple[int, ...] = ()
    given: str | None = None
    unless: str | None = None
    script: str | None = None

    def search(self, lines: Sequence[str], end: _End, script: str | None) -> dict[str, str] | None:
        """Return the match's named groups, if this failure ended the step."""
        exits = (self.exit,) if isinstance(self.exit, int) else self.exit
        if (end.tools is not None and self.tool not in end.tools) or (exits and end.exit_code not in (None, *exits)):
            return None
        if self.script and script is not None and not _compiled(self.script).search(script):
            return None
        line = lines[end.at]
        match = _compiled(self.line).match(line) if required_by(self.line) in line else None
        if match is None:
            return None
        found = match.groupdict()
        program = found.pop("program", None)
        if program and script is not None and not end.wrapped and not re.search(rf"\b{re.escape(program)}\b", script):
            return None
        if self.given or self.unless:
            before = "".join(f"{each}\n" for each in lines[: end.at])
            if self.unless and _compiled(self.unless).search(before):
                return None
            if self.given:
                given = _compiled(self.given).search(before)
                if given is None:
                    return None
                found |= given.groupdict()
        return {name: value for name, value in found.items() if value}


class Known(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    code: str
    summary: str
    advice: str
    ended: str | None = None
    error: str | None = None
    exit_code: int | None = None
    command: str | None = None
    says: tuple[Says, ...] = ()

    def fits_end(self, failed: Failed) -> bool:
        """Return whether the end alone says enough."""
        if self.says or self.error is not None or (self.ended is None and self.exit_code is None):
            return False
        fits_command = self.command is None or re.search(self.command, failed.command or "") is not None
        return fits_command and self.exit_code in (None, failed.exit_code) and self.ended in (None, failed.ended)


class Wrapper(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    last: str
    lines: tuple[str, ...]


class Table(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    shell: str
    tails: Mapping[str, tuple[str, ...]]
    wrappers: tuple[Wrapper, ...]
    causes: tuple[Known, ...]


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
    maker: str = ""
    """The job of which it is an artifact that this one does not get, and why."""


class Failed(Struct, frozen=True, kw_only=True):
    """The end of a run, or of a job of it, and its output."""

    ended: str
    """Its status, or `interrupted`."""
    error: str | None
    error_code: str | None
    exit_code: int | None
    lines: Sequence[str]
    """The output of the command that ended the step, as far as that is known; else of the step."""
    own: bool = False
    """Whether that is known."""
    in_step: bool
    """Whether `lines` are those of a step, not of loom's own work."""
    before: Sequence[str] = ()
    command: str | None = None
    image: str | None = None
    """None: on this machine."""
    of_github: bool = False
    in_source: Mapping[str, InSource] = field(default_factory=dict)
    """Files of the checkout and of other jobs, by the line of output that names them."""


_OF_GITHUB = (
    "GitHub's machines have more programs: `github: {runs_on: ...}` in your configuration gives a label another image"
)
_ANYBODYS = (None, 1, 2)
"""Exit codes that do not tell which program failed."""
_TOLERATES = re.compile(r"\||(?:^|\s)!\s|\b(?:if|while|until)\b|\bset \+e")
"""In a script with one of these, a command may fail and the script go on; it then ends with 1 for many reasons."""


class _End(Struct, frozen=True):
    """A line after which only words of one failure follow: those of `tools` (None: of any), ended by `exit_code` (None: any)."""

    at: int
    tools: frozenset[str] | None
    exit_code: int | None
    wrapped: bool
    """Whether another program reports the end."""


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
    pattern = text.replace("{shell}", f"(?:{table().shell})")
    return re.compile(pattern, re.MULTILINE)


@cache
def required_by(text: str) -> str:
    """Return a text without which the expression fits nothing: most lines lack it, so few expressions are ever compiled."""
    plain = re.sub(r"\{shell\}|\\.|\[[^\]]*\]", "\0", text)
    while plain != (plain := re.sub(r"\([^()]*\)", "\0", plain)):
        pass
    return "" if "|" in plain else max(re.split(r".[?*+]|.\{[^}]*\}|[\0^$.]", plain), key=len)


def causes(failed: Failed) -> list[Cause]:
    """Return the causes of the run's end that are certain."""
    if failed.ended == "canceled":  # its output until then does not explain the end
        return [_cause(known) for known in table().causes if known.ended == "canceled"]
    # Loom's own statements: an error with a code, or a fact that the output can't show.
    if failed.error and failed.error_code:
        summary, _, hint = failed.error.partition("\n")
        own = [Cause(code=failed.error_code.lower(), summary=summary, advice=hint)]
    else:
        told = ((known, re.search(known.error, failed.error or "")) for known in table().causes if known.error)
        own = [_cause(known, **match.groupdict("")) for known, match in told if match is not None][:1]
    looked_at = failed.in_step or failed.error_code == "IMAGE_BUILD_FAILED"
    reads = looked_at and (not own or failed.error_code or failed.ended == "timed_out")
    said = [cause for cause, _, _ in islice(fitting(failed) if reads else (), 1)]
    if own:
        return [*said, *own] if failed.ended == "timed_out" else [*own, *said]
    return said or [_cause(known) for known in table().causes if known.fits_end(failed)][:1]


def fitting(failed: Failed) -> Iterator[tuple[Cause, Known, Says | None]]:
    """Yield the known failures that match the end of the output, the last line first; evidence in the checkout ranks first."""
    ended = failed.ended if failed.ended in ("timed_out", "interrupted") else None
    doubtful = not failed.own and _TOLERATES.search(failed.command or "")
    lines = [*failed.before, *failed.lines]
    for end in _ends(lines, len(failed.before), failed.exit_code):
        line = failed.lines[end.at - len(failed.before)]
        if doubtful and end.exit_code == 1 and not end.wrapped:
            continue
        if ended is None and (seen := failed.in_source.get(line)) is not None:
            known, values = _of_source(seen)
            yield _cause(known, line=line, **values), known, None
        for known in table().causes:
            for says in known.says if known.ended == ended else ():
                if (groups := says.search(lines, end, failed.command)) is not None:
                    yield _cause(known, line=line, **_values(known, groups, failed)), known, says


def _ends(lines: Sequence[str], first: int, exit_code: int | None) -> Iterator[_End]:
    """Yield possible ends of the output, from the last line up to one that can't belong to it; quiet lines may follow."""
    wrappers: list[Wrapper] = []
    tools: frozenset[str] | None = None
    quiet = MOST_QUIET
    for at in range(len(lines) - 1, max(first - 1, len(lines) - FAR), -1):
        if not lines[at].strip():
            continue
        yield _End(at, tools, exit_code, bool(wrappers))
        if tools is None:
            ended = next(((each, m) for each in table().wrappers if (m := _compiled(each.last).match(lines[at]))), None)
            if ended is not None:
                wrappers.append(ended[0])
                told = ended[1].groupdict().get("exit")
                exit_code = int(told) if told else None
            if ended is not None or any(_fits(each.lines, lines[at]) for each in wrappers):
                continue
        tails = table().tails
        fitting = frozenset(tool for tool in (tails if tools is None else tools) if _fits(tails[tool], lines[at]))
        if fitting:
            tools = fitting
        elif exit_code in _ANYBODYS or not quiet or speaks_of_error(lines[at]) or lines[at].startswith("E: "):
            return
        else:
            quiet -= 1


def _fits(patterns: Sequence[str], line: str) -> bool:
    return any(_compiled(pattern).match(line) for pattern in patterns)


def _values(known: Known, groups: Mapping[str, str], failed: Failed) -> dict[str, str]:
    name = next(iter(groups.values()), "it")
    values = {"name": name, "where": "" if failed.image else " (on this machine)"}
    values["checkout"] = ", nothing before `actions/checkout`" if failed.of_github else ""
    values["depth"] = "`fetch-depth: 0` brings all that your checkout has; else: " if failed.of_github else ""
    if "{install}" in known.advice:
        values["install"] = how_to_install(name, failed.image)
    if "{more}" in known.advice:
        no_engine = next(each.advice for each in table().causes if each.code == "docker_in_job")
        of_engine = failed.image is not None and name in ("docker", "docker-compose")
        more = no_engine.partition(";")[0] if of_engine else _OF_GITHUB if failed.of_github else ""
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


def _of_source(seen: InSource) -> tuple[Known, dict[str, str]]:
    """Return the cause that the checkout shows and no words can."""
    if seen.maker:
        code = "artifact_not_taken"
    elif seen.ignored:
        code = "ignored_file"
    elif seen.empty_submodule:
        code = "submodule_missing"
    elif seen.crlf:
        code = "crlf_file"
    else:
        code = "no_executable_bit" if seen.interpreter is None else "missing_interpreter"
    values = {
        "path": seen.path,
        "quoted": shlex.quote(seen.path),
        "rule": f" ({seen.rule})" if seen.rule else "",
        "interpreter": seen.interpreter or "",
        "maker": seen.maker,
    }
    return next(known for known in table().causes if known.code == code), values


def in_conflict(path: str, text: str) -> list[Cause]:
    """Return the cause that the line with the fault, and the one before, show; empty without a conflict marker of git.

    Programs stop at the first marker, or after it. Near other faults, a text may have markers as an example.
    """
    marked = re.search(r"^<{7} |^>{7} .*\Z", text, re.MULTILINE)
    return [_cause(known, path=path) for known in table().causes if known.code == "merge_conflict" and marked]


def _cause(known: Known, *, line: str | None = None, **values: str) -> Cause:
    """Fill the placeholders of the entry with these values."""
    texts = [known.summary, known.advice]
    for name, value in values.items():
        texts = [text.replace(f"{{{name}}}", value) for text in texts]
    shown = None if line is None else line.strip()[:200]
    return Cause(code=known.code, summary=texts[0], advice=texts[1], line=shown)
