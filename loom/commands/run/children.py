"""Child pipelines: the file of a trigger job as a run of its own, on the snapshot of the run that starts it."""

from __future__ import annotations

import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import yaml
from msgspec.structs import replace

from loom.cancel import Cancel
from loom.commands.plan import contexts
from loom.commands.plan.plan_run import run_of, selection_of
from loom.commands.plan.wiring import run_tools
from loom.commands.project import Worktree, checkout, trusting
from loom.commands.project.recreate_tree import taken_again
from loom.errors import RequestError
from loom.plan.model import ChildFile, Plan, Trigger
from loom.plan.resolve import resolve
from loom.plan.selection import held_back
from loom.record.run import FilledWorkspace, Run
from loom.render.look import Detail, Look
from loom.render.screen import Screen
from loom.runner import Gate, api
from loom.runner.hooks import Child, ChildEnded
from loom.status import OnOutput, Status
from loom.storage import artifacts
from loom.util.paths import name_from, new_workspace
from loom.workflow import dialects

_PREPARING = threading.Lock()
"""One child at a time is planned and gets its files: its jobs are what takes time."""
MOST_DEEP = 2
"""The depth to which child pipelines may be nested, as in GitLab."""


class ChildRuns:
    """Implements `runner.hooks.RunChild` for the runs of one command; `depth` is that of the run that starts them.

    `dialect`: a file in the dialect of the first run. `above`: the runs above that one, by their ids.
    """

    _detail = Detail.NORMAL
    """The detail in which a child's run is shown in the output of the job that starts it."""

    def __init__(
        self,
        project: Worktree,
        parent: Run,
        gate: Gate | None,
        dialect: Path | None = None,
        above: Mapping[str, tuple[Plan, Child]] | None = None,
    ) -> None:
        self._project = project
        self._parent = parent
        self._gate = gate
        self._dialect = dialect or parent.repo_root / parent.plan.workflow_path
        self._above = above or {}

    def __call__(self, child: Child, on_output: OnOutput, cancel: Cancel, started: Callable[[str], None]) -> ChildEnded:
        if len(self._above) >= MOST_DEEP:
            raise RequestError(
                f"{child.job.id} would start a child pipeline {MOST_DEEP + 1} levels deep; GitLab allows {MOST_DEEP}",
                code="CHILD_TOO_DEEP",
            )
        with _PREPARING, _file_of(child) as path:
            run = self._planned(child, path, str(time.time_ns()))
        if not run.plan.jobs:
            if not (held := held_back(run.plan)):
                raise RequestError(f"the child pipeline of {child.job.id} has no jobs", code="NOTHING_TO_RUN")
            on_output("stdout", f"child pipeline: no job runs; {held[0]}\n".encode())
            return ChildEnded(run_id=run.run_id, status=Status.SUCCESS)
        trusting.settle(run.plan.jobs, self._project, can_ask=False)
        return self._execute(child, run, on_output, cancel, started)

    def _planned(self, child: Child, path: Path, run_id: str) -> Run:
        project, request, trigger = self._project, self._parent.request, child.job.trigger
        assert trigger is not None
        name = name_from(child.workspace, path)
        variables = {
            **checkout.run_variables(run_id, project.source, name, project.environ, request.event),
            "CI_PIPELINE_SOURCE": "parent_pipeline",
            "CI_UPSTREAM_PIPELINE_ID": child.run_id,
            "CI_UPSTREAM_JOB_ID": child.job.id,
        }
        own = {name for name in trigger.variables if name.startswith(("CI_", "LOOM_")) or name == "GITLAB_CI"}
        given = tuple(f"{name}={value}" for name, value in trigger.variables.items() if name not in own)
        context = contexts.resolve_context(
            replace(project, root=child.workspace),
            path,
            predefined=variables,
            given=given,
            secret_file=request.secret_file,
        )
        typed_inputs = trigger.files[0].inputs if len(trigger.files) == 1 else {}
        context = replace(context, typed_inputs=typed_inputs, above=partial(_artifacts, self._ancestors_of(child)))
        loaded = dialects.load(path, child.workspace, lambda: context, like=self._dialect)
        of_all = replace(request, names=(), stage=(), from_job=None, matrix=())
        plan = resolve(loaded, selection_of(replace(of_all, needs=None, var=given), project.config), context)
        return run_of(project, of_all, plan, variables, notices=held_back(plan))

    def _execute(
        self,
        child: Child,
        run: Run,
        on_output: OnOutput,
        cancel: Cancel,
        started: Callable[[str], None],
    ) -> ChildEnded:
        project, umask = self._project, run.plan.umask
        workspace = new_workspace(project.config.tmp_dir, run.run_id)
        trees = (run.repo_root, child.workspace)
        with _PREPARING:
            document = taken_again(project, child.run_id, child.snapshot, trees, workspace, cancel, umask=umask)
        filled = FilledWorkspace(path=workspace, snapshot=document)
        run = replace(run, parent_run_id=child.run_id, child_of=child.run_id, workspace=filled, starts={})
        screen = Screen(
            Look(detail=self._detail),
            lambda line: on_output("stdout", f"{line}\n".encode("utf-8", "surrogateescape")),
        )
        run_child = ChildRuns(project, run, self._gate, self._dialect, self._ancestors_of(child))
        tools = replace(run_tools(project, run, cancel, [screen], self._gate), run_child=run_child)
        started(run.run_id)
        receipt = api.execute(run, tools).receipt
        return ChildEnded(run_id=run.run_id, status=receipt.status, error=receipt.error)

    def _ancestors_of(self, child: Child) -> dict[str, tuple[Plan, Child]]:
        return {**self._above, child.run_id: (self._parent.plan, child)}


