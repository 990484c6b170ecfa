"""What is special about a job in a pod; what every provider promises is in tests/docker/providers/test_contract.py."""

from __future__ import annotations

import hashlib
import io
import os
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import urllib3

from loom import providers
from loom.cancel import Cancel
from loom.config import Config
from loom.config.pools import Pool
from loom.errors import ImageError, LoomError, ProviderError, ServiceError
from loom.plan.model import Image, Network, Ready, Resources, Service
from loom.plan.model import Job as PlannedJob
from loom.providers.base import OpenedServices, ResolveRequest, Setup
from loom.providers.command import Command
from loom.providers.files import members_in, members_of
from loom.providers.kubernetes.cluster.client import Cluster
from loom.providers.kubernetes.pod.spec import HELPER, KEPT_UNTIL
from loom.providers.kubernetes.session import exec as execs
from loom.providers.kubernetes.session import files
from loom.providers.kubernetes.session.exec import Exec
from loom.providers.kubernetes.session.kept import reap
from loom.status import Ended, Exit
from loom.storage.tar import TarEntry, packed
from tests.support import kubernetes
from tests.support.waiting import until

if TYPE_CHECKING:
    from tests.kubernetes.conftest import Job, Pods

pytestmark = [pytest.mark.kubernetes, pytest.mark.slow]

COUNTED = "i=0; while [ $i -lt 3000 ]; do echo line $i; echo err $i >&2; i=$((i+1)); [ $((i % 100)) != 0 ] || sleep 0.05; done"


def counted(name: str) -> bytes:
    return b"".join(b"%s %d\n" % (name.encode(), number) for number in range(3000))


def test_no_byte_is_lost_or_doubled_where_the_connection_breaks_again_and_again(pods: Pods) -> None:
    with pods.job() as job:
        link = job.session.link
        over = threading.Event()

        def break_it() -> None:
            while not over.wait(0.7):
                if link.connection is not None:
                    link.connection.abort()

        breaking = threading.Thread(target=break_it)
        breaking.start()
        try:
            ended, heard = counting(job)
        finally:
            over.set()
            breaking.join()
        assert link.connections > 2
        assert job.run("echo next")[1] == b"next\n"
    assert ended.code == 0
    assert heard == {"stdout": counted("line"), "stderr": counted("err")}


def counting(job: Job, on_line: Callable[[], None] = lambda: None) -> tuple[Exit, dict[str, bytes]]:
    """Run the counting step; return its end and the bytes of each stream."""
    heard: dict[str, bytes] = {"stdout": b"", "stderr": b""}

    def take(stream: str, data: bytes) -> None:
        heard[stream] += data
        on_line()

    return job.session.run(Command(script=COUNTED, shell=()), take, Cancel()), heard


@pytest.mark.disturbs
def test_no_byte_is_lost_or_doubled_where_the_api_server_restarts(
    pods: Pods, restart_api_server: Callable[[], None] | None
) -> None:
    if restart_api_server is None:
        pytest.skip("restarts the API server: needs a cluster that the tests own (LOOM_TEST_CLUSTER_DIR)")
    restarting = threading.Thread(target=restart_api_server)

    def on_line() -> None:
        if restarting.ident is None:
            restarting.start()

    with pods.job() as job:
        ended, heard = counting(job, on_line)
        restarting.join()
        until(lambda: job.session.link.connections > 1)
        assert job.run("echo next")[1] == b"next\n"
    assert ended.code == 0
    assert heard == {"stdout": counted("line"), "stderr": counted("err")}


@pytest.mark.parametrize("image", [kubernetes.IMAGE, kubernetes.BUSYBOX])
def test_silence_floods_and_trickles(pods: Pods, image: str) -> None:
    with pods.job(image=Image(name=image)) as job:
        # Both streams are silent for longer than any shell's clock is coarse.
        assert job.run("echo a; sleep 2.5; echo b >&2; sleep 1.5; echo c")[1] == b"a\nb\nc\n"
        flood = "i=0; while [ $i -lt 40000 ]; do i=$((i+1)); echo line $i; done"
        ended, heard = job.run(f"{flood}; sleep 2; printf last")
        assert ended.code == 0
        assert heard == b"".join(b"line %d\n" % number for number in range(1, 40001)) + b"last"
        trickle = "for i in 1 2 3 4 5 6 7 8 9; do echo $i; sleep 0.1; echo $i >&2; done"
        assert sorted(job.run(trickle)[1].split()) == sorted(b"112233445566778899"[i : i + 1] for i in range(18))
        ended, heard = job.run("trap 'echo hup' HUP; sleep 60", timeout_s=2)
        assert ended.ended is Ended.TIMED_OUT


