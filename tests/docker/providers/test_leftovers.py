"""Nothing is left behind: killed looms, kept containers, and what belongs to others."""

from __future__ import annotations

import contextlib
import os
import secrets
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import docker
import pytest

from loom.errors import ProviderError
from loom.plan.model import MountMode
from loom.providers import labels
from loom.providers.docker.container.cleanup import UNCLAIMED_S, reap
from tests.support.waiting import until

if TYPE_CHECKING:
    from conftest import Site

pytestmark = pytest.mark.docker

LOOM = textwrap.dedent(
    """
    import os, sys
    from pathlib import Path
    from loom.cancel import Cancel
    from loom.plan.model import Image, MountMode
    from loom.providers.base import SessionRequest
    from loom.providers.command import Command
    from loom.providers.docker.engine.client import Engine
    from loom.providers.docker.provider import DockerProvider

    run_id, workspace, mode, script = sys.argv[1:]
    print("here", flush=True)
    provider = DockerProvider(Engine(os.environ))
    request = SessionRequest(run_id=run_id, job_id="job", workspace=Path(workspace), project_dir="/workspace",
        environment={}, shell=("sh", "-e"), image=Image(name="debian:trixie-slim"),
        mount_mode=MountMode(mode))
    for _ in range(50):
        with provider.open(request, lambda *_: None, Cancel()) as session:
            print("open", flush=True)
            session.run(Command(script=script, shell=()), lambda s, d: print("output", flush=True), Cancel())
            print("ran", flush=True)
        print("left", flush=True)
        provider.close()
        print("closed", flush=True)
    """
)


class OtherLoom:
    """A loom in a process of its own."""

    def __init__(self, workspace: Path, mode: MountMode, script: str) -> None:
        self.run_id = f"other{secrets.token_hex(4)}"
        self.process = subprocess.Popen(
            [sys.executable, "-c", LOOM, self.run_id, str(workspace), mode.value, script],
            stdout=subprocess.PIPE,
            text=True,
        )

    def until(self, word: str) -> None:
        assert self.process.stdout is not None
        while (line := self.process.stdout.readline()).strip() != word:
            assert line, f"ended before {word}"

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()
        assert self.process.stdout is not None
        self.process.stdout.close()

    def left(self, engine: docker.DockerClient) -> list[str]:
        ours = {"label": f"loom.run={self.run_id}"}
        containers = [container["Names"][0] for container in engine.api.containers(all=True, filters=ours)]
        volumes = [volume["Name"] for volume in engine.api.volumes(filters=ours)["Volumes"] or []]
        return containers + volumes


@pytest.fixture
def other(docker_site: Site, engine: docker.DockerClient) -> Iterator[Any]:
    looms: list[OtherLoom] = []

    def start(script: str = "sleep 30", mode: MountMode = MountMode.BIND) -> OtherLoom:
        looms.append(OtherLoom(docker_site.workspace, mode, script))
        return looms[-1]

    yield start
    for loom in looms:
        loom.kill()
        for name in loom.left(engine):
            remove = engine.api.remove_container if name.startswith("/") else engine.api.remove_volume
            with contextlib.suppress(docker.errors.APIError):  # its own end, or another loom, may be at it already
                remove(name.lstrip("/"), force=True)


@pytest.mark.parametrize("mode", list(MountMode))
def test_what_a_killed_loom_left_goes_at_the_next_start(
    other: Any, engine: docker.DockerClient, docker_site: Site, mode: MountMode
) -> None:
    loom = other("echo up; sleep 30", mode)
    loom.until("output")
    assert reap(engine) == [] or loom.left(engine), "a living loom's are left alone"
    assert len(loom.left(engine)) == (1 if mode is MountMode.BIND else 2)
    loom.kill()
    # Any job of any loom is such a start.
    with docker_site.job() as job:
        job.run("true")
    docker_site.provider.close()
    assert loom.left(engine) == []


def test_two_looms_at_once_leave_each_other_alone(other: Any, engine: docker.DockerClient, docker_site: Site) -> None:
    one = other("sleep 1.5")
    one.until("open")
    with docker_site.job() as job:
        reap(engine)
        assert job.run("echo alive").out == b"alive\n"
    one.until("ran")


def test_a_kept_container_stays_until_it_expires(docker_site: Site, engine: docker.DockerClient) -> None:
    docker_site.mount_mode = MountMode.OVERLAY
    with docker_site.job(environment={"FROM_JOB": "yes"}) as job:
        job.run("echo made >made; exit 3")
        name = job.session.facts.container_name
        job.session.keep(time.time() + 3600)
        with pytest.raises(ProviderError, match="kept"):
            job.run("true")
    docker_site.provider.close()
    container = engine.containers.get(job.session.container_id)
    try:
        assert container.name.startswith(name + ".kept-until-")
        assert job.session.facts.container_name == container.name
        time.sleep(1.5)  # longer than the driver takes to end when its input closes
        container.reload()
        assert container.status == "running"
        inside = container.exec_run(["sh", "-c", "cat made; echo $FROM_JOB; cat /run/loom/step.1"])
        assert inside.exit_code == 0
        assert inside.output.startswith(b"made\nyes\n")
        assert inside.output.endswith(b"echo made >made; exit 3")
        # Not even when its loom is gone.
        reap(engine)
        container.reload()
        assert not [one for one in reap(engine, now=lambda: time.time() + 3601) if one.name.startswith(name)]
        reaped = reap(engine, now=lambda: time.time() + 3601 + UNCLAIMED_S)
        assert {found.kind for found in reaped if found.name.startswith(name)} == {"container"}
        with pytest.raises(docker.errors.NotFound):
            container.reload()
    finally:
        for volume in engine.volumes.list(filters={"label": f"loom.pid={os.getpid()}"}):
            volume.remove()
        try:
            container.remove(force=True)
        except docker.errors.NotFound:
            pass


