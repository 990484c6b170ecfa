"""The tools of `loom mcp`, without the protocol. Each ends by a Cancel; one acts at a time.

A run happens in this process, which prepares the next one ahead. Everything else is the command of that name, as a process
with `--json`: one implementation, and nothing that a command does can disturb the server.
"""

from __future__ import annotations

import json
import os
import secrets
import signal
import subprocess
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, Field

from loom.analysis.evidence import diagnosis_of
from loom.cancel import Cancel
from loom.commands.inside import session
from loom.commands.project import Project, open_project
from loom.commands.record.outgoing import hiding_masker
from loom.commands.run.prewarmed import PreparedRuns
from loom.errors import InfrastructureError, LoomError, RequestError
from loom.plan.model import Job, Plan
from loom.record.events import PhaseEvent
from loom.record.extent import extent_text
from loom.record.journal import OutputBatch
from loom.record.request import Request
from loom.render.diagnosis import agent
from loom.render.live import doing
from loom.render.look import Look
from loom.status import ExitCode
from loom.util import processes
from loom.util.controls import cleaned
from loom.util.globs import match_name
from loom.util.units import rough_duration
from loom.values import Immutable

MOST_BYTES = 2048
"""The limit for the text of one answer."""
KEPT_CHARACTERS = 20_000_000
"""The limit for the kept rests of all longer answers together; the oldest go first."""
MOST_TOLD = 200
"""Characters of a step's command in a message about progress."""
MOST_LINES = 2000
"""The limit for the lines of a log in one answer and its rest."""

Send = Callable[[float, float | None, str], None]
"""Gets a number that grows, of how many (None: unknown), and what happens. Called in any thread."""


class Answer(BaseModel):
    text: str
    more: str | None = Field(default=None, description="The id of the rest, for the tool `more`; null: this is all.")
    left: int = Field(default=0, description="How many characters the rest has.")


class RunAnswer(Answer):
    run_id: str
    status: str
    exit_code: int
    proof: bool = Field(
        description="Whether this was a whole run, which alone proves that the workflow passes or fails."
    )
    failed_jobs: list[str]
    receipt: str = Field(description="The path of the receipt, which leads to all files of the run.")


class ExecAnswer(Answer):
    exit_code: int
    ended: str
    container: str | None


class Pages:
    """The rests of long answers, for as long as they fit."""

    def __init__(self, hide: Callable[[str], str]) -> None:
        self._hide = hide
        self._rests: OrderedDict[str, str] = OrderedDict()

    def cut(self, text: str) -> Answer:
        """Return the beginning of `text`, without values of secrets, to a line end if there is one, and keep the rest."""
        text = self._hide(text)
        beginning = text.encode()[:MOST_BYTES].decode(errors="ignore")
        if len(beginning) == len(text):
            return Answer(text=text)
        at = beginning.rfind("\n") + 1 or len(beginning)
        name = secrets.token_hex(4)
        self._rests[name] = text[at:]
        while sum(map(len, self._rests.values())) > KEPT_CHARACTERS and len(self._rests) > 1:
            self._rests.popitem(last=False)
        return Answer(text=text[:at], more=name, left=len(text) - at)

    def more(self, name: str) -> Answer:
        """Return the next part. RequestError for an unknown id. The id stays valid, and gives the same part again."""
        if name not in self._rests:
            raise RequestError(f"there is no rest with the id {name}", hint="call the tool again that gave it")
        return self.cut(self._rests[name])


