"""Into a job of an earlier (or running) run: its kept container, else a new one with the same things around it."""

from __future__ import annotations

import os
import shlex
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from msgspec.structs import replace

from loom import snapshot
from loom.cancel import Cancel
from loom.commands.plan import wiring
from loom.commands.project import Project, is_bundle, run_or_job, trusting
from loom.commands.screen import MaskedProgress
from loom.errors import RequestError
from loom.plan import variables
from loom.plan.model import MountMode, Resolved, Step
from loom.providers.base import KeptSession, SessionRequest
from loom.record.documents import Assistance
from loom.record.events import epoch_ns, timestamp
from loom.record.extent import note_assistance
from loom.record.lines import encodable
from loom.record.past_run import PastJob, PastRun
from loom.record.run import FilledWorkspace, View
from loom.record.step_outputs import restored
from loom.runner import SessionOpener
from loom.runner.products import Handover
from loom.runner.views import laid_out
from loom.secrets.lookup import resolve
from loom.util import locks
from loom.util.masking import Masker
from loom.util.paths import job_directory_name, jobs_of
from loom.values import Immutable

if TYPE_CHECKING:
    from loom.providers.inside import CommandsInside
    from loom.storage.workspace import Skipped


class EnteredJob(Immutable):
    inside: CommandsInside
    about: str
    """The description that `loom shell` prints on entry."""
    fresh: bool
    secrets: Mapping[str, bytes]
    notes: Sequence[str] = ()
    container_name: str = ""


def permit(project: Project, past: PastRun, job: PastJob | None = None) -> None:
    """Ask for trust in the requests of a run's jobs (or of this one), before any is granted again."""
    # A record that was brought from elsewhere may name any checkout as its own.
    root = past.repo_root if project.store.has_record(past.entry) else past.paths.root
    jobs = past.plan.jobs if job is None else (job.job,)
    if project.config.hardened and not all(job.hardened for job in jobs):
        raise RequestError(
            f"run {past.run_id} was made without the hardened profile ({project.config.origins['hardened'].source})",
            hint=f"run it again with it: loom rerun {past.run_id} --fresh",
            code="NOT_HARDENED",
        )
    there = replace(project, root=root)
    trusting.settle(jobs, there)
    project.judged.update(there.judged)


def find_run(project: Project, wanted: str | None) -> PastRun:
    # Of this project, also where it has no repository (any more): the last run may well be another's.
    root = project.root if wanted in (None, "last", "last-failed") else None
    return PastRun(project.store.find(wanted or "last", repo_root=root))


def find_named(project: Project, names: Sequence[str]) -> tuple[PastRun, PastJob | None]:
    """Return the run that `[RUN] [JOB]` mean, and the job that is named; a single name may be a job of the last run."""
    if len(names) == 2:
        run = find_run(project, names[0])
        return run, run.job(names[1])
    reading, job, _ = run_or_job(project, names[0] if names else "last", None, None)
    if names and is_bundle(names[0]):  # its plan, its variables and the paths in it are a stranger's
        raise RequestError(
            f"{names[0]} is a bundle: its run left no container and no files on this machine",
            hint=f"loom replay {names[0]}",
        )
    run = PastRun(reading.entry)
    return run, None if job is None else run.job(job)


def find_job(project: Project, names: Sequence[str]) -> PastJob:
    """Find a job as `find_named`; without a name the failed, the resumed or the only job."""
    run, job = find_named(project, names)
    return job or run.one_job()


