"""Pieces of GitLab files, and facts about a pipeline."""

from collections.abc import Callable, Iterable, Mapping
from types import MappingProxyType

from loom.config import Config
from loom.plan.model import ResolveContext
from loom.util.yaml_file import Node, fields_of, parse
from loom.workflow.facts import Variable
from loom.workflow.gitlab.pipeline import Entry, Pipeline
from loom.workflow.gitlab.variables import Scope

PUSH = MappingProxyType(
    {
        "CI": "true",
        "CI_PIPELINE_SOURCE": "push",
        "CI_COMMIT_BRANCH": "main",
        "CI_COMMIT_REF_NAME": "main",
        "CI_DEFAULT_BRANCH": "main",
        "CI_COMMIT_BEFORE_SHA": "1" * 40,
        "CI_PROJECT_PATH": "group/project",
    }
)
TAG = MappingProxyType(
    {
        "CI_PIPELINE_SOURCE": "push",
        "CI_COMMIT_TAG": "v1.2",
        "CI_COMMIT_REF_NAME": "v1.2",
        "CI_PROJECT_PATH": "group/project",
    }
)
SCHEDULE = MappingProxyType({**PUSH, "CI_PIPELINE_SOURCE": "schedule"})
MERGE_REQUEST = MappingProxyType(
    {
        "CI_PIPELINE_SOURCE": "merge_request_event",
        "CI_MERGE_REQUEST_SOURCE_BRANCH_NAME": "feature",
        "CI_MERGE_REQUEST_TARGET_BRANCH_NAME": "main",
        "CI_PROJECT_PATH": "group/project",
    }
)


def node(text: str) -> Node:
    """Parse a text without anchors and tags."""
    file = parse(text.encode(), ".gitlab-ci.yml")
    assert not file.problems, file.problems
    assert file.root is not None
    return file.root


def entry(text: str, name: str = "job") -> Entry:
    value = node(text)
    return Entry(name=name, key=value, node=value, merged=value)


def pipeline(text: str) -> Pipeline:
    """Make a pipeline of jobs; its stages are `build`, `test` and `deploy` if the text has none."""
    root = node(text)
    stages = root.get("stages")
    names = ["build", "test", "deploy"] if stages is None else stages.plain()
    jobs = {name: value for name, value in root.value.items() if name not in ("stages", "workflow", "variables")}
    entries = {name: Entry(name=name, key=root.keys[name], node=value, merged=value) for name, value in jobs.items()}
    return Pipeline(
        path=".gitlab-ci.yml",
        files=(),
        root=root,
        stages=(".pre", *names, ".post"),
        entries=entries,
        variable_nodes=fields_of(root.get("variables")),
    )


def scope(known: Mapping[str, str] = PUSH, **values: str) -> Scope:
    return Scope(layered={name: Variable(value=value) for name, value in values.items()}, known=known)


def facts(
    predefined: Mapping[str, str] = PUSH,
    *,
    changed: Callable[[str | None], Iterable[str] | None] = lambda _: (),
    files: Iterable[str] = (),
    base: str | None = None,
) -> ResolveContext:
    listed = tuple(files)
    return ResolveContext(
        config=Config(), predefined=predefined, changed=changed, files=lambda: listed, changes_base=base
    )
