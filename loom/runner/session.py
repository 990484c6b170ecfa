"""Open a job's session, in some cases ahead of time."""

from __future__ import annotations

import dataclasses
import shutil
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import CancelledError, Future
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Generic, TypeVar

from msgspec.structs import replace

from loom import snapshot
from loom.cancel import AT_ONCE_S, Cancel
from loom.config import Config
from loom.errors import ImageError, LoomError, ProviderError
from loom.plan import variables as environment
from loom.plan.clone import Clone
from loom.plan.model import Image, Job, Resolved, WorkspaceMode
from loom.providers.base import (
    NO_SECRETS,
    DetachedContainer,
    OpenedServices,
    Provider,
    ResolveRequest,
    SecretValues,
    Session,
    SessionRequest,
)
from loom.record.run import LeftContainer, Resumed, Run, View
from loom.record.step_outputs import restored
from loom.runner.hooks import Gate, RunChild
from loom.runner.views import Views
from loom.status import OnOutput, Stream
from loom.util import controls
from loom.util.untrusted_files import read_regular
from loom.util.within import outcome
from loom.values import Environ, Immutable

T = TypeVar("T")


ResolveSecrets = Callable[[Job], tuple[SecretValues, Sequence[str]]]
"""Returns the secrets of a job and its services, and messages about unavailable optional ones."""


CopyInputs = Callable[[Path, Sequence[str], Cancel], str]
"""Fills an empty directory with the files that globs name, and returns the id of their tree."""


Leave = Callable[[str], None]
"""Ends this process while handed-over jobs go on, if that is what it is to do then. Thread-safe.

It gets the reason why it can't follow them any more; an empty one if all that could start were handed over.
"""


class JobTools(Immutable):
    config: Config
    """The effective settings, including the command line's."""
    providers: Mapping[str, Provider]
    """The providers of the jobs and of their services, by name."""
    secrets: ResolveSecrets
    gate: Gate | None = None
    run_child: RunChild | None = None
    leave: Leave | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class OpenJob:
    """A job's open session. `environment` extends every step's (secrets)."""

    session: Session
    request: SessionRequest
    image: Resolved | None
    environment: Environ
    secrets: Mapping[str, bytes] = dataclasses.field(default_factory=dict, repr=False)
    services: OpenedServices | None = None
    resumed: Resumed | None = None

    def handed_on(self) -> dict[str, str]:
        """Return the outputs of earlier steps, also of an earlier run."""
        before = self.resumed.handed_on if self.resumed else {}
        return {**restored(before, self.secrets)[0], **self.session.handed_on()}


class OpenedSession(Immutable):
    session: Session
    request: SessionRequest
    view: View
    input_tree: str = ""
    """The id of the tree of the job's inputs, if it has only these."""


class Work(Generic[T]):
    """Work in a thread, with a flag of its own that `cancel` sets too."""

    def __init__(self, do: Callable[[Cancel], T], cancel: Cancel, *, name: str) -> None:
        self._waits, self._cancel = cancel, cancel.child()
        self._thread, self._done = outcome(partial(self._run, do), name=name)

    def _run(self, do: Callable[[Cancel], T]) -> T:
        try:
            return do(self._cancel)
        finally:
            self._cancel.detach()

    def error(self, interrupted: Exception) -> BaseException | None:
        """Wait for the end; return the error of the work. Raise `interrupted` if a second request ends the waiting."""
        if not self._waits.join(self._thread):
            raise interrupted
        return self._done.exception()  # no limit: the thread has ended

    def result(self, interrupted: Exception) -> T:
        """Wait for the result; raise as `error`, and the error of the work."""
        if (error := self.error(interrupted)) is not None:
            raise error
        return self._done.result()  # no limit: as above

    def stop(self) -> bool:
        """End the work, and wait for that; False if a second request ends the waiting."""
        self._cancel.request(None)
        return self._waits.join(self._thread)


