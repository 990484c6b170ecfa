"""The live area of the terminal: shows running jobs below the permanent lines.

`Live` is a sink around a `Screen`: each line of the screen goes above a small area with stages and running jobs, which
is removed when the run ends. The remaining text is the same as on a pipe.

One lock guards the terminal. Job threads write lines and another thread draws the area; each first moves up by the
area's current height, which a concurrent writer would change.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TextIO

from msgspec import Struct

from loom.record.events import PhaseEvent, phase_words
from loom.record.journal import OutputBatch
from loom.render.look import Look
from loom.render.screen import Screen, command_lines, while_heard
from loom.util.controls import visible
from loom.util.units import rough_duration

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.live import Live as RichLive

PATIENCE_S = 0.4
"""A shorter run never shows the area, and never pays for its imports."""

REFRESH_PER_S = 8
MOST_JOBS = 12


class _Running(Struct, kw_only=True):
    since: float
    doing: str
    last: str = ""


class _Forgiving:
    """A stream whose reader may leave: further output is dropped, and the run continues."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self.write = while_heard(stream.write)
        self._flush = while_heard(lambda _: stream.flush())

    def flush(self) -> None:
        self._flush("")

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


class Live:
    """`clock` returns seconds. Always call `close`, which restores the terminal."""

    def __init__(self, look: Look, stream: TextIO, clock: Callable[[], float]) -> None:
        self._look = look
        self._stream: Any = _Forgiving(stream)
        self._clock = clock
        self._screen = Screen(look, self._write)
        self._terminal = threading.RLock()
        """Held while writing (from cursor position to cursor position) and while changing the area's data."""
        self._running: dict[str, _Running] = {}
        self._begun = clock()
        self._live: RichLive | None = None
        self._closed = threading.Event()
        threading.Thread(target=self._draw, name="live", daemon=True).start()

    def phase(self, event: PhaseEvent) -> None:
        with self._terminal:
            self._follow(event)
            if event.kind == "message" and event.message == "run_finished":
                self.close()
            self._screen.phase(event)

    def output(self, batch: OutputBatch) -> None:
        job_id = batch.where.job_id or ""
        if (job := self._running.get(job_id)) is not None:
            job.last = "".join(self._screen.seen(job_id, batch.events[-1].text)[:1]) or job.last
        self._screen.output(batch)

    def close(self) -> None:
        self._closed.set()
        with self._terminal:
            live, self._live = self._live, None
            if live is not None:
                live.stop()

    def _follow(self, event: PhaseEvent) -> None:
        if event.job_id is None:
            return
        if event.kind == "message" and event.message == "job_finished":
            self._running.pop(event.job_id, None)
        elif event.kind == "phase_started":
            job = self._running.setdefault(event.job_id, _Running(since=self._clock(), doing=""))
            job.doing, job.last = visible(doing(event)), ""

    def _draw(self) -> None:
        """Draw the area, from its first appearance to the end of the run."""
        if self._closed.wait(PATIENCE_S):
            return
        from rich.console import Console
        from rich.live import Live as RichLive

        live = RichLive(
            get_renderable=self._area,
            console=Console(file=self._stream, force_terminal=True, no_color=self._look.paint is None),
            auto_refresh=False,  # rich's own thread would be a second writer
            transient=True,
            redirect_stdout=False,
            redirect_stderr=False,
        )
        with self._terminal:
            if self._closed.is_set():
                return
            self._live = live
            live.start(refresh=True)
        while not self._closed.wait(1 / REFRESH_PER_S):
            with self._terminal:
                if self._live is not None:
                    live.refresh()

    def _write(self, line: str) -> None:
        with self._terminal:
            if self._live is None:
                self._stream.write(line + "\n")
                self._stream.flush()
            else:
                from rich.text import Text

                self._live.console.print(Text.from_ansi(line), soft_wrap=True)

    def _area(self) -> RenderableType:
        from rich.console import Group
        from rich.table import Table
        from rich.text import Text

        now = self._clock()
        running = sorted(self._running.items(), key=lambda item: item[1].since)
        table = Table.grid(padding=(0, 1), expand=True)
        table.add_column(no_wrap=True)
        table.add_column(no_wrap=True)
        table.add_column(no_wrap=True, overflow="ellipsis", ratio=1)
        for job_id, job in running[:MOST_JOBS]:
            doing = f"{job.doing}  {job.last}" if job.last else job.doing
            table.add_row(
                Text(f"{self._look.marks['start']} {job_id}", style="cyan"),
                Text(rough_duration((now - job.since) * 1000), style="bold"),
                Text(doing, style="dim"),
            )
        if len(running) > MOST_JOBS:
            table.add_row(Text(f"  {len(running) - MOST_JOBS} more", style="dim"), "", "")
        return Group(Text(""), table, self._bottom(now))

    def _bottom(self, now: float) -> RenderableType:
        from rich.text import Text

        stages: dict[str, list[bool]] = {}
        for job in self._screen.fold.jobs.values():
            stages.setdefault(job.stage, []).append(job.end is not None)
        if not self._running and not any(map(any, stages.values())):
            return Text(f"taking the snapshot  {rough_duration((now - self._begun) * 1000)}", style="dim")
        dot = f" {self._look.marks['dot']} "
        done = dot.join(f"{stage} {sum(ended)}/{len(ended)}" for stage, ended in stages.items())
        return Text(
            f"{done}{dot}{rough_duration((now - self._begun) * 1000)}", style="dim", no_wrap=True, overflow="ellipsis"
        )


def doing(event: PhaseEvent) -> str:
    """Describe the phase that a `phase_started` begins."""
    if event.step is not None:
        return f"{event.step}  $ {command_lines(event)[0]}"
    return phase_words(event.section or event.phase_code)
