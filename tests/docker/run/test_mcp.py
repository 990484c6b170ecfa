"""`loom mcp` as an agent uses it: the official client, a real checkout and engine."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Awaitable, Callable, Iterator
from typing import TYPE_CHECKING, Any

import anyio
import docker
import pytest

from tests.support.waiting import until

from .conftest import Project

if TYPE_CHECKING:
    from mcp.client.client import Client

pytestmark = pytest.mark.docker

WORKFLOW = """
version: v1
stages: [build, test]
default: {image: debian:trixie-slim}
build:
  stage: build
  script: [seq 3000]
unit:
  stage: test
  script:
    - echo "the value is $(cat value)"
    - grep -q good value
slow:
  stage: test
  when: manual
  script: [echo it runs; sleep 300]
odd:
  stage: test
  when: manual
  allow_failure: true
  script: ["false"]
here:
  stage: test
  when: manual
  image: debian:trixie-slim
  network: bridge
  script: [echo here]
"""


@pytest.fixture
def served(project: Project) -> Iterator[Project]:
    project.write("value", "bad\n")
    project.workflow(WORKFLOW)
    yield project
    engine = docker.from_env()
    for place in project.tmp.glob("*/loom-run-local-*"):
        for container in engine.containers.list(all=True, filters={"label": f"loom.workspace={place}"}):
            container.remove(force=True, v=True)
    engine.close()
    shutil.rmtree(project.tmp, ignore_errors=True)


def talk(project: Project, conversation: Callable[[Client], Awaitable[None]], *options: str) -> None:
    from mcp import StdioServerParameters  # here: it takes a second, which every worker would spend
    from mcp.client.client import Client
    from mcp.client.stdio import stdio_client

    async def connected() -> None:
        parameters = StdioServerParameters(
            command=sys.executable,
            args=["-m", "loom", "mcp", *options],
            env=dict(project.environ),
            cwd=project.root,
        )
        with open(os.devnull, "w") as errors:
            async with Client(stdio_client(parameters, errlog=errors)) as client:
                await conversation(client)

    anyio.run(connected)


async def call(client: Client, tool: str, **arguments: Any) -> dict[str, Any]:
    answer = await client.call_tool(tool, arguments)
    assert not answer.is_error, answer.content
    found: dict[str, Any] = answer.structured_content or {}
    assert len(found["text"].encode()) <= 2048
    return found


async def refused(client: Client, tool: str, **arguments: Any) -> str:
    answer = await client.call_tool(tool, arguments)
    assert answer.is_error
    return "".join(getattr(part, "text", "") for part in answer.content)


def test_an_agent_finds_repairs_and_proves(served: Project) -> None:
    async def conversation(client: Client) -> None:
        tools = {tool.name: tool for tool in (await client.list_tools()).tools}
        assert {"run", "exec", "resume", "check", "diagnose", "logs", "pull", "explain", "runs", "diff"} <= set(tools)
        assert all(tool.output_schema for tool in tools.values())
        assert (await call(client, "check"))["text"].startswith(".loom/workflow.yml: ok, ")
        assert (await call(client, "runs"))["text"].startswith("no run of ")

        heard: list[tuple[float, float | None, str | None]] = []

        async def progress(done: float, total: float | None, message: str | None) -> None:
            heard.append((done, total, message))

        answer = await client.call_tool("run", {}, progress_callback=progress)
        failed: dict[str, Any] = answer.structured_content or {}
        assert (failed["status"], failed["exit_code"], failed["failed_jobs"]) == ("failure", 1, ["unit"])
        assert "failed: job unit, step script/02" in failed["text"]
        assert "the value is bad" in (await call(client, "logs", job="unit"))["text"]
        steps = ["script/01  $ seq 3000", "script/01  $ echo", "script/02  $ grep -q good value"]
        for told, step in zip([message for _, _, message in heard if message and "$" in message], steps, strict=True):
            assert step in (told or "")
        assert [message for _, _, message in heard if message and "$" not in message] == [
            "build: success",
            "unit: failure",
        ]
        assert (sorted(heard) == heard, heard[-1][:2]) == (True, (2, 2))

        assert (await call(client, "logs", job="build", grep="7$", tail=2))["text"] == "2987\n2997\n"
        found = await call(client, "logs", job="build", tail=2000)
        of_all = (await call(client, "logs", tail=2))["text"]
        assert of_all.splitlines() == ["build │ 3000", "unit  │ the value is bad"]
        assert "name the job" in await refused(client, "logs", step="script/01")
        rest = await call(client, "more", id=found["more"])
        assert len(found["text"]) + found["left"] > 2048
        assert rest["text"].splitlines()[0] == str(1001 + len(found["text"].splitlines()))

        looked = await call(client, "exec", job="unit", command=["printf", r"\033[31mbad\n"])
        assert (looked["exit_code"], looked["text"]) == (0, "bad\n")
        assert "value" in (await call(client, "explain", paths=["value"]))["text"]

        served.write("value", "good\n")
        mended = await call(client, "resume")
        assert (mended["status"], mended["proof"], mended["failed_jobs"]) == ("success", False, [])
        assert "no proof that the workflow passes: " in mended["text"]
        proved = await call(client, "run")
        assert (proved["proof"], proved["text"]) == (True, f"run {proved['run_id']}: all jobs passed")
        assert "value" in (await call(client, "diff", run_a=failed["run_id"]))["text"]
        assert proved["run_id"] in (await call(client, "runs"))["text"]
        assert "nothing changed" in (await call(client, "pull", job="unit"))["text"]

        odd = (await call(client, "run", jobs=["odd"]))["text"]
        assert "passed; failed, which the workflow allows: odd; no proof" in odd

    talk(served, conversation)


def test_what_a_call_asks_for_is_known_or_refused(served: Project) -> None:
    async def conversation(client: Client) -> None:
        assert all(not tool.input_schema["additionalProperties"] for tool in (await client.list_tools()).tools)
        said = await refused(client, "run", job=["unit"])
        assert "the tool run has no argument 'job': it has jobs, variables" in said
        assert "the tool check has no argument 'x': it has none" in await refused(client, "check", x=1)
        assert "there is no tool 'test'" in await refused(client, "test")
        assert "unknown job nope" in await refused(client, "run", jobs=["nope"])
        assert "no run of " in (await call(client, "runs"))["text"]
        assert "--apply" in await refused(client, "pull", run="--apply"), "a run's name is no option"
        assert "holds a NUL character" in await refused(client, "logs", job="a\0b")

    talk(served, conversation)


def test_a_long_call_tells_that_it_goes_on_and_ends_with_its_client(served: Project) -> None:
    """The client is killed while its call runs."""
    program = """