class _Buffered:
    """An `OnOutput` that buffers until its section is open, then passes output on."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._chunks: list[tuple[Stream, bytes]] = []
        self._to: OnOutput | None = None

    def __call__(self, stream: Stream, data: bytes) -> None:
        with self._lock:
            if self._to is None:
                self._chunks.append((stream, data))
            else:
                self._to(stream, data)

    def pass_on(self, to: OnOutput) -> None:
        with self._lock:
            for stream, data in self._chunks:
                to(stream, data)
            self._chunks.clear()
            self._to = to


class SessionOpener:
    """Opens jobs' sessions, some ahead of time: a container starts while the snapshot is still in progress.

    `reduction` returns a script that leaves, of the files of a job, what its clone has; empty: they have no more.
    `copy_inputs` fills a directory with a job's inputs, and returns the id of their tree.
    """

    def __init__(
        self,
        run: Run,
        workspace: Path,
        tools: JobTools,
        cancel: Cancel,
        reduction: Callable[[Clone], str] = lambda _: "",
        copy_inputs: CopyInputs | None = None,
    ) -> None:
        self.run = run
        self.workspace = workspace
        self.tools = tools
        self.cancel = cancel
        self.reduction = reduction
        self._copy_inputs = copy_inputs
        filled, going = run.workspace, len(run.plan.jobs) - len(run.done)
        self.alone = going == 1 and not (run.resumed or (filled is not None and filled.has_products))
        """Whether only one job runs, so that it may use the run's workspace itself."""
        self.prewarmed: dict[str, Prewarmed] = {}
        """The sessions that no job has taken, by job."""
        self._views = Views(workspace, run.mount_mode, tools.providers, alone=self.alone)
        self._over: set[str] = set()
        self._discarding: list[threading.Thread] = []
        self._filled: Future[None] = Future()
        self.left_behind: list[str] = []
        """Sessions that were still opening when the wait was given up, as lines of text."""

    def provider(self, job: Job) -> Provider:
        return self.tools.providers[job.provider]

    def resumed(self, job: Job) -> Resumed | None:
        return None if job.id in self._over else self.run.resumed.get(job.id)

    def forget_resumed(self, job: Job) -> None:
        """Let the job's next attempt be one in a new session."""
        self._over.add(job.id)

    def view(self, job: Job) -> View:
        """Return the job's view: a new one, or an earlier run's when it resumes."""
        resumed = self.resumed(job)
        return (resumed.view if resumed is not None else None) or self._views.of(job)

    def request(
        self, job: Job, view: View, image: Resolved | None, services: OpenedServices | None = None
    ) -> SessionRequest:
        run = self.run
        project_dir = self.provider(job).project_dir(view.workspace)
        variables = environment.job_environment(
            job,
            run.variables,
            project_dir=project_dir,
            image_name=image.name if image else "",
            services=services.variables if services is not None else {},
        )
        concealed = {name: value for name, value in variables.items() if controls.hide(value) != value}
        return SessionRequest(
            run_id=run.run_id,
            job_id=job.id,
            workspace=view.workspace,
            umask=job.umask,
            chmod="go-w" if job.umask & ~run.plan.umask and self.resumed(job) is None else "",
            directory=view.directory,
            project_dir=project_dir,
            environment={name: value for name, value in variables.items() if name not in concealed},
            concealed=concealed,
            shell=job.shell,
            image=job.image or Image(),
            image_id=image.image_id if image else None,
            mount_mode=view.mode,
            read_only_mounts=self._read_only_mounts(job),
            resources=job.resources,
            network=job.network,
            network_id=services.network_id if services else None,
            grace_s=run.grace_s,
            privileged=job.privileged,
            docker_socket=job.docker_socket,
            hardened=job.hardened,
            pool=job.pool,
            detached=run.detached,
        )

    def _read_only_mounts(self, job: Job) -> tuple[Path, ...]:
        of_git = self.run.read_only_mounts if job.has_git else ()
        if not job.uses_actions:
            return of_git
        from loom.runner.actions import mounts_of  # for jobs of one language

        return (*of_git, *mounts_of(job, self.tools.config.cache_dir))

    def filled(self) -> None:
        """Let the sessions start that wait for the run's workspace: it is complete."""
        self._filled.set_result(None)

    def wait_until_filled(self) -> None:
        """Raise ProviderError when the run ends before its workspace is complete."""
        try:
            self._filled.result()  # no limit: `filled` or `close_unused` ends it, one of which each run calls
        except CancelledError:
            raise ProviderError("the run's workspace was not filled", code="CANCELED") from None

    def services(
        self, job: Job, on_output: OnOutput, cancel: Cancel, on_died: Callable[[str, str], None], secrets: SecretValues
    ) -> AbstractContextManager[OpenedServices]:
        request = ResolveRequest(workspace=self.workspace, on_output=on_output, cancel=cancel, secrets=secrets)
        return self.provider(job).services(
            environment.give_predefined_to_services(job, self.run.variables), request, on_died
        )

    def resolve(self, job: Job, on_output: OnOutput, secrets: SecretValues = NO_SECRETS) -> Resolved | None:
        images = self.provider(job).images
        if job.image is None or images is None:
            return None
        try:
            request = ResolveRequest(workspace=self.workspace, on_output=on_output, cancel=self.cancel, secrets=secrets)
            return images.resolve(job.image, request)
        except ImageError as error:
            raise error.named_at(job.sources.get("image", "")) from error

    @contextmanager
    def open(
        self, job: Job, image: Resolved | None, on_output: OnOutput, services: OpenedServices | None = None
    ) -> Iterator[OpenedSession]:
        """Open a job's session with the first kind of view that works."""
        with ExitStack() as stack:
            opened = None
            while opened is None:
                view = self.view(job)
                request = self.request(job, view, image, services)
                inputs = self._inputs(job, view)
                try:
                    session = stack.enter_context(self._opened(request, job, view, on_output))
                    opened = OpenedSession(session=session, request=request, view=view, input_tree=inputs)
                except ProviderError as error:
                    if not self.another_view(job, view, error, on_output):
                        raise
            yield opened

    def another_view(self, job: Job, view: View, error: ProviderError, on_output: OnOutput) -> bool:
        """Return whether to retry with another kind of view after this failure."""
        if self.resumed(job) is not None or not self._views.another(job, view, error):
            return False
        if view.directory is not None:
            shutil.rmtree(view.directory, ignore_errors=True)
        on_output("stdout", f"not here: {error.message}; the job gets its files in another way\n".encode())
        return True

    @contextmanager
    def adopted(
        self, job: Job, kept: LeftContainer, image: Resolved | None, on_output: OnOutput, cancel: Cancel
    ) -> Iterator[OpenedSession]:
        """Open a job's session in the container that an earlier run has left. ProviderError where it is gone."""
        view = self.view(job)
        request = self.request(job, view, image)
        found = self.provider(job).find(kept.run_id, job.id, kept.container_id, user=kept.user)
        if kept.handed_over is not None and isinstance(found, DetachedContainer):
            opening = found.attach(read_regular(kept.handed_over), request, on_output, cancel)
        elif kept.handed_over is not None:
            raise ProviderError(
                f"the pod that continued job {job.id} is gone",
                hint="it reached its deadline, or was deleted, or lost with its node",
                code="POD_LOST",
            )
        elif found is not None:
            opening = found.adopt(request, on_output, cancel)
        else:
            raise ProviderError(f"the kept container of job {job.id} is gone", code="NOTHING_KEPT")
        with opening as session:
            yield OpenedSession(session=session, request=request, view=view)

    def _inputs(self, job: Job, view: View) -> str:
        """Lay out a job's inputs; return the id of their tree, empty for a job without."""
        if job.inputs is None or not view.copied:
            return ""
        if self.run.mount_mode is WorkspaceMode.SHARED:
            hint = "leave mount_mode to loom, or `inputs` out"
            raise ProviderError(f"{job.id}: its inputs are mixed with what other jobs left (mount_mode)", hint=hint)
        assert self._copy_inputs is not None
        return self._copy_inputs(view.workspace, job.inputs, self.cancel)

    @contextmanager
    def _opened(self, request: SessionRequest, job: Job, view: View, on_output: OnOutput) -> Iterator[Session]:
        with ExitStack() as stack:
            filling = None
            if view.copied and job.inputs is None:  # while its container starts
                fill = partial(snapshot.duplicate, self.workspace, view.workspace)
                filling = Work(lambda cancel: fill(cancel=cancel), self.cancel, name=f"fill {view.workspace}")
                stack.callback(filling.stop)
            session = stack.enter_context(self.provider(job).open(request, on_output, self.cancel))
            if filling is not None:
                filling.result(ProviderError(f"interrupted while {view.workspace} was filled", code="CANCELED"))
            yield session

    def prewarm(self, job: Job, ahead: Prewarmed | None = None) -> None:
        """Open a job's session in a thread, if it shows the workspace itself, which may still be incomplete, or nothing of it.

        Not for jobs with services, or with an image built from the snapshot. `ahead`: a session that was opened before, and is
        taken if it is exactly the one that would be opened now.
        """
        if (self._views.shares(job) or job.no_checkout) and self._can_open_early(job):
            self.prewarmed[job.id] = Prewarmed(self, job, ahead)
        elif ahead is not None:
            self.discard(ahead)

    def make_ready(self, job: Job) -> None:
        """Prewarm a session that shows the workspace through an overlay: it starts when the workspace is complete."""
        alone = job.resource_group is not None or job.pool is not None  # may wait for other jobs
        if not alone and self._views.overlays(job) and self._can_open_early(job):
            self.prewarmed[job.id] = Prewarmed(self, job, wait_until_filled=self.wait_until_filled)

    def _can_open_early(self, job: Job) -> bool:
        image_from_snapshot = job.image is not None and job.image.build is not None
        return not (self.resumed(job) or job.services or image_from_snapshot)

    def discard(self, session: Prewarmed) -> None:
        """Close a session that nobody takes, without delay for the caller."""
        thread = threading.Thread(target=session.discard, name="discard", daemon=True)
        self._discarding.append(thread)
        thread.start()

    def close_unused(self) -> None:
        """Close prewarmed sessions that no job took (the snapshot failed, the run was interrupted)."""
        self._filled.cancel()
        for prewarmed in list(self.prewarmed.values()):
            prewarmed.discard()
        self.prewarmed.clear()
        for thread in list(self._discarding):
            self.cancel.join(thread)