VALUES = {"A": "$$", "B": "$(HOME) $$(A)", "C": "$\N{LATIN SMALL LETTER U WITH DIAERESIS}$", "D": "$A ${A} \\$$$ '"}


@pytest.mark.parametrize("image", [kubernetes.IMAGE, kubernetes.BUSYBOX])
def test_each_dollar_arrives(pods: Pods, image: str) -> None:
    told = "; ".join(f"printf '%s\\n' \"${name}\"" for name in VALUES)
    expected = "".join(f"{value}\n" for value in VALUES.values()).encode()
    with pods.job(image=Image(name=image), environment=VALUES) as job:
        assert job.run(told)[1] == expected
    db = Service(
        name="db",
        aliases=(),
        image=Image(name=image),
        variables=VALUES,
        entrypoint=("sh", "-c"),
        command=(f"{told}; printf '%s\\n' '$$'; echo done; sleep 1000",),
        ready=Ready(command=("sh", "-c", "[ '$$' = \"$A\" ]")),
    )
    said: list[bytes] = []
    with beside_services(pods, with_service(db), on_output=lambda _, data: said.append(data)):
        until(lambda: b"db | done\n" in said)
    for line in (*VALUES.values(), "$$"):
        assert f"db | {line}\n".encode() in b"".join(said)


def with_service(service: Service) -> PlannedJob:
    return PlannedJob(
        id="job", name="job", stage="s", steps=(), provider="kubernetes", image=service.image, services=(service,)
    )


def test_git_is_real_in_the_pod_and_the_files_are_proved(pods: Pods, tmp_path: Path) -> None:
    def git(*words: str, cwd: Path) -> str:
        setup = ["-c", "user.name=a", "-c", "user.email=a@b"]
        return subprocess.run(["git", *setup, *words], cwd=cwd, check=True, capture_output=True, text=True).stdout

    origin = tmp_path / "origin"
    origin.mkdir()
    git("init", "-q", cwd=origin)
    (origin / "a").write_text("a\n")
    (origin / ("long" * 40)).write_text("b\n")
    (origin / "link").symlink_to("a")
    git("add", "-A", cwd=origin)
    git("commit", "-qm", "x", cwd=origin)
    pods.workspace.rmdir()
    git("clone", "-q", "--shared", str(origin), str(pods.workspace), cwd=tmp_path)
    store = origin / ".git/objects"
    with pods.job(read_only_mounts=(store,)) as job:
        files = [path for path in pods.workspace.rglob("*") if path.is_file() and not path.is_symlink()]
        assert job.session.facts.details["files_proved"] == f"sha256 of {len(files)} files"
        _, listed = job.run(
            "readlink link; cat .git/objects/info/alternates; ls .git/objects/info; find $PWD -name 'long*'"
        )
        assert f"{store}\n" in listed.decode()
        packed = job.run(f"find {store} -type f | wc -l")[1]
        assert int(packed) == len([path for path in store.rglob("*") if path.is_file()])


@pytest.mark.parametrize(("umask", "modes"), [(0, "777 777 666 777"), (0o022, "755 755 644 755")])
def test_files_have_the_modes_of_the_workspace_or_the_jobs_own(pods: Pods, umask: int, modes: str) -> None:
    (pods.workspace / "dir").mkdir()
    (pods.workspace / "dir/file").write_text("x")
    for path, mode in (("", 0o777), ("dir", 0o777), ("dir/file", 0o666)):
        (pods.workspace / path).chmod(mode)
    with pods.job(umask=umask, chmod="go-w" if umask else "") as job:
        job.session.files().put([(TarEntry("made/file", "file", 0o640, 0, 1), io.BytesIO(b"x"))])
        assert job.run("echo $(stat -c %a . dir dir/file made)")[1].decode().strip() == modes


