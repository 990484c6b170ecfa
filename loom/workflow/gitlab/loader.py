"""Turn `.gitlab-ci.yml` into a checked `Pipeline`: includes, extends, references, stages, defaults, shapes.

In GitLab's order. All errors are reported at once, each at its position.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from msgspec import Struct

from loom.util.budget import spend
from loom.util.paths import name_from
from loom.util.yaml_file import Kind, Node, fields_of, flat, items_of, text_of
from loom.workflow.facts import Facts
from loom.workflow.gitlab import limits, rules
from loom.workflow.gitlab.files import CODE, GitLabFiles
from loom.workflow.gitlab.keywords import DEFAULTS, GLOBALS, ROOT
from loom.workflow.gitlab.pipeline import Entry, Pipeline
from loom.workflow.gitlab.references import Resolver
from loom.workflow.gitlab.shapes import JOB_TABLE, GitLabShapes
from loom.workflow.loaded import LoadOutcome, content_of
from loom.workflow.merge import extended
from loom.workflow.messages import sort_problems

STAGES = ("build", "test", "deploy")
FIRST, LAST = ".pre", ".post"
MAX_LEVELS = 10
MAX_NAME = 255


def examine(path: Path, root: Path, facts: Callable[[], Facts]) -> LoadOutcome:
    """Implement `dialects.Loader`: `workflow` is None when the file, or one that it includes, is missing or unreadable."""
    name = name_from(root, path)
    return examine_text(name, content_of(path, root), root, facts())


def examine_text(name: str, data: bytes, root: Path, facts: Facts) -> LoadOutcome:
    """Examine the content of a file."""
    problems = GitLabShapes()
    files = GitLabFiles(root, facts, problems)
    content = files.load(data, name)
    pipeline = None
    # Parts that seem to be missing may be in the include that could not be read.
    if not any(problem.code == CODE for problem in problems.found) and content is not None:
        pipeline = _Assembly(name, files, problems).pipeline(content)
    ranks = {file.name: number for number, file in enumerate(files.found)} | {name: -1}
    rest = pipeline if files.incomplete else None
    return LoadOutcome(workflow=pipeline, problems=tuple(sort_problems(problems.found, ranks)), ranks=ranks, rest=rest)


class _Assembly(Struct):
    """A pipeline in the making, of the merged content of its files."""

    path: str
    files: GitLabFiles
    problems: GitLabShapes

    def pipeline(self, content: Node) -> Pipeline:
        written = {name: content.value[name] for name in _entry_names(content)}
        inherited = content.having({**content.value, **extended(written, self.problems, most=MAX_LEVELS)})
        whole = Resolver(inherited, self.problems).resolved()
        root = self.problems.root(whole)
        stages = self._stages(root)
        defaults = _defaults_of(root)
        if (default := root.get("default")) is not None:
            self._filled(default)
            for key in (key for key in GLOBALS if key in default.value and root.get(key) is not None):
                why = f"{key} is at the root and in `default`; remove one"
                self.problems.say(default.keys[key], why)
        if root.get("workflow") is not None:
            self._filled(whole.value["workflow"])  # as written: without its wrong parts it may be empty
        entries: dict[str, Entry] = {}
        for name in _entry_names(root):
            entry = self._entry(name, root, content, defaults, stages)
            if entry is not None:
                entries[name] = entry
        if all(name.startswith(".") for name in entries) and not self.problems.found:
            self.problems.say(root, "the file has no job; add a name with `script`, which does not begin with a dot")
        return Pipeline(
            path=self.path,
            files=tuple(self.files.found),
            root=root,
            stages=stages,
            entries=entries,
            variable_nodes=fields_of(root, "variables"),
            undecided=self.files.undecided,
            notices=(
                *self.problems.notices.values(),
                *rules.unset_variables(root, entries.values(), self.files.facts, self.files.rules),
            ),
        )

    def _stages(self, root: Node) -> tuple[str, ...]:
        written = root.get("stages")
        named = STAGES if written is None else [text_of(node) for node in items_of(written)]
        return (FIRST, *dict.fromkeys(stage for stage in named if stage not in (FIRST, LAST)), LAST)

    def _entry(
        self, name: str, root: Node, content: Node, defaults: Mapping[str, tuple[Node, Node]], stages: tuple[str, ...]
    ) -> Entry | None:
        node, key = root.value[name], root.keys[name]
        spend("jobs", node)
        own = content.value.get(name, node)
        if not isinstance(key.value, str):
            self.problems.say(key, f'the name of a job is text; write it in quotes: "{key.text}"')
        if name.startswith("."):
            if rules.is_blank(node):
                why = f"{name} is empty, which GitLab refuses; remove it or fill it"
                self.problems.say(key, why)
            return Entry(name=name, key=key, node=own, merged=node)
        if not node.is_mapping:
            if node.kind is not Kind.REFUSED:
                found = repr(node.text) if node.is_scalar else "a list"
                why = f"{name}: expected a job (a mapping with `script`), found {found}"
                self.problems.say(key, f"{why}; a name that is no job begins with a dot")
            return None
        checked = self.problems.fields(node, "", JOB_TABLE)
        for why in filter(None, (limit(checked) for limit in limits.OF_JOB)):
            self.problems.say(checked, f"{name}: {why}")
        entry = Entry(name=name, key=key, node=own, merged=_add_defaults(checked, defaults))
        self._sound(entry, stages)
        self._filled(node)
        return entry

    def _sound(self, entry: Entry, stages: tuple[str, ...]) -> None:
        """Check GitLab's rules for each job beyond the shapes of its keywords."""
        name, job = entry.name, entry.merged
        if not any(job.get(key) is not None for key in ("script", "trigger", "run")) and not self._refused(entry):
            self.problems.say(entry.key, f"{name} has no script; every job has `script` or `trigger`")
        if entry.stage not in stages:
            node = job.get("stage") or entry.key
            why = f"{name}: there is no stage {entry.stage}; the stages are {', '.join(stages)} (see `stages`)"
            self.problems.say(node, why)
        pages, publish = job.get("pages"), job.get("publish")
        if publish is not None and (name != "pages" if pages is None else pages.value is False):
            self.problems.say(publish, "publish: only a job with `pages: true` publishes")
        if len(name) > MAX_NAME:
            self.problems.say(entry.key, f"the name of a job has at most {MAX_NAME} characters")

    def _filled(self, job: Node) -> None:
        for key in ("script", "rules", "only", "except"):
            node = job.get(key)
            if node is None or node.value is None or (node.value == [] and key in ("only", "except")):
                continue
            for one in (node, *(flat(items_of(node)) if key == "rules" else ())):
                if rules.is_blank(one):
                    why = f"{key} is empty, which GitLab refuses; remove it or fill it"
                    self.problems.say(one, why)

    def _refused(self, entry: Entry) -> bool:
        """Return whether the reason that a job has no script is reported already."""
        node = entry.node.get("script") or entry.node.get("trigger")
        return node is not None and (node.value is not None or node.kind is Kind.REFUSED)


