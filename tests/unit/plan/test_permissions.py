"""What a plan asks for beyond a plain container, and what does not need a person's consent."""

from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from loom.config.pools import Pool
from loom.plan.model import Image, Job, Network, Resources, Secret, Service
from loom.plan.permissions import PermissionRequest, TrustContext, requests_of

PLAIN = Job(id="a", name="a", stage="s", steps=(), provider="docker")


@pytest.fixture
def around(tmp_path: Path) -> TrustContext:
    (tmp_path / "repo" / ".git").mkdir(parents=True)
    (tmp_path / "repo" / "inside").write_text("x")
    (tmp_path / "repo" / "ignored").write_text("x")
    (tmp_path / "repo" / "link").symlink_to("../outside")
    (tmp_path / "outside").write_text("x")
    return TrustContext(
        root=tmp_path / "repo",
        home=str(tmp_path / "home"),
        is_reference=lambda reference: "://" in reference,
        network="mine",
        pools={
            "far": Pool(provider="kubernetes", context="prod"),
            "here": Pool(provider="host"),
            "engine": Pool(provider="docker"),
        },
        is_ignored=lambda path: path.name == "ignored",
    )


def asked(around: TrustContext, **changes: Any) -> list[str]:
    return [str(request) for request in requests_of([replace(PLAIN, **changes)], around)]


def test_a_plain_job_asks_for_nothing(around: TrustContext) -> None:
    assert asked(around) == []
    assert asked(around, network=Network(mode="none")) == asked(around, network=Network(mode="bridge")) == []
    assert asked(around, network=Network(mode="mine")) == [], "the user allowed it"
    assert asked(around, runner_pool="engine") == asked(around, runner_pool="unknown") == []


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"privileged": True}, "privileged: the job can take over the machine that the engine runs on"),
        ({"docker_socket": True}, "docker_socket: the job commands the engine, and so can take over its machine"),
        ({"network": Network(mode="host")}, "network host: the job reaches what listens on this machine alone"),
        ({"network": Network(mode="other")}, "network other: the job reaches the containers in it"),
        ({"network": Network(extra_hosts={"db": "10.0.0.1"})}, "host db=10.0.0.1: the name leads to that address"),
        ({"resources": Resources(devices=("/dev/fuse",))}, "device /dev/fuse: the job uses this device of the"),
        ({"resources": Resources(gpus="all")}, "gpus all: the job uses the GPUs of the engine's machine"),
        ({"runner_pool": "far"}, "runner_pool far: the job runs in kubernetes"),
        ({"runner_pool": "here"}, "runner_pool here: the job runs on this machine, as you, without isolation"),
        ({"secrets": (Secret(name="A", ref="env://TOKEN"),)}, "env://TOKEN: the job gets the variable TOKEN, of your"),
        ({"secrets": (Secret(name="A", ref="op://x"),)}, "op://x: the job gets this value of your secrets"),
    ],
)
def test_what_a_job_asks_for(around: TrustContext, changes: dict[str, Any], said: str) -> None:
    (text,) = asked(around, **changes)
    assert text.startswith(f"job a asks for {said}")


@pytest.mark.parametrize(
    ("path", "subject"),
    [
        ("inside", None),
        ("missing", None),
        ("ignored", "file://ignored"),
        (".git/config", "file://.git/config"),
        (".GIT/config", "file://.GIT/config"),
        ("../outside", "file://../outside"),
        ("link", "file://link"),
        ("~/key", "file://~/key"),
        ("/etc/passwd", "file:///etc/passwd"),
    ],
)
def test_a_file_outside_of_the_snapshot_is_asked_for(around: TrustContext, path: str, subject: str | None) -> None:
    found = requests_of([replace(PLAIN, secrets=(Secret(name="A", ref=f"file://{path}"),))], around)
    if subject is None:
        assert found == ()
        return
    (request,) = found
    assert request.kind == "secret"
    assert request.subject.split(" ")[0] == subject
    if path == "link":
        assert request.subject.endswith(f"(resolves to {around.root.parent / 'outside'})")
    if path == "/etc/passwd":
        assert "resolves" not in request.subject
    assert request.gives == "the job gets the content of this file of yours"


def test_what_is_no_reference_is_not_shown(around: TrustContext) -> None:
    assert asked(around, secrets=(Secret(name="A", ref="the-value-itself"),)) == []


def test_services_ask_too_with_their_position_and_copies_ask_once(around: TrustContext) -> None:
    service = Service(name="db", aliases=("db",), image=Image(name="x"), secrets=(Secret(name="B", ref="env://B"),))
    job = replace(PLAIN, services=(service,), secrets=(Secret(name="A", ref="env://A"),))
    places: list[tuple[str, tuple[str | int, ...]]] = []

    def position_of(name: str, keys: tuple[str | int, ...]) -> str:
        places.append((name, keys))
        return f"line {len(places)}"

    found = requests_of([job, replace(job, id="a.2")], around, position_of)
    assert {(request.subject, request.job) for request in found} == {("env://A", "a"), ("env://B", "a")}
    assert {keys for _, keys in places} == {("secrets", "A", "ref"), ("services", 0, "secrets", "B", "ref")}
    assert [request.position for request in found] == ["line 1", "line 2"]


def test_a_request_has_no_position_where_nobody_knows_it(around: TrustContext) -> None:
    (request,) = requests_of([replace(PLAIN, privileged=True)], around)
    assert request.position == ""


def test_the_same_request_elsewhere_is_the_same() -> None:
    request = PermissionRequest(kind="secret", subject="env://A", gives="x", job="a", position="file:1")
    assert request.id == replace(request, position="file:2", gives="y").id
    others = {request.id, *(replace(request, **{name: "other"}).id for name in ("kind", "subject", "job"))}
    assert len(others) == 4
    for kind, asker in (
        ("include", "the workflow"),
        ("filter", "git's configuration here"),
        ("objects", "this copy of the repository"),
    ):
        assert str(replace(request, job="", kind=kind)) == f"{asker} asks for env://A: x"


def test_without_a_home_its_files_are_those_of_the_root(around: TrustContext) -> None:
    job = replace(PLAIN, secrets=(Secret(name="A", ref="file://~/key"),))
    (request,) = requests_of([job], replace(around, home=None))
    assert request.subject == "file://~/key"