@contextmanager
def entered(
    project: Project, job: PastJob, step: Step, *, command: Sequence[str] | None, as_root: bool = False, cancel: Cancel
) -> Iterator[EnteredJob]:
    """Yield the session of `job`, with the environment and services of `step`. On exit, remove what was made for it.

    The record notes the visit with its `command`; None: a shell.
    """
    isolated = project.provider(job).capabilities.isolated
    if as_root and not isolated and os.geteuid() != 0:
        raise RequestError(
            f"job {job.id} runs on this machine, as you", hint="--root is for jobs in containers; leave it out"
        )
    with ExitStack() as stack:
        stack.enter_context(snapshot.occupied(job.run.workspace))
        if (found := find_kept(project, job)) is not None:
            if job.view is not None and not found.has_its_files(job.view.mode):
                raise _gone(job)  # the engine starts no command in a directory that is not there
            if not job.run.entry.alive:
                stack.enter_context(held(project, job, found.kept_id, alone=False))
            there = _found(project, job, step, found, as_root=as_root)
        elif job.run.entry.alive and isolated:
            raise RequestError(
                f"job {job.id} of the running run {job.run.run_id} has no container now",
                hint="it has not started yet, or is over and was not kept; `loom show` tells",
            )
        else:
            there = _fresh(project, job, step, stack, as_root=as_root, cancel=cancel)
        _note_visit(project, job, there.secrets, command)
        yield there


def find_kept(project: Project, job: PastJob) -> KeptSession | None:
    """Return the job's container if it runs or was kept. No engine is asked where there can be none."""
    if not job.may_be_kept:
        return None
    return project.provider(job).find(job.run.run_id, job.id, job.kept_id, user=job.command_user)


def held(project: Project, job: PastJob, kept_id: str, *, alone: bool) -> AbstractContextManager[None]:
    """Use a kept session: `alone` to go on in it or to remove it, else beside others. RequestError when it is in use."""
    command = shlex.join(["loom", *sys.argv[1:3]])
    what = f"the container of {job.id} (run {job.run.run_id})"
    return locks.held(project.store.lock_of_kept(kept_id), what, command, alone=alone)


def _found(project: Project, job: PastJob, step: Step, found: KeptSession, *, as_root: bool) -> EnteredJob:
    secrets = resolve_secrets(project, job)
    paths, woken = found.wake(variables.files_of(job.job, secrets))
    known = variables.job_environment(
        job.job,
        job.run.planned.variables,
        project_dir=project.provider(job).project_dir(job.run.workspace),
        image_name=job.image.name if job.image is not None else "",
    )
    of_session = variables.session_variables(job.job, known, {}, secrets, paths, _attempt(job))
    environment, notes = _environment(project, job, step, secrets, of_session)
    if woken:
        in_memory = ", ".join(entry.partition(":")[0] for entry in job.job.resources.tmpfs)
        lost = f"its processes are gone{f', and so is what was in {in_memory} (tmpfs)' if in_memory else ''}"
        notes.append(f"the container was stopped and runs again: its files are unchanged; {lost}")
    return EnteredJob(
        inside=found.inside(environment, as_root=as_root),
        about=f"in the {'kept' if found.kept else 'running'} container of {job.id} (run {job.run.run_id})",
        fresh=False,
        secrets=secrets,
        notes=notes,
        container_name=found.name,
    )


def _fresh(
    project: Project, job: PastJob, step: Step, stack: ExitStack, *, as_root: bool, cancel: Cancel
) -> EnteredJob:
    """Open a new session over the job's files, in the image if the engine still has it; `stack` ends it."""
    run = job.run
    image: Resolved | None = job.image if job.in_container else None
    if image is not None and not project.provider(job).has_image(image.image_id):
        image = None
    view = None if job.view is None else view_of_files(project, job)
    if view is None and not run.workspace.is_dir():
        raise _gone(job)
    opener = _opener(project, job, step, view, stack, cancel)
    progress = MaskedProgress()
    handover = Handover(
        run.plan,
        workspace=run.workspace,
        archive_of=run.archive_of,
        tracked=partial(snapshot.tracked, run.workspace, project.environ),
        missing_here=frozenset(),
        logs=run.paths.logs,
        masker=progress.masker,
        cache=None,
        cancel=cancel,
    )
    planned = handover.fill_reported(job.job, opener.run.variables, project.config.reported)
    values, _ = opener.tools.secrets(planned)
    for name, value in (item for each in (values.own, *values.services) for item in each.items()):
        progress.masker.add(name, value)
    image = image or opener.resolve(planned, progress, values)
    services = None
    if planned.services:
        services = stack.enter_context(opener.services(planned, progress, cancel, lambda name, how: None, values))
    opened = stack.enter_context(opener.open(planned, image, progress, services))
    session, request = opened.session, opened.request
    if job.view is None:
        handover.restore_artifacts(planned, session, progress)
    paths = {name: session.put_secret(name, value) for name, value in variables.files_of(planned, values.own).items()}
    of_session = variables.session_variables(
        planned, request.environment, request.concealed, values.own, paths, _attempt(job)
    )
    environment, notes = _environment(project, job, step, values.own, of_session)
    return EnteredJob(
        inside=session.inside(environment, as_root=as_root),
        about=_describe_fresh(job, view),
        fresh=True,
        secrets=values.own,
        notes=notes,
        container_name=session.facts.container_name,
    )


