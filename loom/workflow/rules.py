"""The decision of a job's rules, in any language."""

from __future__ import annotations

import re
from collections.abc import Container, Iterable, Mapping
from typing import Any

from loom.util.bounded import listed
from loom.util.units import counted
from loom.util.yaml_file import Node
from loom.values import Immutable

NO_MATCH = "none of its rules matches"
NO_PIPELINE = "no rule of `workflow: rules` matches"
_NAMES = re.compile(r"\$(\w+)|\$\{(\w+)\}")
_SHOWN = 3
_LONGEST = 60
_REASONS = {"manual": "manual: name it to run it", "never": "when: never"}


class RuleDecision(Immutable):
    """The decision of a job's rules. `reason` explains to people why it does not run."""

    runs: bool
    when: str
    """`on_success`, `on_failure`, `always`, `manual`, `delayed` or `never`."""
    variables: Mapping[str, Any] = {}
    """The variables of the matching rule."""
    allow_failure: bool | frozenset[int] | None = None
    reason: str = ""
    rule: int | None = None
    start_in: float | None = None
    """Seconds, of `delayed`."""
    needs: Node | None = None
    """`rules:needs`, which replaces the job's `needs`."""


def decision(when: str, rule: int | None = None, reason: str = "", **more: Any) -> RuleDecision:
    """Return the decision for `when`, of the rule with this number or of the job itself."""
    by_rule = f"rules[{rule}] says never" if rule is not None and when == "never" else ""
    return RuleDecision(
        runs=when not in ("never", "manual"),
        when=when,
        rule=rule,
        reason=reason or by_rule or _REASONS.get(when, ""),
        **more,
    )


def no_match(reasons: Iterable[str], of: str = NO_MATCH) -> str:
    """Return the reason where no rule matches. `reasons`: why each of them does not, as far as it is known."""
    found = listed(dict.fromkeys(filter(None, reasons)), _SHOWN)
    return f"{of}: {'; '.join(found)}" if found else of


def values_of(condition: str, values: Mapping[str, str], hidden: Container[str]) -> str:
    """Return the values of the variables that a condition reads; of a `hidden` one, only whether it is set."""
    names = dict.fromkeys(one or other for one, other in _NAMES.findall(condition))
    return (
        ", ".join(f"${name} is {_value(values.get(name), name in hidden)}" for name in names)
        or f"`{condition}` is false"
    )


def _value(value: str | None, is_hidden: bool) -> str:
    if value is None:
        return "not set"
    return "set" if is_hidden else repr(value[:_LONGEST]) if value else "empty"


def unchanged(changed: Iterable[str] | None, globs: Iterable[str]) -> str:
    """Return why a rule's `changes` does not hold."""
    return f"{counted(len(set(changed or ())), 'changed file')}, none matches {', '.join(listed(list(globs), _SHOWN))}"