def marks_of_a_dead_loom() -> dict[str, str]:
    return {
        "loom.run": "dead-run",
        "loom.pid": "4194303",
        "loom.boot_id": labels.boot_id(),
        "loom.pid_ns": labels.pid_namespace(),
        "loom-test": "1",
    }


def test_a_volume_that_something_still_uses_is_left_to_the_next_start(engine: docker.DockerClient) -> None:
    marks = marks_of_a_dead_loom()
    volume = engine.volumes.create(f"loom-test-{secrets.token_hex(4)}", labels={**marks, "loom.job": "volume"})
    user = engine.containers.create("debian:trixie-slim", "true", volumes=[f"{volume.name}:/v"])
    try:
        assert [left for left in reap(engine) if left.name == volume.name] == []
        volume.reload()
        user.remove(force=True)
        assert [left.problem for left in reap(engine) if left.name == volume.name] == [""]
    finally:
        with contextlib.suppress(docker.errors.NotFound):
            user.remove(force=True)
        with contextlib.suppress(docker.errors.NotFound):
            volume.remove(force=True)


def test_a_dead_looms_kept_container_keeps_its_companions(engine: docker.DockerClient) -> None:
    dead = marks_of_a_dead_loom()
    kept = engine.containers.create(
        "debian:trixie-slim",
        "true",
        name=labels.kept_name(f"loom-test-{secrets.token_hex(4)}", time.time() + 60),
        labels={**dead, "loom.job": "kept"},
    )
    service = engine.containers.create(
        "debian:trixie-slim", "true", labels={**dead, "loom.job": "kept", "loom.role": "service"}
    )
    stray = engine.containers.create("debian:trixie-slim", "true", labels={**dead, "loom.job": "other"})
    network = engine.networks.create(f"loom-test-{secrets.token_hex(4)}", labels={**dead, "loom.job": "other"})
    volume = engine.volumes.create(f"loom-test-{secrets.token_hex(4)}", labels={**dead, "loom.job": "other"})
    foreign = engine.containers.create(
        "debian:trixie-slim", "true", labels={**dead, "loom.pid_ns": "pid:[1]", "loom.job": "elsewhere"}
    )
    try:
        reap(engine)
        for gone in (stray, network, volume):
            with pytest.raises(docker.errors.NotFound):
                gone.reload()
        for there in (kept, service, foreign):
            there.reload()
        reap(engine, now=lambda: time.time() + 120 + UNCLAIMED_S)
        for gone in (kept, service):
            with pytest.raises(docker.errors.NotFound):
                gone.reload()
    finally:
        for container in (kept, service, stray, foreign):
            try:
                container.remove(force=True)
            except docker.errors.NotFound:
                pass


def test_names_say_how_long_a_container_is_kept() -> None:
    name = labels.kept_name("loom-1-job-abc", 1234.9)
    assert name == "loom-1-job-abc.kept-until-1234"
    assert labels.kept_until(name) == 1234.0
    assert labels.kept_name(name, 99) == "loom-1-job-abc.kept-until-99"
    assert labels.kept_until("loom-1-job-abc") is None


HOST_LOOM = textwrap.dedent(
    """
    import os, sys
    from pathlib import Path
    from loom.cancel import Cancel
    from loom.providers.base import SessionRequest
    from loom.providers.command import Command
    from loom.providers.host import HostProvider

    workspace = Path(sys.argv[1])
    request = SessionRequest(run_id="x", job_id="job", workspace=workspace, project_dir=str(workspace), environment={}, shell=("sh", "-e"))
    with HostProvider(os.environ).open(request, lambda *_: None, Cancel()) as session:
        script = "setsid sh -c 'sleep 600.125; echo >late' & echo up; sleep 600.125; echo >later"
        session.run(Command(script=script, shell=()), lambda s, d: print("up", flush=True), Cancel())
    """
)


def test_a_killed_loom_leaves_no_process_on_the_host(tmp_path: Path) -> None:
    process = subprocess.Popen([sys.executable, "-c", HOST_LOOM, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "up\n"
    process.send_signal(signal.SIGKILL)
    process.communicate()
    until(lambda: not running(b"600.125"))
    assert list(tmp_path.iterdir()) == []


def test_a_loom_killed_between_steps_leaves_no_process_and_no_file_on_the_host(tmp_path: Path) -> None:
    script = 'sleep 600.75 & echo "$$ $LOOM_ENV"'
    program = HOST_LOOM[: HOST_LOOM.index("script =")].rstrip() + textwrap.indent(
        f"""
session.run(Command(script={script!r}, shell=()), lambda s, d: print(d.decode(), end="", flush=True), Cancel())
os.kill(os.getpid(), 9)
""",
        "    ",
    )
    killed = subprocess.run([sys.executable, "-c", program, str(tmp_path)], capture_output=True, text=True, timeout=60)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    folder = Path(killed.stdout.split()[1]).parent
    until(lambda: not folder.exists())
    assert not running(b"600.75")


def running(mark: bytes) -> list[Path]:
    return [found for found in Path("/proc").glob("[0-9]*/cmdline") if mark in content_of(found)]


def content_of(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""
