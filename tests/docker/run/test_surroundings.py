"""A command inside a job finds what its steps find: environment, PATH, umask, limits, user and groups, from everywhere."""

import json
import shutil
from collections.abc import Callable, Iterator

import docker
import pytest
from msgspec import Struct

from loom.providers.docker.engine.client import connect
from tests.support.effort import LONG
from tests.support.own_engine import load_busybox
from tests.support.waiting import until

from .conftest import IMAGE, Project

pytestmark = pytest.mark.docker

ENTRYPOINT = 'export TRICKY="it\'s \\"there\\"" PATH=/opt/x:$PATH HOME=/tmp; umask 027; ulimit -n 512; exec '
OTHER_USER = "setpriv --reuid 1234 --regid 4321 --groups 4321 "
LOOK = """printf %s "$RAW" | od -An -tx1; unset RAW; env | grep -vE "^(_|BASH_ENV|HOSTNAME|SHLVL|OLDPWD)=" | sort; umask; ulimit -S -n; id -u; id -G"""
WORKFLOW = """
version: v1
stages: [test]
default: {network: none}
unit:
  stage: test
  image:
    name: IMAGE
    USER
    entrypoint: [sh, -c, ENTRYPOINT, entry]
  shell: SHELL
  variables: {COLOUR: red, GONE: "yes"}
  script:
    - echo "COLOUR=green" >> $LOOM_ENV; echo "PATH=/opt/y:$PATH" >> $LOOM_ENV; printf 'RAW=\\377\\\\x\\n' >> $LOOM_ENV
    - |
      LOOK; until test -e go; do sleep 0.1; done; exit 1
"""


class Row(Struct, frozen=True, kw_only=True):
    """One kind of place: engine, shell, mode, and the way in which the job gets another user than root."""

    shell: str
    mode: str
    podman: bool = False
    image: str = IMAGE
    user: str = ""
    """Of the image; empty: the entrypoint becomes another user by `setpriv`, which busybox does not have."""

    @property
    def workflow(self) -> str:
        entrypoint = ENTRYPOINT + ("" if self.user else OTHER_USER) + '"$@"'
        values = {
            "IMAGE": self.image,
            "USER": f'user: "{self.user}"' if self.user else "",
            "ENTRYPOINT": json.dumps(entrypoint),
            "SHELL": self.shell,
            "LOOK": LOOK,
        }
        text = WORKFLOW
        for name, value in values.items():
            text = text.replace(name, value, 1)
        return text


# Each value of a row once; the long form has more of their combinations.
ASH = {"image": "ash:test", "user": "1234:4321"}
ROWS = {
    "bash, overlay": Row(shell="bash", mode="overlay"),
    "dash, bind_mount": Row(shell="sh", mode="bind_mount"),
    "ash, copy": Row(shell="sh", mode="copy", **ASH),
    "ash, ephemeral_volume, podman": Row(shell="sh", mode="ephemeral_volume", podman=True, **ASH),
}
if LONG:
    ROWS |= {
        "dash, overlay, user of the image": Row(shell="sh", mode="overlay", user="1234:4321"),
        "bash, ephemeral_volume": Row(shell="bash", mode="ephemeral_volume"),
        "ash, overlay, podman": Row(shell="sh", mode="overlay", podman=True, **ASH),
        "ash, bind_mount, podman": Row(shell="sh", mode="bind_mount", podman=True, **ASH),
    }


@pytest.fixture
def kept(project: Project) -> Iterator[Project]:
    yield project
    engine = docker.from_env()
    remove_all(engine, project)
    engine.close()
    shutil.rmtree(project.tmp, ignore_errors=True)


def remove_all(engine: docker.DockerClient, project: Project) -> None:
    for place in project.tmp.glob("*/loom-run-local-*"):
        labels = {"label": f"loom.workspace={place}"}
        for container in engine.containers.list(all=True, filters=labels):
            container.remove(force=True, v=True)
        for volume in engine.volumes.list(filters=labels):
            volume.remove(force=True)


@pytest.fixture
def engine_of(request: pytest.FixtureRequest, busybox: bytes, kept: Project) -> Iterator[Callable[[Row], str]]:
    """Return the address of a row's engine, with the row's image in it."""
    opened: list[docker.DockerClient] = []

    def address(row: Row) -> str:
        host = str(request.getfixturevalue("podman_engine")) if row.podman else ""
        opened.append(connect({"DOCKER_HOST": host} if host else {}))
        if row.image != IMAGE:
            load_busybox(opened[-1], busybox)
        return host

    yield address
    for client in opened:
        remove_all(client, kept)
        client.close()


@pytest.mark.parametrize("row", ROWS.values(), ids=ROWS.keys())
def test_a_command_finds_what_the_step_found(kept: Project, row: Row, engine_of: Callable[[Row], str]) -> None:
    host = engine_of(row)
    there = {"DOCKER_HOST": host} if host else {}
    kept.workflow(row.workflow)
    process = kept.start("run", "--local", "--keep", "on-failure", "--mount-mode", row.mode, **there)

    def seen() -> list[str]:
        looked = kept.loom("exec", "unit", "--", row.shell, "-c", LOOK, **there)
        assert looked.code == 0, looked.err
        return looked.out.splitlines()

    until(lambda: "\n512\n1234\n4321" in kept.loom("logs", "unit").out, while_runs=process)
    found = {"running": seen()}
    assert kept.loom("exec", "unit", "--", "touch", "go", **there).code == 0
    out, err = process.communicate(timeout=60)
    assert process.returncode == 1, out + err
    step = kept.loom("logs", "unit").out.splitlines()
    assert {" ff 5c 78", "COLOUR=green", 'TRICKY=it\'s "there"', "HOME=/tmp", "0027", "512"} <= set(step)
    assert [line for line in step if line.startswith("PATH=/opt/y:/opt/x:/")]
    assert step[-2:] == ["1234", "4321"]

    found["kept"] = seen()
    run_id = kept.loom("runs").out.splitlines()[1].split()[1]
    engine = connect(there)
    (container,) = engine.containers.list(filters={"label": f"loom.run={run_id}"})
    container.stop(timeout=0)
    found["woken"] = seen()
    root = kept.loom("exec", "--root", "unit", "--", "sh", "-c", "id -u; echo $HOME", **there)
    home = "/root" if row.image == IMAGE else "/"  # without /etc/passwd
    assert root.out.splitlines() == ["0", home], "root runs nothing that the job's user may have written"
    container.remove(force=True, v=True)
    engine.close()
    if row.mode != "ephemeral_volume":  # its files go with the container
        found["fresh"] = seen()
    for origin, lines in found.items():
        assert lines == step, origin


def test_a_resumed_step_finds_what_the_step_found(kept: Project) -> None:
    kept.workflow(Row(shell="sh", mode="").workflow.replace("until test -e go; do sleep 0.1; done; exit 1", "exit 1"))
    first = kept.loom("run", "--local", "--keep", "on-failure")
    again = kept.loom("resume", "--keep", "never")
    assert (first.code, again.code) == (1, 1), again.out + again.err
    assert "in its kept container" in again.out
    outputs = (ran.output("unit", "script/02") for ran in (first, again))
    one, other = ([line for line in output if not line.startswith("CI_JOB_STARTED_AT")] for output in outputs)
    assert one == other
