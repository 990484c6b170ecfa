"""`loom mcp`: the tools of an agent over the Model Context Protocol, on standard input and output."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from msgspec import Struct

from loom import __version__
from loom.cancel import Cancel, signals
from loom.commands.agents.tools import (
    MOST_LINES,
    AgentTools,
    Answer,
    CallProgress,
    ExecAnswer,
    Limits,
    RunAnswer,
    given,
    hidden,
)
from loom.commands.project import open_project
from loom.errors import LoomError, RequestError
from loom.status import ExitCode
from loom.util.extras import install_command

try:
    import anyio
    from mcp.server.mcpserver import Context, MCPServer
    from mcp.server.mcpserver.exceptions import ToolError
    from mcp_types import CallToolResult, InputRequiredResult, ToolAnnotations
    from mcp_types import Tool as MCPTool
    from pydantic import Field
except ImportError as error:
    raise RequestError(
        f"`loom mcp` needs the package mcp ({error})", hint=install_command("mcp"), code="EXTRA_MISSING"
    ) from error

Given = TypeVar("Given")

INSTRUCTIONS = """\
loom runs this repository's CI workflow as CI would, on the present state of the checkout, each job in a container.
`run` it; if a job fails, the answer has the diagnosis. Look closer with `logs` (grep) and `exec`, which runs a command there.
Repair the checkout, then `resume` with sync="ask": it goes on from the failing step. Finish with `run`: only a whole run proves.
Answers have at most 2 KB of text; `more` gives the rest of one. `explain` tells whether CI would see a file."""

GOES_ON_EVERY_S = 10.0
"""The interval at which a client is told that its call goes on."""
_RUN = r"^(last|last-failed|[0-9]+)$"
"""No path and no address: of those, `loom diagnose` shows any file, and asks servers with the user's token."""
RunName = Annotated[str, Field(pattern=_RUN, description="A run's id or a part of it, `last` or `last-failed`.")]
JobName = Annotated[str | None, Field(description="A job's name; null: the one that failed first.")]
_LOOK = ToolAnnotations(read_only_hint=True)
_ACT = ToolAnnotations(read_only_hint=False, destructive_hint=False)


def mcp(
    *,
    read_only: bool,
    job: list[str] | None,
    allow_host: bool,
    allow_privileged: bool,
    allow_network: bool,
    workflow: Path | None,
) -> int:
    open_project()  # a checkout, or an error now
    limits = Limits(jobs=tuple(job or ()), host=allow_host, privileged=allow_privileged, network=allow_network)
    serving, cancel = _Serving(AgentTools(limits, workflow)), Cancel()
    server = _Server("loom", version=__version__, instructions=INSTRUCTIONS, log_level="WARNING")
    _looking(server, serving)
    if not read_only:
        _acting(server, serving)

    def end() -> None:
        serving.close()
        os._exit(cancel.exit_code or 0)  # the library's thread that reads standard input can't be ended

    with signals(cancel):
        cancel.on_request(lambda: threading.Thread(target=end, name="end of loom mcp").start())
        try:
            server.run("stdio")
        except* (BrokenPipeError, ConnectionError):
            pass  # the client is gone, and reads no answer
        finally:
            serving.close()
    return 0


class _Serving(Struct):
    """Calls of tools, each in a thread; one that the client cancels, and all at the end, are asked to end."""

    tools: AgentTools
    _active: dict[Cancel, threading.Event] = {}

    async def call(self, work: Callable[[Cancel], Given], progress: CallProgress | None = None) -> Given:
        cancel, over, begun = Cancel(), threading.Event(), threading.Lock()
        self._active[cancel] = over
        telling = asyncio.ensure_future(_tells(progress)) if progress is not None else None

        def end() -> None:
            over.set()
            self._active.pop(cancel, None)

        def done() -> Given:
            if not begun.acquire(blocking=False):
                raise RequestError("the call was canceled before it began")
            try:
                return work(cancel)
            finally:
                end()

        try:
            return await anyio.to_thread.run_sync(done, abandon_on_cancel=True)
        except anyio.get_cancelled_exc_class():
            cancel.request(ExitCode.INTERRUPTED)
            if begun.acquire(blocking=False):
                end()  # no thread has begun it, and none will
            raise
        except LoomError as error:
            raise ToolError(hidden(f"{error} ({error.code})")) from error
        finally:
            if telling is not None:
                telling.cancel()

    def close(self) -> None:
        for cancel, over in [*self._active.items()]:
            cancel.request(ExitCode.INTERRUPTED)
            over.wait()  # no limit: each wait of a run has one, and a cancel ends it
        self.tools.close()


