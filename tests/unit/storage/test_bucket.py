"""Caches that machines share through a bucket: a real S3 server in this process, and its failures."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from loom.plan.model import Cache as Spec
from loom.storage.bucket import Bucket
from loom.storage.cache import Cache
from loom.storage.workspace import DirectoryView

pytestmark = pytest.mark.slow

SPEC = Spec(paths=("deps/",), key="k", fallback_keys=("deps-",))


@pytest.fixture
def address(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[str]:
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
    assert two.cache.verify() == []
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


def test_without_the_bucket_the_folder_is_there(tmp_path: Path, address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    one = Machine(tmp_path / "one", "s3://no-such-bucket/x")
    warning = one.save("deps-1", "first")
    assert "the bucket s3://no-such-bucket/x can't be" in warning
    hit, content, warning = one.restore("deps-1")
    assert (hit, content) == ("exact", "first")
    assert "the bucket s3://no-such-bucket/x can't be" in warning or warning == ""
