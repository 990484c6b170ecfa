"""Services: real PostgreSQL and Redis, every kind of probe, and everything that goes wrong with them."""

import hashlib
import json
import os
import threading
import time
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path
from typing import Any

import docker
import pytest

from loom.cancel import Cancel
from loom.errors import ImageError, InfrastructureError, ProviderError, ServiceError
from loom.plan.model import Build, Image, Ready, Secret, Service
from loom.providers.base import OpenedServices, ResolveRequest, SecretValues
from loom.providers.docker.engine.client import Engine, Traits, connect
from loom.providers.docker.images.images import Images
from loom.providers.docker.services.services import ServiceGroup, services
from loom.providers.services import Output
from tests.support.waiting import promptly, until

pytestmark = pytest.mark.docker

HERE = Path(__file__).parent
SHELL = Image(name="debian:trixie-slim")
POSTGRES = Image(name="loom-test-postgres", build=Build(context="images", target="postgres"))
REDIS = Image(name="loom-test-redis", build=Build(context="images", target="redis"))


class Bench:
    """Opens services as a job would; knows what the engine still has of them."""

    def __init__(self, client: docker.DockerClient) -> None:
        self.client = client
        self.run_id = f"test-{uuid.uuid4().hex[:8]}"
        self.cancel = Cancel()
        self.said = ""
        self.refuse = ""
        """The record has no room for output with this in it."""
        self.refused = threading.Event()
        self.died: list[tuple[str, str]] = []
        self.engine = Engine(os.environ)
        self.images = Images(self.engine)

    def open(
        self,
        *wanted: Service,
        isolated: bool = False,
        secrets: SecretValues | None = None,
        shared: frozenset[str] = frozenset(),
    ) -> AbstractContextManager[OpenedServices]:
        request = ResolveRequest(workspace=HERE, cancel=self.cancel, secrets=secrets or SecretValues())
        group = ServiceGroup(
            client=connect(os.environ),
            images=self.images,
            request=request,
            labels={"loom.run": self.run_id, "loom.test": "services"},
            output=Output(self._hear),
            network=f"loom-{self.run_id}-{uuid.uuid4().hex[:6]}",
            isolated=isolated,
            shared=shared,
        )
        return services(group, wanted, on_died=lambda name, text: self.died.append((name, text)))

    def _hear(self, _stream: str, data: bytes) -> None:
        if self.refuse and self.refuse in data.decode():
            self.refused.set()
            raise InfrastructureError("no room", code="RECORD_UNWRITABLE")
        self.said += data.decode()

    def lines(self, name: str) -> list[str]:
        return [line.partition(" | ")[2] for line in self.said.splitlines() if line.startswith(f"{name} | ")]

    def job(self, network: OpenedServices, image: str, *command: str) -> str:
        """Run a command where the job would be."""
        out = self.client.containers.run(image, list(command), entrypoint=[], network=network.network_id, remove=True)
        return bytes(out).decode().strip()

    @property
    def first(self) -> str:
        """The container of the first service that was opened last."""
        mine = {"label": f"loom.run={self.run_id}", "name": "-0-"}
        return str(self.client.api.containers(all=True, filters=mine)[0]["Id"])

    @property
    def left(self) -> list[str]:
        mine = {"label": f"loom.run={self.run_id}"}
        containers = [
            container.name for container in self.client.containers.list(all=True, filters=mine, ignore_removed=True)
        ]
        return [*containers, *(network.name for network in self.client.networks.list(filters=mine))]


@pytest.fixture
def bench() -> Iterator[Bench]:
    client = connect(os.environ)
    bench = Bench(client)
    yield bench
    left = bench.left
    bench.engine.close()
    client.close()
    assert left == []


def service(name: str, script: str, *aliases: str, ready: Ready | None = None, **options: object) -> Service:
    """A service that runs a shell script."""
    return Service(
        name=name,
        aliases=aliases or (name,),
        image=SHELL,
        command=("sh", "-c", script),
        ready=ready or Ready(),
        **options,  # type: ignore[arg-type]
    )


# Listens without any program of its own but the shell's: perl is in Debian's base.
LISTEN = (
    "perl -MIO::Socket -e '$s=IO::Socket::INET->new(Listen=>9,LocalAddr=>\"%s\",LocalPort=>%d,ReuseAddr=>1)||die;%s'"
)
HTTP = (
    "while($c=$s->accept){while(($l=<$c>)=~/\\S/){$p=$1 if $l=~/^GET (\\S+)/}"
    'print $c "HTTP/1.0 ".($p eq "/ok"?"204 Fine":"500 Broken")."\\r\\n\\r\\n";close $c}'
)


