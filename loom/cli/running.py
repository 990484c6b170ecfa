"""What `loom run` and its relatives share: from options and surroundings to a run, and to its exit code.

The only part that looks at the process's environment, its terminal and its clock, and that listens to signals.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

from loom.cancel import Cancel
from loom.results import ExitCode


@dataclass(frozen=True, kw_only=True)
class Options:
    """The run command's arguments, as given."""

    jobs: tuple[str, ...] = ()
    local: bool = False
    container: bool = False
    workflow: Path | None = None
    stream: bool = False
    quiet: bool = False
    verbose: bool = False
    jobs_at_once: int | None = None
    fail_fast: bool = False
    mount_mode: str | None = None
    no_cache: bool = False
    extra: Mapping[str, Any] = field(default_factory=dict)


@contextmanager
def signals(cancel: Cancel) -> Iterator[None]:
    """INT, TERM and HUP ask for a graceful end; a second one for an immediate one; a third leaves at once."""
    codes = {
        signal.SIGINT: ExitCode.INTERRUPTED,
        signal.SIGTERM: ExitCode.TERMINATED,
        signal.SIGHUP: ExitCode.HANGUP,
    }

    def ask(number: int, _: FrameType | None) -> None:
        if cancel.now:
            os._exit(codes[signal.Signals(number)])
        cancel.request(codes[signal.Signals(number)])

    before = {number: signal.signal(number, ask) for number in codes}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def run(options: Options) -> int:
    """Run the workflow; the exit code of the process."""
    from loom import config, engine, snapshot, workflow
    from loom.cli import parts
    from loom.errors import RequestError
    from loom.images import LOCK_PATH, load_lock
    from loom.plan import MountMode, ResolveContext, Selection, resolve
    from loom.store import Store

    environ = dict(os.environ)
    run_id = str(time.time_ns())
    source = snapshot.discover(Path.cwd(), environ=environ)
    settings = config.load(
        root=source.root,
        environ=environ,
        flags={
            "stream": options.stream or None,
            "jobs": options.jobs_at_once,
            "fail_fast": options.fail_fast or None,
            "mount_mode": options.mount_mode,
        },
    )
    path = options.workflow or source.root / ".loom" / "workflow.yml"
    if options.workflow is not None and not path.exists():
        raise RequestError(f"there is no workflow at {path}", code="WORKFLOW_MISSING")
    loaded = workflow.load(path.absolute(), source.root)
    plan = resolve(
        loaded,
        Selection(jobs=options.jobs, container=options.container),
        ResolveContext(
            config=settings,
            predefined=engine.run_variables(run_id, source, ".loom/workflow.yml"),
        ),
    )
    cancel = Cancel()
    look, write = screen_parts(settings.color, quiet=options.quiet, verbose=options.verbose, stream=settings.stream)
    from loom.render.screen import Screen, closing_lines

    screen = Screen(look, write)
    engine_ = parts.Engine(settings, environ)

    def preflight() -> None:
        engine_()

    with signals(cancel):
        ran = engine.execute(
            engine.Request(
                run_id=run_id,
                command=sys.argv,
                plan=plan,
                source=source,
                tools=parts.tools_for(
                    plan, settings, environ, source.root, load_lock(source.root / LOCK_PATH), engine_
                ),
                preflight=preflight if parts.needs_engine(plan) else None,
                store=Store(settings.state_dir),
                tmp_dir=settings.tmp_dir,
                clock_ns=time.time_ns,
                cancel=cancel,
                sinks=[screen],
                jobs_at_once=settings.jobs or os.cpu_count() or 2,
                fail_fast=settings.fail_fast,
                mount_mode=MountMode(settings.mount_mode),
                grace_s=settings.grace,
                cache=None if options.no_cache else parts.cache_for(settings, source),
            )
        )
    for line in closing_lines(ran.receipt.status.value, str(ran.receipt_path), look):
        write(line)
    return ran.receipt.exit_code


def screen_parts(color: str, *, quiet: bool, verbose: bool, stream: bool) -> tuple[Any, Callable[[str], None]]:
    """The look of standard output, and a function that writes a line there."""
    from loom.render.screen import Detail, Look

    out = sys.stdout
    on_terminal = out.isatty()
    coloured = color == "always" or (color == "auto" and on_terminal and os.environ.get("TERM") != "dumb")
    encoding = (out.encoding or "").lower().replace("-", "")
    look = Look(
        detail=Detail.QUIET if quiet else Detail.VERBOSE if verbose else Detail.NORMAL,
        stream=stream,
        unicode=encoding.startswith("utf"),
        paint=paint if coloured else None,
    )

    def write(line: str) -> None:
        out.write(line.encode(out.encoding or "utf-8", "replace").decode(out.encoding or "utf-8") + "\n")
        out.flush()

    return look, write


def paint(text: str, style: str) -> str:
    import typer

    styles: dict[str, dict[str, Any]] = {
        "ok": {"fg": "green"},
        "bad": {"fg": "red"},
        "warn": {"fg": "yellow"},
        "dim": {"dim": True},
        "bold": {"bold": True},
        "job": {"fg": "cyan"},
    }
    return typer.style(text, **styles[style])
