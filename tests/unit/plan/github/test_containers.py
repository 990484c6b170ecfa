"""The options of `docker create` in a workflow become settings of loom's, or are refused."""

from typing import Any

import msgspec
import pytest

from loom.plan import model as p
from loom.plan.github.containers import BadOption, ContainerOptions, options_of

from .conftest import Planned

NO_DIRECTORY = "a container gets no directory of this machine; name a volume, or a path below /tmp"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", {}),
        ("-u 1000:1000", {"user": "1000:1000"}),
        ("--user=me", {"user": "me"}),
        ("-h a.b", {"hostname": "a.b"}),
        ("--entrypoint /run", {"entrypoint": ("/run",)}),
        ("--entrypoint ''", {"entrypoint": ()}),
        ("--platform linux/s390x", {"platform": "linux/s390x"}),
        ("--privileged --user x", {"privileged": True, "user": "x"}),
        ("--privileged=false", {}),
        ("--privileged=1 --read-only=T", {"privileged": True, "resources": {"read_only": True}}),
        ("--privileged --privileged=F", {}),
        ("--health-cmd 'a b' --health-interval 1m30s", {"health_command": "a b", "health_interval_s": 90.0}),
        ("--network-alias a --network-alias=b", {"aliases": ["a", "b"]}),
        ("-e A=b=c --env D=", {"env": {"A": "b=c", "D": ""}}),
        ("--add-host a:1.2.3.4 --add-host b:::1", {"extra_hosts": {"a": "1.2.3.4", "b": "::1"}}),
        ("--cpus .5 -m 512m --shm-size=1g", {"resources": {"cpus": 0.5, "memory": 512 << 20, "shm_size": 1 << 30}}),
        ("--pids-limit 9 --gpus all --read-only", {"resources": {"pids": 9, "gpus": "all", "read_only": True}}),
        ("-v /a -v b:/c:ro --volume=/tmp/x:/d", {"resources": {"volumes": ("/a", "/c", "/d")}, "volumes": ["b"]}),
        ("-v /var/run/docker.sock:/var/run/docker.sock", {"docker_socket": True}),
        ("--read-only=false", {"resources": {"read_only": False}}),
        (
            "--tmpfs /a --tmpfs /b:size=1m --device /dev/null",
            {"resources": {"tmpfs": ("/a", "/b:size=1m"), "devices": ("/dev/null",)}},
        ),
        (
            "--ulimit nofile=10:20 --ulimit core=0",
            {
                "resources": {
                    "ulimits": (p.Ulimit(name="nofile", soft=10, hard=20), p.Ulimit(name="core", soft=0, hard=0))
                }
            },
        ),
        (
            (
                "--init --rm --tty --interactive -t -i --no-healthcheck --name x --restart no --pull always --stop-timeout 1"
                " --health-retries 3 --health-timeout 1s --health-start-period 1s --log-driver none --log-opt a=b --user u"
            ),
            {"user": "u"},
        ),
    ],
)
def test_options(text: str, expected: dict[str, Any]) -> None:
    assert msgspec.structs.asdict(options_of(text)) == msgspec.structs.asdict(ContainerOptions(**expected))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("--user 'x", "options: not a command line: No closing quotation"),
        ("--user", "options: --user has no value"),
        ("-w /x", "options: --workdir is not supported"),
        ("-p 80", "options: --publish is not supported"),
        ("--cpus many", "options: --cpus: expected a number of processors such as 2 or 0.5, found 'many'"),
        ("-v a", "options: --volume: a: expected NAME:/PATH or /PATH"),
        ("-v /tmpx:/x", f"options: --volume: /tmpx:/x: {NO_DIRECTORY}"),
        ("-v ./a:/x", f"options: --volume: ./a:/x: {NO_DIRECTORY}"),
        ("--privileged=yes", "options: --privileged: expected true or false, found 'yes'"),
        ("--ulimit nofile", "options: --ulimit: expected a whole number such as 1024, found ''"),
    ],
)
def test_options_that_loom_has_no_setting_for(text: str, message: str) -> None:
    with pytest.raises(BadOption) as caught:
        options_of(text)
    assert str(caught.value) == message


