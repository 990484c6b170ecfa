"""Checked workflow files of GitHub's: nothing is decided about events, matrices and conditions."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import ClassVar

from loom.errors import Problem
from loom.util.yaml_file import Node, fields_of, one_or_more, text_of
from loom.values import Immutable
from loom.workflow import loaded
from loom.workflow.loaded import LoadedWorkflow

CALL = "workflow_call"


class WorkflowFile(Immutable):
    """One file. Values are nodes whose shapes are checked."""

    path: str
    """Relative to the repository root; of another repository, after `owner/name/` and before `@ref`."""
    root: Node
    jobs: Mapping[str, Node]
    label: str
    """The file's name without its ending, or with it where two files differ in that alone."""

    @property
    def name(self) -> str:
        return text_of(self.root, "name") or self.path

    @property
    def events(self) -> Mapping[str, Node | None]:
        """The events that trigger it, each with its filters."""
        on = self.root.get("on")
        if on is None:
            return {}
        if on.is_mapping:
            return on.value  # type: ignore[no-any-return]
        return {text_of(one): None for one in one_or_more(on)}

    def inputs(self, event: str) -> Mapping[str, Node]:
        """Return the inputs that `workflow_dispatch` or `workflow_call` declares."""
        on = self.events.get(event)
        return fields_of(on, "inputs")

    def key_of(self, job: str) -> Node:
        jobs: Node = self.root.value["jobs"]
        return jobs.keys.get(job, self.jobs[job])

    @property
    def only_called(self) -> bool:
        return self.events.keys() <= {CALL}


class FaultyFile(Immutable):
    """A file with mistakes, or one that calls such a file."""

    label: str
    problems: tuple[Problem, ...]
    file: WorkflowFile | None
    """None: its events are not known."""

    def is_asked_for(self, names: Iterable[str]) -> bool:
        """Return whether one of these may be a job or the stage of the file."""
        keys = self.file.jobs if self.file is not None else ()
        return any(name in keys or re.split(r"\.| /", name)[0] == self.label for name in names)


class Entry(loaded.Entry):
    """A job. With several workflow files, its name begins with the file's."""

    file: WorkflowFile
    job: str
    """Its key in the file."""


class Workflows(LoadedWorkflow[Entry]):
    language: ClassVar[str] = "github"

    directory: Path
    workflows: tuple[WorkflowFile, ...]
    called: Mapping[str, WorkflowFile] = {}
    """Files of this project that jobs call, by their paths."""
    faulty: tuple[FaultyFile, ...] = ()
    """Further files, of which a run refuses those that it asks for."""

    def entry_of(self, job: str) -> Entry | None:
        """Implement `LoadedWorkflow`; of a job of a called workflow, the one that is written there."""
        for name, entry in self.entries.items():
            if job == name:
                return entry
            if (inner := _below(name, job)) is not None:
                return self._inside(entry, inner) or entry
        return None

    def _inside(self, caller: Entry, job: str) -> Entry | None:
        file = self.called.get(local_path(text_of(caller.merged, "uses")))
        for key, node in file.jobs.items() if file is not None else ():
            name = _below(key, job)
            if file is not None and (key == job or name is not None):
                entry = Entry(name=key, key=file.key_of(key), node=node, merged=node, file=file, job=key)
                return entry if name is None else self._inside(entry, name)
        return None


def _below(name: str, job: str) -> str | None:
    """Return the name of a job within a called workflow, whose caller may be one of a matrix: `name (1, 2) / inner`."""
    found = re.fullmatch(rf"{re.escape(name)}(?: \(.*?\))? / (.+)", job)
    return found[1] if found else None


_LOCAL_CALL = re.compile(r"[.$]/(\.github/workflows/[^/@]+\.ya?ml)")


def local_path(written: str) -> str:
    """Return the file of this project that `uses` of a job names; empty for one of another repository."""
    found = _LOCAL_CALL.fullmatch(written)
    return found[1] if found else ""


def calls_of(file: WorkflowFile) -> Iterator[tuple[str, Node]]:
    """Yield the workflows that the jobs of a file call, as written, with the position of each."""
    for node in file.jobs.values():
        if (uses := node.get("uses")) is not None:
            yield text_of(uses), uses
