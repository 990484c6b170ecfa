"""Pulls against a real registry: credentials, digests, the lock, a registry that is down or changes its mind."""

import base64
import json
import os
import socket
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import docker
import pytest
from msgspec.structs import replace

from loom.cancel import Cancel
from loom.errors import ImageError
from loom.plan.image_lock import ImageLock, Locked
from loom.plan.model import Build, Image
from loom.providers.base import ResolveRequest
from loom.providers.docker.engine import long_calls, retries
from loom.providers.docker.engine.client import Engine
from loom.providers.docker.images.images import Images
from loom.providers.docker.images.named import ResolvedImage
from loom.providers.docker.images.registry import served
from tests.support.waiting import promptly

pytestmark = pytest.mark.docker

BASIC = base64.b64encode(b"loom:open-sesame").decode()


class Run:
    """One run's images, and what they said."""

    def __init__(self, folder: Path, *, lock: ImageLock | None = None, frozen: bool = False, **environ: str) -> None:
        (folder / "docker-config").mkdir(exist_ok=True)
        self.folder = folder
        self.said = b""
        self.cancel = Cancel()
        environ = {
            "PATH": os.environ["PATH"],
            "HOME": str(folder),
            "DOCKER_CONFIG": str(folder / "docker-config"),
            **environ,
        }
        if "DOCKER_HOST" in os.environ:
            environ.setdefault("DOCKER_HOST", os.environ["DOCKER_HOST"])
        self.images = Images(Engine(environ), lock=lock, frozen=frozen)

    def config(self, **config: object) -> "Run":
        (self.folder / "docker-config" / "config.json").write_text(json.dumps(config))
        return self

    def __call__(self, name: str, **options: object) -> ResolvedImage:
        return self.resolve(Image(name=name, **options))  # type: ignore[arg-type]

    def resolve(self, image: Image) -> ResolvedImage:
        request = ResolveRequest(workspace=self.folder, on_output=self._hear, cancel=self.cancel)
        return self.images.resolve(image, request)

    def _hear(self, stream: str, data: bytes) -> None:
        self.said += data

    @property
    def pulls(self) -> int:
        return self.said.count(b"pulling ")


def test_a_missing_image_is_pulled_once_and_then_there(
    tmp_path: Path, registry: Any, publish: Callable[..., str]
) -> None:
    digest = publish(registry, "plain:1")
    run = Run(tmp_path)
    image = run(f"{registry.host}/plain:1")
    assert (image.digest, image.platform, image.built) == (digest, "linux/amd64", False)
    assert image.image_id.startswith("sha256:")
    assert image.size > 0
    assert digest.encode() in run.said
    again = Run(tmp_path)
    assert again(f"{registry.host}/plain:1") == image
    assert again.pulls == 0


def test_always_sees_what_the_registry_serves_now_but_one_run_sees_one_image(
    tmp_path: Path, registry: Any, publish: Callable[..., str]
) -> None:
    name = f"{registry.host}/moving:1"
    publish(registry, "moving:1")
    run = Run(tmp_path)
    first = run(name, pull="always")
    moved = publish(registry, "moving:1", content="two", forget=False)
    assert run(name, pull="always") == first
    assert Run(tmp_path)(name, pull="always").digest == moved


def test_never_does_not_ask_the_registry(tmp_path: Path, registry: Any, publish: Callable[..., str]) -> None:
    publish(registry, "unpulled:1")
    run = Run(tmp_path)
    with pytest.raises(ImageError, match="pull policy is `never`") as refused:
        run(f"{registry.host}/unpulled:1", pull="never")
    assert (refused.value.code, refused.value.exit_code, run.said) == ("IMAGE_NOT_PRESENT", 3, b"")


