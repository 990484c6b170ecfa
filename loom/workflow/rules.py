"""The decision of a job's rules, in any language."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from msgspec import Struct, field

from loom.util.yaml_file import Node

NO_MATCH = "none of its rules matches"
NO_PIPELINE = "no rule of `workflow: rules` matches"
_REASONS = {"manual": "manual: name it to run it", "never": "when: never"}


class RuleDecision(Struct, frozen=True, kw_only=True):
    """The decision of a job's rules. `reason` explains to people why it does not run."""

    runs: bool
    when: str
    """`on_success`, `on_failure`, `always`, `manual`, `delayed` or `never`."""
    variables: Mapping[str, Any] = field(default_factory=dict)
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
