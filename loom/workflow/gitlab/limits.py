"""Find what GitLab refuses in values whose shapes are right: keywords that exclude or require each other, numbers, lengths."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from datetime import datetime

from loom.util.units import duration_text
from loom.util.yaml_file import Node, fields_of, node_at, one_or_more
from loom.workflow.gitlab import conditions
from loom.workflow.gitlab.durations import seconds
from loom.workflow.instances import combinations
from loom.workflow.messages import Problems
from loom.workflow.patterns import PatternError

Check = Callable[[Node], "str | None"]

_OF_TRIGGERS = {
    "trigger", "parallel", "manual_confirmation", "extends", "stage", "only", "except", "rules", "variables", "inherit",
    "allow_failure", "when", "needs", "resource_group", "environment", "interruptible", "inputs",
}  # fmt: skip
_STORES = ("vault", "gcp_secret_manager", "azure_key_vault", "aws_secrets_manager", "gitlab_secrets_manager")
_UNFIT_KEY = re.compile(r"/|%2f|^(\.|%2e){1,2}$", re.IGNORECASE)
_ENVIRONMENT = re.compile(r"(?!/)[a-zA-Z0-9_/${}. -]+(?<!/)")
_REGEXP = re.compile(r"/.*/[ismU]*")
_EXPOSED = re.compile(r"\w[-\w ]{0,99}")
MOST_INSTANCES = 200
"""The limit for one job."""
WEEK, MONTH = 604_800, 30 * 86_400


def _has(node: Node, key: str) -> bool:
    child = node.get(key)
    return child is not None and child.value is not None


def _apart(key: str, *others: str) -> Check:
    def check(node: Node) -> str | None:
        found = next((other for other in others if _has(node, other)), None) if _has(node, key) else None
        return f"`{key}` and `{found}` exclude each other; remove one" if found else None

    return check


def _requires(*keys: str, one_of: bool = False, when: str | None = None) -> Check:
    """Ask a mapping for keys; `when`: only if it has this one."""

    def check(node: Node) -> str | None:
        if not node.is_mapping or (when is not None and not _has(node, when)):
            return None
        lacks = [key for key in keys if not _has(node, key)]
        if one_of and len(lacks) < len(keys):
            return None
        beside = f" beside `{when}`" if when else ""
        return f"{' or '.join(lacks) if one_of else lacks[0]} is missing{beside}; add it" if lacks else None

    return check


def _number_limit(least: int, most: int) -> Check:
    def check(node: Node) -> str | None:
        fits = not isinstance(node.value, int) or least <= node.value <= most
        return None if fits else f"expected {least} to {most}, found {node.text}"

    return check


def _count(least: int, most: int, what: str) -> Check:
    def check(node: Node) -> str | None:
        number = len(one_or_more(node))
        allowed = f"{least} to {most}" if least else f"at most {most}"
        return None if least <= number <= most else f"there are {number} {what}; GitLab allows {allowed}"

    return check


def _filled(node: Node) -> str | None:
    return "it is empty" if node.value == "" else None


def _stops_in(node: Node) -> str | None:
    try:
        seconds("1s" if "$" in node.text or node.text == "never" else node.text)
    except ValueError as error:
        return str(error)
    return None


def _duration_limit(limit_s: int) -> Check:
    def check(node: Node) -> str | None:
        too_long = isinstance(node.value, str) and seconds(node.value) > limit_s
        return f"{node.text} is longer than {duration_text(limit_s)}, the most in GitLab" if too_long else None

    return check


def _pattern(node: Node) -> str | None:
    try:
        conditions.compile_pattern(node.text)
    except PatternError as error:
        return str(error)
    return None


def _ref(node: Node) -> str | None:
    return _pattern(node) if node.is_scalar and _REGEXP.fullmatch(node.text) else None


def _length(most: int) -> Check:
    return lambda node: f"it has more than {most} characters" if len(node.text) > most else None


def _delayed(node: Node) -> str | None:
    is_delayed, starts_in = _text(node, "when") == "delayed", _has(node, "start_in")
    if is_delayed == starts_in or not node.is_mapping:
        return None
    return "`when: delayed` has no `start_in`; add it" if is_delayed else "`start_in` counts only with `when: delayed`"


def _delayed_job(node: Node) -> str | None:
    return None if _has(node, "rules") and _has(node, "start_in") else _delayed(node)


def _check_trigger(node: Node) -> str | None:
    if not _has(node, "trigger") or _has(node, "script"):
        return None
    unfit = [key for key in node.value if key not in _OF_TRIGGERS and _has(node, key)]
    if unfit:
        return f"a job with `trigger` runs no script, so it can't have `{unfit[0]}`"
    if _text(node, "when") == "delayed":
        return "a job with `trigger` can't be delayed"
    copies = node.get("parallel")
    if copies is not None and copies.is_scalar:
        return "a job with `trigger` has no copies; write `parallel: {matrix: ...}`"
    codes = node.find("allow_failure", "exit_codes")
    return "a job with `trigger` has no exit code; write `allow_failure: true`" if codes is not None else None


def _moment(node: Node) -> str | None:
    try:
        datetime.fromisoformat(node.text)
    except ValueError:
        return f"{node.text} is no date; write it as 2030-01-31T12:00:00Z"
    return None


def _exposed(node: Node) -> str | None:
    if not _has(node, "expose_as"):
        return None
    if not _EXPOSED.fullmatch(_text(node, "expose_as")):
        return "`expose_as` is up to 100 letters, digits, -, _ and spaces"
    paths = one_or_more(node, "paths")
    if any("*" in path.text for path in paths):
        return "`expose_as` allows no `*` in `paths`"
    return None if paths else "`expose_as` needs `paths`"


def _environment(node: Node) -> str | None:
    fits = not node.is_scalar or _ENVIRONMENT.fullmatch(node.text)
    return (
        None
        if fits
        else f"{node.text}: letters, digits, spaces, -, _, /, $, {{, }} and . are allowed, and no / at an end"
    )


def _key(node: Node) -> str | None:
    unfit = node.is_scalar and _UNFIT_KEY.search(node.text)
    why = f"{node.text}: GitLab refuses a key with a slash, and the keys . and ..; write it with hyphens"
    return why if unfit else None


def _instances(number: int) -> str | None:
    found = "more" if number > MOST_INSTANCES else number
    return (
        None if 1 <= number <= MOST_INSTANCES else f"GitLab makes 1 to {MOST_INSTANCES} instances of a job, not {found}"
    )


def _copies(node: Node) -> str | None:
    return None if _has(node, "matrix") else _instances(node.value if isinstance(node.value, int) else 0)


def _mirrors(node: Node) -> str | None:
    """Return the problem of `needs:pipeline` without `job`, by which only a job with `trigger` may mirror a pipeline's status."""
    written = () if _has(node, "trigger") else one_or_more(node, "needs")
    fits = all(_has(one, "job") for one in written if _has(one, "pipeline"))
    return None if fits else "job is missing beside `pipeline` in `needs`; add it"