def test_a_pod_is_made_once_where_the_answer_is_lost(pods: Pods, monkeypatch: pytest.MonkeyPatch) -> None:
    from kubernetes.client import CoreV1Api

    create = CoreV1Api.create_namespaced_pod
    lost: list[str] = []

    def create_and_lose(self: Any, namespace: str, pod: Any, **more: Any) -> Any:
        answer = create(self, namespace, pod, **more)
        if not lost:
            lost.append(pod["metadata"]["name"])
            raise urllib3.exceptions.ProtocolError("the connection was lost")
        return answer

    monkeypatch.setattr(CoreV1Api, "create_namespaced_pod", create_and_lose)
    with pods.job() as job:
        assert lost == [job.pod]
        assert job.run("echo works")[1] == b"works\n"


def test_files_arrive_where_the_connection_breaks(pods: Pods, monkeypatch: pytest.MonkeyPatch) -> None:
    broken: set[str] = set()

    class Breaking(Exec):
        """Breaks once in each direction, after a MiB."""

        sent = received = 0

        def send(self, data: bytes) -> None:
            self.sent += len(data)
            self._break("sending", self.sent)
            super().send(data)

        def read(self) -> Any:
            piece = super().read()
            self.received += len(piece[1]) if piece else 0
            self._break("receiving", self.received)
            return piece

        def _break(self, direction: str, size: int) -> None:
            if size > 1 << 20 and direction not in broken:
                broken.add(direction)
                self.abort()

    monkeypatch.setattr(files, "Exec", Breaking)
    content = os.urandom(5 << 20)
    (pods.workspace / "a").write_bytes(content)
    with pods.job() as job:
        assert broken == {"sending"}
        assert job.session.facts.details["files_proved"] == "sha256 of 1 files"
        kept = list(packed(job.session.files().get(["a"], print)))
        assert broken == {"sending", "receiving"}
        broken.remove("sending")
        job.run("rm a")
        job.session.files().put(members_in([("", kept)], print))
        assert broken == {"sending", "receiving"}
        assert job.run("sha256sum a")[1] == f"{hashlib.sha256(content).hexdigest()}  a\n".encode()

    cancel = Cancel()

    class Canceled(Exec):
        def send(self, data: bytes) -> None:
            super().send(data)
            cancel.request()

    monkeypatch.setattr(files, "Exec", Canceled)  # an exception of the thread that sends would fail the test
    opening = pods.provider.open(pods.request(job_id="canceled"), lambda *_: None, cancel)
    with pytest.raises(ProviderError, match=r"^canceled while the workspace was sent"), opening:
        pass


