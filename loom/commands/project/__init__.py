"""The project that a command was started in: its root, its configuration and its records; runs and jobs by their names there."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from loom import config, providers
from loom.cancel import Cancel
from loom.config import Config
from loom.config.pools import named
from loom.errors import LoomError, RequestError
from loom.util.bounded import listed
from loom.util.controls import shown
from loom.util.globs import match_name
from loom.util.paths import leads_out, name_from
from loom.util.untrusted_files import open_regular
from loom.values import Environ, Immutable
from loom.workflow.languages import LANGUAGES

if TYPE_CHECKING:
    from loom.plan.model import Image
    from loom.plan.permissions import PermissionRequest
    from loom.providers.base import Provider
    from loom.record.past_run import PastJob
    from loom.record.reader import Reading
    from loom.record.store import Store
    from loom.snapshot import Source


WORKFLOWS = tuple(Path(language.default) for language in LANGUAGES)
"""The possible paths of a project's workflow, in the order of precedence."""


class CheckoutRoot(Immutable):
    """A directory of files, and the environment in which git is asked about it."""

    root: Path
    environ: Environ


class Project(CheckoutRoot, dict=True):
    """A project, its configuration and its records."""

    start: Path
    """The directory of the command line: relative paths are relative to it."""
    config: Config
    trusting: bool = False
    """Everything that the repository asks for is allowed, this once."""
    renewing: bool = False
    """The server is asked for each tag or branch of an action, however recently it was asked."""

    @cached_property
    def includes(self) -> list[PermissionRequest]:
        """The URLs on other servers from which the workflow, as far as it was parsed, includes files."""
        return []

    @cached_property
    def unanswered(self) -> list[str]:
        """What the workflow has of servers that do not answer now: it is as it was at their last answer."""
        return []

    @cached_property
    def judged(self) -> dict[str, str]:
        """The real path of each secret's file, as it was when the user's trust was asked for."""
        return {}

    # These load what only some commands use.

    @cached_property
    def store(self) -> Store:
        from loom.record.store import Store

        return Store(self.config.state_dir)

    @cached_property
    def _providers(self) -> dict[str, Provider]:
        return {}

    def provider(self, job: PastJob) -> Provider:
        """Return the provider of a job, to find what is left of the job there."""
        return self.provider_named(job.job.provider)

    def provider_named(self, name: str) -> Provider:
        from loom.providers.base import Setup

        if name not in self._providers:
            self._providers[name] = providers.make(name, Setup(environ=self.environ, config=self.config))
        return self._providers[name]

    def find(self, run: str) -> Reading:
        """Find the run that is meant by `run`. RequestError for none or several."""
        from loom.record.reader import Reading

        if is_bundle(run):
            from loom.commands.project.bundle_file import unpacked  # late: only for a bundle

            return unpacked(Path(run), self.config.cache_dir / BUNDLES).reading
        try:
            entry = self.store.find(run, repo_root=self.root)
        except RequestError as error:
            newest = next(self.store.families(self.root), None) if error.code == "RUN_UNKNOWN" else None
            job = Reading(newest[0]).fold.jobs.get(run) if newest else None
            if job is None or "child_started" not in job.facts:
                raise
            # A repetition of the last run, such as `unit (2 of 20)`.
            entry = self.store.find(job.facts["child_started"]["run_id"], repo_root=self.root)
        return Reading(entry, foreign=not self.store.has_record(entry))

    def workflow(self, named: str | Path | None = None) -> Path:
        return workflow_path(self.root, named, self.start)


class Worktree(Project, dict=True):
    """The project of a run, with its repository as it was read."""

    source: Source

    def digest_of(self, provider: str, image: Image) -> str:
        """Return the digest of an image, which the provider gets; empty where that is not known. ImageError."""
        from loom.providers.base import ResolveRequest

        if (images := self.provider_named(provider).images) is None:
            return ""
        return images.resolve(image, ResolveRequest(workspace=self.source.root, cancel=Cancel())).digest


def is_bundle(named: str) -> bool:
    """Return whether this is the file of a bundle, by its name or by its first bytes."""
    if named.endswith(".bundle"):
        return os.path.isfile(named)  # noqa: PTH113  a name may be too long for Path
    try:
        with open_regular(Path(named)) as file:
            return file.read(4) == b"\x28\xb5\x2f\xfd"
    except (OSError, ValueError):
        return False


