"""Caches that machines share through a bucket: in memory, and on a real S3 server in this process; and their failures."""

import os
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from loom.errors import CacheError
from loom.plan.model import Cache as Spec
from loom.storage.bucket import Bucket
from loom.storage.cache import Cache
from loom.storage.workspace import DirectoryView
from tests.support.waiting import promptly

SPEC = Spec(paths=("deps/",), key="k", fallback_keys=("deps-",))


@pytest.fixture(params=["memory", pytest.param("s3", marks=pytest.mark.slow)])
def address(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[str]:
    if request.param == "memory":
        pytest.importorskip("fsspec", reason="the extra `s3` is not installed")
        yield f"memory://caches/{tmp_path.name}"
        return
    pytest.importorskip("s3fs", reason="the extra `s3` is not installed")
    moto_server = pytest.importorskip("moto.server", reason="moto is not installed")
    import boto3

    server = moto_server.ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    server.start()
    host, port = server.get_host_and_port()
    for name, value in {
        "AWS_ENDPOINT_URL": f"http://{host}:{port}",
        "AWS_ACCESS_KEY_ID": "testing",
        "AWS_SECRET_ACCESS_KEY": "testing",
        "AWS_DEFAULT_REGION": "us-east-1",
    }.items():
        monkeypatch.setenv(name, value)
    boto3.client("s3").create_bucket(Bucket="caches")
    yield f"s3://caches/{tmp_path.name}"  # the servers of one process have the same content
    server.stop()


class Machine:
    """A machine with a folder for caches, a checkout, and the bucket."""

    def __init__(self, base: Path, address: str, *, protected: bool = False, max_size: int = 1 << 30) -> None:
        self.now = 1_700_000_000.0
        self.workspace = base / "workspace"
        (self.workspace / "deps").mkdir(parents=True, exist_ok=True)
        self.cache = Cache(
            base / "cache",
            max_size=max_size,
            project="example.org/a",
            clock=lambda: self.now,
            protected=protected,
            bucket=Bucket(address),
        )
        self.said = ""

    def _say(self, _: str, data: bytes) -> None:
        self.said += data.decode()

    def save(self, key: str, content: str) -> str:
        (self.workspace / "deps/a").write_text(content)
        return self.cache.save(SPEC, key, DirectoryView(self.workspace), self._say).warning or ""

    def restore(self, key: str) -> tuple[str, str, str]:
        """Return the kind of hit, the content, and the warning."""
        file = self.workspace / "deps/a"
        file.unlink(missing_ok=True)
        found = self.cache.restore(SPEC, key, DirectoryView(self.workspace), self._say)
        return found.hit, file.read_text() if file.exists() else "", found.warning or ""


def test_another_machine_gets_what_one_saved(tmp_path: Path, address: str) -> None:
    one, two = Machine(tmp_path / "one", address), Machine(tmp_path / "two", address)
    assert two.restore("deps-1") == ("miss", "", "")
    assert one.save("deps-1", "first") == ""
    assert two.restore("deps-1") == ("exact", "first", "")
    assert two.restore("deps-2") == ("fallback", "first", "")
    assert Machine(tmp_path / "three", address).restore("deps-2") == ("fallback", "first", "")


def test_the_newer_entry_counts(tmp_path: Path, address: str) -> None:
    one, two = Machine(tmp_path / "one", address), Machine(tmp_path / "two", address)
    one.save("deps-1", "first")
    two.restore("deps-1")
    one.now += 10
    one.save("deps-1", "second")
    assert two.restore("deps-1") == ("exact", "second", "")
    two.now += 20
    two.save("deps-1", "third")
    assert two.restore("deps-1")[1] == "third"
    assert one.restore("deps-1")[1] == "third"


def test_a_protected_branch_reads_nothing_of_others(tmp_path: Path, address: str) -> None:
    Machine(tmp_path / "one", address).save("deps-1", "of a branch")
    assert Machine(tmp_path / "main", address, protected=True).restore("deps-1") == ("miss", "", "")


def _damage(address: str, content: bytes) -> None:
    bucket = Bucket(address)
    for blob in [name for folder in bucket.names("blobs") for name in bucket.names(folder)]:
        bucket.write(blob, content)


def test_a_damaged_archive_never_comes_into_the_folder(tmp_path: Path, address: str) -> None:
    one, two = Machine(tmp_path / "one", address), Machine(tmp_path / "two", address)
    two.now -= 10
    two.save("deps-1", "of its own")
    one.save("deps-1", "newer")
    _damage(address, b"something else")
    said = "'deps-1' in the bucket is not used: the archive is damaged"
    assert two.restore("deps-1") == ("exact", "of its own", said)
    assert Machine(tmp_path / "three", address).restore("deps-1") == ("miss", "", said)
    one.save("deps-1", "newer")  # what was cut is stored again
    assert two.restore("deps-1") == ("exact", "newer", "")


def test_an_archive_beyond_the_limit_does_not_drive_out_the_others(tmp_path: Path, address: str) -> None:
    one = Machine(tmp_path / "one", address)
    one.save("deps-1", os.urandom(30_000).hex())
    two = Machine(tmp_path / "two", address, max_size=20_000)
    two.save("deps-2", "small")
    hit, _, warning = two.restore("deps-1")
    assert (hit, "more than the limit of 20.0 kB" in warning) == ("fallback", True), warning
    assert [entry.key for entry in two.cache.entries()] == ["deps-2"]


@pytest.mark.parametrize("address", ["memory"], indirect=True)
def test_an_archive_as_large_as_the_limit_is_brought_once(
    tmp_path: Path, address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = Machine(tmp_path / "one", address)
    one.save("deps-1", "content")
    [entry] = one.cache.entries()
    brought: list[str] = []
    download = Bucket.download

    def counted(self: Bucket, name: str, target: Path) -> None:
        brought.append(name)
        download(self, name, target)

    monkeypatch.setattr(Bucket, "download", counted)
    two = Machine(tmp_path / "two", address, max_size=entry.packed_bytes)
    for _ in range(2):
        assert two.restore("deps-1") == ("exact", "content", "")
    assert len(brought) == 1, "the folder's own is as new"
    few = Machine(tmp_path / "three", address, max_size=entry.packed_bytes - 1)
    hit, _, warning = few.restore("deps-1")
    assert (hit, "more than the limit" in warning, len(brought)) == ("miss", True, 1)


@pytest.mark.parametrize("address", [pytest.param("s3", marks=pytest.mark.slow)], indirect=True)
def test_without_the_bucket_the_folder_is_there(tmp_path: Path, address: str) -> None:
    one = Machine(tmp_path / "one", "s3://no-such-bucket/x")
    warning = one.save("deps-1", "first")
    assert "the bucket s3://no-such-bucket/x can't be" in warning
    hit, content, warning = one.restore("deps-1")
    assert (hit, content) == ("exact", "first")
    assert "the bucket s3://no-such-bucket/x can't be" in warning or warning == ""


class Refusing:
    """A store that answers nothing."""

    def __getattr__(self, name: str) -> Any:
        def refuse(*_: object, **__: object) -> Any:
            raise OSError(f"no {name}\nin detail")

        return refuse


@pytest.mark.parametrize(
    ("call", "verb"),
    [
        (lambda bucket, file: bucket.read(["a"]), "read: no cat"),
        (lambda bucket, file: bucket.write("a", b"x"), "written: no pipe_file"),
        (lambda bucket, file: bucket.download("a", file), "read: no get_file"),
        (lambda bucket, file: bucket.upload(file, "a"), "written: no exists"),
        (lambda bucket, file: bucket.names("a"), "listed: no ls"),
    ],
)
def test_a_store_that_refuses_is_named_with_what_was_to_be_done(
    tmp_path: Path, call: Callable[[Bucket, Path], object], verb: str
) -> None:
    bucket = Bucket("memory://caches/")
    bucket._made = (Refusing(), "/caches")
    (tmp_path / "file").write_bytes(b"x")
    with pytest.raises(CacheError) as error:
        call(bucket, tmp_path / "file")
    assert error.value.message == f"the bucket memory://caches can't be {verb}"
    assert error.value.code == "BUCKET_UNAVAILABLE"
    assert "see `bucket` in your configuration" in (error.value.hint or "")


def test_a_store_that_was_silent_is_not_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    bucket, asked = Bucket("memory://caches/"), []
    bucket._made = (Refusing(), "/caches")

    def silent(limit_s: float, call: object) -> None:
        asked.append(limit_s)
        raise TimeoutError

    monkeypatch.setattr("loom.storage.bucket.within", silent)
    for _ in range(2):
        with pytest.raises(CacheError, match="can't be listed: it does not answer within 15 s"):
            bucket.names("a")
    assert asked == [15.0]


def test_an_object_that_can_not_be_read_is_no_missing_one() -> None:
    class Partly(Refusing):
        def cat(self, names: list[str], on_error: str) -> dict[str, bytes | Exception]:
            assert on_error == "return", "else the first that is missing ends all"
            return dict(zip(names, (b"1", FileNotFoundError("gone"), PermissionError("not yours")), strict=False))

    bucket = Bucket("memory://caches/")
    bucket._made = (Partly(), "/caches")
    assert bucket.read(["a", "b"]) == {"a": b"1"}
    with pytest.raises(CacheError, match="can't be read: not yours"):
        bucket.read(["a", "b", "c"])


@pytest.mark.parametrize(("kind", "hint"), [("s3", "s3fs"), ("gs", "fsspec's package for gs")])
def test_a_library_that_is_missing_is_named(monkeypatch: pytest.MonkeyPatch, kind: str, hint: str) -> None:
    def missing(name: str) -> Any:
        raise ImportError("no such library")

    monkeypatch.setattr("loom.storage.bucket.import_module", missing)
    with pytest.raises(CacheError) as error:
        Bucket(f"{kind}://x").names("a")
    assert hint in (error.value.hint or "")
    assert error.value.code == "BUCKET_UNAVAILABLE"


@pytest.mark.parametrize("address", ["memory"], indirect=True)
def test_objects_go_in_and_out_by_name(tmp_path: Path, address: str) -> None:
    bucket = Bucket(f"{address}/")
    assert (bucket.read([]), bucket.read(["a/none"]), bucket.names("a")) == ({}, {}, [])
    bucket.write("a/one", b"1")
    (tmp_path / "file").write_bytes(b"22")
    bucket.upload(tmp_path / "file", "a/two")
    assert sorted(bucket.names("a")) == ["a/one", "a/two"]
    assert bucket.read(["a/one", "a/two", "a/none"]) == {"a/one": b"1", "a/two": b"22"}
    bucket.download("a/two", tmp_path / "back")
    assert (tmp_path / "back").read_bytes() == b"22"
    (tmp_path / "file").write_bytes(b"33")
    bucket.upload(tmp_path / "file", "a/two")
    assert bucket.read(["a/two"]) == {"a/two": b"22"}, "an object of this size is there"
    (tmp_path / "file").write_bytes(b"333")
    bucket.upload(tmp_path / "file", "a/two")
    assert bucket.read(["a/two"]) == {"a/two": b"333"}
    with pytest.raises(CacheError):
        bucket.download("a/none", tmp_path / "back")


@pytest.mark.parametrize("address", ["memory"], indirect=True)
def test_what_is_unchanged_is_shared_too_and_what_can_not_be_saved_is_not(tmp_path: Path, address: str) -> None:
    alone = Machine(tmp_path / "one", address)
    bucket, alone.cache.bucket = alone.cache.bucket, None
    alone.save("deps-1", "first")
    assert Machine(tmp_path / "two", address).restore("deps-1")[0] == "miss"
    alone.cache.bucket = bucket
    alone.save("deps-1", "first")
    assert Machine(tmp_path / "two", address).restore("deps-1") == ("exact", "first", "")


@pytest.mark.parametrize("address", ["memory"], indirect=True)
def test_a_bucket_that_can_not_be_reached_is_a_warning(tmp_path: Path, address: str) -> None:
    one = Machine(tmp_path / "one", address)
    assert one.cache.bucket is not None
    one.cache.bucket._made = (Refusing(), "/caches")
    assert one.save("deps-1", "first") == f"the bucket {address} can't be written: no exists"
    assert one.restore("deps-1") == ("exact", "first", f"the bucket {address} can't be read: no cat")


@pytest.mark.slow
def test_a_store_that_accepts_and_never_answers_is_given_up_once(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("s3fs", reason="the extra `s3` is not installed")
    monkeypatch.setattr("loom.storage.bucket.ANSWERS_S", 0.5)
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "x")
    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{silent.getsockname()[1]}")
        bucket = Bucket("s3://caches")
        for call in (lambda: bucket.read(["a"]), lambda: bucket.names("a"), lambda: bucket.write("a", b"")):
            with promptly(), pytest.raises(CacheError, match="it does not answer within"):
                call()


@pytest.mark.parametrize("address", ["memory"], indirect=True)
def test_the_newest_entry_that_a_fallback_key_means_is_brought(tmp_path: Path, address: str) -> None:
    one = Machine(tmp_path / "one", address)
    for key, content in (("deps-1", "first"), ("deps-3", "third"), ("deps-2", "second"), ("other", "other")):
        one.now += 10
        one.save(key, content)
    assert Machine(tmp_path / "two", address).restore("deps-9") == ("fallback", "second", "")