def listening(port: int, address: str = "0.0.0.0", then: str = "sleep") -> str:
    return LISTEN % (address, port, then)


@pytest.fixture
def real_services(bench: Bench) -> Iterator[None]:
    """The images stay while their layers are cached anyway; their names and tags go."""
    yield
    for image in (POSTGRES, REDIS):
        found = bench.client.images.list(name=image.name)
        for tag in {tag for one in found for tag in one.tags}:
            bench.client.api.remove_image(tag)


def test_a_job_without_its_first_services_network_is_told_of_the_service(bench: Bench) -> None:
    opened = bench.open(service("one", "echo bye; sleep 1000"), shared=frozenset({"one"}))
    why = "service one ended with exit code 137 before the job had started"
    refused = ProviderError("starting the container: cannot join network of a non running container")
    with opened as network:
        until(lambda: "bye" in bench.said)
        assert network.blamed_for(refused) is None
        bench.client.containers.get(bench.first).kill()
        assert network.blamed_for(ProviderError("no space left")) is None
        told = network.blamed_for(refused)
    assert told is not None
    assert told.message == why
    assert "bye" in (told.hint or "")


@pytest.mark.slow
@pytest.mark.usefixtures("real_services")
def test_postgres_and_redis_are_ready_and_reachable_by_alias(bench: Bench) -> None:
    wanted = (
        Service(name="postgres", aliases=("db", "database"), image=POSTGRES, variables={"POSTGRES_PASSWORD": "pw"}),
        Service(name="redis", aliases=("redis",), image=REDIS, command=("redis-server", "--protected-mode", "no")),
    )
    volumes_before = {volume.name for volume in bench.client.volumes.list()}
    with bench.open(*wanted) as network:
        query = "PGPASSWORD=pw psql -h database -U postgres -tAc 'select 6*7'"
        assert bench.job(network, "loom-test-postgres", "sh", "-c", query) == "42"
        assert bench.job(network, "loom-test-redis", "redis-cli", "-h", "redis", "ping") == "PONG"
        assert len(network.images) == 2
        mounts = bench.client.api.inspect_container(bench.first)["Mounts"]
        [volume] = [mount["Name"] for mount in mounts]
    assert any("database system is ready to accept connections" in line for line in bench.lines("postgres"))
    assert "postgres: ready after" in bench.said
    assert "(image's HEALTHCHECK)" in bench.said
    assert "(port 6379 takes connections)" in bench.said
    assert volume not in {volume.name for volume in bench.client.volumes.list()} - volumes_before
    assert bench.died == []


def test_a_port_is_waited_for_and_the_aliases_and_variables_lead_to_it(bench: Bench) -> None:
    late = "sleep 1; exec " + listening(7000, then='while($c=$s->accept){print $c "hello"; close $c}')
    started = time.monotonic()
    with bench.open(service("late", late, "one", "two", ready=Ready(tcp=7000, interval_s=0.2))) as network:
        assert time.monotonic() - started > 1
        for host in ("one", "two", "late"):
            ask = f"use IO::Socket; print IO::Socket::INET->new('{host}:7000')->getline"
            assert bench.job(network, "debian:trixie-slim", "perl", "-e", ask) == "hello"
        assert network.variables == {
            "LOOM_SERVICE_LATE_HOST": "one",
            "LOOM_SERVICE_LATE_PORT": "7000",
            "LOOM_SERVICE_LATE_PORT_7000": "7000",
        }
        bindings = bench.client.api.inspect_container(bench.first)["NetworkSettings"]["Ports"]
        assert not any(bindings.values())


def test_a_port_is_seen_from_inside_where_the_engine_is_elsewhere(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Traits, "reachable", False)
    far = service("far", listening(7001), ready=Ready(tcp=7001, interval_s=0.1))
    hidden = service("hidden", listening(7002, "127.0.0.1"), ready=Ready(tcp=7002, timeout_s=5), needed=False)
    web = service("web", listening(7005, then=HTTP), ready=Ready(http=":7005/ok", timeout_s=5), needed=False)
    with bench.open(far, hidden, web):
        assert "port 7001 is listened on" in bench.said
        assert "nothing listens on port 7002" in bench.said
        assert "has neither curl nor wget" in bench.said


def test_an_http_answer_is_waited_for_and_an_error_is_none(bench: Bench) -> None:
    written = {":7003/ok": True, "7003/ok": True, "http://localhost:7003/ok": True, ":7003/broken": False}
    services = [
        service(
            f"web{number}",
            listening(7003, then=HTTP),
            ready=Ready(http=http, interval_s=0.1, timeout_s=60 if ready else 5),
            needed=ready,
        )
        for number, (http, ready) in enumerate(written.items())
    ]
    with bench.open(*services):
        assert bench.said.count("answer to /ok on port 7003") == 3
        assert "was 500" in bench.said


