"""Read findings of linters and scanners: SARIF 2.1.0, and the Code Climate JSON that GitLab calls `codequality`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Annotated, Literal, TypeVar, get_args
from urllib.parse import unquote

import msgspec
from msgspec import Meta, Struct

from loom.status import Failure
from loom.storage.reports import UnreadableReport, project_path, short
from loom.storage.tar import Content
from loom.util import typed
from loom.values import Immutable

MAX_BYTES = 16 << 20
MAX_FINDINGS = 1000
_MAX_MESSAGE = 2000
_MAX_PATH = 1000
_RANK = {"blocker": 0, "critical": 0, "error": 0, "major": 1, "minor": 2, "warning": 2, "note": 4, "none": 4}
_LEAST = 3
"""The rank of an unknown level; what only informs is above, and is no finding beside those that are."""

T = TypeVar("T")
_Line = Annotated[int, Meta(ge=0, lt=1 << 31)]
Kind = Literal["sarif", "codequality"]
KINDS: tuple[Kind, ...] = get_args(Kind)


class FindingReport(Immutable):
    """`first` holds `MAX_FINDINGS` of `total` findings, the most severe first."""

    total: int
    first: tuple[Failure, ...]


def read(kind: Kind, file: Content, *, project_dir: str) -> FindingReport:
    """Parse one report. `project_dir` is the workspace path in the job; paths below it become relative.

    UnreadableReport for a file that is not of this kind, or is too large.
    """
    ranked = sorted(_READERS[kind](file, project_dir), key=lambda each: each[0])
    ranked = [each for each in ranked if each[0] <= _LEAST] or ranked
    return FindingReport(total=len(ranked), first=tuple(finding for _, finding in ranked[:MAX_FINDINGS]))


_Ranked = Iterator[tuple[int, Failure]]


def _decoded(file: Content, shape: type[T]) -> T:
    content = bytearray()
    while chunk := file.read(1 << 20):
        content += chunk
        if len(content) > MAX_BYTES:
            raise UnreadableReport(f"it is larger than {MAX_BYTES >> 20} MiB")
    try:
        return typed.decode(content.removeprefix(b"\xef\xbb\xbf"), shape)
    except msgspec.ValidationError as error:
        raise UnreadableReport(f"its content is not as expected: {error}") from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise UnreadableReport(f"it is not valid JSON: {error}") from error


def _finding(
    tool: str, path: str | None, line: int | None, column: int | None, message: str | None, code: str | None
) -> Failure:
    return Failure(
        tool=short(tool, 100),
        file=short(path, _MAX_PATH) if path else None,
        line=line or None,
        column=column or None,
        message=short((message or "").strip(), _MAX_MESSAGE) or None,
        code=short(code, 200) if code else None,
    )


# -- GitLab's codequality ------------------------------------------------------------------------------------------------


class _Position(Struct):
    line: _Line
    column: _Line = 0


class _Lines(Struct):
    begin: _Line | _Position


class _Spot(Struct):
    path: str
    lines: _Lines | None = None
    positions: _Lines | None = None


class _Issue(Struct):
    location: _Spot
    description: str = ""
    check_name: str = ""
    severity: str = ""
    type: str = "issue"


def _codequality(file: Content, project_dir: str) -> _Ranked:
    for issue in _decoded(file, list[_Issue]):
        where = issue.location.lines or issue.location.positions
        begin = where.begin if where else 0
        line, column = (begin, 0) if isinstance(begin, int) else (begin.line, begin.column)
        path = project_path(issue.location.path, project_dir)
        if issue.type.lower() == "issue":
            found = _finding("codequality", path, line, column, issue.description, issue.check_name)
            yield _RANK.get(issue.severity.lower(), _LEAST), found


# -- SARIF ---------------------------------------------------------------------------------------------------------------


class _Message(Struct):
    text: str | None = None
    markdown: str | None = None
    id: str | None = None


class _Location(Struct):
    uri: str | None = None


class _Region(Struct):
    startLine: _Line = 0
    startColumn: _Line = 0


class _Physical(Struct):
    artifactLocation: _Location | None = None
    region: _Region | None = None


class _FileLocation(Struct):
    physicalLocation: _Physical | None = None


class _Suppression(Struct):
    status: str = "accepted"


class _RuleReference(Struct):
    id: str | None = None
    index: int = -1


class _Result(Struct):
    message: _Message
    ruleId: str | None = None
    ruleIndex: int = -1
    rule: _RuleReference | None = None
    level: str | None = None
    kind: str = "fail"
    baselineState: str | None = None
    locations: list[_FileLocation] = []
    suppressions: list[_Suppression] | None = None


class _Default(Struct):
    level: str = "warning"


class _Rule(Struct):
    id: str
    defaultConfiguration: _Default | None = None
    messageStrings: dict[str, _Message] = {}


class _Driver(Struct):
    name: str
    rules: list[_Rule] = []


class _Tool(Struct):
    driver: _Driver


class _Run(Struct):
    tool: _Tool
    results: list[_Result] | None = None


class _Sarif(Struct):
    version: str
    runs: list[_Run]


def _sarif(file: Content, project_dir: str) -> _Ranked:
    report = _decoded(file, _Sarif)
    if report.version != "2.1.0":
        raise UnreadableReport(f"it is SARIF {short(report.version, 20)}, and loom reads 2.1.0")
    for run in report.runs:
        rules = {rule.id: rule for rule in run.tool.driver.rules}
        for result in run.results or ():
            if _counts(result):
                yield _parse_result(result, run, rules, project_dir)


def _counts(result: _Result) -> bool:
    """Return whether a finding counts: not what a rule passed, what someone suppressed, and what was there before and is gone."""
    suppressed = any(each.status == "accepted" for each in result.suppressions or ())
    return result.kind in ("fail", "open", "review") and result.baselineState != "absent" and not suppressed


def _parse_result(result: _Result, run: _Run, rules: Mapping[str, _Rule], project_dir: str) -> tuple[int, Failure]:
    named = result.rule or _RuleReference()
    rule_id = result.ruleId or named.id
    rule = rules.get(rule_id) if rule_id else _item(run.tool.driver.rules, max(result.ruleIndex, named.index))
    level = result.level or (rule.defaultConfiguration.level if rule and rule.defaultConfiguration else "warning")
    location = next((each.physicalLocation for each in result.locations if each.physicalLocation), _Physical())
    region = location.region or _Region()
    uri = location.artifactLocation.uri if location.artifactLocation else None
    path = project_path(uri if uri.startswith("file:") else unquote(uri), project_dir) if uri else None
    message = result.message
    if message.text is None and message.id is not None and rule is not None:
        message = rule.messageStrings.get(message.id, message)
    code = rule_id or (rule.id if rule else None)
    found = _finding(
        run.tool.driver.name, path, region.startLine, region.startColumn, message.text or message.markdown, code
    )
    return _RANK.get(level, _LEAST), found


def _item(items: Sequence[T], index: int) -> T | None:
    return items[index] if 0 <= index < len(items) else None


_READERS: Mapping[Kind, Callable[[Content, str], _Ranked]] = {"codequality": _codequality, "sarif": _sarif}