def _combined(node: Node) -> str | None:
    if any(value.value is None for row in one_or_more(node) for value in fields_of(row).values()):
        return "a name has no value"
    return _instances(len(combinations(node)))


def _check_project_need(node: Node) -> str | None:
    if not _has(node, "project"):
        return None
    return _requires("job", "ref")(node) or _apart("project", "optional", "pipeline")(node)


def _text(node: Node, key: str) -> str:
    child = node.get(key)
    return child.text if child is not None else ""


OF_JOB: tuple[Check, ...] = (
    _apart("rules", "only", "except", "start_in"),
    _apart("script", "trigger", "run"),
    _delayed_job,
    _check_trigger,
    _mirrors,
)
_PATTERNS = (_count(0, 50, "patterns"),)
LIMITS: Mapping[str, tuple[Check, ...]] = {
    "start_in": (_duration_limit(WEEK),),
    "timeout": (_duration_limit(MONTH),),
    "artifacts": (_apart("access", "public"), _exposed),
    "cache[]": (_count(0, 4, "caches"),),
    "cache:key": (_requires("files", "files_commits", one_of=True), _apart("files", "files_commits"), _key),
    "cache:key:prefix": (_key,),
    "cache:key:files[]": (_count(1, 2, "paths"),),
    "cache:key:files_commits[]": (_count(1, 2, "paths"),),
    "cache:fallback_keys[]": (_count(0, 5, "keys"),),
    "coverage": (_pattern,),
    "environment": (_environment,),
    "environment:name": (_environment, _length(255)),
    "environment:url": (_length(255),),
    "environment:auto_stop_in": (_stops_in,),
    "except": (_ref,),
    "except:refs": (_ref,),
    "needs": (
        _requires("job", "pipeline", one_of=True),
        _requires("project", when="ref"),
        _check_project_need,
    ),
    "only": (_ref,),
    "only:refs": (_ref,),
    "parallel": (_copies,),
    "parallel:matrix[]": (_combined,),
    "release:released_at": (_moment,),
    "retry": (_number_limit(0, 2),),
    "retry:max": (_number_limit(0, 2),),
    "rules": (_delayed,),
    "rules:start_in": (_duration_limit(WEEK),),
    "rules:changes": (_requires("paths", "regexp", one_of=True),),
    "rules:changes[]": _PATTERNS,
    "rules:changes:paths[]": _PATTERNS,
    "rules:exists": (_requires("paths", "regexp", one_of=True),),
    "rules:exists[]": _PATTERNS,
    "rules:exists:paths[]": _PATTERNS,
    "secrets:NAME": (_requires(*_STORES, one_of=True),),
    "tags[]": (_count(0, 49, "tags"),),
    "trigger": (
        _filled,
        _apart("include", "project", "branch"),
        _requires("include", "project", one_of=True),
    ),
    "trigger:project": (_filled,),
    "trigger:include": (_filled, _requires("job", when="artifact"), _requires("file", when="project")),
    "trigger:include[]": (_count(1, 3, "files"),),
    "workflow:name": (_length(255),),
}
"""By the keyword, of which a list has each of its items checked; with `[]`, the list as a whole, or the value in place of one."""


def check_stops(jobs: Mapping[str, Node], problems: Problems) -> None:
    """Report an `environment:on_stop` that names no job which stops that environment."""
    for job in jobs.values():
        on_stop = job.find("environment", "on_stop")
        if on_stop is None or on_stop.value is None:
            continue
        stopping = jobs.get(on_stop.text)
        there = node_at(stopping, "environment")
        if stopping is None:
            why = f"there is no job {on_stop.text}"
        elif there is None or _name(there) != _name(job.value["environment"]):
            why = f"{on_stop.text} has not the same environment"
        elif _text(there, "action") != "stop":
            why = f"{on_stop.text} has no `action: stop`"
        else:
            continue
        problems.say(on_stop, f"environment:on_stop: {why}")


def _name(environment: Node) -> str:
    return (environment.get("name") or environment).text