def test_a_command_and_a_log_line_are_waited_for(bench: Bench) -> None:
    command = service(
        "a", "sleep 0.5; touch /ready; sleep 60", ready=Ready(command=("test", "-e", "/ready"), interval_s=0.1)
    )
    log = service("b", "sleep 0.3; echo 'I am UP now' >&2; sleep 60", ready=Ready(log=r"am (UP|ready)", interval_s=0.1))
    with bench.open(command, log):
        assert bench.lines("b") == ["I am UP now"]
    assert "a: ready after" in bench.said
    assert "b: ready after" in bench.said


def test_a_command_that_hangs_counts_as_not_ready(bench: Bench) -> None:
    hangs = service("hangs", "sleep 600", ready=Ready(command=("sleep", "600"), timeout_s=1))
    with promptly(), pytest.raises(ServiceError, match="did not answer within 1 s"), bench.open(hangs):
        pass


def test_never_ready_is_an_error_with_the_last_lines(bench: Bench) -> None:
    chatty = service(
        "chatty",
        "i=0; while [ $i -lt 30 ]; do echo line $i; i=$((i+1)); done; sleep 60",
        ready=Ready(tcp=9, timeout_s=5),
    )
    with (
        pytest.raises(
            ServiceError, match="service chatty was not ready within 5 s: nothing listens on port 9"
        ) as failed,
        bench.open(chatty),
    ):
        pass
    hint = failed.value.hint or ""
    assert "line 29" in hint
    assert "line 9\n" not in hint
    assert failed.value.exit_code == 3


def test_a_service_that_ends_before_it_is_ready(bench: Bench) -> None:
    broken = service("broken", "echo no config >&2; exit 42", ready=Ready(tcp=80, timeout_s=300))
    with (
        promptly(),
        pytest.raises(ServiceError, match="service broken ended with exit code 42 before it was ready") as failed,
        bench.open(broken),
    ):
        pass
    assert "no config" in (failed.value.hint or "")


def test_a_service_that_is_not_needed_may_end_or_not_get_ready(bench: Bench) -> None:
    broken = service("broken", "echo no config >&2; exit 42", ready=Ready(tcp=80, timeout_s=300), needed=False)
    late = service("late", "sleep 60", ready=Ready(tcp=9, timeout_s=5), needed=False)
    with promptly(), bench.open(broken, late) as network:
        assert len(network.images) == 2
        assert bench.died == [("broken", "exit code 42\nIts last lines:\n  no config")]
    assert (
        "broken: service broken ended with exit code 42 before it was ready; the job goes on without it" in bench.said
    )
    assert "late: service late was not ready within 5 s: nothing listens on port 9; the job goes on" in bench.said


def test_a_service_that_dies_later_is_reported_once(bench: Bench) -> None:
    script = "until test -e /go; do sleep 0.1; done; echo goodbye; exit 3"
    with bench.open(service("dies", script)):
        bench.client.containers.get(bench.first).exec_run(["touch", "/go"])
        until(lambda: bench.died)
        assert bench.died == [("dies", "exit code 3\nIts last lines:\n  goodbye")]
    assert bench.lines("dies") == ["goodbye"]
    assert bench.said.count("ended with exit code 3") == 1


def test_a_service_that_dies_while_another_one_starts_is_reported(bench: Bench) -> None:
    go = "until test -e /go; do sleep 0.1; done; "
    dies, late = service("dies", f"{go}exit 3"), service("late", f"{go}echo up; sleep 60", ready=Ready(log="up"))

    def of(name: str) -> Any:
        found = bench.client.containers.list(filters={"label": f"loom.run={bench.run_id}"})
        return next((one for one in found if one.name.endswith(name)), None)

    with ExitStack() as stack, ThreadPoolExecutor(1) as pool:
        opening = pool.submit(stack.enter_context, bench.open(dies, late))
        until(lambda: "dies: ready" in bench.said and of("late"))
        of("dies").exec_run(["touch", "/go"])
        until(lambda: of("dies") is None)
        of("late").exec_run(["touch", "/go"])
        opening.result()
        until(lambda: bench.died)
        assert bench.died == [("dies", "exit code 3\nIt printed nothing.")]


