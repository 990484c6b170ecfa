"""The services that actions talk to, asked as the toolkit and Azure's blob client ask."""

import base64
import gzip
import hashlib
import http.client
import io
import json
import re
import socket
import threading
import time
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import zstandard

from loom.action_services import artifacts as artifact_service
from loom.action_services import requests, uploads
from loom.action_services import server as results_server
from loom.action_services.requests import Client, ServiceStore
from loom.action_services.server import ResultsServer
from loom.storage.cache import Cache
from loom.util.masking import Masker
from tests.support.waiting import until

CACHES, ARTIFACTS = "CacheService", "ArtifactService"


class Job:
    """A job with its token."""

    def __init__(self, results: ResultsServer, record: Path, job_id: str, **more: Any) -> None:
        self.facts: list[tuple[str, Mapping[str, Any]]] = []
        self.code: str | None = None
        self.why = ""
        """The reason of the last answer that was a refusal."""
        folder = record / job_id / "artifacts"
        tell = lambda name, data: self.facts.append((name, data))  # noqa: E731
        self.url = results.listen("127.0.0.1/8")
        given = {"job_id": job_id, "pipeline": "ci", "folder": folder, "tell": tell, "url": self.url}
        self.client = Client(**given | more)
        self.token = results.admit(self.client)

    def asked(self, method: str, address: str, body: bytes | None = None, **headers: str) -> tuple[int, bytes]:
        parts = urlsplit(address)
        assert parts.hostname
        connection = http.client.HTTPConnection(parts.hostname, parts.port, timeout=60)
        try:
            connection.request(method, f"{parts.path}?{parts.query}", body, headers)
            answer = connection.getresponse()
            self.code = answer.getheader("x-ms-error-code")
            return answer.status, answer.read()
        finally:
            connection.close()

    def raw(self, request: bytes) -> bytes:
        """Send bytes as they are, and no more; return all that comes back."""
        url = urlsplit(self.url)
        with socket.create_connection((url.hostname or "", url.port or 0), timeout=60) as connection:
            connection.sendall(request)
            connection.shutdown(socket.SHUT_WR)
            return b"".join(iter(lambda: connection.recv(1 << 16), b""))

    def call(self, service: str, method: str, *, token: str = "", **request: Any) -> Any:
        status, body = self.asked(
            "POST",
            f"{self.url}/twirp/github.actions.results.api.v1.{service}/{method}",
            json.dumps(request).encode(),
            Authorization=f"Bearer {token or self.token}",
        )
        answer = json.loads(body)
        self.why = answer.get("msg" if status != 200 else "message", "")
        return answer if status == 200 else (status, answer["code"])

    def save(self, key: str, content: bytes, version: str = "v") -> Any:
        begun = self.call(CACHES, "CreateCacheEntry", key=key, version=version)
        if not isinstance(begun, dict) or not begun["ok"]:
            return begun
        assert self.asked("PUT", begun["signed_upload_url"], content)[0] == 201
        size = str(len(content))
        return self.call(CACHES, "FinalizeCacheEntryUpload", key=key, version=version, size_bytes=size)

    def restore(self, key: str, *restore_keys: str, version: str = "v") -> tuple[str, bytes] | None:
        asked = {"key": key, "restore_keys": list(restore_keys), "version": version}
        found = self.call(CACHES, "GetCacheEntryDownloadURL", **asked)
        return (found["matched_key"], self.asked("GET", found["signed_download_url"])[1]) if found["ok"] else None

    def upload(self, name: str, content: bytes) -> Any:
        begun = self.call(ARTIFACTS, "CreateArtifact", name=name, version=4)
        if not isinstance(begun, dict):
            return begun
        assert self.asked("PUT", begun["signed_upload_url"], content)[0] == 201
        return self.call(ARTIFACTS, "FinalizeArtifact", name=name, size=str(len(content)), hash="sha256:0")

    def names(self, **filters: str) -> list[str]:
        return [one["name"] for one in self.call(ARTIFACTS, "ListArtifacts", **filters)["artifacts"]]

    def download(self, name: str) -> bytes:
        return self.asked("GET", self.call(ARTIFACTS, "GetSignedArtifactURL", name=name)["signed_url"])[1]


def zipped(**files: str) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(zipfile.ZipInfo(name), content, zipfile.ZIP_DEFLATED)  # of 1980, whenever it is made
    return file.getvalue()


@pytest.fixture
def masker() -> Masker:
    return Masker()


@pytest.fixture
def record(tmp_path: Path) -> Path:
    return tmp_path / "record"


@pytest.fixture
def results(tmp_path: Path, record: Path, masker: Masker) -> Iterator[ResultsServer]:
    server = ResultsServer(
        ServiceStore(
            cache=Cache(tmp_path / "cache", max_size=500 << 10, project="p", clock=time.time),
            jobs_of=lambda pipeline: ("a", "b") if pipeline == "ci" else ("other",),
            folder_of=lambda job_id: record / job_id / "artifacts",
            record=record,
            most_bytes=1 << 20,
            masker=masker,
        )
    )
    yield server
    server.close()


