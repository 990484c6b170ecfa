"""Decide whether and how a job takes part in a pipeline: `rules`, `workflow:rules`, `include:rules`; else `only`/`except`.

A condition compares variables as they are written; globs and refs are expanded.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import product

from loom.errors import Problem
from loom.util import globs
from loom.util.budget import spend
from loom.util.globs import GlobError
from loom.util.yaml_file import Kind, Node, fields_of, flat, items_of, node_at, one_or_more, text_of
from loom.workflow.changes import changes_since, event_changes
from loom.workflow.facts import Facts
from loom.workflow.gitlab import conditions, durations, paths
from loom.workflow.gitlab.pipeline import Entry, Pipeline
from loom.workflow.gitlab.policies import GitLabPolicies
from loom.workflow.gitlab.variables import GIVE, expand_existing, read
from loom.workflow.messages import Problems
from loom.workflow.parser import InvalidExpression
from loom.workflow.predefined import NOT_SET
from loom.workflow.rules import NO_PIPELINE, RuleDecision, decision, no_match, unchanged

_NAMES = re.compile(r"\$(\w+)")
_OF_GITLAB = re.compile(r"CI\b|CI_(?!OPEN_MERGE_REQUESTS|PROJECT_|SERVER_)|GITLAB_|FF_")
_PERSON = "GITLAB_USER_"
_MOST_TRIED = 4
_TRIED = (conditions.Anything("1"), "\0")
"""The values of a variable that only the server knows: what a condition asks for, and what none does."""


class GitLabRules(GitLabPolicies, frozen=True):
    """Evaluates rules with the variables of one job, of the workflow or of an include."""

    def decide(self, entry: Entry, *, global_rules: bool) -> RuleDecision:
        """Decide for one instance of a job. `global_rules`: whether the file has `workflow:rules`, which lift the default
        of `only`.
        """
        base = text_of(entry.merged, "when") or "on_success"
        rules = entry.merged.get("rules")
        if rules is None or rules.value is None:
            reason = self.excluded(entry, default=not global_rules)
            return self._decision(entry, None, "never" if reason else base, reason=reason)
        passed: list[str] = []
        for number, rule in self._matching(rules, passed):
            when = text_of(rule, "when") or base
            reason = f"rules[{number}] says never{self._values_text(rule)}" if when == "never" else ""
            return self._decision(entry, rule, when, reason=reason, number=number)
        return self._decision(entry, None, "never", reason=no_match(passed))

    def workflow(self, pipeline: Pipeline) -> RuleDecision:
        """Decide by `workflow:rules` whether there is a pipeline, and with which variables."""
        rules = pipeline.root.find("workflow", "rules")
        if rules is None or rules.value is None:
            return decision("always")
        passed: list[str] = []
        for number, rule in self._matching(rules, passed):
            if text_of(rule, "when") == "never":
                return decision("never", number, f"workflow: rules[{number}] says never{self._values_text(rule)}")
            return decision("always", number, variables=read(rule, "variables"))
        return decision("never", reason=no_match(passed, NO_PIPELINE))

    def include_applies(self, rules: Node | None) -> bool:
        if rules is None or rules.value is None:
            return True
        for _, rule in self._matching(rules):
            return text_of(rule, "when") != "never"
        return False

    def _matching(self, rules: Node, passed: list[str] | None = None) -> Iterator[tuple[int, Node]]:
        """Yield the rules that apply, with their numbers; `passed` gets why each of the others does not."""
        for number, rule in list(_parsed(rules, self.problems)):
            why = self._mismatch_reason(rule, told=passed is not None)
            if why is None:
                yield number, rule
            elif passed is not None:
                passed.append(why)

    def _values_text(self, rule: Node) -> str:
        """Return the values that the condition of a rule reads, in parentheses."""
        node = rule.get("if")
        return f" ({self.values_read([node])})" if node is not None and node.value is not None else ""

    def _mismatch_reason(self, rule: Node, *, told: bool) -> str | None:
        """Return why a rule does not apply, empty for a mistake in it; None if it does. `told`: the reason is for people."""
        node = rule.get("if")
        if node is not None and node.value is not None and not self.holds(node, "rules:if"):
            return self.values_read([node]) if told else ""
        changes, exists = rule.get("changes"), rule.get("exists")
        try:
            if changes is not None and (why := self._unchanged(changes)) is not None:
                return why
            return None if exists is None else self._missing(exists)
        except GlobError as error:
            self.problems.say(rule, f"rules: {error}")
            return ""

    def _unchanged(self, node: Node) -> str | None:
        """Return why `changes` does not hold; None if it does."""
        compare_to, expanded = node.get("compare_to"), self.scope.expanded
        if compare_to is None:
            changed = event_changes(self.facts)
        elif (changed := changes_since(self.facts, ref := expand_existing(text_of(compare_to), expanded))) is None:
            why = f"git can't compare with {ref} here, and GitLab starts no pipeline with an unknown ref; fetch it"
            self.problems.say(compare_to, f"rules:changes:compare_to: {why}")
            return ""
        changed = None if changed is None else set(changed)
        globs = _expanded(node, expanded)
        return None if paths.any_changed(changed, globs) else unchanged(changed, globs)

    def _missing(self, node: Node) -> str | None:
        """Return why `exists` does not hold; None if it does."""
        project, written = node.get("project"), self.scope.written
        own = self.facts.predefined.get("CI_PROJECT_PATH")
        if project is not None and expand_existing(text_of(project), written) != own:
            message = "loom sees only the files of this project; leave `project` out, or test with `if`"
            self.problems.say(project, f"rules:exists:project: {message}", code="GL_UNSUPPORTED")
            return ""
        globs = _expanded(node, written)
        return None if paths.any_of(globs, self.facts.files()) else f"no file matches {', '.join(globs)}"

    def _decision(
        self, entry: Entry, rule: Node | None, when: str, *, reason: str, number: int | None = None
    ) -> RuleDecision:
        return decision(
            when,
            number,
            reason,
            start_in=self._start_in(entry, rule or entry.merged) if when == "delayed" else None,
            allow_failure=_allow_failure(entry, rule),
            variables=read(rule, "variables"),
            needs=node_at(rule, "needs"),
        )

    def _start_in(self, entry: Entry, there: Node) -> float | None:
        node = there.get("start_in") or entry.merged.get("start_in")
        if node is None:
            self.problems.say(there, "when: delayed: say when the job starts, such as `start_in: 10 minutes`")
            return None
        try:
            return durations.seconds(text_of(node))
        except ValueError as error:
            self.problems.say(node, f"start_in: {error}")
            return None


def _expanded(written: Node, values: Mapping[str, str]) -> list[str]:
    """Return the globs of `changes` or `exists` with their variables' values; one that may be anything is any path."""
    seen = {name: "**/*" if isinstance(value, conditions.Anything) else value for name, value in values.items()}
    return [expand_existing(text_of(glob), seen) for glob in _globs_of(written)]


