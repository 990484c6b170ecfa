"""Decide what triggers a workflow: events with their filters, and the inputs that they bring."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Any

from loom.errors import RequestError
from loom.util.units import meant
from loom.util.yaml_file import Node, items_of, node_at, one_or_more, text_of
from loom.values import Immutable
from loom.workflow.github.keywords import FILTERS
from loom.workflow.github.workflows import CALL, WorkflowFile
from loom.workflow.messages import Problems
from loom.workflow.patterns import PatternError, Search, SearchError, pattern_of

DISPATCH = "workflow_dispatch"
_TOKEN = re.compile(
    r"\\(?P<escaped>.)|(?P<deep>\*\*/)|(?P<all>\*\*)|(?P<star>\*)|(?P<set>\[[^]]+\])|(?P<other>.)", re.DOTALL
)
"""The parts of a filter of branches, tags or paths."""
_CRON = (
    ("a minute", 0, 59, ""),
    ("an hour", 0, 23, ""),
    ("a day", 1, 31, ""),
    ("a month", 1, 12, "jan feb mar apr may jun jul aug sep oct nov dec"),
    ("a weekday", 0, 7, "sun mon tue wed thu fri sat"),
)
"""The fields of a schedule: the lowest and the highest value, and the names of values from the lowest on."""
_TIMES = re.compile(r"(?:\*|(\w+)(?:-(?P<last>\w+))?)(?:/(0*[1-9]\d*))?", re.ASCII)
_TYPES: Mapping[str, tuple[str, ...]] = {
    "pull_request": ("opened", "synchronize", "reopened"),
    "pull_request_target": ("opened", "synchronize", "reopened"),
}
"""The types that a workflow is triggered by which names none; all others by any."""


class TriggerEvent(Immutable):
    name: str
    type: str = ""
    """Its `action`; empty: any."""
    branch: str = ""
    """The branch that filters look at: of a pull request the one that it goes to."""
    tag: str = ""


def skip_reason(file: WorkflowFile, happened: TriggerEvent, changed: Iterable[str] | None) -> str:
    """Return why an event does not trigger a workflow, or nothing. `changed`: the files of its commits; None: unknown."""
    events = file.events
    if happened.name not in events:
        return f"on: {', '.join(events)}; the event is {happened.name}"
    on = events[happened.name]
    types = _texts(on, "types") or list(_TYPES.get(happened.name, ()))
    if happened.type and types and happened.type not in types:
        return f"on: {happened.name}: types: {', '.join(types)}; this one is {happened.type}"
    return _ref_skip_reason(on, happened) or _path_skip_reason(on, happened, changed)


def _ref_skip_reason(on: Node | None, happened: TriggerEvent) -> str:
    """Return why the filters leave a ref out, as on GitHub: those of branches alone leave out all tags, and vice versa."""
    filters = [key for key in FILTERS.get(happened.name, ()) if key.startswith(("branches", "tags"))]
    if not any("".join(_texts(on, key)) for key in filters):
        return ""
    kind, other, ref = ("tags", "branches", happened.tag) if happened.tag else ("branches", "tags", happened.branch)
    wanted, ignored = _texts(on, kind), _texts(on, f"{kind}-ignore")
    if not wanted and not ignored:
        one = "tag" if happened.tag else "branch"
        return f"on: {happened.name}: it has filters of {other} alone, and this is the {one} {ref}"
    if wanted and not included(ref, wanted):
        return f"on: {happened.name}: {kind}: {', '.join(wanted)}; this is {ref or 'no branch'}"
    if ignored and included(ref, ignored):
        return f"on: {happened.name}: {kind}-ignore: {', '.join(ignored)}; this is {ref}"
    return ""


def _path_skip_reason(on: Node | None, happened: TriggerEvent, changed: Iterable[str] | None) -> str:
    wanted, ignored = _texts(on, "paths"), _texts(on, "paths-ignore")
    if happened.tag or changed is None or not (wanted or ignored):
        return ""
    files = list(changed)
    if wanted and not any(included(name, wanted) for name in files):
        return f"on: {happened.name}: paths: no changed file matches {', '.join(wanted)}"
    if ignored and all(included(name, ignored) for name in files):
        return f"on: {happened.name}: paths-ignore: all changed files match"
    return ""


def asks_for_paths(file: WorkflowFile, event: str) -> bool:
    on = file.events.get(event)
    return any(one_or_more(on, key) for key in ("paths", "paths-ignore"))


def _texts(on: Node | None, key: str) -> list[str]:
    return [text_of(one) for one in one_or_more(on, key)]


class BadPattern(ValueError):
    """A pattern that GitHub refuses too."""


@lru_cache(maxsize=1024)
def compiled(pattern: str) -> Search:
    """Return the search for a pattern without its `!`. Raises BadPattern."""
    parts: list[str] = []
    for found in _TOKEN.finditer(pattern):
        if found["escaped"]:
            parts.append(re.escape(found["escaped"]))
        elif found["deep"]:
            parts.append("(?:.*/)?")
        elif found["all"] or found["star"]:
            parts.append(".*" if found["all"] else "[^/]*")
        elif found["set"]:
            parts.append("[" + re.sub(r"([\\\[^&~|])", r"\\\1", found["set"][1:-1]) + "]")
        elif found["other"] in "?+":
            if not parts or parts[-1][-1:] in "?+*":
                raise BadPattern(f"{found['other']} in {pattern} stands after nothing that it could repeat")
            parts[-1] += found["other"]
        else:
            parts.append(re.escape(found["other"]))
    try:
        return Search(pattern_of(rf"\A{''.join(parts)}\Z", re.DOTALL, pattern))
    except (PatternError, SearchError) as error:
        raise BadPattern(f"{pattern} is no pattern: {error}") from error


def included(name: str, patterns: Sequence[str]) -> bool:
    """Return whether the last pattern that matches is one without `!`. RequestError for one that takes too long."""
    result = False
    for pattern in patterns:
        excludes = pattern.startswith("!")
        try:
            if result == excludes and compiled(pattern[1:] if excludes else pattern).first_in(name) is not None:
                result = not excludes
        except SearchError as error:
            raise RequestError(str(error)) from error
    return result


def check(file: WorkflowFile, problems: Problems) -> None:
    """Report filters that exclude each other, wrong patterns, and inputs whose default is no value of theirs."""
    for event, on in file.events.items():
        for key in FILTERS.get(event, ()):
            for node in one_or_more(on, key):
                try:
                    compiled(text_of(node).removeprefix("!"))
                except BadPattern as error:
                    problems.say(node, f"{key}: {error}")
            other = node_at(on, f"{key}-ignore")
            if other is not None and node_at(on, key) is not None:
                why = f"{key} and {key}-ignore can't stand together; write `!` before what to leave out"
                problems.say(other, why)
    for node in items_of(file.events.get("schedule")):
        cron = node.get("cron")
        if cron is not None and (wrong := _wrong_in(text_of(cron))):
            problems.say(cron, f"cron: expected {wrong}, found {text_of(cron)}")
    for event in (DISPATCH, CALL):
        for name, node in file.inputs(event).items():
            default = node.get("default")
            if default is not None and "${{" not in text_of(default):
                try:
                    value_of(name, node, text_of(default))
                except ValueError as error:
                    problems.say(default, f"default: {error}")
            if text_of(node, "type") == "choice" and not items_of(node, "options"):
                problems.say(node, f"{name}: a choice needs `options`")


def _wrong_in(cron: str) -> str:
    """Return what was expected of a schedule instead; empty for a valid one."""
    if len(fields := cron.lower().split()) != len(_CRON):
        return "minute, hour, day, month and weekday"
    for field, (name, low, high, words) in zip(fields, _CRON, strict=True):
        named = {word: str(number) for number, word in enumerate(words.split(), low)}
        for times in map(_TIMES.fullmatch, field.split(",")):
            written = [named.get(one, one) for one in times.groups() if one is not None] if times else ["none"]
            fits = all(one.isdecimal() and low <= int(one) <= high for one in written)
            if not fits or (times and times["last"] and int(written[0]) > int(written[1])):
                return f"{name} from {low} to {high}"
    return ""


def value_of(name: str, node: Node, text: str) -> Any:
    """Return the value of an input of its type. ValueError for a text that does not fit it."""
    match text_of(node, "type"):
        case "boolean":
            if text not in ("true", "false"):
                raise ValueError(f"{name} is true or false, not {text!r}")
            return text == "true"
        case "number":
            try:
                return float(text)
            except ValueError as error:
                raise ValueError(f"{name} is a number, not {text!r}") from error
        case "choice":
            options = [text_of(one) for one in items_of(node, "options")]
            if text not in options:
                raise ValueError(f"{name}: {text} is none of {', '.join(options)}{meant(text, options)}")
        case _:
            pass
    return text