@pytest.fixture
def job(results: ResultsServer, record: Path) -> Job:
    return Job(results, record, "a")


def test_a_cache_is_found_by_key_prefix_and_version(job: Job) -> None:
    assert job.restore("deps-1") is None
    assert job.save("deps-1", b"one")["ok"]
    assert job.save("deps-2", b"two")["ok"]
    assert job.restore("deps-1") == ("deps-1", b"one")
    assert job.restore("deps-") == ("deps-2", b"two"), "the newest that the key itself begins"
    assert job.restore("other", "none", "deps-1") == ("deps-1", b"one")
    assert job.restore("deps-1", version="w") is None
    saved = [data["key"] for name, data in job.facts if name == "cache" and data["action"] == "save"]
    assert saved == ["deps-1", "deps-2"]
    hits = [data["hit"] for name, data in job.facts if name == "cache" and data["action"] == "restore"]
    assert hits == ["miss", "exact", "fallback", "fallback", "miss"]


def test_a_cache_does_not_change(job: Job) -> None:
    assert job.save("k", b"one")["ok"]
    assert not job.save("k", b"two")["ok"]
    assert job.restore("k") == ("k", b"one")


def test_one_job_at_a_time_reserves_a_key(results: ResultsServer, record: Path, job: Job, tmp_path: Path) -> None:
    other = Job(results, record, "b")
    assert job.call(CACHES, "CreateCacheEntry", key="k", version="v")["ok"]
    assert not other.save("k", b"two")["ok"]
    assert other.call(CACHES, "FinalizeCacheEntryUpload", key="k", version="v", size_bytes="0") == (404, "not_found")
    results.dismiss(job.token)
    assert list((tmp_path / "record" / "uploads").iterdir()) == [], "a job that ended leaves and reserves nothing"
    assert other.save("k", b"two")["ok"]


def test_a_strangers_pull_request_only_reads(results: ResultsServer, record: Path, job: Job) -> None:
    assert job.save("k", b"one")["ok"]
    stranger = Job(results, record, "b", read_only=True)
    assert stranger.restore("k") == ("k", b"one")
    refused = stranger.save("l", b"two")
    assert not refused["ok"]
    assert "only reads" in refused["message"]


def test_blocks_are_joined_in_the_order_of_their_list(job: Job, tmp_path: Path) -> None:
    begun = job.call(CACHES, "CreateCacheEntry", key="k", version="v")
    address = begun["signed_upload_url"]
    names = [base64.b64encode(f"block+{number}/{number}".encode()).decode() for number in range(4)]
    quoted = [name.replace("+", "%2B").replace("/", "%2F").replace("=", "%3D") for name in names]
    for number in (2, 0, 3, 1, 1):
        content = f"<{number}>".encode()
        assert job.asked("PUT", f"{address}&comp=block&blockid={quoted[number]}", content)[0] == 201
    listed = "".join(f"<Latest>{name}</Latest>" for name in names[:3])
    body = f'<?xml version="1.0"?><BlockList>{listed}</BlockList>'.encode()
    assert job.asked("PUT", f"{address}&comp=blocklist", body)[0] == 201
    assert job.call(CACHES, "FinalizeCacheEntryUpload", key="k", version="v", size_bytes="9")["ok"]
    assert job.restore("k") == ("k", b"<0><1><2>")
    assert list((tmp_path / "record" / "uploads").iterdir()) == []


def test_a_list_with_an_unknown_block_is_refused(job: Job) -> None:
    address = job.call(CACHES, "CreateCacheEntry", key="k", version="v")["signed_upload_url"]
    said = (400, b"1 blocks of the list were not uploaded")
    for unknown in (b"no", b"\xff"):
        assert job.asked("PUT", f"{address}&comp=blocklist", b"<Latest>%s</Latest>" % unknown) == said


@pytest.mark.parametrize(
    ("asked", "status", "content"),
    [
        ("bytes=0-3", 206, b"0123"),
        ("bytes=8-", 206, b"89"),
        ("bytes=-3", 206, b"789"),
        ("bytes=5-99", 206, b"56789"),
        ("bytes=10-12", 416, None),
        ("bytes=a-b", 416, None),
        ("bytes=0-1,3-4", 416, None),
    ],
)
def test_ranges(job: Job, asked: str, status: int, content: bytes | None) -> None:
    job.save("k", b"0123456789")
    address = job.call(CACHES, "GetCacheEntryDownloadURL", key="k", version="v")["signed_download_url"]
    found = job.asked("GET", address, Range=asked)
    out = "out_of_range" if asked == "bytes=10-12" else "invalid_argument"
    assert (found[0], job.code) == (status, out if status == 416 else None)
    assert content in (None, found[1])
    assert job.asked("HEAD", address) == (200, b"")
    head, _, body = job.raw(
        f"GET /{address.split('/', 3)[3]} HTTP/1.1\r\nRange: {asked}\r\nConnection: close\r\n\r\n".encode()
    ).partition(b"\r\n\r\n")
    assert int(head.split()[1]) == status
    assert content in (None, body), "not a byte more"


