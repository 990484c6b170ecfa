"""`loom shell` and `loom exec`: stand inside a job, or run one command there."""

from __future__ import annotations

import shlex
import sys
import time
from signal import SIGKILL
from typing import Literal

from msgspec import UNSET, UnsetType

from loom.cancel import Cancel, signals
from loom.commands.inside import session
from loom.commands.inside.breakpoints import banner, needs_terminal
from loom.commands.project import open_project
from loom.errors import RequestError
from loom.record.documents import Document, Milliseconds
from loom.record.lines import encodable, text_fields
from loom.render.output import print_json
from loom.status import Code, Ended, ExitCode
from loom.util import typed
from loom.util.units import duration, read_flag


class Executed(Document):
    """The document of `loom exec --json`. `stdout_b64` and `stderr_b64` are there for output that is not UTF-8."""

    schema_version: Literal["loom.exec.v1"] = "loom.exec.v1"
    kind: Literal["exec"] = "exec"
    run_id: str
    job_id: str
    step: str
    command: list[str]
    exit_code: Code
    ended: str
    fresh: bool
    container_name: str | None
    duration_ms: Milliseconds
    stdout: str
    stdout_b64: str | UnsetType = UNSET
    stderr: str
    stderr_b64: str | UnsetType = UNSET


def shell(run: str | None, job: str | None, step: str | None, *, as_root: bool, trust: bool) -> int:
    project = open_project(trusting=trust)
    try:
        past = session.find_job(project, [name for name in (run, job) if name])
    except RequestError as error:
        if error.code == "RUN_UNKNOWN" and run and job:
            job_id, command = map(shlex.quote, (run, job))
            error.hint = (
                f"two names are a run and its job; in a job of the last run: `loom shell {job_id}`,"
                f" `loom exec {job_id} -- {command}`"
            )
        raise
    at, cancel = past.step(step), Cancel()
    needs_terminal("loom shell")
    session.permit(project, past.run, past)
    with signals(cancel), session.entered(project, past, at, command=None, as_root=as_root, cancel=cancel) as entered:
        print("\n".join(banner(entered.about, entered.notes, past.job.id, at.id, past.script_of(at))))
        if entered.fresh and entered.container_name:
            print("  this container is removed when you exit")
        sys.stdout.flush()
        code = entered.inside.shell(past.job.shell, script=past.script_of(at), name=past.job.id, cancel=cancel)
    return cancel.exit_code or code


def exec_(
    command: list[str],
    names: list[str] | None,
    step: str | None,
    *,
    as_root: bool,
    as_json: bool,
    timeout: str | None,
    tty: bool,
    trust: bool,
) -> int:
    if tty and as_json:
        raise RequestError("-t and --json exclude each other", hint="leave -t out: --json records what is printed")
    if not command:
        raise RequestError("there is no command to run", hint="loom exec [RUN] JOB -- COMMAND...")
    if names and len(names) > 2:
        raise RequestError(f"too many names: {' '.join(names)}", hint="give [RUN] [JOB], a command behind --")
    seconds = None if timeout is None else read_flag("--timeout", timeout, duration)
    project = open_project(trusting=trust)
    job = session.find_job(project, names or [])
    at, cancel = job.step(step), Cancel()
    if tty:
        needs_terminal("loom exec -t")
    session.permit(project, job.run, job)
    heard: dict[str, list[bytes]] = {"stdout": [], "stderr": []}
    begun = time.monotonic()
    with (
        signals(cancel, passing=True),
        session.entered(project, job, at, command=command, as_root=as_root, cancel=cancel) as entered,
    ):
        for note in (*([entered.about] if entered.fresh else []), *entered.notes):
            print(f"loom: {note}", file=sys.stderr)
        sys.stderr.flush()
        inside = entered.inside
        asked = inside.continued(command) if job.job.shared_shell else command
        on_output = (lambda stream, data: heard[stream].append(data)) if as_json else None
        ended = (
            inside.terminal(asked, cancel, timeout_s=seconds)
            if tty
            else inside.exec(asked, on_output, cancel, timeout_s=seconds, grace_s=job.run.planned.grace_s)
        )
        took_ms = round((time.monotonic() - begun) * 1000, 3)
    if as_json:
        document = {
            "run_id": job.run.run_id,
            "job_id": job.id,
            "step": at.id,
            "command": encodable(command),
            "exit_code": ended.code,
            "ended": ended.ended.value,
            "fresh": entered.fresh,
            "container_name": entered.container_name,
            "duration_ms": took_ms,
            **text_fields("stdout", b"".join(heard["stdout"])),
            **text_fields("stderr", b"".join(heard["stderr"])),
        }
        print_json(typed.convert(document, Executed))
    if ended.ended is Ended.TIMED_OUT:
        print(f"loom: {command[0]} was ended after {timeout}", file=sys.stderr)
        return ExitCode.TIMED_OUT
    if ended.ended is Ended.CANCELED and ended.code == 128 + SIGKILL:  # it took no notice of the signal
        return cancel.exit_code or ended.code
    return ended.code
