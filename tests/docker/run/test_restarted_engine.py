"""Going back into a failed job after the engine was restarted: everything that ran in it is gone, what it wrote is not."""

from collections.abc import Callable
from typing import Any

import docker
import pytest

from .conftest import Project, ended

pytestmark = [pytest.mark.docker, pytest.mark.slow]

# The engine has no network.
WORKFLOW = """
version: v1
stages: [test]
unit:
  stage: test
  image: ash:test
  network: none
  secrets:
    KEY: {ref: "env://MY_TOKEN"}
  script:
    - echo GREETING=hello >> $LOOM_ENV; echo made > made.txt; echo outside > /outside
    - cat $KEY > /dev/null; test -e fixed
    - cat made.txt /outside $KEY; echo $GREETING
"""
SECRET = "hunter2-correct-horse"


class OnOwnEngine:
    def __init__(self, project: Project, own: Any) -> None:
        self.project = project
        self.own = own

    @property
    def environ(self) -> dict[str, str]:
        return {"DOCKER_HOST": self.own.url, "MY_TOKEN": SECRET}

    def loom(self, *arguments: str) -> Any:
        return self.project.loom(*arguments, **self.environ)

    def restart(self) -> docker.DockerClient:
        self.own.stop()
        client: docker.DockerClient = self.own.start()
        assert client.api.containers() == [], "none comes back by itself"
        return client


@pytest.fixture
def there(project: Project, new_engine: Callable[[], Any], busybox: bytes) -> OnOwnEngine:
    own = new_engine()
    client = own.start()
    own.load_busybox(client, busybox)
    client.close()
    project.workflow(WORKFLOW)
    return OnOwnEngine(project, own)


@pytest.mark.parametrize("mode", ["bind_mount", "overlay"])
def test_a_kept_job_survives_a_restart_of_its_engine(there: OnOwnEngine, mode: str) -> None:
    ran = there.loom("run", "--local", "--container", "--keep", "on-failure", "--mount-mode", mode)
    assert ran.code == 1, ran.out + ran.err
    client = there.restart()
    try:
        (kept,) = client.api.containers(all=True)
        assert kept["State"] == "exited"
        shell = there.project.on_terminal("shell", **there.environ)
        shell.expect("in the kept container of unit")
        shell.expect("was stopped and runs again")
        shell.expect(r"\[unit\] [^\r\n]*[#$] ")
        shell.sendline("cat made.txt /outside; echo =$GREETING=$(cat $KEY)=; again; echo code=$?")
        shell.expect(f"made\r\noutside\r\n=hello={SECRET}=\r\ncode=1\r\n")
        shell.sendline("exit 3")
        assert ended(shell) == 3

        inside = there.loom("exec", "unit", "--", "sh", "-c", "cat made.txt /outside $KEY; echo $GREETING; touch fixed")
        assert inside.out == f"made\noutside\n{SECRET}hello\n", inside.err

        client.close()
        client = there.restart()
        healed = there.loom("resume")
        assert healed.code == 0, healed.out + healed.err
        assert "goes on from script/02, in its kept container" in healed.out
        assert healed.output("unit", "script/03") == ["made", "outside", "[REDACTED:SECRET_KEY]hello"]
        assert client.api.containers(all=True) == []
    finally:
        client.close()