class Prewarmed:
    """A session that a thread opens, for the job that takes it. `ahead`: see `SessionOpener.prewarm`; `wait_until_filled`: see
    `SessionRequest`."""

    def __init__(
        self,
        opener: SessionOpener,
        job: Job,
        ahead: Prewarmed | None = None,
        *,
        wait_until_filled: Callable[[], None] | None = None,
    ) -> None:
        self.image_output = _Buffered()
        self.provider_output = _Buffered()
        self.resolved: Resolved | None = None
        self._opener = opener
        self._job = job
        self._stack = ExitStack()
        self._ahead = ahead
        self._until_filled = wait_until_filled
        self.view = opener.view(job)
        self._work = Work(lambda _: self._open(), opener.cancel, name=f"open {job.id}")

    def _open(self) -> OpenedSession:
        self.resolved = self._opener.resolve(self._job, self.image_output)
        request = self._opener.request(self._job, self.view, self.resolved)
        request = replace(request, wait_until_filled=self._until_filled)
        if self._ahead is not None and (taken := self._take(self._ahead, request)) is not None:
            return taken
        # Exactly this one, without another kind of view: files can't be sent or copied yet.
        opening = self._opener.provider(self._job).open(request, self.provider_output, self._opener.cancel)
        return OpenedSession(session=self._stack.enter_context(opening), request=request, view=self.view)

    def _take(self, ahead: Prewarmed, request: SessionRequest) -> OpenedSession | None:
        """Take the session of `ahead` if it is the requested one and still answers."""
        with suppress(LoomError):
            opened, stack = ahead.opened()
            if opened.request == request and opened.session.answers():
                ahead.provider_output.pass_on(self.provider_output)
                self._stack = stack
                return opened
        self._opener.discard(ahead)
        return None

    def opened(self) -> tuple[OpenedSession, ExitStack]:
        """Return the session and its closer; raises the error of opening."""
        return self._work.result(ProviderError(self._left_behind())), self._stack

    def image(self) -> Resolved | None:
        """Return the image; raises the error of finding it."""
        if (error := self._work.error(ProviderError(self._left_behind()))) is not None and self.resolved is None:
            raise error
        return self.resolved

    def discard(self) -> None:
        if self._work.stop():
            self._stack.close()
        else:
            self._opener.left_behind.append(self._left_behind())

    def _left_behind(self) -> str:
        return (
            f"the session of job {self._job.id} was still being opened {AT_ONCE_S:.0f} s after the second interrupt;"
            " the next loom removes what is there of it"
        )