def test_what_options_decide_of_a_job_and_its_services(planned: Planned) -> None:
    plan = planned(
        """
on: push
jobs:
  a: {runs-on: ubuntu-latest, outputs: {o: x}, steps: [{run: echo}]}
  x:
    runs-on: ubuntu-latest
    container: {image: node, options: --platform linux/s390x -e A=option --add-host h:1.2.3.4 --hostname me --privileged, env: {A: key}}
    services:
      s:
        image: redis
        options: --platform linux/riscv64 --user 7 --network-alias other --hostname host -e X=y --entrypoint /run --health-cmd ok --health-interval 1500ms
        command: a 'b c'
        entrypoint: /not/this
        ports: [1:2]
      t: {image: docker://redis:7, entrypoint: /e f, env: {E: "${{ env.W }}"}, options: --health-cmd t --health-interval 9s}
    env: {W: w}
    steps: [{run: echo}]
  y: {runs-on: ubuntu-latest, services: {s: {image: redis, options: --gpus all}, t: {image: "${{ needs.a.outputs.o }}"}}, needs: a, steps: [{run: echo}]}
  z: {runs-on: ubuntu-latest, container: {image: node, options: "--user ${{ needs.a.outputs.o }}"}, needs: a, steps: [{run: echo}]}
  v: {runs-on: ubuntu-latest, services: {s: {image: redis, env: {A: "${{ needs.a.outputs.o }}"}}}, needs: a, steps: [{run: echo}]}
""",
        config={"platform": "linux/arm64", "pull": "always"},
    )
    image = lambda name, platform, user=None: p.Image(name=name, pull="always", platform=platform, user=user)  # noqa: E731
    job = plan.job("x")
    assert plan.job("a").image == image("debian:trixie-slim", "linux/arm64")
    assert job.image == image("node", "linux/s390x")
    assert job.late is not None
    assert (job.late.env, job.late.container_env) == ({"W": "w"}, {"A": "option"})
    without = plan.job("a").late
    assert without is not None
    assert (job.late.contexts["job"], without.contexts.get("job")) == ({"container": {}}, None)
    shells = [one.steps[0].shell for one in (job, plan.job("a"))]
    assert shells == ["sh", ""]
    assert (job.privileged, job.network.extra_hosts, job.network.hostname) == (True, {"h": "1.2.3.4"}, "me")
    first, second = job.services
    assert (first.image, second.image) == (image("redis", "linux/riscv64"), image("redis:7", "linux/arm64"))
    assert (first.aliases, first.user, first.variables) == (("s", "other", "host"), "7", {"X": "y"})
    assert (first.command, first.entrypoint, first.ready.interval_s) == (("a", "b c"), ("/run",), 1.5)
    assert (first.ports, job.services_at_localhost) == ((2,), False)
    assert (second.command, second.entrypoint, second.variables) == (None, ("/e", "f"), {"E": "w"})
    assert (second.ready.command, second.ready.interval_s) == (("sh", "-c", "t"), 2.0)
    assert [text.split(": ", 2)[2] for name in "yzv" for text in plan.job(name).refused] == [
        "services: s: an option that only the container of a job can have",
        "services: the image of t is not known before the job starts; name one",
        "container: options are not known before the job starts; remove it, or run the job in CI",
        "services: s: env: A is not known before the job starts",
    ]


def test_volumes_are_new_ones_of_a_container(planned: Planned) -> None:
    plan = planned(
        """
on: push
jobs:
  a:
    runs-on: ubuntu-latest
    container: {image: node, volumes: ["data:/data", /more, "/var/run/docker.sock:/var/run/docker.sock"], options: --shm-size 1g}
    services: {s: {image: redis, volumes: ["of_s:/x"], options: --memory 64m}}
    steps: [{run: echo}]
  b:
    runs-on: ubuntu-latest
    container: {image: node, volumes: ["data:/data", "/home:/home", "${{ github.workspace }}:/w"]}
    services: {s: {image: redis, volumes: ["data:/x", "/var/run/docker.sock:/var/run/docker.sock"]}}
    steps: [{run: echo}]
"""
    )
    job = plan.job("a")
    assert (job.refused, job.resources.volumes, job.docker_socket, job.resources.shm_size) == (
        (),
        ("/data", "/more"),
        True,
        1 << 30,
    )
    assert (job.services[0].resources.volumes, job.services[0].resources.memory) == (("/x",), 64 << 20)
    assert [text.split(": ", 2)[2] for text in plan.job("b").refused] == [
        f"container: volumes: /home:/home: {NO_DIRECTORY}",
        f"container: volumes: ${{{{ github.workspace }}}}:/w: {NO_DIRECTORY}",
        "services: s: volume data is one of container too; each container has its own here",
        "services: s: an option that only the container of a job can have",
    ]


def test_the_engine_is_for_jobs_without_container_where_the_user_says_so(planned: Planned) -> None:
    written = """
on: push
jobs:
  vm: {runs-on: ubuntu-latest, steps: [{run: docker build .}]}
  inside: {runs-on: ubuntu-latest, container: node, steps: [{run: docker build .}]}
"""
    assert [job.docker_socket for job in planned(written).jobs] == [False, False]
    assert [job.docker_socket for job in planned(written, github={"docker_socket": True}).jobs] == [True, False]
