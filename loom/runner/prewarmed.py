"""The next run, prepared before anybody asks for it: its workspace is laid out, and the sessions of its first jobs wait."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack

from loom import snapshot
from loom.cancel import Cancel
from loom.providers.base import Provider
from loom.runner.request import RunRequest, first_jobs, preflight, settings_of
from loom.runner.session import Prewarmed, SessionOpener
from loom.snapshot import KnownFiles, Snapshot, Source
from loom.util.paths import new_workspace


class NextRun:
    """The preparation of what `request` needs first. The run that takes it over checks all of it.

    Its containers have the labels of this process, so that a later loom removes them if this one is killed.
    """

    def __init__(self, request: RunRequest) -> None:
        """`request.cancel` is that of the preparation alone."""
        self._request = request
        self.run_id = request.run_id
        self.workspace = new_workspace(request.config.tmp_dir, request.run_id)
        self.sessions: dict[str, Prewarmed] = {}
        """The sessions by job; whoever takes one out closes it."""
        self._known_files: KnownFiles | None = None
        self._stack = ExitStack()
        self._made = False

    def prepare(self) -> None:
        """Lay out the workspace while the sessions open, for which nothing waits. Errors as those of a run's beginning."""
        request = self._request
        request.store.workspaces.make(self.workspace, run_id=request.run_id, repo_root=request.source.root)
        self._made = True
        self._stack.enter_context(snapshot.occupied(self.workspace))
        preflight(request.plan, request.tools, request.config)
        opener = SessionOpener(request.tools, settings_of(request, self.workspace), request.cancel)
        self.sessions = opener.prewarmed
        for job in first_jobs(request.plan, request.jobs_at_once):
            opener.prewarm(job)
        _, self._known_files = snapshot.take_to_renew(
            request.cloned(request.clone), self.workspace, cancel=request.cancel, umask=request.plan.umask
        )

    def ready(self) -> bool:
        """Return whether a run can begin with it: it was prepared, and no run began since (ids are in order)."""
        newest = next(iter(self._request.store.run_ids()), "0")
        return self._known_files is not None and int(newest) < int(self.run_id)

    def renewed(self, source: Source, cancel: Cancel, umask: int) -> Snapshot:
        """Bring the workspace up to date, once. Raises the errors of `snapshot.take`."""
        assert self._known_files is not None, "ready comes first"
        return snapshot.renew(source, self.workspace, self._known_files, cancel=cancel, umask=umask)

    @property
    def providers(self) -> Sequence[Provider]:
        """Those of the sessions."""
        return tuple(self._request.tools.providers.values())

    def taken_over(self) -> None:
        """Record that the workspace now belongs to a run with a record."""
        self._made = False
        request = self._request
        registered = request.store.workspaces
        if registered.of(self.workspace) is None:  # the state directory had no room when it was made
            registered.register(self.workspace, run_id=self.run_id, repo_root=request.source.root)

    def drop(self) -> list[str]:
        """Remove what no run took over, and wait until it is removed; return the problems. Safe to repeat."""
        while self.sessions:
            self.sessions.popitem()[1].discard()
        problems = [text for provider in self.providers for text in provider.close()]
        self._stack.close()
        if self._made:
            self._made = False
            removal = snapshot.remove(self.workspace, recorded=True)
            problems += [f"{path}: {reason}" for path, reason in removal.remaining]
            if removal.complete:
                self._request.store.workspaces.forget(self.workspace)
        return problems