def test_pull_policies_are_tried_in_order(tmp_path: Path, registry: Any, publish: Callable[..., str]) -> None:
    name, run = f"{registry.host}/listed:1", Run(tmp_path)
    digest = publish(registry, "listed:1")
    assert run(name, pull="never", pull_else=("always",)).digest == digest
    assert b"pull policy is `never`; the next pull policy is `always`" in run.said
    with pytest.raises(ImageError, match="pull policy is `never`"):
        run(f"{registry.host}/no-such:1", pull="missing", pull_else=("never",))


def test_what_is_not_there_is_said_without_further_tries(tmp_path: Path, registry: Any) -> None:
    run = Run(tmp_path)
    with pytest.raises(ImageError, match=f"nothing:1 is not in {registry.host}") as refused:
        run(f"{registry.host}/nothing:1")
    assert refused.value.code == "IMAGE_NOT_FOUND"
    assert b"trying again" not in run.said


def test_another_platform_than_the_image_has(tmp_path: Path, registry: Any, publish: Callable[..., str]) -> None:
    publish(registry, "amd:1")
    with pytest.raises(ImageError, match="not made for linux/s390x") as refused:
        Run(tmp_path)(f"{registry.host}/amd:1", platform="linux/s390x")
    assert refused.value.code == "IMAGE_PLATFORM"