def test_the_heads_of_answers(job: Job) -> None:
    job.save("k", b"0123456789")
    parts = urlsplit(job.call(CACHES, "GetCacheEntryDownloadURL", key="k", version="v")["signed_download_url"])
    upload = urlsplit(job.call(CACHES, "CreateCacheEntry", key="l", version="v")["signed_upload_url"])
    connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=60)

    def head(method: str, path: str, body: bytes | None = None, **headers: str) -> dict[str, str]:
        connection.request(method, path, body, {name.replace("_", "-"): value for name, value in headers.items()})
        answer = connection.getresponse()
        answer.read()
        return {name.lower(): value for name, value in answer.getheaders()} | {"": f"{answer.status} {answer.reason}"}

    whole = head("HEAD", f"{parts.path}?{parts.query}")
    part = head(
        "GET", f"{parts.path}?{parts.query}", x_ms_range="bytes=2-4", Range="bytes=0-9", x_ms_version="2030-01-01"
    )
    put = head("PUT", f"{upload.path}?{upload.query}", b"x")
    refused = head("PUT", f"{upload.path}?{upload.query}&comp=page", b"x")
    connection.close()
    assert len({found.pop("x-ms-request-id") for found in (whole, part, put, refused)}) == 4
    every = {
        "server": "loom ",  # the empty version of Python after it
        "date": whole["date"],
        "last-modified": "Thu, 01 Jan 1970 00:00:00 GMT",
        "x-ms-version": "2021-12-02",
        "etag": '"0"',
    }
    download = {"accept-ranges": "bytes", "content-type": "application/zip"}
    assert whole == every | download | {"": "200 OK", "content-length": "10"}
    del part["date"], put["date"], refused["date"], every["date"]
    assert part == every | download | {
        "": "206 Partial Content",
        "content-length": "3",
        "content-range": "bytes 2-4/10",
        "x-ms-version": "2030-01-01",
    }
    assert put == every | {"": "201 Created", "content-length": "0", "x-ms-request-server-encrypted": "false"}
    del every["etag"]
    assert refused == every | {
        "": "400 Bad Request",
        "content-length": str(len("loom does not know comp=page")),
        "content-type": "text/plain; charset=utf-8",
        "connection": "close",
        "x-ms-error-code": "invalid_argument",
    }


def test_refusals_have_a_reason(results: ResultsServer, record: Path, job: Job, masker: Masker) -> None:
    masker.add("TOKEN", "s3cret-value")
    other = Job(results, record, "b")

    def refused(code: str, why: str, *call: str, by: Job = job, **request: Any) -> None:
        assert by.call(*call, **request) == ({"not_found": 404, "already_exists": 409}.get(code, 400), code)
        assert by.why == why

    refused("invalid_argument", "'a/b' can't be the name of an artifact", ARTIFACTS, "CreateArtifact", name="a/b")
    refused("invalid_argument", "name: expected a text of at most 1024 characters", ARTIFACTS, "CreateArtifact")
    refused("not_found", "no upload of the artifact 'a' was begun", ARTIFACTS, "FinalizeArtifact", name="a")
    refused("not_found", "there is no artifact 'a'", ARTIFACTS, "GetSignedArtifactURL", name="a")
    refused("not_found", "there is no artifact 'a'", ARTIFACTS, "DeleteArtifact", name="a")
    least = {"key": "k", "version": "v"}
    limits = "a key has 1 to 512 characters, without commas"
    refused("invalid_argument", limits, CACHES, "CreateCacheEntry", **least | {"key": "a,b"})
    refused("not_found", "no upload of the cache 'k' was begun", CACHES, "FinalizeCacheEntryUpload", **least)
    few = "restore_keys: expected at most 100 texts"
    refused("invalid_argument", few, CACHES, "GetCacheEntryDownloadURL", **least, restore_keys="a")
    assert job.call(ARTIFACTS, "CreateArtifact", name="a")["ok"]
    taken = "an artifact with this name already exists on the workflow run"
    for one in (job, other):
        refused("already_exists", taken, ARTIFACTS, "CreateArtifact", by=one, name="a")
    nothing = "the upload has 0 bytes instead of 5"
    refused("invalid_argument", nothing, ARTIFACTS, "FinalizeArtifact", name="a", size="5")
    assert job.upload("a", zipped(x="so s3cret-value it is")) == (400, "invalid_argument")
    assert job.why == "x holds the secret TOKEN"
    assert job.upload("a", zipped(**{"in/s3cret-value": "1"})) == (400, "invalid_argument")
    assert job.why == f"{masker.mask('in/s3cret-value')}: a secret is in its name"
    assert job.upload("a", b"no zip") == (400, "invalid_argument")
    assert job.why.startswith("the archive can't be kept: ")
    assert not job.save("k", b"s3cret-value")["ok"]
    assert job.why == "the cache 'k' is not saved: it holds the secret TOKEN"
    said = {
        "action": "save",
        "name": None,
        "key": "k",
        "saved": False,
        "warning": "not saved: it holds the secret TOKEN",
    }
    assert job.facts == [("cache", said)]
    assert job.save("k", b"\x1f\x8bxx") == (400, "invalid_argument")
    assert job.why.startswith("the archive is damaged: ")
    assert job.save("k", b"fine")["ok"]
    assert not job.save("k", b"again")["ok"]
    assert job.why == "there is a cache 'k' already"