def _opener(
    project: Project, job: PastJob, step: Step, view: View | None, stack: ExitStack, cancel: Cancel
) -> SessionOpener:
    workspace, planned = job.run.workspace, job.run.planned
    run = replace(
        planned,
        run_id=str(time.time_ns()),
        detached=False,
        workspace=FilledWorkspace(path=workspace, snapshot={}, has_products=True),
        starts={} if view is None else {job.id: job.resumed(step.id, view=view)},
        read_only_mounts=tuple(path for path in planned.read_only_mounts if path.is_dir()),
    )
    tools = wiring.job_tools(project, run, planned.repo_root if planned.repo_root.is_dir() else workspace)
    stack.callback(lambda: [provider.close(cancel) for provider in tools.providers.values()])
    return SessionOpener(run, workspace, tools, cancel)


def _describe_fresh(job: PastJob, view: View | None) -> str:
    of_run = f"(run {job.run.run_id})"
    if view is None:
        return (
            f"in a new session for {job.id} {of_run}, as its first step would find it: the job ended before it had "
            "files; caches are not restored"
        )
    if not job.in_container:
        return f"on this machine, in the files of {job.id} {of_run}"
    return (
        f"in a new container of {job.id}'s image, with its files of run {job.run.run_id}: "
        f"{'the kept one is gone' if job.kept else 'nothing was kept'}, so what its steps changed outside of the workspace is "
        f"not here{'; what you change goes with the container' if view.mode is MountMode.VOLUME else ''}"
    )


def view_of_files(project: Project, job: PastJob, left_out: dict[str, str] | None = None) -> View:
    """Return the view of a new session for the job: its files as a plain directory, sent where the engine does not see them."""
    files, view = files_of(project, job, left_out), job.view
    assert view is not None, "only such a job has files"
    mode = MountMode.VOLUME if view.mode is MountMode.VOLUME else MountMode.BIND
    return View(mode=mode, workspace=files, directory=view.directory)


def view_now(project: Project, job: PastJob) -> Path | None:
    """Return the job's files as its kept session mounts them, only to read; None where this process can't read them so."""
    if job.view is None or job.view.mode is MountMode.BIND:
        return None  # its files are a plain directory, which needs no engine
    found = find_kept(project, job)
    return found.view() if found is not None and found.has_its_files(job.view.mode) else None