def test_one_that_fails_ends_the_wait_for_the_others(bench: Bench) -> None:
    waits = service("waits", "sleep 600", ready=Ready(tcp=1, timeout_s=300))
    broken = service("broken", "exit 1", ready=Ready(tcp=1))
    with promptly(), pytest.raises(ServiceError, match="service broken ended"), bench.open(waits, broken):
        pass


def test_a_command_that_is_not_in_the_image(bench: Bench) -> None:
    wrong = Service(name="wrong", aliases=("wrong",), image=SHELL, command=("no-such-program",))
    with pytest.raises(ServiceError, match=r"service wrong could not be started: .*no-such-program"), bench.open(wrong):
        pass


def test_an_image_that_is_not_there(bench: Bench) -> None:
    absent = Service(name="absent", aliases=("absent",), image=Image(name="loom-test-absent:1", pull="never"))
    with pytest.raises(ImageError, match="is not on this engine"), bench.open(absent):
        pass


def test_a_cancel_ends_the_wait(bench: Bench) -> None:
    threading.Timer(0.7, bench.cancel.request).start()
    slow = service("slow", "sleep 600", ready=Ready(tcp=1, timeout_s=300))
    with promptly(), pytest.raises(ServiceError) as ended, bench.open(slow):
        pass
    assert ended.value.code == "CANCELED"


def test_a_service_that_says_nothing_about_itself_just_has_to_run_and_goes_with_what_fails_in_the_block(
    bench: Bench,
) -> None:
    def interrupted() -> None:
        with bench.open(service("quiet", "sleep 60")):
            state = bench.client.api.inspect_container(bench.first)
            assert state["State"]["Running"]
            assert state["Config"]["Labels"]["loom.role"] == "service"
            assert state["Config"]["Labels"]["loom.service"] == "quiet"
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert bench.left == []


def test_a_container_that_is_still_on_the_network_does_not_keep_it(bench: Bench) -> None:
    with bench.open(service("up", "sleep 60")) as network:
        container = bench.client.containers.run(
            "debian:trixie-slim", ["sleep", "60"], network=network.network_id, detach=True
        )
    try:
        assert bench.left == []
    finally:
        container.remove(force=True)


def test_environment_user_and_entrypoint(bench: Bench) -> None:
    """Beside services of any name, even twice."""
    odd = service("my data base/1", "sleep 60", "db")
    wanted = Service(
        name="who",
        aliases=("who",),
        image=SHELL,
        variables={"GREETING": "hello world"},
        entrypoint=("sh", "-c"),
        command=('echo "$GREETING from $(id -un)"; sleep 60',),
        user="games",
        ready=Ready(log="from"),
    )
    with bench.open(wanted, odd, odd):
        assert bench.lines("who") == ["hello world from games"]
        assert len(bench.left) == 4


def test_output_is_whole_prefixed_and_nothing_comes_after_the_end(bench: Bench) -> None:
    script = "printf 'a\\r\\nb'; sleep 0.2; printf 'c\\nno end'; while true; do echo spam >&2; sleep 0.01; done"
    with bench.open(service("talks", script, ready=Ready(log="spam"))):
        pass
    said = bench.said
    lines = [line for line in bench.lines("talks") if line != "spam"]
    assert lines == ["a", "bc", "no end"]
    time.sleep(0.3)
    assert bench.said == said


def test_two_jobs_have_networks_of_their_own(bench: Bench) -> None:
    first = service("same", listening(7000), ready=Ready(tcp=7000))
    with bench.open(first) as one, bench.open(first) as two:
        assert one.network_id != two.network_id
        assert len(bench.left) == 4


def test_an_isolated_network_leads_to_the_services_and_nowhere_else(bench: Bench) -> None:
    web = service("web", listening(7006, then=HTTP), ready=Ready(http=":7006/ok", interval_s=0.1))
    with bench.open(web, isolated=True) as network:
        ask = "use IO::Socket; print IO::Socket::INET->new(PeerAddr=>'%s',Timeout=>30) ? 'yes' : 'no'"
        assert bench.job(network, "debian:trixie-slim", "perl", "-e", ask % "web:7006") == "yes"
        routes = bench.job(network, "debian:trixie-slim", "cat", "/proc/net/route").splitlines()
        assert [line for line in routes[1:] if line.split()[1] == "00000000"] == [], "no way out"


def test_kept_services_go_on_running(bench: Bench) -> None:
    with bench.open(service("up", "while true; do echo on; sleep 0.1; done", ready=Ready(log="on"))) as network:
        network.keep()
    kept = bench.left
    said = bench.said
    try:
        assert len(kept) == 2
        assert bench.client.containers.get(bench.first).status == "running"
        time.sleep(0.5)
        assert bench.said == said, "no further message"
    finally:
        bench.client.containers.get(bench.first).remove(force=True)
        bench.client.networks.get(network.network_id).remove()


