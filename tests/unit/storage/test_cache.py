import hashlib
import io
import json
import multiprocessing
import os
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from loom.errors import CacheError
from loom.plan.model import Cache as Spec
from loom.plan.model import CacheKeyFiles
from loom.status import Stream
from loom.storage import cache as caches
from loom.storage.cache import Cache, Stored
from loom.storage.cache_keys import key_of, project_of
from loom.storage.workspace import DirectoryView, Skipped
from loom.util.masking import Masker

from ..views import tree
from .conftest import ViewOf

SPEC = Spec(paths=("deps/", "more/*.idx"), key="k")


class Clock:
    def __init__(self) -> None:
        self.now = 1_700_000_000.0

    def __call__(self) -> float:
        self.now += 1
        return self.now


class Said:
    def __init__(self) -> None:
        self.text = ""

    def __call__(self, stream: Stream, data: bytes) -> None:
        self.text += data.decode()


@pytest.fixture
def said() -> Said:
    return Said()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def store(tmp_path: Path, clock: Clock) -> Cache:
    return Cache(tmp_path / "store", max_size=1 << 30, project="example.org/a", clock=clock)


@pytest.fixture
def workspace(tmp_path: Path) -> Path:
    root = tmp_path / "workspace"
    (root / "deps/pkg").mkdir(parents=True)
    (root / "deps/pkg/mod.py").write_text("mod")
    (root / "deps/pkg/tool").write_bytes(os.urandom(100_000))
    (root / "deps/pkg/tool").chmod(0o755)
    (root / "deps/python").symlink_to("/usr/bin/python3")
    (root / "deps/zero").touch()
    (root / "more").mkdir()
    (root / "more/a.idx").write_text("index")
    (root / "more/a.txt").write_text("not cached")
    return root


def empty(tmp_path: Path, name: str = "next") -> Path:
    path = tmp_path / name
    path.mkdir()
    return path


def save(store: Cache, workspace: Path, key: str = "k", spec: Spec = SPEC) -> caches.SaveResult:
    return store.save(spec, key, DirectoryView(workspace), Said())


def restore(store: Cache, directory: Path, key: str = "k", spec: Spec = SPEC) -> caches.RestoreResult:
    return store.restore(spec, key, DirectoryView(directory), Said())


def blobs(store: Cache) -> list[Path]:
    return sorted((store.folder / "blobs").glob("*/*"))


def _digest(blob: Path) -> str:
    return hashlib.sha256(blob.read_bytes()).hexdigest()


def test_there_and_back(tmp_path: Path, store: Cache, workspace: Path, view_of: ViewOf, said: Said) -> None:
    assert store.restore(SPEC, "k", view_of(workspace), said).hit == "miss"
    saved = store.save(SPEC, "k", view_of(workspace), said)
    assert (saved.saved, saved.files, saved.warning) == (True, 5, None)
    directory = empty(tmp_path)
    restored = store.restore(SPEC, "k", view_of(directory), said)
    assert (restored.hit, restored.key, restored.files, restored.warning) == ("exact", "k", 5, None)
    expected = {name: what for name, what in tree(workspace).items() if name not in ("more/a.txt",)}
    assert tree(directory) == expected
    assert "cache miss: k\ncache saved: k (5 files, 100 kB" in said.text
    assert "cache hit: k (5 files, 100 kB)" in said.text


