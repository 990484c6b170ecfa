"""References and the lock file: tables."""

from pathlib import Path

import pytest
from msgspec.structs import replace

from loom.errors import ImageError, RequestError
from loom.images.reference import normal_platform, parse_reference
from loom.plan.image_lock import (
    ImageLock,
    Locked,
    decode_lock,
    images_of,
    load_lock,
    save_lock,
    shown,
)
from loom.plan.late import Action
from loom.plan.model import Build, Image, Job, Plan, Service, Step

A = "sha256:" + "a" * 64
B = "sha256:" + "b" * 64


@pytest.mark.parametrize(
    ("text", "name", "registry", "repository"),
    [
        ("debian", "debian:latest", "docker.io", "library/debian"),
        ("debian:trixie-slim", "debian:trixie-slim", "docker.io", "library/debian"),
        ("docker.io/library/debian:12", "debian:12", "docker.io", "library/debian"),
        ("index.docker.io/library/debian:12", "debian:12", "docker.io", "library/debian"),
        ("owner/name", "owner/name:latest", "docker.io", "owner/name"),
        ("localhost/name", "localhost/name:latest", "localhost", "name"),
        ("localhost:5000/a/b:1", "localhost:5000/a/b:1", "localhost:5000", "a/b"),
        ("quay.io/fedora/fedora:41", "quay.io/fedora/fedora:41", "quay.io", "fedora/fedora"),
        (f"debian@{A}", f"debian@{A}", "docker.io", "library/debian"),
        (f"debian:12@{A}", f"debian:12@{A}", "docker.io", "library/debian"),
        ("[::1]:5000/x", "[::1]:5000/x:latest", "[::1]:5000", "x"),
        ("a_b/c-d.e__f", "a_b/c-d.e__f:latest", "docker.io", "a_b/c-d.e__f"),
    ],
)
def test_a_reference_is_read_as_docker_reads_it(text: str, name: str, registry: str, repository: str) -> None:
    reference = parse_reference(text)
    assert (reference.name, reference.registry, reference.repository) == (name, registry, repository)
    assert parse_reference(reference.name) == reference


@pytest.mark.parametrize(
    "text", ["", " ", "Debian", "debian:", "debian@", "debian:a b", "a//b", "debian@sha256:abc", "-x", "a/"]
)
def test_what_names_no_image_is_refused(text: str) -> None:
    with pytest.raises(RequestError, match="is not a valid image name") as refused:
        parse_reference(text)
    assert refused.value.exit_code == 2


@pytest.mark.parametrize(
    ("written", "platform"),
    [
        ("linux/amd64", "linux/amd64"),
        ("linux/x86_64", "linux/amd64"),
        ("arm64", "linux/arm64"),
        ("linux/arm64/v8", "linux/arm64"),
        ("linux/aarch64", "linux/arm64"),
        ("linux/armhf", "linux/arm/v7"),
        ("linux/arm/v6", "linux/arm/v6"),
        ("Linux/AMD64", "linux/amd64"),
    ],
)
def test_platforms_have_one_spelling(written: str, platform: str) -> None:
    assert normal_platform(written) == platform


def test_a_lock_survives_writing_and_reading(tmp_path: Path) -> None:
    lock = (
        ImageLock()
        .holding("docker.io/library/debian:12", "linux/x86_64", Locked(digest=A, image_id=B))
        .holding("debian:12", "linux/arm64", Locked(digest=A))
        .holding("localhost/mine", "linux/amd64", Locked(image_id=B))
    )
    path = tmp_path / ".loom" / "images.lock"
    save_lock(path, lock)
    assert load_lock(path) == lock
    assert [entry.name for entry in path.parent.iterdir()] == ["images.lock"]
    assert lock.get("debian:12", "amd64") == Locked(digest=A, image_id=B)
    assert lock.get("debian:13", "amd64") is None
    assert lock.only({"debian:12"}).images.keys() == {"debian:12"}


def test_a_lock_is_written_the_same_whatever_the_order_it_was_filled_in() -> None:
    one = ImageLock().holding("a:1", "linux/amd64", Locked(digest=A)).holding("b:1", "linux/amd64", Locked(digest=B))
    two = ImageLock().holding("b:1", "linux/amd64", Locked(digest=B)).holding("a:1", "linux/amd64", Locked(digest=A))
    assert one.encode() == two.encode()
    assert one.encode().endswith(b"}\n")