def _artifacts(above: Mapping[str, tuple[Plan, Child]], pipeline: str, name: str) -> tuple[str, Path] | None:
    """Implement `ResolveContext.above`. A job's name is that of the instance, as in GitLab."""
    if pipeline not in above:
        raise RequestError(f"{pipeline} is no pipeline above this one: these are {', '.join(above)}")
    plan, child = above[pipeline]
    for job in plan.jobs:
        if job.variables.get("CI_JOB_NAME", job.name) == name:
            if not child.succeeded(job.id):
                raise RequestError(f"{name} of run {pipeline} has not succeeded, so it has no artifacts to give")
            return f"{job.id} of run {pipeline}", child.archive_of(job.id)
    return None


@contextmanager
def _file_of(child: Child) -> Iterator[Path]:
    """Yield the path of the child's file, in the workspace or with the artifacts of a job; several become one that includes
    them."""
    trigger = child.job.trigger
    assert trigger is not None
    if not trigger.files:
        raise RequestError(f"{child.job.id} is a repetition of an earlier command", hint="loom run JOB --repeat N")
    with tempfile.TemporaryDirectory(prefix="loom-child-") as folder:
        only = trigger.files[0]
        if len(trigger.files) == 1:
            yield child_file(only, child.job.id, child.workspace, child.archive_of, Path(folder))
            return
        if any(file.job is not None for file in trigger.files):
            raise RequestError(
                f"{child.job.id}: a file from artifacts is a child pipeline by itself, without others",
                code="GL_UNSUPPORTED",
            )
        whole = Path(folder) / "child.gitlab-ci.yml"
        whole.write_text(yaml.safe_dump({"include": includes_of(trigger)}))
        yield whole


def includes_of(trigger: Trigger) -> list[dict[str, Any]]:
    """Return what a file includes that stands for all files of a trigger."""
    return [{"local": file.path, **({"inputs": dict(file.inputs)} if file.inputs else {})} for file in trigger.files]


def child_file(file: ChildFile, trigger: str, workspace: Path, archive_of: Callable[[str], Path], folder: Path) -> Path:
    """Return the path of a child's file: in the workspace, or in `folder`, into which its job's artifacts are unpacked."""
    if file.job is None:
        return workspace / file.path
    archive = archive_of(file.job)
    if not archive.exists():
        raise RequestError(
            f"{trigger}: {file.job} left no artifacts, so {file.path} does not exist", code="WF_NOT_FOUND"
        )
    artifacts.fetch(archive, folder)
    return folder / file.path