BUNDLES = "bundles"
"""Where, below the cache, bundles are unpacked."""


def open_project(
    flags: Mapping[str, object] | None = None,
    *,
    root: Path | None = None,
    trusting: bool = False,
    renewing: bool = False,
) -> Project:
    """Find the project around the current directory, or take the one at `root`.

    `flags`: settings of the command line; `trusting`, `renewing`: see `Project`.
    """
    environ, start = dict(os.environ), Path.cwd()
    root = root or find_root(start)
    settings = config.load(root=root, environ=environ, flags=flags or {})
    providers.parsed(named(settings.on, settings.pools).target, settings.pools, f"{settings.origins['on'].source}: ")
    return Project(environ=environ, start=start, root=root, config=settings, trusting=trusting, renewing=renewing)


def run_or_job(project: Project, run: str, job: str | None, step: str | None) -> tuple[Reading, str | None, str | None]:
    """Find the run; a name that is a job of the last run (or a glob) selects that job, as in `loom logs test`."""
    last: Reading | None = None
    if run not in ("last", "last-failed") and step is None:
        with suppress(LoomError):
            last = project.find("last")
            if _named(last, run):
                return last, run, job
    try:
        return project.find(run), job, step
    except RequestError as error:
        if error.code != "RUN_UNKNOWN" or last is None:
            raise
        raise RequestError(
            f"{run!r} is neither a run nor a job of the last run",
            hint=f"its jobs: {', '.join(listed(last.fold.jobs, 20))}\n`loom runs` lists the runs",
            code="RUN_UNKNOWN",
        ) from None


def jobs_of(reading: Reading, job: str | None) -> list[str]:
    """Return the ids of the jobs that match a name or glob, all of them without one; RequestError for no match."""
    if job is None:
        return list(reading.fold.jobs)
    if not (found := _named(reading, job)):
        has = ", ".join(reading.fold.jobs) or "none"
        raise RequestError(f"run {reading.run_id} has no job {job!r}; it has {has}", code="JOB_UNKNOWN")
    return found


def _named(reading: Reading, job: str) -> list[str]:
    """Return the ids of the jobs whose id or name matches."""
    return [
        state.id for state in reading.fold.jobs.values() if match_name(job, state.id, state.planned.get("name", ""))
    ]


def find_root(start: Path) -> Path:
    """Return the project that `start` lies in: the checkout, else the nearest folder with `.loom`, else `start` itself."""
    folders = (start, *start.parents)
    checkout = next((folder for folder in folders if (folder / ".git").exists()), None)
    return checkout or next((folder for folder in folders if (folder / ".loom").is_dir()), start)


def trusts_all(environ: Environ, flag: bool) -> bool:
    """Return whether `--trust` or `LOOM_TRUST=1` allows every request. RequestError for another value of the variable."""
    return flag or config.choice(environ, "LOOM_TRUST") in ("1", "true", "yes", "on")


def workflow_path(root: Path, named: str | Path | None, start: Path) -> Path:
    """Return the workflow file: as named (relative to where the command was started), else the project's first one.

    RequestError for a link that leads out of the project.
    """
    path = start / named if named is not None else next(iter(workflows_of(root)), root / WORKFLOWS[0])
    inside = Path(os.path.normpath(path)).is_relative_to(os.path.normpath(root))
    if inside and (elsewhere := leads_out(path, root)) is not None:
        # Its lines would be shown, and whoever committed the link may not read them.
        raise RequestError(
            f"{name_from(root, path)} is a link that points outside the repository, to {elsewhere}",
            hint=f"if you mean that file: --workflow {elsewhere}",
            code="LEADS_OUT",
        )
    return path


def workflows_of(root: Path) -> list[Path]:
    """Return the project's workflows, in the order of precedence: files, or directories with some."""
    paths = [root / path for path in WORKFLOWS]
    return [path for path in paths if (any(path.glob("*.y*ml")) if path.is_dir() else path.exists())]


def not_counted(settings: Config) -> dict[str, str]:
    """Return the ignored settings of the project's file with the reason."""
    return {item.name: str(item) for item in settings.overruled}


def say_not_counted(settings: Config) -> None:
    """Print the same on standard error, for commands that act."""
    for line in not_counted(settings).values():
        print(shown(f"loom: {line}"), file=sys.stderr)