def test_what_has_a_number_keeps_it(job: Job) -> None:
    numbers = [job.upload(name, zipped(x="1"))["artifact_id"] for name in ("one", "two")]
    assert [one["database_id"] for one in job.call(ARTIFACTS, "ListArtifacts")["artifacts"]] == numbers
    assert job.call(ARTIFACTS, "DeleteArtifact", name="one") == {"ok": True, "artifact_id": numbers[0]}
    caches = [job.save(key, b"x")["entry_id"] for key in ("one", "two")]
    assert len({*numbers, *caches}) == 4


def test_a_job_has_few_open_uploads_at_a_time(
    results: ResultsServer, record: Path, job: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(requests, "_MOST_UPLOADS", 3)
    for number in range(3):
        assert job.call(CACHES, "CreateCacheEntry", key=f"k{number}", version="v")["ok"]
    assert job.call(ARTIFACTS, "CreateArtifact", name="one") == (429, "resource_exhausted")
    assert Job(results, record, "b").upload("one", zipped(x="1"))["ok"], "it is the limit of a job"


def test_texts_have_limits(job: Job) -> None:
    least = {"key": 7, "version": "v"}
    assert job.call(CACHES, "GetCacheEntryDownloadURL", key="k", version="v" * 1024)["ok"] is False
    assert job.call(CACHES, "GetCacheEntryDownloadURL", key="k", version="v" * 1025) == (400, "invalid_argument")
    assert job.call(CACHES, "GetCacheEntryDownloadURL", **least, restore_keys=["a"] * 100)["ok"] is False
    for wrong in ({"restore_keys": ["a"] * 101}, {"restore_keys": "a"}, {"key": True}, {"version": None}):
        assert job.call(CACHES, "GetCacheEntryDownloadURL", **least | wrong) == (400, "invalid_argument")


def test_artifacts_are_those_of_the_whole_pipeline(results: ResultsServer, record: Path, job: Job) -> None:
    content = zipped(x="1")
    assert job.upload("one", content)["ok"]
    assert Job(results, record, "b").upload("two ü/".rstrip("/"), zipped(y="2"))["ok"]
    assert sorted(job.names()) == ["one", "two ü"]
    assert job.names(name_filter="one") == ["one"]
    number = job.call(ARTIFACTS, "ListArtifacts", name_filter="one")["artifacts"][0]["database_id"]
    assert job.names(id_filter=number) == ["one"]
    assert job.download("one") == content
    assert job.download("two ü") == zipped(y="2")
    other = Job(results, record, "other", pipeline="other")
    assert other.names() == []
    assert other.call(ARTIFACTS, "GetSignedArtifactURL", name="one") == (404, "not_found")
    fact = dict(job.facts)["artifact"]
    sha256 = hashlib.sha256(content).hexdigest()
    assert fact == {"name": "one", "archive": "one.zip", "files": 1, "bytes": 1, "sha256": sha256}
    listed = job.call(ARTIFACTS, "ListArtifacts", name_filter="one")["artifacts"]
    assert listed == [
        {
            "workflow_run_backend_id": "ci",
            "workflow_job_run_backend_id": "a",
            "database_id": number,
            "name": "one",
            "size": str(len(content)),
            "created_at": listed[0]["created_at"],
        }
    ]
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", listed[0]["created_at"])
    assert 0 < int(number) < 1 << 53, "JavaScript has it exactly"


def test_a_job_that_resumes_uploads_anew_what_it_had_uploaded_before(
    job: Job, results: ResultsServer, record: Path
) -> None:
    archive = record / "a/artifacts/one.zip"
    archive.parent.mkdir(parents=True)
    archive.write_bytes(zipped(x="0"))
    other = Job(results, record, "b")
    assert other.upload("one", zipped(x="1")) == (409, "already_exists"), "it is another job's"
    assert job.upload("one", zipped(x="1"))["ok"]
    assert job.download("one") == zipped(x="1")
    assert job.upload("one", zipped(x="2")) == (409, "already_exists")


def test_a_name_is_free_again_once_its_artifact_is_deleted(job: Job, record: Path) -> None:
    assert job.upload("one", zipped(x="1"))["ok"]
    assert job.upload("one", zipped(x="2")) == (409, "already_exists")
    assert job.call(ARTIFACTS, "DeleteArtifact", name="one")["ok"]
    assert job.upload("one", zipped(x="2"))["ok"]
    assert job.download("one") == zipped(x="2")
    assert [path.name for path in record.rglob("*.zip")] == ["one.zip"]


def test_an_artifact_that_is_deleted_while_they_are_listed(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    """As `actions/upload-artifact/merge` does, which deletes what it has merged, all at once."""
    for name in ("a", "b"):
        job.upload(name, zipped(file=name))
    deleting = threading.Thread(target=job.call, args=(ARTIFACTS, "DeleteArtifact"), kwargs={"name": "a"})
    number = artifact_service._number

    def delete_first(*named: str) -> int:
        if deleting.ident is None:
            deleting.start()
            deleting.join(0.3)  # it can't end before the list is made
        return number(*named)

    monkeypatch.setattr(artifact_service, "_number", delete_first)
    assert job.names() == ["a", "b"]
    deleting.join()
    assert job.names() == ["b"]


def test_an_artifact_of_an_earlier_run_stays_where_it_is(tmp_path: Path, record: Path, masker: Masker) -> None:
    earlier = tmp_path / "earlier"
    earlier.mkdir()
    (earlier / "one.zip").write_bytes(zipped(x="1"))
    server = ResultsServer(
        ServiceStore(
            cache=None,
            jobs_of=lambda _: ("done", "a"),
            folder_of=lambda job_id: earlier if job_id == "done" else record / job_id,
            record=record,
            most_bytes=1 << 20,
            masker=masker,
        )
    )
    try:
        job = Job(server, record, "a", folder=record / "a")
        assert job.names() == ["one"]
        assert job.call(ARTIFACTS, "DeleteArtifact", name="one")["ok"]
        assert job.names() == []
        assert job.upload("one", zipped(x="2"))["ok"]
        assert job.download("one") == zipped(x="2")
        assert (earlier / "one.zip").read_bytes() == zipped(x="1")
        assert job.restore("k") is None
        assert not job.save("k", b"1")["ok"], "this run uses no cache"
    finally:
        server.close()


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "..\\x", 'a"b', "a\0b", "x" * 300, "\ud800"])
def test_names_that_are_none(job: Job, name: str) -> None:
    assert job.call(ARTIFACTS, "CreateArtifact", name=name) == (400, "invalid_argument")


