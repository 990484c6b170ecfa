"""The user's hardened profile: what a stranger's job has in it, and that nothing in the repository loosens it."""

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from loom import config
from loom.errors import WorkflowError
from loom.plan import model
from loom.plan.model import JobSelection, ResolveContext
from loom.plan.resolve import resolve
from tests.support import native as workflow

from .conftest import Victim, victim_in

pytestmark = pytest.mark.slow

IMAGE = "debian:trixie-slim"


@pytest.fixture(autouse=True)
def in_containers(victim: Victim) -> None:
    victim.environ["LOOM_CONTAINER"] = ""  # as it is unless a test says otherwise


def planned(tmp_path: Path, job: str, **settings: Any) -> model.Job:
    path = tmp_path / ".loom/workflow.yml"
    path.parent.mkdir(exist_ok=True)
    path.write_text(f"version: v1\nstages: [s]\na:\n  stage: s\n  script: [x]\n{job}")
    held = config.load(root=None, environ={"LOOM_HARDENED": "1"}, flags=settings)
    return resolve(
        workflow.load(path, tmp_path), JobSelection(container=held.container), ResolveContext(config=held)
    ).jobs[0]


BEYOND = [
    ("  privileged: true\n", "privileges"),
    ("  docker_socket: true\n", "the engine's socket"),
    ("  resources: {devices: [/dev/kmsg]}\n", "devices"),
    ("  resources: {gpus: all}\n", "GPUs"),
    ("  network: host\n", "the network host"),
    ("  network: container:database\n", "the network container:database"),
    ("  resources: {pids: 1000000}\n", "`pids: 1000000`, more than your limit of 1024"),
    ("  resources: {memory: 64g}\n", "`memory: 64g`, more than your limit of 1g"),
    ("  resources: {cpus: 64}\n", "`cpus: 64.0`, more than your limit of 2.0"),
]


@pytest.mark.parametrize(("job", "what"), BEYOND)
def test_what_contradicts_it_is_refused_with_its_position(tmp_path: Path, job: str, what: str) -> None:
    with pytest.raises(WorkflowError) as caught:
        planned(tmp_path, job, memory="1g", cpus=2)
    (problem,) = caught.value.problems
    assert problem.file == ".loom/workflow.yml"
    assert problem.line == 6
    assert f"the hardened profile (LOOM_HARDENED) does not give {what}; " in problem.message


def test_every_job_is_in_a_container_without_network_and_within_the_users_limits(tmp_path: Path) -> None:
    job = planned(tmp_path, "  resources: {tmpfs: ['/tmp:size=1m']}\n", memory="1g")
    assert job.hardened
    assert job.provider == "docker"
    assert (job.network.mode, job.resources.read_only, job.resources.pids) == ("none", True, 1024)
    assert job.resources.memory == 1 << 30
    assert [entry.partition(":")[0] for entry in job.resources.tmpfs] == ["/tmp", "/var/tmp", "/run"]
    assert job.resources.tmpfs[0] == "/tmp:size=1m"
    assert planned(tmp_path, "  network: bridge\n").network.mode == "bridge"


def test_the_repository_can_turn_it_on_and_not_off(victim: Victim) -> None:
    victim.write(config="hardened: true\n")
    assert "hardened: true" in victim.loom("config", "show").stdout
    victim.configure("hardened: true\n")
    victim.write(config="hardened: false\n")
    shown = victim.loom("config", "show").stdout
    assert "hardened: true" in shown
    assert "`hardened: false` is ignored" in shown
    victim.write(config="network: bridge\n")  # for all jobs at once, which none of them names
    shown = victim.loom("config", "show").stdout
    assert "network: null" in shown
    assert ".loom/config.yml:1:10: `network: bridge` is ignored" in shown


def test_it_and_jobs_on_this_machine_contradict_each_other(victim: Victim) -> None:
    ran = victim.loom("run", "--local", "--no-container", LOOM_HARDENED="1")
    assert ran.returncode == 2
    assert "flag (--no-container): a job on this machine can't use the hardened profile" in ran.stderr


def test_a_run_without_it_is_not_gone_on_with(victim: Victim) -> None:
    victim.write(workflow="version: v1\nstages: [s]\na: {stage: s, script: [exit 1]}\n")
    assert victim.loom("run", "--no-container").returncode == 1
    for command in (["rerun"], ["resume"], ["exec", "a", "--", "true"]):
        ran = victim.loom(*command, LOOM_HARDENED="1")
        assert ran.returncode == (125 if command[0] == "exec" else 2)
        assert "was made without the hardened profile (LOOM_HARDENED)" in ran.stderr


PROBES = f"""\
version: v1
stages: [s]
root:
  stage: s
  image: {IMAGE}
  script:
    - id -u; grep -E 'Cap(Eff|Bnd)|NoNewPrivs' /proc/self/status
    - ls /sys/class/net
    - echo x > made; mkdir -p deep/er; echo y > deep/er/made
    - if touch /etc/x 2>/dev/null || touch /usr/x 2>/dev/null; then exit 3; fi
    - printf '#!/bin/sh\\necho ran' > /tmp/program; chmod +x /tmp/program; /tmp/program
    - cat /sys/fs/cgroup/pids.max /sys/fs/cgroup/pids/pids.max 2>/dev/null || true
    - mount -t tmpfs none /mnt 2>/dev/null && exit 4 || echo no mount
    - mknod /tmp/disk b 8 0 2>/dev/null && exit 5 || echo no device
other:
  stage: s
  image: {{name: "{IMAGE}", user: "4321:4321"}}
  script:
    - id -u; grep -E 'Cap(Eff|Bnd)|NoNewPrivs' /proc/self/status
    - touch mine; cat .loom/workflow.yml > /dev/null
    - printf hello > "$LOOM_ENV" 2>/dev/null || true
gone:
  stage: s
  image: {{name: "{IMAGE}", user: "4321:4321"}}
  allow_failure: true
  script: ["touch theirs; kill -9 -1; sleep 60"]
"""
CAPABILITIES = "000000000000000b"  # CHOWN, DAC_OVERRIDE, FOWNER


