"""The languages of workflow files: loom's own, and those of other CI systems in packages beside this module.

A dialect's package reads its file into a value with the attributes of `Loaded` that both types have; `plan.resolve` makes
the same plan of each. Nothing after the plan asks which dialect it was.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Collection, Iterable, Mapping
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, TypeAlias, TypeGuard, cast

from msgspec import Struct

from loom import workflow as own
from loom.errors import Problem, RequestError
from loom.util import yaml_file
from loom.util.paths import name_from
from loom.workflow.messages import in_order, refused

if TYPE_CHECKING:
    from loom.workflow.gitlab.pipeline import Entry as GitLabEntry
    from loom.workflow.gitlab.pipeline import Facts, Pipeline
    from loom.workflow.inheritance import Entry
    from loom.workflow.loader import Workflow

Loaded: TypeAlias = "Workflow | Pipeline"
AnyEntry: TypeAlias = "Entry | GitLabEntry"

# `jobs` and `on` are GitHub's, whose files get a better error from the reader of loom's own.
_NOT_GITLABS = re.compile(rb"^[\"']?(version|jobs|on)[\"']?[ \t]*:", re.MULTILINE)
_FOREIGN_KEY = re.compile(rb"^[ \t]+[\"']?(script|trigger|extends)[\"']?[ \t]*:|^include[ \t]*:", re.MULTILINE)


class Examined(Struct, frozen=True, kw_only=True):
    """The outcome of loading: every error in order, and the parts that are sound enough for further checks."""

    workflow: Loaded | None
    problems: tuple[Problem, ...]
    ranks: Mapping[str, int]
    """The readable files, in order."""

    def in_order(self, problems: Iterable[Problem]) -> list[Problem]:
        """Unique, sorted by file, line and column."""
        return in_order(problems, self.ranks)


def is_own(workflow: Loaded) -> TypeGuard[Workflow]:
    """Whether a workflow is in loom's own language, whose modules are imported only for such a workflow."""
    module = sys.modules.get("loom.workflow.loader")
    return module is not None and isinstance(workflow, module.Workflow)


def notices_of(workflow: Loaded) -> tuple[Problem, ...]:
    """Return what the reader of another language's file has to say of it."""
    return () if is_own(workflow) else cast("Pipeline", workflow).notices


def load(path: Path, root: Path, facts: Callable[[], Facts], *, like: Path | None = None) -> Loaded:
    """Read, merge and check. RequestError for a missing file, WorkflowError with every problem otherwise.

    `facts` is only asked where what a file includes depends on them. `like`: another file, whose dialect this one has.
    """
    examined = examine(path, root, facts, like=like)
    if examined.problems or examined.workflow is None:
        raise refused(examined.problems)
    return examined.workflow


def examine(path: Path, root: Path, facts: Callable[[], Facts], *, like: Path | None = None) -> Examined:
    """Load and return all findings instead of raising WorkflowError; RequestError is still raised. `like`: as of `load`."""
    if not is_gitlab(like or path, root):
        there = own.examine(path, root)
        return Examined(workflow=there.workflow, problems=there.problems, ranks=there.ranks)
    name = name_from(root, path)
    found = _gitlab().Loaded(name, _bytes(path, name), root, facts())
    ranks = {file.name: number for number, file in enumerate(found.files)} | {name: -1}
    problems = tuple(in_order(found.problems.found, ranks))
    return Examined(workflow=found.pipeline, problems=problems, ranks=ranks)


def refuse_inputs(inputs: Collection[str], path: Path, root: Path) -> None:
    """RequestError for inputs of a workflow in loom's own language."""
    if inputs and not is_gitlab(path, root):
        raise RequestError(
            f"--input: {name_from(root, path)} is in loom's own language, which has no inputs",
            hint="set a variable: --var NAME=value; or name a .gitlab-ci.yml with --workflow",
        )


def known_inputs(path: Path, root: Path) -> Iterable[str]:
    """Return `NAME=value` for the inputs that a file declares, with each value that it allows; else `NAME=`."""
    name = name_from(root, path)
    return cast(Iterable[str], _gitlab().known_inputs(_bytes(path, name), name)) if is_gitlab(path, root) else ()


def _gitlab() -> ModuleType:
    from loom.workflow.gitlab import loader as gitlab  # costs nothing where the project has a workflow of loom's

    return gitlab


def _bytes(path: Path, name: str) -> bytes:
    try:
        return yaml_file.read_bytes(path)
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise RequestError(f"{name}: the workflow file can't be read: {reason}", code="WF_NOT_FOUND") from error


def is_gitlab(path: Path, root: Path) -> bool:
    """Tell by the name, else by the keys, whether a file is GitLab's. A file that can't be read is loom's to report."""
    absolute = path if path.is_absolute() else root / path
    if absolute.name in (".gitlab-ci.yml", ".gitlab-ci.yaml") or ".gitlab-ci" in absolute.name:
        return absolute.is_file()
    if absolute.is_relative_to(root / ".loom"):
        return False
    try:
        data = yaml_file.read_bytes(absolute)
    except OSError:
        return False
    return _NOT_GITLABS.search(data) is None and _FOREIGN_KEY.search(data) is not None