def test_nothing_with_a_secret_is_kept(job: Job, masker: Masker, record: Path, tmp_path: Path) -> None:
    masker.add("TOKEN", "s3cret-value")
    assert job.upload("one", zipped(x="so s3cret-value it is")) == (400, "invalid_argument")
    assert job.upload("two", zipped(**{"s3cret-value": "1"})) == (400, "invalid_argument")
    for number, pack in enumerate((zstandard.compress, gzip.compress, bytes)):
        saved = job.save(f"k{number}", pack(b"in it: s3cret-value\n" * 1000))
        assert not saved["ok"]
        assert "TOKEN" in saved["message"]
    assert job.save("k", zstandard.compress(b"nothing"))["ok"]
    assert list(record.rglob("*.zip")) == []
    assert b"s3cret-value" not in b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())


def test_an_artifact_that_is_no_zip_is_refused(job: Job) -> None:
    for content in (b"no zip", zipped(**{"../x": "1"}), zipped(x="1")[:-30]):
        assert job.upload("one", content) == (400, "invalid_argument")


def test_the_uploads_of_a_run_have_a_limit(job: Job, tmp_path: Path) -> None:
    address = job.call(CACHES, "CreateCacheEntry", key="k", version="v")["signed_upload_url"]
    half = bytes(600 << 10)
    assert job.asked("PUT", f"{address}&comp=block&blockid=a", half)[0] == 201
    assert job.asked("PUT", f"{address}&comp=block&blockid=b", half)[0] == 413
    assert job.asked("PUT", f"{address}&comp=block&blockid=c", bytes(400 << 10))[0] == 201
    assert (
        sum(path.stat().st_size for path in (tmp_path / "record" / "uploads").rglob("*") if path.is_file()) <= 1 << 20
    )


def test_room_is_given_back(tmp_path: Path) -> None:
    room = uploads.Room(10)
    upload = uploads.Upload(tmp_path / "u", room)
    for _ in range(3):
        upload.block("a", io.BytesIO(b"12345"), 5)
    with pytest.raises(uploads.Refused, match=r"^uploads take more than 10 B \(cache_max_size\)$"):
        upload.block("b", io.BytesIO(b"1"), 6)
    with pytest.raises(uploads.Refused, match="ended before"):
        upload.block("b", io.BytesIO(b"1"), 5)
    upload.block("b", io.BytesIO(b"12345"), 5)
    upload.joined(["b"])
    assert (upload.size, upload.file.read_bytes()) == (5, b"12345")
    upload.whole(io.BytesIO(b"123"), 3)
    room.take(7)
    upload.close()
    room.take(3)
    with pytest.raises(uploads.Refused):
        room.take(1)