def files_of(project: Project, job: PastJob, left_out: dict[str, str] | None = None) -> Path:
    """Return a directory with the job's files as it left them; lay them out first if its view is not a plain directory.

    In a kept container, the files may have changed since. RequestError when none are left.
    `left_out` gets the path and the reason of each special file that was not laid out.
    """

    def on_skipped(item: Skipped) -> None:
        if left_out is not None:
            left_out[item.path] = item.reason

    view = job.view
    if view is None:
        raise RequestError(
            f"job {job.id} of run {job.run.run_id} ended before its workspace was created",
            hint="`loom show` gives the reason",
        )
    if view.mode is MountMode.BIND and view.files.is_dir():
        if may_enter(view.files):
            return view.files
        if (found := find_kept(project, job)) is None:
            raise RequestError(
                f"the files of job {job.id} ({view.files}) belong to the user of its image, and its container is gone",
                hint=f"as root: chown -R {os.geteuid()}:{os.getegid()} {view.files}",
            )
        # While the container is kept, its user has the files.
        copy = jobs_of(view.run_workspace) / f"{job_directory_name(job.id)}.copy" / "workspace"
        return laid_out(copy, partial(found.copy_files, on_skipped=on_skipped))
    if view.mode is MountMode.BIND:
        raise _gone(job)
    # An overlay whose lower directory somebody removed would look as if the job had deleted all of its files.
    if (found := find_kept(project, job)) is not None and found.has_its_files(view.mode):
        return laid_out(view.files, partial(found.copy_files, on_skipped=on_skipped))
    layer = view.files.parent / "upper"
    if view.mode is MountMode.OVERLAY and view.workspace.is_dir() and layer.is_dir():
        request = SessionRequest(
            run_id=job.run.run_id,
            job_id=job.id,
            workspace=view.workspace,
            directory=view.directory,
            project_dir=project.provider(job).project_dir(view.workspace),
            environment={},
            shell=(),
            image_id=job.image.image_id if job.image is not None else None,
        )
        laid = laid_out(view.files, partial(project.provider(job).lay_out, request, on_skipped=on_skipped))
        # From now on these are the job's files: changes of a new container must not be overwritten by laying them out again.
        layer.rename(layer.with_name("upper.laid-out"))
        return laid
    if view.files.is_dir():
        return view.files
    raise _gone(job)


def may_enter(directory: Path) -> bool:
    """Return whether this process may read the directory: a job's files may belong to the user of its image."""
    return os.access(directory, os.R_OK | os.X_OK)


def _gone(job: PastJob) -> RequestError:
    keeps = "" if job.kept or job.not_kept else "; `loom run --keep on-failure` keeps what it takes to go on"
    return RequestError(
        f"nothing is left of the files of job {job.id} of run {job.run.run_id}",
        hint=f"run it again: loom rerun {job.run.run_id}{keeps}",
        code="NOTHING_KEPT",
    )


def resolve_secrets(project: Project, job: PastJob) -> Mapping[str, bytes]:
    """Resolve the secrets again: the record has no values."""
    root = job.run.repo_root
    return resolve(
        job.job.secrets, environ=project.environ, root=root, config=project.config, judged=project.judged
    ).values


def _environment(
    project: Project, job: PastJob, step: Step, secrets: Mapping[str, bytes], of_session: Mapping[str, str]
) -> tuple[dict[str, str], list[str]]:
    handed_on, lost = restored(job.handed_on(step), secrets)
    if job.job.has_expressions:
        from loom.runner.late.past import variables_at  # late: only for such jobs

        project_dir = project.provider(job).project_dir(job.run.workspace)
        event_path = of_session.get("GITHUB_EVENT_PATH", "")
        handed_on, lost = variables_at(job, step, secrets, project_dir=project_dir, event_path=event_path)
    notes = after_script_notes(job)
    if lost:
        notes.append(f"not set, since the record has them without the secret that they held: {', '.join(lost)}")
    return {**handed_on, **of_session, "LOOM_STEP": step.id, "LOOM_ATTEMPT": str(max(1, job.state.attempts))}, notes


def _attempt(job: PastJob) -> dict[str, str]:
    began = job.state.attempt_started_at
    return {} if began is None else variables.attempt_variables(max(1, job.state.attempts), epoch_ns(began))


def after_script_notes(job: PastJob) -> list[str]:
    """State that the session is not as the failing step left it, since `after_script` ran there."""
    if "after_script_ran" not in job.state.facts:
        return []
    before = "`loom run --stop-at failure` stops before it"
    return [f"after_script has run here since {job.failing_step or 'the last step'}; {before}"]


def _note_visit(project: Project, job: PastJob, secrets: Mapping[str, bytes], command: Sequence[str] | None) -> None:
    if not project.store.has_record(job.run.entry):
        return
    text = None if command is None else Masker(secrets).mask(shlex.join(encodable(command)))
    visit = Assistance(
        at=timestamp(time.time_ns()), job_id=job.id, how="shell" if command is None else "exec", command=text
    )
    with suppress(OSError):  # on a full disk, a person looks for the reason
        note_assistance(job.run.paths, visit)
