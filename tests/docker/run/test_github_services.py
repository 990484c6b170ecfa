"""Services of a GitHub job without a container of its own: at localhost, by their ports, and by their names."""

import json
from collections.abc import Iterator

import pytest

from .conftest import Project
from .test_debug import clean

pytestmark = pytest.mark.docker

SERVICE = """\
      NAME:
        image: loom/base:latest
        command: perl -MIO::Socket -e '$s=IO::Socket::INET->new(LocalPort=>PORT,Listen=>5,ReuseAddr=>1);while($c=$s->accept){print $c qq(NAME\\n);close $c}'
        ports: ["PORT:PORT"]
        options: --health-cmd "perl -MIO::Socket -e 'exit !IO::Socket::INET->new(q(127.0.0.1:PORT))'" --health-interval 1s
"""
WORKFLOW = f"""\
on: push
jobs:
  test:
    runs-on: ubuntu-latest
    services:
{SERVICE.replace("NAME", "web").replace("PORT", "8080")}{SERVICE.replace("NAME", "db").replace("PORT", "9090")}
    steps:
      - run: |
          for at in localhost/8080 127.0.0.1/9090 web/8080 db/9090; do exec 3<>/dev/tcp/$at; cat <&3; done
          exit 3
"""


@pytest.fixture
def at_localhost(project: Project) -> Iterator[Project]:
    project.write(".github/workflows/ci.yml", WORKFLOW)
    project.commit()
    yield project
    clean(project)


def test_services_are_at_localhost_also_in_the_kept_container(at_localhost: Project) -> None:
    ran = at_localhost.run("--keep", "on-failure")
    assert ran.code == 1, ran.out + ran.err
    assert ran.output("test", "script/01") == ["web", "db", "web", "db"]
    inside = at_localhost.loom("exec", "last", "test", "--", "bash", "-c", "exec 3<>/dev/tcp/localhost/9090; cat <&3")
    assert (inside.code, inside.out) == (0, "db\n"), inside.err


def test_volumes_of_a_job_and_limits_of_a_service(project: Project) -> None:
    project.write(
        ".github/workflows/ci.yml",
        """\
        on: push
        jobs:
          test:
            runs-on: ubuntu-latest
            container: {image: "loom/base:latest", volumes: ["data:/data/x", /var/log, "/tmp/y:/y"], options: --hostname job.test}
            services:
              s:
                image: loom/base:latest
                command: sleep 100
                volumes: ["of_s:/x"]
                options: --hostname s.test --tmpfs /t --shm-size 8m --health-cmd "grep -q ' /x ' /proc/mounts && grep -q ' /t tmpfs' /proc/mounts && df /dev/shm | grep -q ' 8192 '"
            steps:
              - run: "grep -c ' /data/x | /var/log | /y ' -E /proc/mounts; ls /var/log/apt >/dev/null; touch /data/x/a /y/b; uname -n; getent hosts s.test >/dev/null || echo none"
              - run: echo $HTTP_PROXY $http_proxy; echo $NO_PROXY; echo $no_proxy
                env: {http_proxy: "http://own:1"}
        """,
    )
    project.commit()
    config = project.root.parent / "docker-config/config.json"
    config.parent.mkdir()
    proxies = {"httpProxy": "http://me:pass.word@proxy:3128", "noProxy": ".corp"}
    config.write_text(json.dumps({"proxies": {"default": proxies}}))
    ran = project.run(DOCKER_CONFIG=str(config.parent))
    assert ran.code == 0, ran.out + ran.err
    assert ran.output("test", "script/01") == ["3", "job.test"]
    used, *around = ran.output("test", "script/02")
    assert used == "http://me:[REDACTED:SECRET_HTTP_PROXY]@proxy:3128 http://own:1"
    assert around[0] == around[1]
    corp, *names, own = around[0].split(",")
    assert (corp, names, own.count(".")) == (".corp", ["s", "s.test"], 3)
    clean(project)