def test_an_upload_has_as_many_bytes_as_it_states(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(uploads, "_CHUNK", 2)
    upload = uploads.Upload(tmp_path / "u", uploads.Room(10))
    content = io.BytesIO(b"12345more")
    upload.whole(content, 5)
    assert (upload.size, upload.file.read_bytes(), content.read()) == (5, b"12345", b"more")
    assert upload.sha256 == hashlib.sha256(b"12345").hexdigest()


def test_no_job_without_its_token_and_no_address_that_is_not_signed(results: ResultsServer, job: Job) -> None:
    assert job.call(ARTIFACTS, "ListArtifacts", token="x.y.z") == (401, "unauthenticated")
    job.save("k", b"one")
    address = job.call(CACHES, "GetCacheEntryDownloadURL", key="k", version="v")["signed_download_url"]
    assert job.asked("GET", address[:-1] + ("0" if address[-1] != "0" else "1"))[0] == 403
    assert job.asked("GET", address.replace("/cache/", "/artifact/"))[0] == 403
    upload = job.call(CACHES, "CreateCacheEntry", key="l", version="v")["signed_upload_url"]
    assert job.asked("GET", upload.replace("/upload/", "/cache/"))[0] == 403
    results.dismiss(job.token)
    assert job.call(ARTIFACTS, "ListArtifacts") == (401, "unauthenticated")
    assert job.asked("PUT", upload, b"x")[0] == 404, "the job has ended"


def test_the_toolkit_reads_its_ids_from_the_token(job: Job) -> None:
    header, claims = (json.loads(base64.urlsafe_b64decode(part + "==")) for part in job.token.split(".")[:2])
    assert header == {"alg": "HS256", "typ": "JWT"}
    assert claims["scp"] == "Actions.Results:ci:a"


def test_only_the_network_of_the_containers_connects(results: ResultsServer, job: Job) -> None:
    url = urlsplit(results.listen("127.0.0.2/32"))
    with socket.create_connection((url.hostname or "", url.port or 0), timeout=60) as connection:
        connection.sendall(b"GET / HTTP/1.1\r\n\r\n")
        assert connection.recv(10) == b""


CODES = {
    401: "unauthenticated",
    403: "permission_denied",
    404: "bad_route",
    411: "malformed",
    413: "resource_exhausted",
}
_CALL = b"POST /twirp/github.actions.results.api.v1.CacheService/CreateCacheEntry HTTP/1.1\r\n"


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (b"nonsense\r\n\r\n", 400),
        (b"POST /twirp/x HTTP/1.1\r\nContent-Length: 0\r\n\r\n", 404),
        (b"POST /other/x/y HTTP/1.1\r\nContent-Length: 0\r\n\r\n", 404),
        (b"POST /twirp/x/y HTTP/1.1\r\nContent-Length: 0\r\n\r\n", 401),
        (_CALL + b"\r\n", 411),
        (_CALL + b"Transfer-Encoding: chunked\r\n\r\n", 411),
        (_CALL + b"Content-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n{}", 411),
        (_CALL + b"Content-Length: -1\r\n\r\n", 411),
        (_CALL + b"Content-Length: 1_0\r\n\r\n", 411),
        (_CALL + b"Content-Length: 1048576\r\n\r\n{}", 400),
        (_CALL + b"Content-Length: 1048577\r\n\r\n{}", 413),
        (_CALL + b"Content-Length: 999999999999999999\r\n\r\n", 413),
        (_CALL + b"Content-Length: 9999999999999999999\r\n\r\n", 411),
        (b"PUT /loom/upload/x?sig=%ff HTTP/1.1\r\nContent-Length: 3\r\n\r\nabc", 403),
        (b"PUT /loom/upload/x HTTP/1.1\r\nContent-Length: 3\r\n\r\nabc", 403),
        (b"PUT /loom/cache/x HTTP/1.1\r\nContent-Length: 3\r\n\r\nabc", 404),
        (b"GET /loom/cache/../../etc/passwd HTTP/1.1\r\n\r\n", 403),
        (b"GET / HTTP/1.1\r\n\r\n", 404),
        (b"DELETE / HTTP/1.1\r\n\r\n", 501),
    ],
)
def test_other_requests_get_an_answer_and_no_more(job: Job, request_: bytes, status: int) -> None:
    answer = job.raw(request_)
    assert f" {status} ".encode() in answer.partition(b"\n")[0] or f"Error code: {status}".encode() in answer
    code = CODES.get(status) or ("malformed" if request_.startswith(_CALL) else "")
    assert code.encode() in (re.search(rb"x-ms-error-code: (\w+)", answer) or [b"", b""])[1]
    assert job.save("k", b"one")["ok"], "it goes on"