async def _tells(progress: CallProgress) -> None:
    while True:
        await asyncio.sleep(GOES_ON_EVERY_S)
        progress.goes_on()


class _Server(MCPServer[Any]):
    """Refuses arguments that a tool does not have: without them, a call would mean something else."""

    async def list_tools(self) -> list[MCPTool]:
        tools = await super().list_tools()
        return [
            tool.model_copy(update={"input_schema": {**tool.input_schema, "additionalProperties": False}})
            for tool in tools
        ]

    async def call_tool(
        self, name: str, arguments: dict[str, Any], context: Context[Any, Any] | None = None
    ) -> CallToolResult | InputRequiredResult:
        known = {tool.name: tool.input_schema.get("properties", {}) for tool in await super().list_tools()}
        if name not in known:
            raise ToolError(f"there is no tool {name!r}; there are {', '.join(known)}")
        if unknown := [one for one in arguments if one not in known[name]]:
            has = f"it has {', '.join(known[name])}" if known[name] else "it has none"
            raise ToolError(f"the tool {name} has no argument {unknown[0]!r}: {has}")
        return await super().call_tool(name, arguments, context)


def _looking(server: MCPServer[Any], serving: _Serving) -> None:
    call, tools = serving.call, serving.tools

    async def said(*arguments: str) -> Answer:
        return await call(lambda cancel: tools.said(arguments, cancel))

    @server.tool(annotations=_LOOK)
    async def check() -> Answer:
        """Check the workflow: each mistake with file, line and reason. Runs nothing."""
        return await said("check", *tools.workflow)

    @server.tool(annotations=_LOOK)
    async def diagnose(run: RunName = "last", job: JobName = None) -> Answer:
        """Explain why a run failed: job, step, location, what ended it, the lines that tell and what they mean."""
        return await said("diagnose", "--format", "agent", "--", run, *given(job))

    @server.tool(annotations=_LOOK)
    async def logs(
        run: RunName = "last",
        job: Annotated[str | None, Field(description="A job's name; null: all jobs, each line with its job.")] = None,
        step: Annotated[str | None, Field(description="Such as `script/02`; null: all steps.")] = None,
        grep: Annotated[str | None, Field(description="Only lines in which this regular expression is found.")] = None,
        tail: Annotated[int, Field(ge=1, le=MOST_LINES, description="How many lines, the last ones.")] = 50,
    ) -> Answer:
        """Return the last lines of a run's output, or the last of those that `grep` finds."""
        if step is not None and job is None:
            raise ToolError("name the job of the step")
        found = [f"--grep={grep}"] if grep else []
        return await said("logs", f"--tail={tail}", *found, "--", run, *given(job), *given(step))

    @server.tool(annotations=_LOOK)
    async def pull(run: RunName = "last", job: JobName = None) -> Answer:
        """Show what a job changed in its files, as a patch for the checkout. Changes nothing."""
        return await said("pull", "--", run, *given(job))

    @server.tool(annotations=_LOOK)
    async def explain(paths: Annotated[list[str], Field(min_length=1, max_length=50)]) -> Answer:
        """Tell for each path whether CI would see it as it is in the checkout, and which rule decides."""
        return await said("snapshot", "--explain", "--", *paths)

    @server.tool(annotations=_LOOK)
    async def runs(limit: Annotated[int, Field(ge=1, le=100)] = 10) -> Answer:
        """List the last runs of this checkout: id, age, result, tree."""
        return await said("runs", "--limit", str(limit))

    @server.tool(annotations=_LOOK)
    async def diff(run_a: RunName, run_b: RunName = "last") -> Answer:
        """Compare two runs: files, images, variables, results, output."""
        return await said("diff", "--", run_a, run_b)

    @server.tool(annotations=_LOOK)
    async def gate() -> Answer:
        """Tell whether CI would pass if the commit were pushed, as far as runs have shown it. Runs nothing."""
        return await said("gate", "--dry-run")

    @server.tool(annotations=_LOOK)
    async def more(id: str) -> Answer:
        """Get the next part of an answer that was longer than 2 KB."""
        return await call(lambda _: tools.pages.more(id))