def _allow_failure(entry: Entry, rule: Node | None) -> bool | frozenset[int]:
    """Return the rule's value, else the job's; a job that is manual by itself may fail."""
    given = node_at(rule, "allow_failure") or entry.merged.get("allow_failure")
    if given is None:
        return text_of(entry.merged, "when") == "manual"
    codes = one_or_more(given, "exit_codes")
    return frozenset(int(code.value) for code in codes) if codes else given.value is True


def ends_at_failure(pipeline: Pipeline, decided: RuleDecision) -> bool:
    """Return whether the first failed job cancels the pipeline, as the matching rule of `workflow` says, else `workflow`."""
    path = ("auto_cancel", "on_job_failure")
    workflow = pipeline.root.get("workflow")
    if workflow is None:
        return False
    rule = None if decided.rule is None else flat(items_of(workflow, "rules"))[decided.rule]
    return text_of(node_at(rule, *path) or workflow.find(*path)) == "all"


def is_blank(node: Node) -> bool:
    """Return whether a value is what Ruby on Rails calls blank."""
    return node.kind is not Kind.REFUSED and not (node.text.strip() if node.is_scalar else node.value)


def check(rules: Node | None, problems: Problems) -> None:
    """Report each invalid condition and glob, also those that no pipeline evaluates."""
    for _, rule in _parsed(rules, problems):
        for glob in _all_globs_of(rule):
            if (wrong := globs.problem(text_of(glob))) is not None:
                problems.say(rule, f"rules: {wrong}")