def test_a_list_of_blocks_has_a_limit_of_its_own(job: Job) -> None:
    address = job.call(CACHES, "CreateCacheEntry", key="k", version="v")["signed_upload_url"]
    assert job.asked("PUT", f"{address}&comp=block&blockid=YQ%3D%3D", b"a")[0] == 201
    most = uploads.MOST_BLOCKS * 150
    for size, status in ((most, b"400"), (most + 1, b"413")):
        answer = job.raw(f"PUT {address}&comp=blocklist HTTP/1.1\r\nContent-Length: {size}\r\n\r\n".encode())
        assert answer.split()[1] == status
    listed = b"<Latest>YQ==</Latest>" * 50_000
    assert len(listed) > 1 << 20, "more than a call may have"
    assert job.asked("PUT", f"{address}&comp=blocklist", listed)[0] == 201
    assert job.call(CACHES, "FinalizeCacheEntryUpload", key="k", version="v", size_bytes="1")["ok"]


def test_an_upload_has_a_limit_of_blocks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(uploads, "MOST_BLOCKS", 2)
    room = uploads.Room(30)
    upload = uploads.Upload(tmp_path / "u", room)
    for name in "aba":
        upload.block(name, io.BytesIO(b"12345"), 5)
    with pytest.raises(uploads.Refused, match="at most 2 blocks") as caught:
        upload.block("c", io.BytesIO(b"12345"), 5)
    assert (caught.value.status, caught.value.code) == (409, "resource_exhausted")
    assert len(list((tmp_path / "u").iterdir())) == 2
    upload.joined(["a", "b"])
    assert [(file.name, file.read_bytes()) for file in (tmp_path / "u").iterdir()] == [("content", b"12345" * 2)]
    room.take(20)
    with pytest.raises(uploads.Refused):
        room.take(1)


def test_what_is_gone_or_unknown_is_not_found(results: ResultsServer, record: Path, job: Job, tmp_path: Path) -> None:
    assert job.call(CACHES, "Nothing") == (404, "bad_route")
    assert job.call(ARTIFACTS, "CreateCacheEntry", key="k", version="v") == (404, "bad_route")
    assert job.call(ARTIFACTS, "FinalizeArtifact", name="one", size="0") == (404, "not_found")
    assert job.call(ARTIFACTS, "CreateArtifact", name="one")["ok"]
    other = Job(results, record, "b")
    assert other.call(ARTIFACTS, "FinalizeArtifact", name="one", size="0") == (404, "not_found")
    with pytest.raises(uploads.Refused, match="no such upload") as caught:
        results.uploads.find("none")
    assert (caught.value.status, caught.value.code) == (404, "not_found")
    assert job.save("k", b"one")["ok"]
    address = job.call(CACHES, "GetCacheEntryDownloadURL", key="k", version="v")["signed_download_url"]
    for blob in (tmp_path / "cache/blobs").rglob("*.zst"):
        blob.unlink()
    assert (job.asked("GET", address), job.code) == ((404, b"it is gone"), "not_found")
    assert job.restore("k") is None
    assert job.facts[-1][1]["warning"] == "the cache entry 'k' was removed: the archive is missing"
    assert job.save("k", b"two")["ok"], "the key is free again"