def test_no_lock_file_is_no_lock(tmp_path: Path) -> None:
    assert load_lock(tmp_path / "images.lock") is None


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "truncated"),
        (b"<<<<<<< HEAD\n{", "malformed"),
        (b'{"images": {}}', "missing required field `schema_version`"),
        (b"[]", "got `array`"),
        (b"\xff", "malformed"),
        (b"[" * 100_000, "here/images.lock"),
        (b'{"schema_version": "loom.images.lock.v9", "images": {}}', "'loom.images.lock.v9'"),
        (b'{"schema_version": "loom.images.lock.v1"}', "missing required field `images`"),
        (b'{"schema_version": "loom.images.lock.v1", "images": {"a": []}}', "$.images[...]"),
        (
            b'{"schema_version": "loom.images.lock.v1", "images": {"A B": {"linux/amd64": {"digest": "sha256:%s"}}}}'
            % (b"a" * 64),
            "'A B' is not a valid image name",
        ),
        (
            b'{"schema_version": "loom.images.lock.v1", "images": {"a": {"linux/amd64": {}}}}',
            "a has neither a digest nor an image_id for linux/amd64",
        ),
        (
            b'{"schema_version": "loom.images.lock.v1", "images": {"a": {"linux/amd64": {"digest": "x"}}}}',
            "matching regex",
        ),
        (
            b'{"schema_version": "loom.images.lock.v1", "images": {"a": {"linux/amd64": {"digests": "x"}}}}',
            "unknown field `digests`",
        ),
    ],
)
def test_a_damaged_lock_is_the_users_to_repair(content: bytes, reason: str) -> None:
    with pytest.raises(RequestError) as refused:
        decode_lock(content, path="here/images.lock")
    assert "here/images.lock" in refused.value.message
    assert reason in refused.value.message


def job(job_id: str, image: Image | None, *services: Service) -> Job:
    return Job(id=job_id, name=job_id, stage="test", steps=(), provider="docker", image=image, services=services)


def step(uses: str, image: str) -> Step:
    action = Action(uses=uses, using="docker", image=image)
    return Step(phase="script", number=1, script=uses, kind="docker", action=action)


def test_images_of_a_plan_once_each_with_their_users() -> None:
    db = Service(name="db", aliases=("db",), image=Image(name="postgres:17"))
    plan = Plan(
        workflow_path="w",
        stages=("test",),
        jobs=(
            job("a", Image(name="debian:12"), db),
            job("b", Image(name="debian:12", pull="always", user="nobody"), db),
            job("c", Image(name="debian:12", platform="linux/arm64")),
            job("d", Image(build=Build(args={"X": "1"}))),
            job("e", Image(build=Build(args={"X": "2"}))),
            job("f", None),
            replace(
                job("g", None), steps=(step("docker://alpine:3", "docker://alpine:3"), step("o/r@v1", "Dockerfile"))
            ),
        ),
    )
    assert [use.used_by for use in images_of(plan)] == [
        ("a", "b"),
        ("a/db", "b/db"),
        ("c",),
        ("d",),
        ("e",),
        ("g/docker://alpine:3",),
        ("g/o/r@v1",),
    ]


def test_a_lock_file_that_leads_out_or_can_not_be_used(tmp_path: Path) -> None:
    path = tmp_path / "project" / ".loom" / "images.lock"
    path.parent.mkdir(parents=True)
    (tmp_path / "elsewhere").write_text("{}")
    path.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(
        RequestError, match=r"images\.lock is a link that points outside the repository, to /.*/elsewhere"
    ):
        load_lock(path)
    path.unlink()
    path.mkdir()
    with pytest.raises(RequestError, match=r"images\.lock: is a directory"):
        load_lock(path)
    with pytest.raises(ImageError, match=r"images\.lock: .*: the lock file could not be written"):
        save_lock(path, ImageLock(images={}))


@pytest.mark.parametrize(
    ("image", "name"),
    [
        (Image(name="debian:12"), "debian:12"),
        (Image(build=Build(context="ci", dockerfile="../Dockerfile")), "Dockerfile"),
        (Image(name="own", build=Build()), "own"),
        (Image(), "an unnamed image"),
    ],
)
def test_an_image_has_a_name_for_people(image: Image, name: str) -> None:
    assert shown(image) == name