import os, sys, anyio
from mcp import StdioServerParameters
from mcp.client.client import Client
from mcp.client.stdio import stdio_client
async def told(done, total, message):
    print(done, total, message, flush=True)
async def main():
    server = StdioServerParameters(command=sys.executable, args=["-c", sys.argv[1], "mcp"], env=dict(os.environ))
    async with Client(stdio_client(server, errlog=open(sys.argv[2], "w"))) as client:
        await client.call_tool("run", {"jobs": ["slow"]}, progress_callback=told)
anyio.run(main)
"""
    loom = "import loom.commands.agents.mcp as mcp; mcp.GOES_ON_EVERY_S = 0.2; from loom.cli import main; main()"
    errors = served.tmp / "errors"
    client = subprocess.Popen(
        [sys.executable, "-c", program, loom, str(errors)],
        cwd=served.root,
        env=dict(served.environ),
        stdout=subprocess.PIPE,
        text=True,
    )
    assert client.stdout is not None
    heard = "".join(next(client.stdout) for _ in range(12))
    until(lambda: "it runs" in served.loom("logs", "slow").out)
    client.kill()
    client.wait()
    client.stdout.close()
    until(lambda: "canceled" in served.loom("runs").out)
    assert "s\n" in heard, heard
    until(lambda: served.leftovers() == [])
    assert errors.read_text() == ""


def test_the_person_who_starts_it_sets_the_limits(served: Project) -> None:
    async def limited(client: Client) -> None:
        assert "job slow is not one of those that may run: unit, here" in await refused(client, "run", jobs=["slow"])
        assert "job build is not one of those" in await refused(client, "run")
        assert "has the network bridge" in await refused(client, "run", jobs=["here"])
        assert "AGENT_NOT_ALLOWED" in await refused(client, "run", jobs=["here"])

    async def looking(client: Client) -> None:
        assert {tool.name for tool in (await client.list_tools()).tools}.isdisjoint({"run", "exec", "resume"})
        assert ": ok, " in (await call(client, "check"))["text"]

    talk(served, limited, "--job", "unit", "--job", "here")
    talk(served, looking, "--read-only")


def test_a_cancelled_run_ends_and_leaves_nothing(served: Project) -> None:
    async def conversation(client: Client) -> None:
        async with anyio.create_task_group() as group:

            async def cancel_when_it_runs() -> None:
                await anyio.to_thread.run_sync(lambda: until(lambda: "it runs" in served.loom("logs", "slow").out))
                group.cancel_scope.cancel()

            group.start_soon(cancel_when_it_runs)
            await client.call_tool("run", {"jobs": ["slow"]})
        await anyio.to_thread.run_sync(lambda: until(lambda: "canceled" in served.loom("runs").out))

    talk(served, conversation)
    assert served.leftovers() == []