def _pairs(values: Mapping[str, str]) -> tuple[str, ...]:
    return tuple(f"{name}={value}" for name, value in values.items())


def _acting(server: MCPServer[Any], serving: _Serving) -> None:
    call, tools = serving.call, serving.tools

    @server.tool(annotations=_ACT)
    async def run(
        context: Context[Any],
        jobs: Annotated[list[str], Field(description="Names or globs; with what they need. Empty: all.")] = [],  # noqa: B006
        variables: Annotated[dict[str, str], Field(description="Override the workflow's variables.")] = {},  # noqa: B006
        event: Annotated[str, Field(description="As of --event: push, pull_request, schedule, ...")] = "push",
        inputs: Annotated[dict[str, str], Field(description="Inputs that the workflow declares.")] = {},  # noqa: B006
    ) -> RunAnswer:
        """Run the workflow on the checkout as it is now. Of a failure, the answer has the diagnosis."""
        progress = _progress(context, "preparing")
        asked = {"names": tuple(jobs), "var": _pairs(variables), "event": event, "inputs": _pairs(inputs)}
        return await call(lambda cancel: tools.run(asked, progress, cancel), progress=progress)

    @server.tool(annotations=_ACT)
    async def exec(
        context: Context[Any],
        job: str,
        command: Annotated[list[str], Field(min_length=1, description='Such as ["sh", "-c", "ls | head"].')],
        run: Annotated[str | None, Field(pattern=_RUN, description="A run's id; null: the last one.")] = None,
        timeout_seconds: Annotated[float, Field(gt=0, le=3600)] = 60,
    ) -> ExecAnswer:
        """Run a command where a failed job stands: its container, files and environment. What it changes stays there."""
        return await call(
            lambda cancel: tools.exec(job, command, run, timeout_seconds, cancel),
            progress=_progress(context, "the command runs"),
        )

    @server.tool(annotations=_ACT)
    async def resume(
        context: Context[Any],
        run: RunName = "last",
        sync: Annotated[
            Literal["ask", "theirs", "ours"] | None,
            Field(
                description="First bring the checkout's changes into the job's files: `theirs` takes the checkout's and `ours` "
                "keeps the job's version of a file that both changed; `ask` refuses then. null: bring nothing."
            ),
        ] = "ask",
    ) -> RunAnswer:
        """Go on from the failing step, in the failed job's container, then run what waited for the job."""
        return await call(
            lambda cancel: tools.resume(run, sync, cancel), progress=_progress(context, "the run goes on")
        )


def _progress(context: Context[Any], what: str) -> CallProgress:
    loop = asyncio.get_running_loop()
    tasks: list[asyncio.Future[None]] = []  # the loop itself only has weak references

    async def reported(done: float, total: float | None, message: str) -> None:
        with suppress(Exception):  # the client is gone; its call reports that
            await context.report_progress(done, total, message)

    def send(done: float, total: float | None, message: str) -> None:
        with suppress(RuntimeError):  # the server has ended
            loop.call_soon_threadsafe(lambda: tasks.append(asyncio.ensure_future(reported(done, total, message))))

    return CallProgress(send, what)