class Limits(Immutable):
    """The limits that the person who starts `loom mcp` sets for an agent."""

    jobs: tuple[str, ...] = ()
    """Names or globs of the jobs that may run; empty: all."""
    host: bool = False
    privileged: bool = False
    network: bool = False

    @property
    def settings(self) -> dict[str, object]:
        """The settings of runs, over those of every file and variable."""
        return {
            "keep": "on-failure",
            **({} if self.host else {"container": True}),
            **({} if self.network else {"network": "none"}),
        }

    def permit(self, jobs: Iterable[Job], project: Project) -> None:
        """Raise RequestError for the first of these jobs that asks for more than is allowed."""
        for job in jobs:
            names = (job.id, job.name)
            if self.jobs and not any(match_name(pattern, name) for name in names for pattern in self.jobs):
                raise _refused(f"job {job.id} is not one of those that may run: {', '.join(self.jobs)}", "--job")
            isolated = project.provider_named(job.provider).capabilities.isolated
            if not isolated and not self.host:
                raise _refused(f"job {job.id} runs on this machine, outside of a container", "--allow-host")
            if (job.privileged or job.docker_socket or job.resources.devices) and not self.privileged:
                raise _refused(f"job {job.id} asks for more than a plain container", "--allow-privileged")
            if job.network.mode != "none" and isolated and not self.network:
                raise _refused(
                    f"job {job.id} has the network {job.network.mode or 'of its provider'}", "--allow-network"
                )


def _refused(reason: str, option: str) -> RequestError:
    return RequestError(
        reason, hint=f"the person who started `loom mcp` decides this ({option})", code="AGENT_NOT_ALLOWED"
    )


class AgentTools:
    def __init__(self, limits: Limits, workflow: Path | None) -> None:
        self._limits = limits
        self._workflow = workflow
        self.workflow = [] if workflow is None else [f"--workflow={workflow}"]
        self.pages = Pages(hidden)
        self._acting = threading.Lock()
        self._prepared_runs = PreparedRuns()

    def close(self) -> None:
        self._prepared_runs.drop()

    # -- acting

    def run(self, asked: Mapping[str, Any], progress: CallProgress, cancel: Cancel) -> RunAnswer:
        """Run as `loom run`; `asked` has fields of `Request`."""
        request = Request.of({**self._limits.settings, **asked, "workflow": self._workflow})

        def choose(plan: Plan, _: object) -> None:
            self._limits.permit(plan.jobs, open_project())
            progress.total = len(plan.jobs)

        with self._acting:
            ran = self._prepared_runs.run(request, sinks=[progress], cancel=cancel, choose=choose)
            if ran is None:
                raise RequestError("no job is to run", hint="the tool `check` shows the jobs and their rules")
            if not cancel.requested:
                self._prepared_runs.prepare(request, choose)
        return self._about(ran.receipt.run_id)

    def resume(self, run: str, sync: str | None, cancel: Cancel) -> RunAnswer:
        project = open_project()
        self._limits.permit(session.find_run(project, run).planned.plan.jobs, project)
        arguments = ["resume", "-q", "--stop-at=pause", *([f"--sync={sync}"] if sync else []), "--", run]
        with self._acting:
            before = self._newest()
            ended = self._command(arguments, cancel)
            if (after := self._newest()) == before:  # refused: the reason is on standard error
                raise _error_of(ended)
        return self._about(after)

    def exec(self, job: str, command: Sequence[str], run: str | None, timeout_s: float, cancel: Cancel) -> ExecAnswer:
        project = open_project()
        found = session.find_job(project, [*([run] if run else []), job])
        self._limits.permit([found.job], project)
        arguments = ["exec", found.run.run_id, found.job.id, "--json", "--timeout", f"{timeout_s:g}s", "--", *command]
        with self._acting:
            ended = self._command(arguments, cancel)
        try:
            document = json.loads(ended.stdout)
        except ValueError:
            raise _error_of(ended) from None
        out, err = cleaned(document["stdout"]), cleaned(document["stderr"])
        cut = self.pages.cut(out if not err else f"{out}\n[standard error]\n{err}" if out else err)
        return ExecAnswer(
            **cut.model_dump(),
            exit_code=document["exit_code"],
            ended=document["ended"],
            container=document["container_name"],
        )

    # -- looking

    def said(self, arguments: Sequence[str], cancel: Cancel) -> Answer:
        """Return the output of a command, with standard error."""
        ended = self._command(arguments, cancel)
        if not ended.stdout and ended.returncode not in (0, 1):
            raise _error_of(ended)
        return self.pages.cut(cleaned(ended.stdout + ended.stderr))

    # -- parts

    def _about(self, run: str) -> RunAnswer:
        reading = open_project().find(run)
        receipt = reading.receipt()
        diagnosis = diagnosis_of(reading, None)
        proof = receipt.extent.proof
        if diagnosis.failed:
            text = "\n".join(agent.lines(diagnosis, Look(), now_ns=time.time_ns()))
        else:
            allowed = ", ".join(job.id for job in reading.fold.jobs.values() if job.allowed_failure)
            text = f"run {run}: " + (
                f"passed; failed, which the workflow allows: {allowed}" if allowed else "all jobs passed"
            )
        if not (diagnosis.failed or proof):
            text += f"; no proof that the workflow passes: {extent_text(receipt.extent)}"
        return RunAnswer(
            **self.pages.cut(text).model_dump(),
            run_id=receipt.run_id,
            status=receipt.status,
            exit_code=receipt.exit_code,
            proof=proof,
            failed_jobs=[job.id for job in reading.fold.failed_jobs()],
            receipt=str(reading.paths.receipt),
        )

    def _newest(self) -> str:
        project = open_project()
        return next((entry.run_id for entry, *_ in project.store.families(project.root)), "")

    def _command(self, arguments: Sequence[str], cancel: Cancel) -> subprocess.CompletedProcess[str]:
        """Run loom with these arguments; a cancel interrupts it."""
        if any("\0" in each for each in arguments):
            raise RequestError("an argument holds a NUL character, which no program can get")
        pipes = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        settings = {"text": True, "errors": "backslashreplace", "process_group": 0}
        with processes.start_loom(arguments, Path.cwd(), os.environ, **settings, **pipes) as process:
            once = threading.Lock()  # a second signal would interrupt its clean-up
            unregister = cancel.on_request(
                lambda: process.send_signal(signal.SIGINT) if once.acquire(blocking=False) else None
            )
            try:
                out, err = process.communicate()  # no limit: a cancel ends it
            finally:
                unregister()
                if cancel.requested:  # it may have been interrupted between the start of a process and knowing of it
                    processes.kill_group(process)
        return subprocess.CompletedProcess(arguments, process.returncode, out, err)