def missing(
    asking: Iterable[Node], facts: Facts, written: Mapping[str, str], holds: Callable[[Mapping[str, str]], bool]
) -> tuple[str, ...]:
    """Return the fewest variables in conditions that only the server knows and with which, for some values, it `holds`.

    A variable of the project has any name but GitLab's own, most of which are not set where loom sets none. Of many, all.
    """
    source = facts.predefined.get("CI_PIPELINE_SOURCE")
    asked = {one.name for one in NOT_SET if one.source in ("*", source)}
    found = dict.fromkeys(name for node in asking for name in _NAMES.findall(text_of(node)))
    names = [name for name in found if name not in written and (name in asked or not _OF_GITLAB.match(name))]
    names += [name for name in found if name.startswith(_PERSON)]
    if len(names) > _MOST_TRIED:
        return tuple(names)
    for values in sorted(product((None, *_TRIED), repeat=len(names)), key=lambda row: len(row) - row.count(None)):
        given = {name: value for name, value in zip(names, values, strict=True) if value is not None}
        if holds(given):
            return tuple(given)
    return ()


def unset_variables(
    root: Node, entries: Iterable[Entry], facts: Facts, of_includes: Iterable[Node]
) -> Iterator[Problem]:
    """Report the variables that conditions read and only the server knows, each once: here, they have no value."""
    source = facts.predefined.get("CI_PIPELINE_SOURCE")
    asked = {one.name: one.why for one in NOT_SET if one.source in ("*", source)}
    given = {*facts.own_variables(), *facts.given, *fields_of(root, "variables")}
    for node, own in conditions_of(root, entries, of_includes):
        for name in _NAMES.findall(text_of(node)):
            if name in asked and name not in given and name not in own:
                why = f"this condition reads ${name}, which has no value here: {asked.pop(name)[:-1].lower()}; {GIVE}"
                yield node.file.problem(node, why, code="GL_NOT_GIVEN", severity="notice")


def conditions_of(
    root: Node, entries: Iterable[Entry], of_includes: Iterable[Node] = ()
) -> Iterator[tuple[Node, Mapping[str, Node]]]:
    """Yield each condition with the variables of its job."""
    for rules in of_includes:
        yield from ((node, {}) for node in ifs(rules))
    whole: Mapping[str, Node] = {}
    owners = [(node, whole) for node in (root.get("workflow"),) if node is not None]
    owners += [(entry.merged, fields_of(entry.merged, "variables")) for entry in entries]
    for owner, own in owners:
        yield from ((node, own) for node in ifs(owner.get("rules")))
        for key in ("only", "except"):
            yield from ((node, own) for node in one_or_more(owner, key, "variables"))


def read_by(rules: Node | None) -> Iterator[Node]:
    """Yield the conditions and globs of rules."""
    yield from ifs(rules)
    for rule in flat(items_of(rules)):
        yield from _all_globs_of(rule)


def _all_globs_of(rule: Node) -> Iterator[Node]:
    for keyword in (rule.get("changes"), rule.get("exists")):
        if keyword is not None:
            yield from _globs_of(keyword)


def _globs_of(keyword: Node) -> list[Node]:
    """Return the globs of `changes` or `exists`: its list, or that of `paths` in it."""
    return one_or_more(keyword.get("paths") or keyword)


def ifs(rules: Node | None) -> Iterator[Node]:
    for rule in flat(items_of(rules)):
        if (node := rule.get("if")) is not None:
            yield node


def _parsed(rules: Node | None, problems: Problems) -> Iterator[tuple[int, Node]]:
    """Yield each rule with its number; one whose condition is invalid is reported and left out."""
    for number, rule in enumerate(flat(items_of(rules))):
        spend("values", rule, 0)
        node = rule.get("if")
        try:
            if node is not None and node.value is not None:
                conditions.parse(text_of(node))
            yield number, rule
        except InvalidExpression as error:
            problems.say(node or rule, f"rules:if: {error}", code="GL_INVALID", offset=error.position)
