"""What steps do to a container's driver, in each kind of `sh`, and what others do to the container."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import docker
import pytest

from loom.cancel import Cancel
from loom.errors import ImageError, InfrastructureError, ProviderError
from loom.plan.model import Image, Network, Resources, Ulimit
from loom.providers.command import Command
from loom.providers.docker.container.cleanup import reap
from loom.providers.driver import protocol as driver
from loom.status import Ended, Stream
from tests.support.effort import effort
from tests.support.waiting import promptly, until

if TYPE_CHECKING:
    from conftest import Job, Site

pytestmark = pytest.mark.docker

SURVIVED = [
    ("kill -9 $PPID; sleep 5", 137),  # the step's parent
    ("kill 1; kill -9 1; kill -INT 1; kill -HUP 1; echo ok", 0),  # process 1
    ("kill -TERM 0; sleep 5", 143),  # its whole group, the driver in it
    ("kill -HUP 0; sleep 5", 129),
    ("kill -TERM -1; exit 5", 5),  # everything but itself: dash and others differ, so no more than that it survives
    ("set -e; false; echo no", 1),
    ("echo out; exec >&- 2>&- <&-; exit 6", 6),
]


def test_the_guard_of_an_empty_container_is_gone_before_the_first_step(sh_job: Job) -> None:
    # This test is the first that uses this session.
    assert b"sleep\x00120" not in sh_job.run("cat /proc/[0-9]*/cmdline 2>/dev/null; true").out


def test_a_job_survives_what_a_step_does_to_its_processes(sh_job: Job) -> None:
    for script, code in SURVIVED:
        assert sh_job.run(script).code == code, script
        ran = sh_job.run("echo next")
        assert (ran.code, ran.out) == (0, b"next\n"), script


def test_a_step_that_kills_the_driver_ends_the_job_as_its_own_failure(any_sh: Site) -> None:
    with any_sh.job() as job:
        ran = job.run("echo before; kill -9 -1; kill -9 $$")
        assert (ran.exit.code, ran.exit.ended) == (137, Ended.EXITED)
        assert ran.out == b"before\n"
        with pytest.raises(ProviderError):
            job.run("echo next")


def test_nothing_that_a_step_prints_is_a_boundary(any_sh: Site) -> None:
    with any_sh.job() as job:
        job.run("echo one")
        job.run("echo two >&2")
        printed = any_sh.engine.containers.get(job.session.container_id).logs()
        assert printed.count(b"\x1eloom:") >= 6, "the log shows where steps ended"
        forged = printed + b"\x1eloom:" + b"0" * 32 + b" 0\n\x1eloom:\x1e\x1eloom:"
        (any_sh.workspace / "forged").write_bytes(forged)
        ran = job.run('while IFS= read -r line || [ -n "$line" ]; do printf \'%s\\n\' "$line"; done <forged; exit 4')
        assert (ran.code, ran.out) == (4, forged + b"\n")


def test_the_token_is_not_where_a_step_would_look(sh_job: Job) -> None:
    ran = sh_job.run(
        'for f in /proc/[0-9]*/environ /proc/[0-9]*/cmdline; do while IFS= read -r l || [ -n "$l" ]; do echo "$l"; done <$f; done;'
        "set"
    )
    assert b"\x1eloom" not in ran.out


NOW = "read -r up _ </proc/uptime; up=${up%.*}${up#*.}"
PAUSE = f"{NOW}; end=$((up + 70)); while [ $up -lt $end ]; do {NOW}; done"


def test_silence_floods_and_trickles(sh_job: Job) -> None:
    flood = "i=0; while [ $i -lt 40000 ]; do i=$((i+1)); echo line $i; done"
    trickle = "for i in 1 2 3 4 5; do echo $i; n=9000; while [ $n != 0 ]; do n=$((n-1)); done; echo $i >&2; done"
    ran = sh_job.run(f"echo a; {PAUSE}; echo b >&2; echo c")
    assert (ran.out, ran.err) == (b"a\nc\n", b"b\n")
    shared = sh_job.run_in_one_shell(f"{flood}; {PAUSE}; printf last", trickle, "exit 5")
    assert shared[0].out == b"".join(b"line %d\n" % number for number in range(1, 40001)) + b"last"
    assert (shared[1].out, shared[1].err, shared[2].code) == (b"1\n2\n3\n4\n5\n",) * 2 + (5,)


def test_many_steps(sh_job: Job) -> None:
    for number in range(effort(100, 300)):
        assert sh_job.run(f"echo {number}").out == b"%d\n" % number


def test_very_many_lines(sh_job: Job) -> None:
    lines = effort(30_000, 1_000_000)
    ran = sh_job.run(f"i=0; while [ $i -lt {lines} ]; do echo $i; i=$((i+1)); done")
    assert ran.out == b"".join(b"%d\n" % number for number in range(lines))


@pytest.mark.slow
def test_many_megabytes_of_binary(docker_site: Site) -> None:
    blocks = effort(20, 200)
    block = os.urandom(1024 * 1024)
    (docker_site.workspace / "block").write_bytes(block)
    with docker_site.job() as job:
        ran = job.run(f"i=0; while [ $i -lt {blocks} ]; do cat block; i=$((i+1)); done")
    assert ran.out == block * blocks


@pytest.mark.slow
def test_memory_stays_bounded_for_much_output(docker_site: Site) -> None:
    from pathlib import Path

    from loom.cancel import Cancel
    from loom.providers.command import Command

    def peak() -> int:
        status = Path("/proc/self/status").read_text()
        return int(status.split("VmHWM:")[1].split()[0])

    size = 0
    much = effort(100_000_000, 1_000_000_000)

    def count(stream: str, data: bytes) -> None:
        nonlocal size
        size += len(data)

    with docker_site.job() as job:
        job.run("echo warm")
        Path("/proc/self/clear_refs").write_text("5")
        before = peak()
        job.session.run(Command(script=f"head -c {much} /dev/zero", shell=()), count, Cancel())
        assert size == much
        assert peak() - before < 20_000, "kilobytes"


# Images


def test_an_image_without_a_shell_says_so(docker_site: Site, build: Callable[..., str]) -> None:
    docker_site.image = build("no-shell", "FROM scratch\nCOPY hello /hello\n", {"hello": b"nothing"})
    with pytest.raises(ImageError, match="no shell"), docker_site.job():
        pass


def test_an_image_for_another_processor_says_so(docker_site: Site, build: Callable[..., str]) -> None:
    import platform

    foreign = 183 if platform.machine() == "x86_64" else 62
    elf = b"\x7fELF\x02\x01\x01" + b"\0" * 9 + (2).to_bytes(2, "little") + foreign.to_bytes(2, "little") + b"\0" * 200
    docker_site.image = build("foreign", "FROM scratch\nCOPY sh /bin/sh\n", {"sh": elf})
    with pytest.raises(ImageError, match="another kind of processor"), docker_site.job():
        pass


def test_an_image_that_is_not_there_says_so(docker_site: Site) -> None:
    docker_site.image = "loom-test-no-such-image:1"
    with pytest.raises(ImageError, match="loom-test-no-such-image"), docker_site.job():
        pass


def test_a_user_that_the_image_does_not_know_is_named(docker_site: Site) -> None:
    image = Image(name=docker_site.image, user="nosuch")
    with (
        pytest.raises(ImageError, match=r"debian.* can't run job job as nosuch: ") as told,
        docker_site.job(image=image),
    ):
        pass
    assert "`user:`" in (told.value.hint or "")


def test_the_images_entrypoint_is_not_run_and_its_user_and_environment_are_kept(
    docker_site: Site, build: Callable[..., str]
) -> None:
    docker_site.image = build(
        "opinionated",
        "FROM debian:trixie-slim\nRUN useradd -u 1234 -m joe\nUSER joe\nWORKDIR /srv\nENV FROM_IMAGE=yes\n"
        'ENTRYPOINT ["/bin/false"]\nCMD ["nothing"]\n',
    )
    docker_site.workspace.chmod(0o777)
    with docker_site.job() as job:
        assert job.session.facts.user == "1234:1234"
        assert (
            job.run("id -u; pwd; echo $FROM_IMAGE $HOME; echo A=1 >>$LOOM_ENV").out
            == b"1234\n/workspace\nyes /home/joe\n"
        )
        assert job.session.handed_on() == {"A": "1"}
        path = job.session.put_secret("K", b"secret")
        assert job.run(f"cat {path}").out == b"secret"
    with docker_site.job(image=Image(name=docker_site.image, user="0")) as job:
        assert job.run("id -u").out == b"0\n"


def test_an_entrypoint_that_the_workflow_names_is_run_first(docker_site: Site, build: Callable[..., str]) -> None:
    docker_site.image = build(
        "entry",
        "FROM debian:trixie-slim\nCOPY entry /entry\n",
        {"entry": b'#!/bin/sh\necho prepared\nexport PREPARED=1\nexec "$@"\n'},
    )
    with docker_site.job(image=Image(name=docker_site.image, entrypoint=("/entry",))) as job:
        assert job.run("echo $PREPARED").out == b"1\n"
    assert job.heard.out == b"prepared\n"


def test_a_root_file_system_that_is_read_only(any_sh: Site) -> None:
    with any_sh.job(resources=Resources(read_only=True)) as job:
        assert job.run("echo A=1 >>$LOOM_ENV; echo ok; (: >/x) 2>/dev/null || echo read-only").out == b"ok\nread-only\n"
        assert job.session.handed_on() == {"A": "1"}


def test_a_container_that_nobody_comes_to_ends_by_itself(any_sh: Site, engine: docker.DockerClient) -> None:
    container = engine.containers.create(any_sh.image, entrypoint=list(driver.boot(1)), init=True, stdin_open=True)
    try:
        container.start()
        assert container.wait(timeout=60)["StatusCode"] == driver.NOBODY_CAME_CODE
    finally:
        container.remove(force=True)


# Limits and manners


def test_the_kernel_ends_a_step_before_the_driver_where_memory_runs_out(sh_job: Job) -> None:
    driver, step = sh_job.run("cat /proc/1/oom_score_adj /proc/self/oom_score_adj").out.split()
    assert int(step) == int(driver) + 100


def test_running_out_of_memory_is_reported_as_such(docker_site: Site) -> None:
    with docker_site.job(resources=Resources(memory=32 * 1024 * 1024)) as job:
        assert job.run("echo fine; exit 1").exit.ended is Ended.EXITED
        ran = job.run("x=$(head -c 200000000 /dev/zero | tr '\\0' x); echo ${#x}")
        assert ran.exit.ended is Ended.OOM_KILLED
        assert ran.code != 0
        assert job.run("exit 1").exit.ended is Ended.EXITED
        # What a pipe hides is counted all the same.
        ran = job.run("(x=$(head -c 200000000 /dev/zero | tr '\\0' x); echo ${#x}) | cat; echo went on")
        assert (ran.code, ran.exit.ended, ran.out) == (0, Ended.EXITED, b"went on\n")
        assert ran.exit.oom_kills >= 1
        assert job.run("true").exit.oom_kills == 0


def test_having_as_many_processes_as_there_may_be_is_counted(any_sh: Site) -> None:
    with any_sh.job(resources=Resources(pids=20)) as job:
        assert job.run("exit 1").exit.refused_forks == 0
        # In a shell of its own: some shells end when they can't fork. The step waits without a fork for all to end.
        ran = job.run(
            "set -- /proc/[0-9]*; most=$(($# + 5))\n"
            "(for i in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20; do sleep 3 & done; wait) || :\n"
            "while set -- /proc/[0-9]*; [ $# -gt $most ]; do :; done"
        )
        assert ran.exit.refused_forks >= 1
        assert job.run("exit 1").exit.refused_forks == 0


def test_a_step_that_leaves_no_room_for_the_next(docker_site: Site) -> None:
    with docker_site.job() as job:
        job.run("cat </dev/zero >/run/loom/rest 2>/dev/null || true")
        with pytest.raises(ProviderError, match=r"/run/loom, .* takes no more files"):
            job.run("echo half a script; " + "x" * 5000)


def test_a_step_that_puts_a_directory_in_the_place_of_loom_env(docker_site: Site) -> None:
    with docker_site.job() as job:
        assert job.run('rm "$LOOM_ENV"; mkdir "$LOOM_ENV"').code == 0
        with pytest.raises(ProviderError, match=r"/run/loom, .* takes no more files"):
            job.run("true")


def test_output_that_nobody_can_take_ends_the_job_at_once(docker_site: Site) -> None:
    def refuse(stream: Stream, data: bytes) -> None:
        raise InfrastructureError("no room")

    with docker_site.job() as job:
        job.run("sleep 600 & echo up")
        with promptly(), pytest.raises(InfrastructureError, match="no room"):
            job.session.run(Command(script="echo much; sleep 600", shell=()), refuse, Cancel())


def test_limits_reach_the_container(docker_site: Site, engine: docker.DockerClient) -> None:
    resources = Resources(
        cpus=0.5,
        memory=64 * 1024 * 1024,
        pids=77,
        shm_size=8 * 1024 * 1024,
        ulimits=(Ulimit(name="nofile", soft=123, hard=456),),
        tmpfs=("/scratch:size=1m", "/plain"),
    )
    network = Network(mode="none", extra_hosts={"db.test": "10.1.2.3"})
    with docker_site.job(resources=resources, network=network) as job:
        host = engine.api.inspect_container(job.session.container_id)["HostConfig"]
        assert (host["NanoCpus"], host["Memory"], host["PidsLimit"]) == (500_000_000, 64 << 20, 77)
        assert host["ShmSize"] == 8 << 20
        assert job.run("ulimit -Sn; ulimit -Hn").out == b"123\n456\n"
        assert job.run("echo x >/scratch/a; echo x >/plain/a; grep db.test /etc/hosts").out == b"10.1.2.3\tdb.test\n"
        assert job.run("ls /sys/class/net").out == b"lo\n"


def test_nothing_is_granted_that_was_not_asked_for(docker_site: Site, engine: docker.DockerClient) -> None:
    with docker_site.job() as job:
        state = engine.api.inspect_container(job.session.container_id)
        host = state["HostConfig"]
        assert (host["Privileged"], host["Init"]) == (False, True)
        assert host["NetworkMode"] in ("bridge", "default")  # one thing, in the words of newer and of older engines
        assert job.run("test -e /var/run/docker.sock || echo no socket").out == b"no socket\n"
        assert state["Config"]["Labels"]["loom.pid"] == str(os.getpid())


def test_a_steps_secrets_are_not_in_the_containers_configuration(
    docker_site: Site, engine: docker.DockerClient
) -> None:
    with docker_site.job() as job:
        assert job.run("echo $TOKEN", environment={"TOKEN": "hunter2-in-env"}).out == b"hunter2-in-env\n"
        job.session.put_secret("KEY", b"hunter2-in-file")
        assert "hunter2" not in str(engine.api.inspect_container(job.session.container_id))


def test_git_trusts_the_workspace(docker_site: Site) -> None:
    with docker_site.job(
        environment={"GIT_CONFIG_COUNT": "1", "GIT_CONFIG_KEY_0": "a.b", "GIT_CONFIG_VALUE_0": "c"}
    ) as job:
        ran = job.run(
            'echo "$GIT_CONFIG_COUNT $GIT_CONFIG_KEY_0=$GIT_CONFIG_VALUE_0 $GIT_CONFIG_KEY_1=$GIT_CONFIG_VALUE_1"'
        )
        assert ran.out == b"2 a.b=c safe.directory=*\n"


# Others


def test_a_container_that_others_remove_is_an_error(docker_site: Site, engine: docker.DockerClient) -> None:
    with docker_site.job() as job:
        remove = lambda: engine.api.remove_container(job.session.container_id, force=True)  # noqa: E731
        with pytest.raises(ProviderError, match=r"removed by someone else|stopped from outside"):
            job.run("echo up; sleep 600", then=remove)


@pytest.mark.parametrize("how", ["kill", "stop"])
def test_a_container_that_others_stop_is_an_error(docker_site: Site, engine: docker.DockerClient, how: str) -> None:
    with docker_site.job() as job:
        stop = lambda: getattr(engine.api, how)(job.session.container_id)  # noqa: E731
        with pytest.raises(ProviderError, match="stopped from outside"):
            job.run("echo up; sleep 600", then=stop)


HOLD = textwrap.dedent(
    """
    import os, sys
    from pathlib import Path
    from loom.cancel import Cancel
    from loom.plan.model import Image
    from loom.providers.base import SessionRequest
    from loom.providers.command import Command
    from loom.providers.docker.engine.client import Engine
    from loom.providers.docker.provider import DockerProvider

    run_id, workspace, script = sys.argv[1:]
    provider = DockerProvider(Engine(os.environ))
    request = SessionRequest(run_id=run_id, job_id="job", workspace=Path(workspace), project_dir="/workspace",
        environment={}, shell=("sh", "-e"), image=Image(name="debian:trixie-slim"))
    with provider.open(request, lambda *_: None, Cancel()) as session:
        print(session.container_id, flush=True)
        if script:
            session.run(Command(script=script, shell=()), lambda s, d: print(d, flush=True), Cancel())
        else:
            sys.stdin.read()
    """
)


@pytest.fixture
def holder(docker_site: Site, engine: docker.DockerClient) -> Any:
    """Starts another process that holds a container, as a loom of its own; its container is removed in the end."""
    started: list[tuple[subprocess.Popen[str], str]] = []

    def hold(script: str, run_id: str) -> tuple[subprocess.Popen[str], str]:
        process = subprocess.Popen(
            [sys.executable, "-c", HOLD, run_id, str(docker_site.workspace), script],
            stdout=subprocess.PIPE,
            stdin=subprocess.PIPE,
            text=True,
        )
        assert process.stdout is not None
        container = process.stdout.readline().strip()
        started.append((process, container))
        return process, container

    yield hold
    for process, container in started:
        process.kill()
        process.communicate()
        try:
            engine.api.remove_container(container, force=True)
        except docker.errors.NotFound:
            pass


@pytest.mark.parametrize("script", ["echo up; while :; do sleep 0.1; done", ""], ids=["in a step", "between steps"])
def test_a_killed_loom_leaves_no_container_running(holder: Any, engine: docker.DockerClient, script: str) -> None:
    process, container = holder(script, "killed")
    if script:
        assert "up" in process.stdout.readline()
    os.kill(process.pid, signal.SIGKILL)
    until(lambda: not engine.api.inspect_container(container)["State"]["Running"])


# Podman


def test_podman_ends_a_killed_looms_container_too(podman_site: Site, podman: docker.DockerClient) -> None:
    hold = HOLD.replace("labels=", 'network=Network(mode="none"), labels=').replace(
        "import Image", "import Image, Network"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", hold, "killed", str(podman_site.workspace), "echo up; sleep 60"],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "DOCKER_HOST": podman_url(podman)},
    )
    assert process.stdout is not None
    container = process.stdout.readline().strip()
    assert "up" in process.stdout.readline()
    process.kill()
    process.wait()
    process.stdout.close()
    until(lambda: not podman.api.inspect_container(container)["State"]["Running"])
    assert [found.problem for found in reap(podman) if found.kind == "container"] == [""]


def podman_url(client: docker.DockerClient) -> str:
    return f"unix://{client.api._custom_adapter.socket_path}"


# In parallel


@pytest.mark.slow
def test_many_jobs_at_once_lose_and_mix_nothing(docker_site: Site) -> None:
    from concurrent.futures import ThreadPoolExecutor

    def one(number: int) -> tuple[int, bytes, bytes]:
        with docker_site.job(job_id=f"job-{number}") as job:
            ran = job.run(
                f"i=0; while [ $i -lt 2000 ]; do echo job {number} line $i; echo error {number} >&2; i=$((i+1)); done; exit {number}"
            )
            return ran.code, ran.out, ran.err

    jobs = effort(12, 32)
    with ThreadPoolExecutor(jobs) as pool:
        for number, (code, out, err) in enumerate(pool.map(one, range(jobs))):
            assert code == number
            assert out == b"".join(b"job %d line %d\n" % (number, line) for line in range(2000))
            assert err == b"error %d\n" % number * 2000
