"""A command inside a job finds what its steps find: environment, PATH, umask, limits, user and groups, from everywhere."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator

import docker
import pytest

from tests.support.waiting import until

from .conftest import IMAGE, Project

pytestmark = pytest.mark.docker

ENTRYPOINT = (
    'export TRICKY="it\'s \\"there\\"" PATH=/opt/x:$PATH HOME=/tmp; umask 027; ulimit -n 512; '
    'exec setpriv --reuid 1234 --regid 4321 --groups 4321 "$@"'
)
LOOK = "env | grep -vE '^(_|HOSTNAME|SHLVL|OLDPWD)=' | sort; umask; ulimit -S -n; id"
WORKFLOW = f"""
version: v1
stages: [test]
unit:
  stage: test
  image:
    name: {IMAGE}
    entrypoint: [sh, -c, {json.dumps(ENTRYPOINT)}, entry]
  shell: SHELL
  variables: {{COLOUR: red, GONE: "yes"}}
  script:
    - echo "COLOUR=green" >> $LOOM_ENV; echo "PATH=/opt/y:$PATH" >> $LOOM_ENV
    - |
      {LOOK}; until test -e go; do sleep 0.1; done; exit 1
"""


@pytest.fixture
def kept(project: Project) -> Iterator[Project]:
    yield project
    engine = docker.from_env()
    labels = {"label": [f"loom.workspace={place}" for place in project.tmp.glob("loom-run-local-*")][:1]}
    for container in engine.containers.list(all=True, filters=labels):
        container.remove(force=True, v=True)
    engine.close()


@pytest.mark.parametrize(("shell", "mode"), [("bash", "overlay"), ("sh", "bind_mount")])
def test_a_command_finds_what_the_step_found(kept: Project, shell: str, mode: str) -> None:
    kept.workflow(WORKFLOW.replace("SHELL", shell))
    process = kept.start("run", "--local", "--keep", "on-failure", "--mount-mode", mode)

    def seen() -> list[str]:
        looked = kept.loom("exec", "unit", "--", shell, "-c", LOOK)
        assert looked.code == 0, looked.err
        return looked.out.splitlines()

    until(lambda: "gid=" in kept.loom("logs", "unit").out, while_runs=process)
    found = {"running": seen()}
    assert kept.loom("exec", "unit", "--", "touch", "go").code == 0
    out, err = process.communicate(timeout=60)
    assert process.returncode == 1, out + err
    step = kept.loom("logs", "unit").out.splitlines()
    assert {"COLOUR=green", 'TRICKY=it\'s "there"', "HOME=/tmp", "0027", "512"} <= set(step)
    assert [line for line in step if line.startswith("PATH=/opt/y:/opt/x:/")]
    assert step[-1] == "uid=1234 gid=4321 groups=4321"

    found["kept"] = seen()
    run_id = kept.loom("runs").out.splitlines()[1].split()[1]
    engine = docker.from_env()
    (container,) = engine.containers.list(filters={"label": f"loom.run={run_id}"})
    container.stop(timeout=0)
    found["woken"] = seen()
    container.remove(force=True, v=True)
    engine.close()
    found["fresh"] = seen()
    for origin, lines in found.items():
        assert lines == step, origin

    root = kept.loom("exec", "--root", "unit", "--", "sh", "-c", "id -u; echo $HOME")
    assert root.out.splitlines() == ["0", "/root"], "root runs nothing that the job's user may have written"
    shutil.rmtree(kept.tmp, ignore_errors=True)


def test_a_resumed_step_finds_what_the_step_found(kept: Project) -> None:
    kept.workflow(WORKFLOW.replace("SHELL", "sh").replace("until test -e go; do sleep 0.1; done; exit 1", "exit 1"))
    first = kept.loom("run", "--local", "--keep", "on-failure")
    again = kept.loom("resume", "--keep", "never")
    assert (first.code, again.code) == (1, 1), again.out + again.err
    assert "in its kept container" in again.out
    assert again.output("unit", "script/02") == first.output("unit", "script/02")