def test_a_try_whose_connection_broke_writes_nothing_over_the_files_of_the_next(
    pods: Pods, cluster: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    tries: list[tuple[Exec, str]] = []

    class Broken(Exec):
        """The connection of the first try breaks after a piece, and its command is slow: it would unpack what it got later."""

        def __init__(self, cluster: Any, pod: str, container: str, command: list[str], **options: Any) -> None:
            program = command[2] if tries else command[2].replace("head -c", "sleep 1000; head -c")
            super().__init__(cluster, pod, container, [*command[:2], program, *command[3:]], **options)
            tries.append((self, command[-2]))

        def send(self, data: bytes) -> None:
            super().send(data)
            if self is tries[0][0]:
                self.abort()

    content = os.urandom(5 << 20)
    with pods.job() as job:
        (pods.workspace / "a").write_bytes(content)
        with monkeypatch.context() as patch:
            patch.setattr(files, "Exec", Broken)
            job.session.files().put(members_of(pods.workspace, ["a"]))
        (_, before), (_, group) = tries
        assert (before, group.isdigit()) == ("", True)
        look = ["sh", "-c", "cat /proc/[0-9]*/stat"]
        _, told, _ = execs.run(cluster, job.pod, HELPER, look, doing="looking")
        alive = [line.rpartition(") ")[2].split() for line in told.decode().splitlines()]
        assert group not in [fields[2] for fields in alive if fields[0] != "Z"]
        assert job.run("sha256sum a")[1] == f"{hashlib.sha256(content).hexdigest()}  a\n".encode()


def test_a_job_that_takes_too_much_memory_is_told(pods: Pods) -> None:
    with pods.job(resources=Resources(memory=64 << 20)) as job:
        ended, _ = job.run("x=$(head -c 200000000 /dev/zero | tr '\\0' x); echo ${#x}")
        assert ended.ended is Ended.OOM_KILLED


def test_limits_and_places_in_memory(pods: Pods, cluster: Any) -> None:
    resources = Resources(cpus=0.5, memory=128 << 20, read_only=True, tmpfs=("/tmp:size=8m",), shm_size=1 << 20)
    with pods.job(resources=resources, image=Image(name=kubernetes.IMAGE, user="1234:1234")) as job:
        ended, said = job.run(
            "id -u; touch made; touch /tmp/made; touch /made 2>/dev/null || echo read-only; df /tmp | tail -1"
        )
        assert (ended.code, said.split()[:2]) == (0, [b"1234", b"read-only"])
        assert b"tmpfs" in said
        spec = cluster.call("looking", "read_namespaced_pod", job.pod)["spec"]
        container = next(one for one in spec["containers"] if one["name"] == "job")
        assert container["resources"]["limits"] == {"cpu": "500m", "memory": str(128 << 20)}


@pytest.mark.parametrize("user", ["1000:1000", "2000:2000"])
def test_a_pod_without_a_root_user_has_files_of_its_own(pods: Pods, user: str) -> None:
    (pods.workspace / "a").write_text("a\n")
    context = {"runAsNonRoot": True, "runAsUser": 1000, "runAsGroup": 1000, "fsGroup": 1000}
    pool = Pool(provider="kubernetes", pod_template={"spec": {"securityContext": context}})
    image = Image(name=kubernetes.IMAGE, user=None if user == "1000:1000" else user)
    with pods.job(pool=pool, image=image) as job:
        ended, said = job.run("echo $(id -u):$(id -g); cat a; echo b >>a; mkdir made; echo c >made/c; stat -c %u a")
        assert (ended.code, said.decode()) == (0, f"{user}\na\n{user.split(':')[0]}\n")
        kept = list(packed(job.session.files().get(["made"], print)))
        job.run("rm -r made")
        job.session.files().put(members_in([("", kept)], print))
        assert job.run("echo d >>made/c; cat made/c a")[1] == b"c\nd\na\nb\n"


def test_a_secret_is_nowhere_in_the_cluster(pods: Pods, cluster: Any) -> None:
    secret = b"s3cr3t-\xff-value"
    with pods.job() as job:
        path = job.session.put_secret("KEY", secret)
        assert job.run(f"cat {path}")[1] == secret
        ended = job.session.inside({"TOKEN": "t0k3n-value"}).exec(
            ["sh", "-c", 'test "$TOKEN" = t0k3n-value'], lambda *_: None, Cancel()
        )
        assert ended.code == 0
        found = cluster.call("looking", "read_namespaced_pod", job.pod)
        events = cluster.call("looking", "list_namespaced_event")
        assert "s3cr3t" not in str((found, events))
        assert "t0k3n" not in str((found, events))


@contextmanager
def beside_services(
    pods: Pods,
    job: PlannedJob,
    *,
    on_output: Callable[..., None] = lambda *_: None,
    on_died: Callable[..., None] = lambda *_: None,
) -> Iterator[tuple[OpenedServices, Job]]:
    """The job's services, and its pod with them."""
    request = ResolveRequest(workspace=pods.workspace, on_output=on_output, cancel=Cancel())
    opening = pods.provider.services(job, request, on_died)
    with opening as opened, pods.job(network_id=opened.network_id) as directory:
        yield opened, directory


def test_the_services_share_the_pod(pods: Pods) -> None:
    serve = "import http.server as h; h.HTTPServer(('', 8123), h.SimpleHTTPRequestHandler).serve_forever()"
    web = Service(
        name="web",
        aliases=("www",),
        image=Image(name=kubernetes.IMAGE),
        command=(
            "sh",
            "-c",
            f"echo starts; command -v python3 && exec python3 -c \"{serve}\"; perl -MSocket -e '{PERL}'",
        ),
        ready=Ready(tcp=8123),
    )
    died: list[tuple[str, str]] = []
    said: list[bytes] = []
    job = PlannedJob(id="job", name="job", stage="s", steps=(), provider="kubernetes", image=web.image, services=(web,))
    with beside_services(
        pods, job, on_output=lambda _, data: said.append(data), on_died=lambda *how: died.append(how)
    ) as (opened, directory):
        assert opened.variables["LOOM_SERVICE_WEB_PORT"] == "8123"
        ended, _ = directory.run("bash -c 'exec 3<>/dev/tcp/www/8123 && echo quit >&3'")
        assert ended.code == 0
        until(lambda: died)
    [(name, how)] = died
    assert (name, how.splitlines()[0]) == ("web", "exit code 3")
    assert "starts" in how  # its last lines
    text = b"".join(said)
    assert b"web | starts\n" in text


def test_services_end_with_the_job_of_a_loom_that_is_gone(pods: Pods, cluster: Any) -> None:
    db = Service(name="db", aliases=(), image=Image(name=kubernetes.IMAGE), command=("sleep", "3600"))
    job = PlannedJob(id="job", name="job", stage="s", steps=(), provider="kubernetes", image=db.image, services=(db,))
    with beside_services(pods, job) as (_, opened):
        link = opened.session.link
        link.lease(1)
        assert link.confirmed(30.0)
        link.close()
        until(
            lambda: cluster.call("looking", "read_namespaced_pod", opened.pod)["status"]["phase"] == "Failed",
            limit_s=150,
        )
        seen = cluster.call("looking", "read_namespaced_pod", opened.pod)["status"]
        assert (seen["reason"], "full" in seen["message"]) == ("Evicted", True)


PERL = (
    "socket(S,PF_INET,SOCK_STREAM,6);setsockopt(S,SOL_SOCKET,SO_REUSEADDR,1);bind(S,sockaddr_in(8123,INADDR_ANY));"
    "listen(S,5);while(accept(C,S)){$l=<C>;exit 3 if $l=~/quit/;close C}"
)


def test_a_service_that_is_not_ready_says_its_last_lines(pods: Pods) -> None:
    bad = Service(
        name="bad",
        aliases=(),
        image=Image(name=kubernetes.IMAGE),
        command=("sh", "-c", "echo no license; exit 2"),
        ready=Ready(log="licensed"),  # without a condition, it would be ready for the moment in which it runs
    )
    job = with_service(bad)
    with (
        pytest.raises(ServiceError, match="service bad ended with exit code 2 before it was ready") as raised,
        beside_services(pods, job),
    ):
        pass
    assert "no license" in (raised.value.hint or "")


def test_a_kept_pod_goes_on_as_it_was_and_is_ended_by_the_cluster(pods: Pods, cluster: Any) -> None:
    (pods.workspace / "a").write_text("a\n")
    with pods.job() as job:
        job.run("echo changed >a; echo b >b; sleep 1000 & echo $! >/tmp/child; X=1")
        job.session.keep(time.time() + 600)
        name = job.pod
    found = pods.provider.find(pods.run_id, "job", f"{cluster.namespace}/{name}")
    assert found is not None
    assert found.kept
    pod = cluster.call("looking", "read_namespaced_pod", name)
    assert pod["spec"]["activeDeadlineSeconds"] <= 900
    assert float(pod["metadata"]["labels"][KEPT_UNTIL]) > time.time()
    out: list[bytes] = []
    assert (
        found.inside({"V": "1"})
        .exec(["sh", "-c", "cat a; echo $V; exit 5"], lambda _, data: out.append(data), Cancel())
        .code
        == 5
    )
    assert b"".join(out) == b"changed\n1\n"
    target = pods.workspace.parent / "copy"
    found.copy_files(target, lambda _: None)
    assert sorted(path.name for path in target.iterdir()) == ["a", "b"]
    (pods.workspace / "b").write_text("brought\n")
    found.bring(pods.workspace, ["b", "gone"])
    with found.adopt(pods.request(), lambda *_: None, Cancel()) as session:
        from tests.kubernetes.conftest import Job as Adopted

        ended, said = Adopted(session).run("kill -0 $(cat /tmp/child); cat a b; echo more; exit 3")
        assert (ended.code, said) == (3, b"changed\nbrought\nmore\n")


def test_a_command_whose_output_is_heard_reads_standard_input(pods: Pods) -> None:
    with pods.job() as job:

        def heard(command: str) -> bytes:
            out: list[bytes] = []
            inside = job.session.inside({})
            assert (
                inside.exec(["sh", "-c", command], lambda _, data: out.append(data), Cancel(), timeout_s=60).code == 0
            )
            return b"".join(out)

        with standard_input(b"given\n"):
            assert heard("read line; echo got $line") == b"got given\n"
        with standard_input(None):
            assert heard("cat; echo over") == b"over\n"


@contextmanager
def standard_input(content: bytes | None) -> Iterator[None]:
    """Put a pipe with this content in the place of the descriptor; None: the null device."""
    before = os.dup(0)
    try:
        if content is None:
            given = os.open(os.devnull, os.O_RDONLY)
        else:
            given, end = os.pipe()
            os.write(end, content)
            os.close(end)
        os.dup2(given, 0)
        os.close(given)
        yield
    finally:
        os.dup2(before, 0)
        os.close(before)


def test_a_pod_of_a_loom_that_is_gone_is_removed_by_the_next(pods: Pods, cluster: Any) -> None:
    with pods.job() as job:
        marks = {"loom.pid": "1", "loom.pid_start": "0"}
        cluster.call("marking", "patch_namespaced_pod", job.pod, {"metadata": {"annotations": marks}})
        assert job.pod in reap(cluster)
        with pytest.raises(LoomError) as raised:
            job.run("sleep 60")
        assert raised.value.code == "POD_LOST"


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"image": Image(name="registry.invalid/nothing:1")}, "CLUSTER_IMAGE_UNAVAILABLE"),
        ({"pool": Pool(provider="kubernetes", pod_template=kubernetes.NOWHERE, start_timeout=1)}, "POD_UNSCHEDULABLE"),
        ({"pool": Pool(provider="kubernetes", namespace="there-is-none")}, "CLUSTER_NAMESPACE_UNKNOWN"),
        (
            {"pool": Pool(provider="kubernetes", pod_template={"spec": {"restartPolicy": "x", "dnsPolicy": "Never"}})},
            "POD_INVALID",
        ),
        ({"docker_socket": True}, "POD_UNSUPPORTED"),
        ({"network": Network(mode="mine")}, "POD_UNSUPPORTED"),
        ({"image": Image(name=kubernetes.IMAGE, entrypoint=("/not/there",))}, "CLUSTER_CONTAINER_NOT_STARTED"),
    ],
)
def test_what_does_not_work_has_a_code_and_exit_code_3(pods: Pods, changes: dict[str, Any], code: str) -> None:
    with pytest.raises((ProviderError, ImageError)) as raised, pods.job(**changes):
        pass
    assert (raised.value.code, raised.value.exit_code) == (code, 3)


def test_no_cluster_wrong_context_and_bad_credentials(tmp_path: Path) -> None:
    environ = kubernetes.environ()
    config = Path(environ["KUBECONFIG"]).read_text()

    def code(context: str | None, text: str) -> str:
        file = tmp_path / "config"
        file.write_text(text)
        setup = Setup(environ={**environ, "KUBECONFIG": str(file)}, config=Config())
        provider = providers.make("kubernetes" + (f":{context}" if context else ""), setup)
        with pytest.raises(ProviderError) as raised:
            provider.check()
        provider.close()
        return raised.value.code

    assert code("no-such-context", config) == "CLUSTER_NOT_CONFIGURED"
    for text in ("", "a: b: c", "[]", "text", "{contexts: 3}", "\0"):
        assert code(None, text) == "CLUSTER_NOT_CONFIGURED"
    there = Cluster.of(None, environ)
    host = there.host
    there.close()
    assert code(None, config.replace(host, "https://127.0.0.1:1")) == "CLUSTER_UNAVAILABLE"