def test_two_jobs_at_once_pull_once(tmp_path: Path, registry: Any, publish: Callable[..., str]) -> None:
    publish(registry, "shared:1")
    run = Run(tmp_path)
    had: list[ResolvedImage] = []
    threads = [threading.Thread(target=lambda: had.append(run(f"{registry.host}/shared:1"))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(had) == 4
    assert len(set(had)) == 1
    assert run.pulls == 1


def test_a_registry_that_is_down_gets_more_tries_and_then_a_clear_error(
    tmp_path: Path, free_port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retries, "PULL", replace(retries.PULL, first_wait_s=0.01))
    run = Run(tmp_path)
    with pytest.raises(ImageError, match="can't be reached") as refused:
        run(f"localhost:{free_port}/x:1")
    assert refused.value.code == "IMAGE_REGISTRY_DOWN"
    assert run.said.count(b"trying again") == 3
    assert "Is the registry up" in (refused.value.hint or "")


def test_a_registry_that_comes_back_is_pulled_from(
    tmp_path: Path, serving: Callable[[Path], Any], publish: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with serving(tmp_path / "registry") as registry:
        digest = publish(registry, "back:1")
        registry.stop()
        run = Run(tmp_path)
        back: list[bytes] = []

        def hear(stream: str, data: bytes) -> None:
            if b"trying again" in data and not back:
                back.append(data)
                registry.start()

        monkeypatch.setattr(run, "_hear", hear)
        assert run(f"{registry.host}/back:1").digest == digest
        assert back


def test_a_cancel_ends_the_wait_for_a_registry(tmp_path: Path) -> None:
    # A listener that never answers: what a firewall that drops packets looks like.
    with socket.create_server(("127.0.0.1", 0)) as silent:
        run = Run(tmp_path)
        threading.Timer(0.3, run.cancel.request).start()
        with promptly(), pytest.raises(ImageError, match="canceled while pulling") as ended:
            run(f"localhost:{silent.getsockname()[1]}/x:1")
        assert ended.value.code == "CANCELED"


def test_a_registry_that_stays_silent_is_not_asked_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(long_calls, "_STALLED_AFTER_S", 0.5)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        run = Run(tmp_path)
        with pytest.raises(ImageError, match="nothing was heard") as ended:
            run(f"localhost:{silent.getsockname()[1]}/x:1")
    assert ended.value.code == "IMAGE_REGISTRY_DOWN"
    assert b"trying again" not in run.said


def test_no_credentials_and_wrong_ones_are_told_apart(
    tmp_path: Path, guarded: Any, publish: Callable[..., str]
) -> None:
    publish(guarded, "secret:1")
    name = f"{guarded.host}/secret:1"
    with pytest.raises(ImageError, match="no credentials were used") as refused:
        Run(tmp_path)(name)
    assert refused.value.code == "IMAGE_DENIED"
    assert f"docker login {guarded.host}" in (refused.value.hint or "")
    wrong = base64.b64encode(b"loom:wrong").decode()
    run = Run(tmp_path).config(auths={guarded.host: {"auth": wrong}})
    with pytest.raises(ImageError, match=r"the credentials from .*config\.json were refused"):
        run(name)
    assert b"wrong" not in run.said


def test_credentials_from_the_configuration(tmp_path: Path, guarded: Any, publish: Callable[..., str]) -> None:
    digest = publish(guarded, "secret:2")
    for key in (guarded.host, f"http://{guarded.host}", f"https://{guarded.host}/v1/"):
        run = Run(tmp_path).config(auths={key: {"auth": BASIC}})
        assert run(f"{guarded.host}/secret:2", pull="always").digest == digest, key


@pytest.fixture
def helper(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Install the credential helper `test`."""

    def install(script: str) -> None:
        path = tmp_path / "bin" / "docker-credential-test"
        path.parent.mkdir(exist_ok=True)
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)
        monkeypatch.setenv("PATH", f"{path.parent}:{os.environ['PATH']}")

    return install


def test_credentials_from_a_helper(
    tmp_path: Path, guarded: Any, publish: Callable[..., str], helper: Callable[[str], None]
) -> None:
    digest = publish(guarded, "secret:3")
    answer = '{"ServerURL":"x","Username":"loom","Secret":"open-sesame"}'
    helper(f'read -r host; [ "$1 $host" = "get {guarded.host}" ] && echo \'{answer}\'')
    for config in ({"credsStore": "test"}, {"credHelpers": {guarded.host: "test"}}):
        run = Run(tmp_path).config(**config)
        assert run(f"{guarded.host}/secret:3", pull="always").digest == digest, config


def test_a_broken_helper_is_named(
    tmp_path: Path, guarded: Any, publish: Callable[..., str], helper: Callable[[str], None]
) -> None:
    publish(guarded, "secret:4")
    for script, problem in (
        ("", "docker-credential-test not installed"),
        ("echo 'the vault is sealed'; exit 1", "the vault is sealed"),
        ("echo nonsense", "config.json can't be read"),
    ):
        if script:
            helper(script)
        run = Run(tmp_path).config(credHelpers={guarded.host: "test"})
        with pytest.raises(ImageError) as refused:
            run(f"{guarded.host}/secret:4")
        assert problem in refused.value.message


def test_a_helper_that_knows_nothing_is_no_problem(
    tmp_path: Path, registry: Any, publish: Callable[..., str], helper: Callable[[str], None]
) -> None:
    digest = publish(registry, "open:1")
    helper("echo 'credentials not found in native keychain'; exit 1")
    run = Run(tmp_path).config(credsStore="test")
    assert run(f"{registry.host}/open:1").digest == digest
    assert b"without credentials" not in run.said


def test_a_damaged_configuration_is_said_and_the_pull_goes_on(
    tmp_path: Path, registry: Any, publish: Callable[..., str]
) -> None:
    digest = publish(registry, "open:2")
    run = Run(tmp_path)
    (tmp_path / "docker-config" / "config.json").write_text("{")
    assert run(f"{registry.host}/open:2").digest == digest
    assert b"config.json can't be read" in run.said


def locked(name: str, digest: str = "", image_id: str = "") -> ImageLock:
    return ImageLock().holding(name, "linux/amd64", Locked(digest=digest, image_id=image_id))


def test_a_locked_image_stays_what_it_was_when_the_tag_moves(
    tmp_path: Path, registry: Any, publish: Callable[..., str]
) -> None:
    name = f"{registry.host}/locked:1"
    first = publish(registry, "locked:1")
    second = publish(registry, "locked:1", content="two")
    assert first != second
    run = Run(tmp_path, lock=locked(name, first), frozen=True)
    image = run(name, pull="always")
    assert (image.name, image.digest) == (name, first)
    # It is there now, so no policy needs the registry again; and the moved tag changes nothing.
    assert Run(tmp_path)(name).digest == second
    again = Run(tmp_path, lock=locked(name, first))
    assert again(name, pull="never").image_id == image.image_id
    assert again.pulls == 0


def test_frozen_refuses_what_is_not_locked(tmp_path: Path, registry: Any, publish: Callable[..., str]) -> None:
    digest = publish(registry, "loose:1")
    name = f"{registry.host}/loose:1"
    for lock in (None, locked("other:1", digest)):
        with pytest.raises(ImageError, match=r"is not in \.loom/images\.lock") as refused:
            Run(tmp_path, lock=lock, frozen=True)(name)
        assert refused.value.code == "IMAGE_NOT_LOCKED"
    # A name with a digest is its own lock.
    assert Run(tmp_path, frozen=True)(f"{registry.host}/loose@{digest}").digest == digest


def test_a_locked_digest_that_the_registry_lost(tmp_path: Path, registry: Any, publish: Callable[..., str]) -> None:
    publish(registry, "lost:1")
    with pytest.raises(ImageError) as refused:
        Run(tmp_path, lock=locked(f"{registry.host}/lost:1", "sha256:" + "0" * 64))(f"{registry.host}/lost:1")
    assert refused.value.code == "IMAGE_NOT_FOUND"


def test_a_lock_by_id_accepts_only_that_image(tmp_path: Path, registry: Any, publish: Callable[..., str]) -> None:
    publish(registry, "byid:1")
    name = f"{registry.host}/byid:1"
    image = Run(tmp_path)(name)
    assert Run(tmp_path, lock=locked(name, image_id=image.image_id), frozen=True)(name).image_id == image.image_id
    with pytest.raises(ImageError, match=r"is not the image that \.loom/images\.lock names"):
        Run(tmp_path, lock=locked(name, image_id="sha256:" + "0" * 64), frozen=True)(name)


def test_a_locked_base_is_what_a_build_starts_from(
    tmp_path: Path,
    registry: Any,
    publish: Callable[..., str],
    client: docker.DockerClient,
    remove: Callable[[str], None],
) -> None:
    name = f"{registry.host}/base:1"
    first = publish(registry, "base:1")
    publish(registry, "base:1", content="two", forget=False)
    (tmp_path / "Dockerfile").write_text(f"ARG TAG=1\nFROM {registry.host}/base:$TAG\nENV X=1\n")
    for environ in ({}, {"DOCKER_BUILDKIT": "0"}):
        run = Run(tmp_path, lock=locked(name, first), frozen=True, **environ)
        # The two builders name their results alike, since the inputs are the same.
        built = run.resolve(Image(build=Build()))
        base = run(name)
        layers = client.api.inspect_image(built.image_id)["RootFS"]["Layers"]
        assert layers == client.api.inspect_image(base.image_id)["RootFS"]["Layers"]
        remove(built.name)
    with pytest.raises(ImageError, match="is not in"):
        Run(tmp_path, frozen=True).resolve(Image(build=Build()))


def test_what_is_served_now(tmp_path: Path, registry: Any, guarded: Any, publish: Callable[..., str]) -> None:
    from loom.images.reference import parse_reference

    digest = publish(registry, "served:1")
    run = Run(tmp_path).config(auths={guarded.host: {"auth": BASIC}})
    assert served(run.images.engine, parse_reference(f"{registry.host}/served:1"))[0] == digest
    secret = publish(guarded, "served:1")
    assert served(run.images.engine, parse_reference(f"{guarded.host}/served:1"))[0] == secret
    with pytest.raises(ImageError) as refused:
        served(run.images.engine, parse_reference(f"{registry.host}/served:2"))
    assert refused.value.code == "IMAGE_NOT_FOUND"
