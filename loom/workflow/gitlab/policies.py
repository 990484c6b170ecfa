"""`only` and `except`: by ref, event, variables and changes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from msgspec import Struct

from loom.util.globs import GlobError
from loom.util.yaml_file import Node, one_or_more, text_of
from loom.workflow.changes import event_changes
from loom.workflow.facts import Facts
from loom.workflow.gitlab import conditions, paths
from loom.workflow.gitlab.pipeline import Entry
from loom.workflow.gitlab.variables import Scope
from loom.workflow.messages import Problems
from loom.workflow.parser import InvalidExpression
from loom.workflow.patterns import PatternError, SearchError
from loom.workflow.rules import unchanged, values_of

DEFAULT = ("branches", "tags")
"""`only:refs` where it is not given."""


class GitLabPolicies(Struct, frozen=True):
    """What a job's conditions see: its variables, the event and the checkout. Mistakes in them go to `problems`."""

    scope: Scope
    facts: Facts
    problems: Problems

    def excluded(self, entry: Entry, *, default: bool) -> str:
        """Return why `only` or `except` leaves a job out; empty if they do not. `default`: whether `only:refs` has one."""
        only, unless = _given(entry, "only"), _given(entry, "except")
        values = self.facts.predefined
        refs, implied = _refs(only), ""
        if refs is None and (default or only is not None):
            refs, implied = list(DEFAULT), " (the default)"
        if refs is not None and not any(_matches(ref, values) for ref in refs):
            return f"only: {', '.join(refs)}{implied}: not {_name_of(values)}"
        for keyword, clause, why in self._clauses(only, "only"):
            if not clause:
                return f"only:{keyword} does not hold: {why}"
        excepted = _refs(unless) or []
        if any(_matches(ref, values) for ref in excepted):
            return f"except: {', '.join(excepted)}: this is {_name_of(values)}"
        for keyword, clause, why in self._clauses(unless, "except"):
            if clause:
                return f"except:{keyword} holds: {why}"
        return ""

    def _clauses(self, node: Node | None, key: str) -> list[tuple[str, bool, str]]:
        """Evaluate `variables`, `changes` and `kubernetes`, as far as they are given; the texts tell the values."""
        if node is None or not node.is_mapping:
            return []
        found = []
        if (kubernetes := node.get("kubernetes")) is not None:
            message = f"{key}:kubernetes: a local run has no cluster of GitLab's; remove it, or use `rules`"
            self.problems.say(kubernetes, message, code="GL_UNSUPPORTED")
        if (variables := node.get("variables")) is not None:
            written = one_or_more(variables)
            several = [self.holds(one, f"{key}:variables") for one in written]
            found.append(("variables", any(several), self.values_read(written)))
        if (changes := node.get("changes")) is not None:
            try:
                globs = [text_of(glob) for glob in one_or_more(changes)]
                changed = None if (files := event_changes(self.facts)) is None else set(files)
                matches = paths.any_changed(changed, globs)
                told = f"a changed file matches {', '.join(globs)}" if matches else unchanged(changed, globs)
                found.append(("changes", matches, told))
            except GlobError as error:
                self.problems.say(changes, f"{key}:changes: {error}")
        return found

    def values_read(self, written: Sequence[Node]) -> str:
        """Return the values that conditions read. Those of the project's variables and of `--var` may be secrets."""
        hidden = {*self.facts.own_variables(), *self.facts.given}
        return values_of(" ".join(map(text_of, written)), self.scope.written, hidden)

    def holds(self, node: Node, keyword: str) -> bool:
        """Evaluate a condition; one that is invalid, or takes too long, is a problem and does not hold."""
        try:
            return conditions.holds(text_of(node), self.scope.written)
        except (InvalidExpression, SearchError) as error:
            self.problems.say(node, f"{keyword}: {error}", code="GL_INVALID", offset=getattr(error, "position", 0))
            return False


def _given(entry: Entry, key: str) -> Node | None:
    node = entry.merged.get(key)
    return None if node is None or node.value is None else node


def _refs(node: Node | None) -> list[str] | None:
    """Return the refs of `only` or `except`, which may be empty; None without such a key."""
    written = node.get("refs") if node is not None and node.is_mapping else node
    return None if written is None else [text_of(ref) for ref in one_or_more(written)]


def _matches(written: str, values: Mapping[str, str]) -> bool:
    """Return whether a ref, a pattern or a keyword of `only:refs` fits the pipeline."""
    pattern, _, path = written.partition("@")
    if path and path != values.get("CI_PROJECT_PATH"):
        return False
    tag, branch = values.get("CI_COMMIT_TAG"), values.get("CI_COMMIT_BRANCH")
    source = values.get("CI_PIPELINE_SOURCE", "").removesuffix("_event")
    plural = f"{source}es" if source.endswith("sh") else f"{source}s"
    if (pattern == "tags" and tag) or (pattern == "branches" and branch) or pattern in (source, plural):
        return True
    ref = tag or branch
    if not ref:
        return False
    try:
        return conditions.compile_pattern(pattern).found_in(ref)
    except (PatternError, SearchError):
        return pattern == ref


def _name_of(values: Mapping[str, str]) -> str:
    if tag := values.get("CI_COMMIT_TAG"):
        return f"the tag {tag}"
    branch = values.get("CI_COMMIT_BRANCH")
    source = values.get("CI_PIPELINE_SOURCE", "push").removesuffix("_event").replace("_", " ")
    none = ": HEAD is on no branch" if source == "push" else ""
    return f"a {source} of {branch}" if branch else f"a {source}{none}"
