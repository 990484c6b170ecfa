"""The next run, prepared before anybody asks for it: its workspace is laid out, and the sessions of its first jobs wait."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack

from loom import snapshot
from loom.providers.base import Provider
from loom.record.run import Run
from loom.runner.preflight import preflight
from loom.runner.session import Prewarmed
from loom.runner.spares import make_workspace, set_aside
from loom.runner.tools import RunTools, first_jobs
from loom.util.paths import new_workspace


class NextRun:
    """The preparation of what a run needs first. The run that takes it over checks all of it.

    Its containers have the labels of this process, so that a later loom removes them if this one is killed.
    """

    def __init__(self, run: Run, tools: RunTools) -> None:
        """`tools.cancel` is that of the preparation alone."""
        self._run = run
        self._tools = tools
        self.run_id = run.run_id
        self.workspace = new_workspace(tools.config.tmp_dir, run.run_id)
        self.sessions: dict[str, Prewarmed] = {}
        """The sessions by job; whoever takes one out closes it."""
        self.watched: snapshot.WatchedWorkspace | None = None
        """The waiting workspace, if it is large: a look at each of few files takes less time than the kernel's answer."""
        self._filled = False
        self._stack = ExitStack()
        self._made = False

    def prepare(self) -> None:
        """Lay out the workspace while the sessions open, for which nothing waits. Errors as those of a run's beginning."""
        run, tools = self._run, self._tools
        make_workspace(tools.store, self.workspace, run_id=run.run_id, repo_root=run.repo_root)
        self._made = True
        self._stack.enter_context(snapshot.occupied(self.workspace))
        preflight(run.plan, tools)
        opener = tools.opener(run, self.workspace)
        self.sessions = opener.prewarmed
        for job in first_jobs(run.plan, tools.jobs_at_once):
            opener.prewarm(job)
        source, known = tools.cloned(run, run.clone), tools.store.workspaces.known(self.workspace)
        snapshot.take(source, self.workspace, cancel=tools.cancel, umask=run.plan.umask, known=known)
        if tools.store.workspaces.is_large(self.workspace):
            self.watched = snapshot.WatchedWorkspace(self.workspace, known)
        self._filled = True

    def ready(self) -> bool:
        """Return whether a run can begin with it: it was prepared, and no run began since (ids are in order)."""
        newest = next(iter(self._tools.store.run_ids()), "0")
        return self._filled and int(newest) < int(self.run_id)

    @property
    def providers(self) -> Sequence[Provider]:
        """Those of the sessions."""
        return tuple(self._tools.providers.values())

    def taken_over(self) -> None:
        """Record that the workspace now belongs to a run with a record."""
        self._made = False
        registered = self._tools.store.workspaces
        if registered.of(self.workspace) is None:  # the state directory had no room when it was made
            registered.register(self.workspace, run_id=self.run_id, repo_root=self._run.repo_root)

    def drop(self) -> list[str]:
        """Remove what no run took over, and wait until it is removed; return the problems. Safe to repeat."""
        while self.sessions:
            self.sessions.popitem()[1].discard()
        problems = [text for provider in self.providers for text in provider.close()]
        self._stack.close()
        if self._made:
            self._made = False
            if self._filled:
                set_aside(self._tools.store, self.workspace, self._run.repo_root)
            removal = snapshot.remove(self.workspace, recorded=True)
            problems += [f"{path}: {reason}" for path, reason in removal.remaining]
            if removal.complete:
                self._tools.store.workspaces.forget(self.workspace)
        return problems
