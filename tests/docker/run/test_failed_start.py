"""An engine that fails a container's start, as one on a busy machine does: loom starts it again, with new connections."""

import shutil
import signal
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.waiting import until

from .conftest import Project, events_of, load
from .test_killed import Holding

pytestmark = [pytest.mark.docker, pytest.mark.slow]

# The engine has no network.
WORKFLOW = """
version: v1
stages: [test]
unit:
  stage: test
  image: ash:test
  network: none
  script:
    - echo hello
"""

RUNTIME = """#!/bin/sh
# runc, but for so many first `create` as the file `failures` says: of all, or of each container.
for word; do
  [ "$before" = --log ] && log=$word
  [ "$word" = create ] && creating=1
  before=$word
done
if [ -n "$creating" ]; then
  read -r failures of <{directory}/failures
  [ "$of" = each ] && key=$before || key=all
  echo >>{directory}/created/$key
  if [ "$(wc -l <{directory}/created/$key)" -le "$failures" ]; then
    echo '{{"level":"error","msg":"runc create failed: unable to start container process: can'"'"'t get final child'"'"'s PID from pipe: read init-p: connection reset by peer","time":"2026-01-01T00:00:00Z"}}' >>"$log"
    exit 1
  fi
fi
exec {runc} "$@"
"""


class Engine:
    """An engine whose runtime fails as often as a test says."""

    def __init__(self, own: Any, busybox: bytes) -> None:
        self.own = own
        directory: Path = own.directory
        script = directory / "runtime"
        script.write_text(RUNTIME.format(directory=directory, runc=shutil.which("runc")))
        script.chmod(0o755)
        self.client = own.start(f"--add-runtime=failing={script}", "--default-runtime=failing")
        own.load_busybox(self.client, busybox)

    def fail(self, failures: int, *, of_each: bool) -> str:
        """Let the next starts fail so often; its address."""
        directory: Path = self.own.directory
        shutil.rmtree(directory / "created", ignore_errors=True)
        (directory / "created").mkdir()
        (directory / "failures").write_text(f"{failures} {'each' if of_each else 'all'}\n")
        return str(self.own.url)

    def containers(self) -> list[Any]:
        return list(self.client.api.containers(all=True))


@pytest.fixture(scope="module")
def engine(new_engine_of_module: Callable[[], Any], busybox: bytes) -> Iterator[Engine]:
    if not shutil.which("runc"):
        pytest.skip("needs runc, to be wrapped")
    engine = Engine(new_engine_of_module(), busybox)
    yield engine
    engine.client.close()


@pytest.mark.parametrize(
    ("failures", "of_each", "mode"),
    [(1, False, "bind_mount"), (1, True, "ephemeral_volume"), (2, False, "bind_mount")],
    ids=["once", "each container's first", "twice"],
)
def test_a_failed_start_is_repeated_with_new_connections(
    project: Project, engine: Engine, failures: int, of_each: bool, mode: str
) -> None:
    project.workflow(WORKFLOW)
    ran = project.run("--mount-mode", mode, DOCKER_HOST=engine.fail(failures, of_each=of_each))
    assert ran.code == 0, ran.out + ran.err
    assert ran.output("unit") == ["hello"]
    said = [
        event["text"] for event in events_of(ran.logs / "jobs/unit/system/provider/events.jsonl") if "text" in event
    ]
    assert any("read init-p" in text for text in said), said
    assert engine.containers() == []


def test_a_services_failed_start_is_repeated_too(project: Project, engine: Engine) -> None:
    service = "  services: [{name: side, image: ash:test, command: [sleep, '60']}]\n  script:"
    project.workflow(WORKFLOW.replace("  network: none\n", "").replace("  script:", service))
    ran = project.run(DOCKER_HOST=engine.fail(1, of_each=True))
    assert ran.code == 0, ran.out + ran.err
    assert ran.output("unit") == ["hello"]
    assert engine.containers() == []


def test_a_kept_container_is_started_again_too(project: Project, engine: Engine) -> None:
    project.workflow(WORKFLOW.replace("hello", "hello; exit 1"))
    address = engine.fail(3, of_each=False)
    ran = project.run("--keep", "on-failure", DOCKER_HOST=address)
    assert ran.code == 1, ran.out + ran.err
    (kept,) = engine.containers()
    engine.client.api.kill(kept["Id"])
    engine.fail(3, of_each=False)
    shell = project.loom("exec", "--", "echo", "in it", DOCKER_HOST=address)
    assert (shell.code, shell.out) == (0, "in it\n"), shell.err
    assert project.loom("clean", "--all", "--keep-last", "0", DOCKER_HOST=address).code == 0
    assert engine.containers() == []


def test_a_start_that_fails_each_time_ends_the_job(project: Project, engine: Engine) -> None:
    project.workflow(WORKFLOW)
    ran = project.run(DOCKER_HOST=engine.fail(1000, of_each=False))
    assert ran.code == 3, ran.out + ran.err
    assert "read init-p" in ran.out
    assert ran.receipt["status"] == "error"
    assert engine.containers() == []


def test_a_start_without_an_answer_is_ended_by_two_interrupts(project: Project, tmp_path_factory: Any) -> None:
    project.workflow(WORKFLOW.replace("ash:test", "debian:trixie-slim"))
    proxy = Holding(tmp_path_factory.mktemp("p") / "engine.sock", r"POST \S*/start ", answered=False)
    process = project.start("run", "--local", "--container", DOCKER_HOST=proxy.url)
    try:
        until(proxy.held.is_set, while_runs=process)
        process.send_signal(signal.SIGINT)
        assert process.stdout is not None
        assert "a second ^C ends them at once" in "".join(iter_until(process.stdout, "interrupted: "))
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    finally:
        process.kill()
        process.communicate()
        proxy.close()
    assert process.returncode == 130, out + err
    (receipt,) = project.record_files("receipts/*.json")
    assert load(receipt)["status"] == "canceled"
    assert "the next loom removes" in out
    assert project.loom("clean", "--keep-last", "0").code == 0
    assert project.leftovers() == []


def iter_until(stream: Iterable[str], start: str) -> Iterator[str]:
    for line in stream:
        yield line
        if line.startswith(start):
            return