VALUE = b"s3cret-of-a-service'\"\\\n%s $HOME \xff\n\n"
SECRETS = (Secret(name="PASSWORD", ref="env://X"), Secret(name="TOKEN", ref="env://Y", file=False))
SHOW = (
    'echo "$PASSWORD_FILE"; [ -r "$PASSWORD_FILE" ] && sha256sum <"$PASSWORD_FILE"; printf %s "$TOKEN" | sha256sum; '
    'stat -f -c %T /run/secrets; stat -c %a "$PASSWORD_FILE"; id -u; umask; tr "\\0" " " </proc/1/cmdline; echo; '
    "[ -t 0 ] || readlink /proc/1/fd/0; exec sleep 600"
)


@pytest.mark.parametrize("user", [None, "1234:1234"])
def test_a_service_has_its_secrets_and_nobody_else_sees_them(bench: Bench, user: str | None) -> None:
    token = b"t0ken-of-a-service \n"
    values = SecretValues(services=({"PASSWORD": VALUE, "TOKEN": token},))
    wanted = service("db", SHOW, secrets=SECRETS, user=user, ready=Ready(log="^/dev/null$"))
    with bench.open(wanted, secrets=values):
        where, password, variable, kind, mode, uid, umask, command, stdin = bench.lines("db")
        assert where == "/run/secrets/PASSWORD"
        assert password.split()[0] == hashlib.sha256(VALUE).hexdigest()
        assert variable.split()[0] == hashlib.sha256(token).hexdigest()
        assert (kind, mode, uid, umask, stdin) == ("tmpfs", "444", (user or "0").split(":")[0], "0022", "/dev/null")
        assert command.startswith("sh -c ") or "sleep" in command
        container = bench.first
        seen = json.dumps(bench.client.api.inspect_container(container))
        seen += bench.client.api.logs(container).decode(errors="replace")
        assert "s3cret" not in seen
        assert "t0ken" not in seen
        # Nothing of it is in what the engine keeps on disk of the container.
        assert b"s3cret" not in b"".join(bench.client.containers.get(container).export())


def test_the_image_s_own_entrypoint_and_command_come_after_the_secrets(bench: Bench) -> None:
    name = f"loom-test-{bench.run_id}"
    made = bench.client.containers.create("debian:trixie-slim")
    try:
        changes = ['ENTRYPOINT ["sh", "-c", "echo $0 $1 $PASSWORD_FILE; exec sleep 600"]', 'CMD ["one", "two"]']
        made.commit(repository=name, tag="1", changes="\n".join(changes))
        values = SecretValues(services=({"PASSWORD": b"value"},))
        image = Image(name=f"{name}:1")
        own = Service(name="own", aliases=("own",), image=image, secrets=SECRETS[:1], ready=Ready(log="^one two /run"))
        with bench.open(own, secrets=values):
            pass
        other = Service(
            name="own",
            aliases=("own",),
            image=image,
            secrets=SECRETS[:1],
            command=("three", "four"),
            ready=Ready(log="^three four /run"),
        )
        with bench.open(other, secrets=values):
            pass
    finally:
        made.remove()
        bench.client.api.remove_image(f"{name}:1")


def test_a_variable_can_t_hold_a_nul(bench: Bench) -> None:
    values = SecretValues(services=({"TOKEN": b"a\0value"},))
    wanted = service("db", "sleep 600", secrets=SECRETS[1:])
    told = "the secret TOKEN of service db holds a NUL"
    with pytest.raises(ServiceError, match=told), bench.open(wanted, secrets=values):
        raise AssertionError("it was started")


def test_output_that_the_record_does_not_take_ends_the_start(bench: Bench) -> None:
    bench.refuse = "| one"
    with (
        pytest.raises(InfrastructureError, match="no room"),
        bench.open(service("a", "echo one; sleep 600", ready=Ready(log="never"))),
    ):
        pass
    assert bench.lines("a") == []


def test_output_that_the_record_does_not_take_ends_the_job(bench: Bench) -> None:
    bench.refuse = "| two"
    script = "while [ ! -e /go ]; do sleep 0.02; done; echo two; echo three; sleep 600"
    opened = bench.open(service("a", script, ready=Ready(command=("true",))))
    opened.__enter__()
    bench.client.containers.get(bench.first).exec_run(["touch", "/go"])
    until(bench.refused.is_set)
    with pytest.raises(InfrastructureError, match="no room"):
        opened.__exit__(None, None, None)
    assert bench.lines("a") == []