def test_what_did_not_change_is_not_packed_again(
    tmp_path: Path, store: Cache, workspace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save(store, workspace)
    with monkeypatch.context() as patch:
        patch.setattr(caches, "_pack", None)
        assert save(store, workspace).unchanged
    directory = empty(tmp_path)
    restore(store, directory)
    assert save(store, directory).unchanged
    (directory / "deps/zero").write_text("x")
    assert save(store, directory).saved
    assert len(blobs(store)) == 1, "the archive nobody names any more is gone"


def test_the_same_size_in_the_same_second_is_a_change(tmp_path: Path, store: Cache, workspace: Path) -> None:
    save(store, workspace)
    directory = empty(tmp_path)
    restore(store, directory)
    before = (directory / "deps/pkg/mod.py").stat().st_mtime_ns
    (directory / "deps/pkg/mod.py").write_text("MOD")
    os.utime(directory / "deps/pkg/mod.py", ns=(before, before + 5))
    assert save(store, directory).saved


def test_equal_trees_share_one_archive(store: Cache, workspace: Path) -> None:
    save(store, workspace, "a")
    save(store, workspace, "b")
    assert len(blobs(store)) == 1
    store.remove([entry for entry in store.entries() if entry.key == "a"])
    assert len(blobs(store)) == 1
    store.remove(store.entries())
    assert blobs(store) == []


def test_fallback_keys_find_the_newest_that_begins_so(
    tmp_path: Path, store: Cache, workspace: Path, said: Said
) -> None:
    for key in ("main-1", "main-2", "other-3"):
        (workspace / "deps/zero").write_text(key)
        save(store, workspace, key)
    directory = empty(tmp_path)
    spec = Spec(paths=SPEC.paths, fallback_keys=("feature-", "main-", "other-"))
    found = store.restore(spec, "main-9", DirectoryView(directory), said)
    assert (found.hit, found.key) == ("fallback", "main-2")
    assert (directory / "deps/zero").read_text() == "main-2"
    assert "cache hit by fallback: main-2 for main-9" in said.text
    assert restore(store, directory, "main-9").hit == "miss", "without fallback keys nothing but the key itself counts"
    other_paths = Spec(paths=("deps",), fallback_keys=("main-",))
    assert restore(store, directory, "main-9", other_paths).hit == "miss"


def test_by_key_alone_an_entry_serves_other_paths_and_a_fallback_key_is_a_whole_key(
    tmp_path: Path, store: Cache, workspace: Path
) -> None:
    save(store, workspace, "main", Spec(paths=("deps/",), by_key=True))
    others = Spec(paths=("more/*.idx",), by_key=True, fallback_keys=("mai", "main"))
    directory = empty(tmp_path)
    assert restore(store, directory, "main", others).hit == "exact"
    assert tree(directory).keys() == {name for name in tree(workspace) if name.startswith("deps")}
    found = restore(store, empty(tmp_path, "other"), "feature", others)
    assert (found.hit, found.key) == ("fallback", "main")
    assert (
        restore(store, directory, "feature", Spec(paths=("deps/",), by_key=True, fallback_keys=("mai",))).hit == "miss"
    )
    assert restore(store, directory, "main", Spec(paths=("deps/",), fallback_keys=("main",))).hit == "miss"
    save(store, workspace, "main", others)
    assert [(entry.key, entry.paths) for entry in store.entries()] == [("main", ("more/*.idx",))], (
        "it replaces the entry"
    )


@pytest.mark.parametrize(
    ("result", "lines"),
    [
        (caches.RestoreResult(hit="miss"), ["cache miss: asked"]),
        (caches.RestoreResult(hit="miss", warning="why"), ["warning: why", "cache miss: asked"]),
        (caches.RestoreResult(hit="exact", key="k", files=1, bytes=2000), ["cache hit: asked (1 file, 2.0 kB)"]),
        (
            caches.RestoreResult(hit="fallback", key="k", files=2, bytes=3000),
            ["cache hit by fallback: k for asked (2 files, 3.0 kB)"],
        ),
        (caches.SaveResult(key="k"), []),
        (caches.SaveResult(key="k", unchanged=True), ["cache unchanged: k"]),
        (
            caches.SaveResult(key="k", saved=True, files=1, bytes=2000, packed_bytes=1000),
            ["cache saved: k (1 file, 2.0 kB, packed 1.0 kB)"],
        ),
        (
            caches.SaveResult(key="k", warning="why", skipped=(Skipped(path="a", reason="odd"),)),
            ["warning: a left out: odd", "warning: why"],
        ),
    ],
)
def test_what_is_said_of_each_result(result: caches.RestoreResult | caches.SaveResult, lines: list[str]) -> None:
    if isinstance(result, caches.RestoreResult):
        assert list(caches._restored_lines(result, "asked")) == lines
    else:
        assert list(caches._saved_lines(result)) == lines


def entry_of(blob: str, size: int) -> Stored:
    return Stored(
        id="",
        used_at=0,
        project="p",
        key="k",
        paths=(),
        blob=blob,
        files=1,
        bytes=size,
        packed_bytes=size,
        created_at=0,
    )


def test_what_is_over_the_limit_counts_a_shared_archive_once() -> None:
    entries = [entry_of(blob, size) for blob, size in (("a", 10), ("a", 10), ("b", 5), ("c", 2), ("a", 10))]
    assert caches._exceeding(entries, 17) == []
    assert caches._exceeding(entries, 16) == entries[3:], "nothing less valuable stays in place of a large one"
    assert caches._exceeding(entries, 14) == entries[2:]
    assert caches._exceeding(entries, 0) == entries


def test_what_is_gone_can_be_removed_once_more(store: Cache, workspace: Path) -> None:
    save(store, workspace)
    entries = store.entries()
    freed = [store.remove(entries) for _ in range(2)]
    assert [size > 0 for size in freed] == [True, False]


def test_projects_do_not_see_each_other(tmp_path: Path, store: Cache, workspace: Path, clock: Clock) -> None:
    save(store, workspace)
    other = Cache(store.folder, max_size=1 << 30, project="example.org/b", clock=clock)
    assert restore(other, empty(tmp_path)).hit == "miss"
    assert [entry.project for entry in other.entries()] == ["example.org/a"]


def test_nothing_to_save_is_said(tmp_path: Path, store: Cache) -> None:
    result = save(store, empty(tmp_path))
    assert result.warning == "nothing to save for 'k': none of deps/, more/*.idx is there"
    assert not result.saved
    assert store.entries() == []


def test_a_damaged_entry_is_a_miss_with_a_warning_and_goes(
    tmp_path: Path, store: Cache, workspace: Path, said: Said
) -> None:
    save(store, workspace)
    (blob,) = blobs(store)
    data = bytearray(blob.read_bytes())
    data[len(data) // 2] ^= 1
    blob.write_bytes(data)
    directory = empty(tmp_path)
    result = store.restore(SPEC, "k", DirectoryView(directory), said)
    assert result.hit == "miss"
    assert result.warning == "the cache entry 'k' was removed: its checksum is wrong"
    assert list(directory.iterdir()) == []
    assert store.entries() == []
    assert blobs(store) == []
    assert save(store, workspace).saved


def test_entries_that_make_no_sense_are_misses(tmp_path: Path, store: Cache, workspace: Path) -> None:
    save(store, workspace)
    (path,) = (store.folder / "entries").glob("*/*.json")
    whole = path.read_text()
    directory = empty(tmp_path)
    for text in (
        "",
        "{",
        "[]",
        "{}",
        whole.replace('"schema":2', '"schema":99'),
        whole.replace('"blob":"', '"blob":"../'),
    ):
        path.write_text(text)
        assert restore(store, directory).hit == "miss"
        assert save(store, workspace).saved


def test_an_archive_that_vanished_is_a_miss(tmp_path: Path, store: Cache, workspace: Path) -> None:
    save(store, workspace)
    blobs(store)[0].unlink()
    assert restore(store, empty(tmp_path)).hit == "miss"
    assert save(store, workspace).saved


def test_least_recently_used_go_first(tmp_path: Path, store: Cache, workspace: Path, clock: Clock) -> None:
    small = Cache(store.folder, max_size=350_000, project="p", clock=clock)
    for key in "abc":
        (workspace / "deps/pkg/tool").write_bytes(os.urandom(100_000))
        save(small, workspace, key)
    restore(small, empty(tmp_path), "a")
    (workspace / "deps/pkg/tool").write_bytes(os.urandom(100_000))
    save(small, workspace, "d")
    assert sorted(entry.key for entry in small.entries()) == ["a", "c", "d"]
    assert sum(blob.stat().st_size for blob in blobs(small)) < 350_000
    (workspace / "deps/pkg/tool").write_bytes(os.urandom(400_000))
    result = save(small, workspace, "e")
    assert "more than the limit of 350 kB for all (cache_max_size)" in (result.warning or "")
    assert sorted(entry.key for entry in small.entries()) == ["a", "c", "d"]


def test_a_cache_as_large_as_the_limit_is_saved(tmp_path: Path, store: Cache, workspace: Path, clock: Clock) -> None:
    size = save(store, workspace).packed_bytes
    for limit, saved in ((size, True), (size - 1, False)):
        small = Cache(tmp_path / f"limit{limit}", max_size=limit, project="p", clock=clock)
        assert (save(small, workspace).saved, len(small.entries())) == (saved, saved)


def test_a_save_reads_each_entry_once_under_the_lock(
    store: Cache, workspace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for key in ("a", "b", "c"):
        save(store, workspace, key)
    (workspace / "deps/zero").write_text("not any more")
    read: list[str] = []
    entries_in = Cache._entries_in
    monkeypatch.setattr(Cache, "_entries_in", lambda self, folder: read.append(folder.name) or entries_in(self, folder))
    assert save(store, workspace, "a").saved
    assert len(read) == 1
    assert len(blobs(store)) == 2


def test_remove(tmp_path: Path, store: Cache, workspace: Path, clock: Clock) -> None:
    for key in "abc":
        (workspace / "deps/pkg/tool").write_bytes(os.urandom(100_000))
        save(store, workspace, key)
        clock.now += 1000
    (store.folder / "blobs/00").mkdir(exist_ok=True)
    (store.folder / "blobs/00" / ("0" * 64 + ".tar.zst")).write_bytes(b"stray")
    left = store.folder / "tmp/left-behind"
    left.write_bytes(b"x" * 1000)
    os.utime(left, (clock.now - 100, clock.now - 100))
    freed = store.remove([entry for entry in store.entries() if entry.key != "c"])
    assert [entry.key for entry in store.entries()] == ["c"]
    assert freed > 201_000
    assert not left.exists()
    assert len(blobs(store)) == 1
    store.remove(store.entries())
    assert blobs(store) == []


def test_a_secret_does_not_get_into_the_cache(
    tmp_path: Path, store: Cache, workspace: Path, view_of: ViewOf, said: Said
) -> None:
    (workspace / "deps/.npmrc").write_text("//registry/:_authToken=hunter2-secret\n")
    result = store.save(SPEC, "k", view_of(workspace), said, masker=Masker({"NPM": "hunter2-secret"}))
    assert result.saved
    assert [item.path for item in result.skipped] == ["deps/.npmrc"]
    assert "warning: deps/.npmrc left out: it holds the secret NPM" in said.text
    again = store.save(SPEC, "k", view_of(workspace), said, masker=Masker({"NPM": "hunter2-secret"}))
    assert (again.unchanged, [item.path for item in again.skipped]) == (True, ["deps/.npmrc"]), "each save names it"
    directory = empty(tmp_path)
    restore(store, directory)
    assert not (directory / "deps/.npmrc").exists()
    assert (directory / "deps/pkg/tool").read_bytes() == (workspace / "deps/pkg/tool").read_bytes()


def test_restoring_over_a_link_is_a_warning_and_writes_nothing(tmp_path: Path, store: Cache, workspace: Path) -> None:
    save(store, workspace)
    directory, outside = empty(tmp_path), empty(tmp_path, "outside")
    (directory / "deps").symlink_to(outside)
    result = restore(store, directory)
    assert result.hit == "miss"
    assert "'deps' is a link or a file in the workspace; nothing is written through it" in (result.warning or "")
    assert list(outside.iterdir()) == []
    (directory / "deps").unlink()
    (directory / "more").symlink_to(outside)
    assert restore(store, directory).hit == "miss"
    assert [path for path in directory.rglob("*") if path.is_file() and not path.is_symlink()] == [], (
        "a part is taken back"
    )


@pytest.fixture
def tmpfs(tmp_path: Path) -> Iterator[Callable[[str], Path]]:
    mounted: list[Path] = []

    def mount(options: str) -> Path:
        directory = empty(tmp_path, f"mount{len(mounted)}")
        if (
            os.geteuid()
            or subprocess.run(["mount", "-t", "tmpfs", "-o", options, "none", str(directory)], check=False).returncode
        ):
            pytest.skip("may not mount")
        mounted.append(directory)
        return directory

    yield mount
    for directory in mounted:
        subprocess.run(["umount", str(directory)], check=True)


def test_a_full_disk(tmp_path: Path, store: Cache, workspace: Path, tmpfs: Callable[[str], Path], clock: Clock) -> None:
    full = Cache(tmpfs("size=64k") / "store", max_size=1 << 30, project="p", clock=clock)
    result = save(full, workspace)
    assert result.warning == "the cache 'k' can't be saved: the disk is full"
    assert [
        path for path in full.folder.rglob("*") if path.is_file() and path.name not in ("README", "CACHEDIR.TAG")
    ] == []
    save(store, workspace)
    small = tmpfs("size=32k")
    found = restore(store, small)
    assert found.hit == "miss"
    assert "the disk is full" in (found.warning or "")
    assert [path for path in small.rglob("*") if path.is_file() and not path.is_symlink()] == []


def test_a_folder_that_can_not_be_written(
    tmp_path: Path, workspace: Path, tmpfs: Callable[[str], Path], clock: Clock
) -> None:
    directory = tmpfs("size=10m")
    shared = Cache(directory / "store", max_size=1 << 30, project="p", clock=clock)
    save(shared, workspace)
    subprocess.run(["mount", "-o", "remount,ro", str(directory)], check=True)
    assert restore(shared, empty(tmp_path)).hit == "exact", "what can be read is of use"
    result = save(shared, workspace, "other")
    assert "can't be saved" in (result.warning or "")
    assert "Read-only file system" in (result.warning or "")
    with pytest.raises(CacheError, match="Read-only file system"):
        shared.remove(())
    (tmp_path / "a-file").touch()
    nowhere = Cache(tmp_path / "a-file" / "store", max_size=1 << 30, project="p", clock=clock)
    assert restore(nowhere, tmp_path / "next").hit == "miss"
    assert "Not a directory" in (save(nowhere, workspace).warning or "")
    assert nowhere.entries() == []


def test_a_store_that_breaks_is_a_miss_with_its_reason(
    tmp_path: Path, store: Cache, workspace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save(store, workspace)

    def broken(*_: object) -> None:
        raise OSError(5, os.strerror(5), str(store.folder))

    with monkeypatch.context() as patch:
        patch.setattr(Path, "glob", broken)
        assert store.entries() == []
    monkeypatch.setattr(caches, "check_private", broken)
    reason = f"{store.folder}: Input/output error"
    assert restore(store, empty(tmp_path)).warning == f"the cache can't be used: {reason}"
    assert save(store, workspace).warning == f"the cache 'k' can't be saved: {reason}"
    with pytest.raises(CacheError, match=f"{store.folder} can't be used: {reason}") as error:
        store.entries()
    assert error.value.hint == "`loom config show cache_dir` says where it is."


def test_an_archive_is_whole_when_its_entry_names_it(
    store: Cache, workspace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish = Cache._publish
    whole: list[bool] = []

    def published(self: Cache, entry: Stored, written: str) -> None:
        whole.append(hashlib.sha256(Path(written).read_bytes()).hexdigest() == entry.blob)
        publish(self, entry, written)

    monkeypatch.setattr(Cache, "_publish", published)
    save(store, workspace)
    take(store, b"any bytes", "other")
    assert whole == [True, True]


def test_what_is_removed_of_a_store_has_its_size(store: Cache, workspace: Path) -> None:
    save(store, workspace)
    (archive,) = blobs(store)
    size = archive.stat().st_size
    readme = store.folder / "README"
    readme.write_text("mine")
    save(store, workspace, "other")
    assert readme.read_text() == "mine"
    assert store.remove(()) == 0
    assert store.remove(store.entries()) == size
    assert not store.has(SPEC, "k")


def test_an_entry_without_its_archive_is_none(store: Cache, workspace: Path) -> None:
    save(store, workspace)
    assert store.has(SPEC, "k")
    blobs(store)[0].unlink()
    assert not store.has(SPEC, "k")


def test_paths_that_lead_out_are_refused(store: Cache, workspace: Path) -> None:
    for path in ("/etc", "../x", "~/.cache"):
        with pytest.raises(CacheError, match=r"cache: .*must") as refused:
            save(store, workspace, spec=Spec(paths=(path,)))
        assert refused.value.code == "CACHE_PATH_INVALID"


# Many at once


def _loom(folder: str, workspace: str, directory: str, number: int) -> list[str]:
    store = Cache(Path(folder), max_size=250_000, project="p", clock=time.time)
    wrong = []
    for turn in range(12):
        key = f"key-{(number + turn) % 4}"
        result = store.save(SPEC, key, DirectoryView(Path(workspace)), lambda stream, data: None)
        if result.warning:
            wrong.append(result.warning)
        target = Path(directory) / f"{number}-{turn}"
        target.mkdir()
        found = store.restore(SPEC, key, DirectoryView(target), lambda stream, data: None)
        if found.warning:
            wrong.append(found.warning)
        if found.hit != "miss" and (target / "deps/pkg/tool").stat().st_size != 100_000:
            wrong.append("half a file")
    return wrong


@pytest.mark.slow
def test_many_looms_at_once(tmp_path: Path, store: Cache) -> None:
    places = []
    for number in range(4):
        root = tmp_path / f"w{number}"
        (root / "deps/pkg").mkdir(parents=True)
        (root / "deps/pkg/tool").write_bytes(os.urandom(100_000))
        places.append(root)
    out = empty(tmp_path, "out")
    with multiprocessing.get_context("spawn").Pool(4) as pool:
        found = pool.starmap(_loom, [(str(store.folder), str(root), str(out), n) for n, root in enumerate(places)])
    assert found == [[]] * 4
    assert {entry.blob for entry in store.entries()} == {_digest(blob) for blob in blobs(store)}
    assert sum(blob.stat().st_size for blob in blobs(store)) <= 250_000
    assert list((store.folder / "tmp").iterdir()) == []


# Keys


def test_files_of_a_key_that_can_not_be_read_are_an_error(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object, **__: object) -> None:
        raise OSError(5, os.strerror(5))

    monkeypatch.setattr(os, "stat", broken)
    with pytest.raises(CacheError, match="of a cache key can't be read: ") as error:
        key_of(Spec(paths=("x",), key=CacheKeyFiles(files=("deps",))), workspace)
    assert error.value.code == "CACHE_KEY_INVALID"


@pytest.mark.parametrize(
    ("key", "said"),
    [
        ("", "is empty"),
        ("  ", "is empty"),
        ("x" * 1001, "longer than 1000"),
        (CacheKeyFiles(files=("../x",)), "climb out"),
    ],
)
def test_keys_that_are_none(workspace: Path, key: str | CacheKeyFiles, said: str) -> None:
    with pytest.raises(CacheError, match=said) as error:
        key_of(Spec(paths=("x",), key=key), workspace)
    hint = "Use another text" if isinstance(key, str) else "Name paths inside of the workspace"
    code = "CACHE_KEY_INVALID" if isinstance(key, str) else "CACHE_PATH_INVALID"
    assert (hint in (error.value.hint or ""), error.value.code) == (True, code)


@pytest.mark.parametrize(
    ("origin", "project"),
    [
        ("https://github.com/Acme/App.git", "github.com/Acme/App"),
        ("https://user:token@GitHub.com/Acme/App", "github.com/Acme/App"),
        ("git@github.com:Acme/App.git", "github.com/Acme/App"),
        ("ssh://git@github.com:22/Acme/App.git/", "github.com/Acme/App"),
        ("/srv/git/app.git", "srv/git/app"),
        ("file:///srv/git/app.git", "srv/git/app"),
    ],
)
def test_projects(origin: str, project: str, tmp_path: Path) -> None:
    assert project_of(origin, tmp_path) == f"{tmp_path} ({project})"
    assert project_of(None, tmp_path) == str(tmp_path)
    assert project_of(None, tmp_path / os.fsdecode(b"\xff")) == f"{tmp_path}/\\xff"


def test_entries_are_readable_by_others(store: Cache, workspace: Path) -> None:
    save(store, workspace)
    (path,) = (store.folder / "entries").glob("*/*.json")
    shape = json.loads(path.read_text())
    assert (shape["project"], shape["key"], shape["paths"]) == ("example.org/a", "k", ["deps/", "more/*.idx"])
    (entry,) = store.entries()
    assert isinstance(entry, Stored)
    assert (store.folder / "CACHEDIR.TAG").read_text().startswith("Signature: 8a477f597d28d172789f06886806bc55")
    unpacked = subprocess.run(["zstd", "-dc", blobs(store)[0]], capture_output=True, check=False)
    if unpacked.returncode == 0:
        names = subprocess.run(["tar", "-t"], input=unpacked.stdout, capture_output=True, check=True).stdout.decode()
        assert "deps/pkg/tool\n" in names


def test_what_a_killed_save_left_goes_at_the_next_restore(tmp_path: Path, clock: Clock, workspace: Path) -> None:
    store = Cache(tmp_path / "store", max_size=1 << 30, project="example.org/a", clock=time.time)
    reading, writing = os.pipe()
    saving = os.fork()
    if saving == 0:  # a save that stops in the middle of its archive, until it is killed

        class Stuck(DirectoryView):
            def read(self, *arguments: object) -> Iterator[object]:  # type: ignore[override]
                yield from super().read(*arguments)  # type: ignore[arg-type]
                os.write(writing, b"!")
                time.sleep(600)

        store.save(SPEC, "k", Stuck(workspace), Said())
        os._exit(0)
    try:
        assert os.read(reading, 1) == b"!"
        (left,) = (store.folder / "tmp").iterdir()
        os.utime(left, (1, 1))
        store.restore(SPEC, "k", DirectoryView(empty(tmp_path, "one")), Said())
        assert left.exists(), "its writer is alive"
    finally:
        os.kill(saving, 9)
        os.waitpid(saving, 0)
    store.restore(SPEC, "k", DirectoryView(empty(tmp_path, "two")), Said())
    assert not left.exists()


def take(store: Cache, content: bytes, key: str = "k") -> caches.SaveResult:
    return store.take(SPEC, key, io.BytesIO(content))


def test_an_archive_of_somebody_else_is_kept_as_it_is(store: Cache) -> None:
    assert take(store, b"any bytes") == caches.SaveResult(key="k", saved=True, files=1, bytes=9, packed_bytes=9)
    assert store.has(SPEC, "k")
    assert not store.has(SPEC, "k2")
    entry, result = store.find(SPEC, "k")
    assert entry is not None
    assert result == caches.RestoreResult(hit="exact", key="k", bytes=9, packed_bytes=9)
    with store.open(entry.blob) as file:
        assert file.read() == b"any bytes"
    assert store.find(SPEC, "other") == (None, caches.RestoreResult(hit="miss"))


def test_an_archive_that_is_none_is_a_miss_with_a_warning(store: Cache, tmp_path: Path) -> None:
    take(store, b"any bytes")
    result = restore(store, empty(tmp_path))
    assert result.hit == "miss"
    assert (result.warning or "").startswith("the cache entry 'k' was removed: ")
    assert (store.entries(), blobs(store)) == ([], [])


@pytest.mark.parametrize("harm", ["changed", "missing", "a directory"])
def test_who_looks_for_an_entry_gets_none_that_is_damaged(store: Cache, harm: str, clock: Clock) -> None:
    take(store, b"older", "k1")
    take(store, b"newer", "k2")
    (blob,) = [blob for blob in blobs(store) if blob.read_bytes() == b"newer"]
    blob.unlink()
    if harm == "changed":
        blob.write_bytes(b"other")
    elif harm == "a directory":
        blob.mkdir()
    entry, result = store.find(Spec(paths=SPEC.paths, fallback_keys=("k",)), "x")
    assert entry is not None
    assert (entry.key, result.hit, result.key) == ("k1", "fallback", "k1")
    said = {
        "changed": "the archive is damaged",
        "missing": "the archive is missing",
        "a directory": "the archive can't be read: ",
    }
    assert (result.warning or "").startswith(f"the cache entry 'k2' was removed: {said[harm]}")
    assert [one.key for one in store.entries()] == ["k1"]


def test_an_archive_that_is_too_large_or_can_not_be_written_is_not_kept(store: Cache, tmp_path: Path) -> None:
    small = Cache(tmp_path / "small", max_size=8, project="p", clock=Clock())
    for store_, key in ((small, "k"), (store, "l")):
        if store_ is store:
            (store.folder / "tmp").parent.mkdir(parents=True, mode=0o700)
            (store.folder / "tmp").write_text("no directory")
        result = take(store_, b"nine byte", key)
        assert not result.saved
        assert (result.warning or "").startswith(
            f"the cache '{key}' {'takes' if store_ is small else 'can not'}".replace("can not", "can't be saved: ")
        )
        assert store_.entries() == []
    assert take(small, b"eight by").saved, "the limit itself"


def test_what_is_being_written_is_not_swept(store: Cache, clock: Clock) -> None:
    take(store, b"x")
    left = [store.folder / "tmp" / name for name in ("old", "new")]
    for path, age in zip(left, (61, -30), strict=True):
        path.write_bytes(b"rest")
        os.utime(path, (clock.now - age, clock.now - age))
    store.find(SPEC, "k")
    assert [path.exists() for path in left] == [False, True]