def test_a_failure_of_this_machine_is_told_and_no_run_ends_by_it(
    job: Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    address = job.call(CACHES, "CreateCacheEntry", key="k", version="v")["signed_upload_url"]
    for folder in (tmp_path / "record" / "uploads").iterdir():
        folder.rmdir()
    assert job.asked("PUT", address, b"abc") == (507, b"loom can't do it: No such file or directory")
    assert job.code == "resource_exhausted"

    def wrong(*_: object) -> bool:
        raise KeyError("x")

    monkeypatch.setattr(Cache, "has", wrong)
    assert job.call(CACHES, "CreateCacheEntry", key="l", version="v") == (400, "internal")


def test_a_cache_that_is_too_large_is_not_saved(job: Job) -> None:
    answer = job.save("k", bytes(501 << 10))
    assert not answer["ok"]
    assert answer["message"].startswith("the cache 'k' takes ")
    assert job.restore("k") is None


@pytest.mark.parametrize(("key", "taken"), [("k" * 512, True), ("k" * 513, False), ("", False), ("a,b", False)])
def test_keys_have_limits(job: Job, key: str, taken: bool) -> None:
    answer = job.call(CACHES, "CreateCacheEntry", key=key, version="v")
    assert answer["ok"] if taken else answer == (400, "invalid_argument")


@pytest.mark.parametrize(
    "content",
    [b"\x28\xb5\x2f\xfd" + b"\xff" * 20, b"\x1f\x8bxx", gzip.compress(b"a" * 99, mtime=0)[:-9]],
    ids=["zstd", "gzip", "cut off"],
)
def test_a_damaged_archive_is_refused_where_secrets_are_looked_for(job: Job, masker: Masker, content: bytes) -> None:
    assert job.save("k", content)["ok"]
    masker.add("TOKEN", "s3cret-value")
    assert job.save("l", content) == (400, "invalid_argument")


def test_connections_have_a_limit(results: ResultsServer, job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(results_server, "_MOST_CONNECTIONS", 1)
    url = urlsplit(results.listen("127.0.0.3/8"))
    address = (url.hostname or "", url.port or 0)
    request = b"GET / HTTP/1.1\r\n\r\n"
    with socket.create_connection(address, timeout=60) as first:
        first.sendall(request[:-2])
        with socket.create_connection(address, timeout=60) as second, suppress(ConnectionResetError):
            assert second.recv(1) == b""
        first.sendall(request[-2:])
        assert first.recv(8) == b"HTTP/1.1"

    def answered() -> bool:
        with socket.create_connection(address, timeout=60) as third, suppress(ConnectionResetError, BrokenPipeError):
            third.sendall(request)
            return third.recv(8) == b"HTTP/1.1"
        return False

    until(answered)


def test_it_listens_for_a_network_of_ipv6_too(results: ResultsServer) -> None:
    try:
        url = results.listen("::1/128")
    except OSError:
        pytest.skip("this machine has no IPv6")
    assert url.startswith("http://[::1]:")
    with socket.create_connection(("::1", urlsplit(url).port or 0), timeout=60) as connection:
        connection.sendall(b"GET / HTTP/1.1\r\n\r\n")
        assert connection.recv(12) == b"HTTP/1.1 404"


@pytest.mark.parametrize(
    "body", [b"", b"[]", b"[" * 100_000, b"\xff", b'{"key": 1.5}', b'{"key": "a,b", "version": "v"}']
)
def test_calls_with_other_content(job: Job, body: bytes) -> None:
    address = f"{job.url}/twirp/github.actions.results.api.v1.CacheService/CreateCacheEntry"
    status, answer = job.asked("POST", address, body, Authorization=f"Bearer {job.token}")
    assert (status, json.loads(answer)["code"]) == (400, "invalid_argument" if b"{" in body else "malformed")


def test_the_end_of_a_run_does_not_wait_for_a_request(results: ResultsServer, job: Job) -> None:
    address = urlsplit(job.call(CACHES, "CreateCacheEntry", key="k", version="v")["signed_upload_url"])
    with socket.create_connection((address.hostname or "", address.port or 0), timeout=60) as connection:
        connection.sendall(f"PUT {address.path}?{address.query} HTTP/1.1\r\nContent-Length: 99\r\n\r\nabc".encode())
        closing = threading.Thread(target=results.close)
        closing.start()
        closing.join(30)
        assert not closing.is_alive()
        with suppress(ConnectionResetError):
            assert connection.recv(1) == b""


@pytest.mark.parametrize(("uploaded", "size"), [(b"abc", "4"), (b"abc", "0"), (None, "0")])
def test_an_upload_that_is_not_whole_is_not_kept(job: Job, record: Path, uploaded: bytes | None, size: str) -> None:
    begun = job.call(CACHES, "CreateCacheEntry", key="k", version="v")
    named = job.call(ARTIFACTS, "CreateArtifact", name="one")
    for answer in (begun, named):
        if uploaded is not None:
            assert job.asked("PUT", answer["signed_upload_url"], uploaded)[0] == 201
    finished = job.call(CACHES, "FinalizeCacheEntryUpload", key="k", version="v", size_bytes=size)
    assert finished == (400, "invalid_argument")
    assert job.call(ARTIFACTS, "FinalizeArtifact", name="one", size=size) == (400, "invalid_argument")
    assert job.restore("k") is None
    assert list(record.rglob("*.zip")) == []
    assert job.save("k", b"whole")["ok"], "the key is free again"


def test_an_empty_upload_needs_no_size_and_a_number_is_one(job: Job) -> None:
    for key, content, more in (("k", b"", {}), ("l", b"abc", {"size_bytes": 3})):
        begun = job.call(CACHES, "CreateCacheEntry", key=key, version="v")
        assert job.asked("PUT", begun["signed_upload_url"], content)[0] == 201
        assert job.call(CACHES, "FinalizeCacheEntryUpload", key=key, version="v", **more)["ok"]
        assert job.restore(key) == (key, content)


def test_a_call_has_a_limit(job: Job) -> None:
    address = f"{job.url}/twirp/github.actions.results.api.v1.CacheService/CreateCacheEntry"
    assert job.asked("POST", address, bytes(2 << 20), Authorization=f"Bearer {job.token}")[0] == 413