@pytest.fixture
def plain_user() -> Iterator[tuple[Victim, list[str]]]:
    """An ordinary user's clone, and the command in front of loom that makes it theirs."""
    socket = Path("/var/run/docker.sock")
    if os.geteuid() != 0 or shutil.which("setpriv") is None or not socket.exists():
        pytest.skip("needs root, setpriv and the engine's socket to become somebody else")
    # Not below pytest's own folder, which each session closes to others again.
    with tempfile.TemporaryDirectory(prefix="loom-test-") as folder:
        directory = Path(folder)
        victim = victim_in(directory)
        victim.write(workflow=PROBES)
        subprocess.run(["chown", "-R", "1000:1000", folder], check=True)
        yield victim, ["setpriv", "--reuid=1000", "--regid=1000", f"--groups={socket.stat().st_gid}"]


@pytest.mark.docker
@pytest.mark.parametrize("mode", ["bind_mount", "overlay", "copy", "ephemeral_volume"])
def test_what_a_job_has_in_it(victim: Victim, mode: str) -> None:
    victim.write(workflow=PROBES)
    ran = victim.loom("run", "--local", "--stream", "--mount-mode", mode, LOOM_HARDENED="1")
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert ran.stdout.count("NoNewPrivs:\t1") == 2
    said = [line.partition("│ ")[2] for line in ran.stdout.splitlines() if line.startswith("root ")]
    assert f"CapEff:\t{CAPABILITIES}" in said
    assert {"lo", "ran", "1024", "no mount", "no device"} <= set(said)
    assert not any(line.startswith(("eth", "docker", "en")) for line in said)
    others = [line.partition("│ ")[2] for line in ran.stdout.splitlines() if line.startswith("other ")]
    assert {"4321", "CapEff:\t0000000000000000"} <= set(others)


@pytest.mark.docker
@pytest.mark.parametrize("mode", ["bind_mount", "overlay", "ephemeral_volume"])
def test_it_works_for_a_plain_user_and_images_with_another_user(
    plain_user: tuple[Victim, list[str]], mode: str
) -> None:
    """Loom's own changes of owner go through the container then, with the few capabilities that are left."""
    victim, become = plain_user
    ran = subprocess.run(
        [*become, sys.executable, "-m", "loom", "run", "--local", "--stream", "-j", "1", "--mount-mode", mode],
        cwd=victim.root,
        env={
            "PATH": os.environ["PATH"],
            "HOME": str(victim.home),
            "PYTHONPATH": str(Path(__file__).parents[2]),
            "TMPDIR": str(victim.home / "tmp"),
            "LANG": "C.UTF-8",
            "LOOM_HARDENED": "1",
        },
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    line = next(line for line in ran.stdout.splitlines() if line.startswith("isolated workspace: "))
    workspace = Path(line.removeprefix("isolated workspace: "))
    owners = {path.lstat().st_uid for path in (workspace, *workspace.rglob("*"))}
    assert owners == {1000}


@pytest.mark.docker
def test_services_keep_what_they_need_to_become_their_user_and_lead_nowhere(victim: Victim) -> None:
    victim.write(
        workflow=f"""\
version: v1
stages: [s]
a:
  stage: s
  image: {IMAGE}
  services:
    - name: helper
      image: {IMAGE}
      command: [sh, -c, "su nobody -s /bin/sh -c 'id -un'; grep -E 'CapBnd|NoNewPrivs' /proc/self/status; echo up; sleep 300"]
      ready: {{log: up}}
  script: ["getent hosts helper", "cat /proc/net/route"]
"""
    )
    ran = victim.loom("run", "--local", "--stream", LOOM_HARDENED="1")
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert "helper | nobody" in ran.stdout
    assert "helper | CapBnd:\t00000000000004eb" in ran.stdout
    assert "helper | NoNewPrivs:\t1" in ran.stdout
    assert "\t00000000\t" not in ran.stdout.partition("cat /proc/net/route")[2].partition("passed")[0].replace(
        "\t00000000\t0001\t", ""
    )  # no default route


@pytest.mark.docker
def test_a_failed_job_is_gone_on_with_inside_of_it(victim: Victim) -> None:
    victim.write(
        workflow=f"version: v1\nstages: [s]\na: {{stage: s, image: '{IMAGE}', script: ['touch here', 'test -e ready']}}\n"
    )
    assert victim.loom("run", "--local", "--keep", "on-failure", LOOM_HARDENED="1").returncode == 1
    inside = victim.loom("exec", "a", "--", "sh", "-c", "grep CapBnd /proc/self/status; touch ready", LOOM_HARDENED="1")
    assert inside.stdout == f"CapBnd:\t{CAPABILITIES}\n", inside.stderr
    resumed = victim.loom("resume", LOOM_HARDENED="1")
    assert resumed.returncode == 0, resumed.stdout + resumed.stderr
    victim.loom("clean", "--all", "--keep-last", "0")