def _entry_names(root: Node) -> list[str]:
    """Return the root keys that are jobs or hidden."""
    return [name for name in root.value if name not in ROOT]


def _defaults_of(root: Node) -> dict[str, tuple[Node, Node]]:
    """Return the keywords that jobs inherit, with the nodes of their keys: `default`, else the deprecated root keywords."""
    found: dict[str, tuple[Node, Node]] = {}
    for owner, keys in ((root, GLOBALS), (root.get("default"), DEFAULTS)):
        for key in keys:
            node = fields_of(owner).get(key)
            if owner is not None and node is not None and not _nothing(node):
                found[key] = (node, owner.keys[key])
    return found


def _add_defaults(job: Node, defaults: Mapping[str, tuple[Node, Node]]) -> Node:
    """Add the defaults that the job lacks and lets through; `null` counts as lacking, as in GitLab."""
    inherit = job.find("inherit", "default")
    if inherit is not None and inherit.value is False:
        return job
    wanted = {node.value for node in items_of(inherit)} if inherit is not None and inherit.is_list else None
    added = {
        key: node for key, (node, _) in defaults.items() if (wanted is None or key in wanted) and _nothing(job.get(key))
    }
    if not added:
        return job
    merged = job.having({**job.value, **added})
    merged.keys = job.keys | {key: defaults[key][1] for key in added}
    return merged


def _nothing(node: Node | None) -> bool:
    return node is None or (node.is_scalar and node.value is None)