def hidden(text: str) -> str:
    """Return a text for an agent, without the values of secrets that runs of this checkout have seen."""
    return hiding_masker(open_project()).mask(text)


def given(name: str | None) -> list[str]:
    return [] if name is None else [name]


class CallProgress:
    """Tells a client what its call does: each step that begins, each job that ends, and from time to time that it goes on.

    It is a sink of a run; a call of another kind only goes on.
    """

    def __init__(self, send: Send, what: str) -> None:
        self._send = send
        self._doing = what
        self._since = time.monotonic()
        self._done = self._told = 0
        self.total: int | None = None

    def goes_on(self) -> None:
        self._tell(f"{self._doing}, for {rough_duration((time.monotonic() - self._since) * 1000)}")

    def phase(self, event: PhaseEvent) -> None:
        if event.kind == "phase_started" and event.job_id is not None:
            self._doing, self._since = f"{event.job_id}: {cleaned(doing(event))[:MOST_TOLD]}", time.monotonic()
            if event.step is not None:
                self._tell(self._doing)
        elif event.kind == "message" and event.message == "job_finished":
            self._done, self._told = self._done + 1, 0
            self._send(self._done, self.total, f"{event.job_id}: {event.status}")

    def output(self, batch: OutputBatch) -> None:
        """Ignore output: it is read from the record."""

    def _tell(self, message: str) -> None:
        """Report progress: the number grows with each message, as the protocol asks, towards the next whole job."""
        self._told += 1
        self._send(self._done + 1 - 1 / (1 + self._told), self.total, message)


def _error_of(ended: subprocess.CompletedProcess[str]) -> LoomError:
    """Return the error that a command printed, without its own beginning and what it printed before."""
    text = (
        f"\n{ended.stderr.strip()}".rpartition("\nloom: ")[2].strip()
        or f"loom ended with {ExitCode(ended.returncode).name.lower()}"
    )
    return (RequestError if ended.returncode in (ExitCode.REQUEST, ExitCode.NOT_RUN) else InfrastructureError)(text)
