import base64
import gzip
import io
import os
import shutil
import socket
import subprocess
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from loom.errors import ArtifactError, InfrastructureError
from loom.plan.model import Artifacts, wanted
from loom.status import Status, Stream
from loom.storage import artifacts, junit, unpacking
from loom.storage.selection import PathSelection, Tracked
from loom.storage.tar import DamagedArchive
from loom.storage.unpacking import UnsafeArchive
from loom.storage.workspace import DirectoryView, WorkspaceView
from loom.util.masking import Masker

from ..views import TarSession, tree
from .conftest import ViewOf


class Kept:
    """`collect` into a record of its own."""

    def __init__(self, base: Path) -> None:
        self.archive = base / "record" / "artifacts.tar.gz"
        self.said = ""

    def on_output(self, stream: Stream, data: bytes) -> None:
        self.said += data.decode()

    def collect(
        self,
        view: WorkspaceView,
        *paths: str,
        masker: Masker | None = None,
        tracked: Tracked | None = None,
        **more: object,
    ) -> artifacts.Collected:
        spec = Artifacts(paths=paths, **more)  # type: ignore[arg-type]
        return artifacts.collect(
            spec, view, archive=self.archive, on_output=self.on_output, masker=masker, tracked=tracked
        )

    @property
    def names(self) -> list[str]:
        with tarfile.open(self.archive) as tar:
            return [member.name for member in tar]


@pytest.fixture
def kept(tmp_path: Path) -> Kept:
    return Kept(tmp_path)


@pytest.fixture
def workspace(tmp_path: Path) -> Path:
    root = tmp_path / "workspace"
    for name in ("dist/app", "dist/lib/a.so", "dist/lib/deep/er/b.so", "src/main.py", "logs/one.log", "logs/.two.log"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(name)
    (root / "dist/app").chmod(0o750)
    (root / "dist/empty").mkdir()
    (root / "dist/current").symlink_to("lib")
    (root / "dist/dangling").symlink_to("nowhere")
    (root / "with space\nand line").write_text("odd")
    (root / ".git/loom").mkdir(parents=True)
    (root / ".git/loom/record").write_text("own")
    (root / ".git/config").write_text("git")
    (root / ".loom/.runtime").mkdir(parents=True)
    (root / ".loom/.runtime/receipt").write_text("own")
    (root / ".loom/workflow.yml").write_text("theirs")
    return root


def test_there_and_back(tmp_path: Path, workspace: Path, kept: Kept, view_of: ViewOf) -> None:
    result = kept.collect(view_of(workspace), "dist/", "logs/*.log")
    assert result.files == 7
    assert result.missing == ()
    (tmp_path / "next").mkdir()
    [restored] = artifacts.restore({kept.archive: result.sha256}, view_of(tmp_path / "next"))
    assert restored.files == 7
    expected = {name: what for name, what in tree(workspace).items() if name.startswith(("dist", "logs"))}
    assert tree(tmp_path / "next") == expected
    artifacts.fetch(kept.archive, tmp_path / "new/fetched")
    assert tree(tmp_path / "new/fetched") == expected
    assert (tmp_path / "next/dist/app").stat().st_mtime == int((workspace / "dist/app").stat().st_mtime)


def test_an_index_has_files_and_links_in_their_order(workspace: Path, kept: Kept) -> None:
    kept.collect(DirectoryView(workspace), "dist", "logs")
    found = artifacts.index_of(kept.archive)
    assert [(one.path, one.kind, one.size, one.target) for one in found] == [
        ("dist/app", "file", 8, ""),
        ("dist/current", "link", 0, "lib"),
        ("dist/dangling", "link", 0, "nowhere"),
        ("dist/lib/a.so", "file", 13, ""),
        ("dist/lib/deep/er/b.so", "file", 21, ""),
        ("logs/.two.log", "file", 13, ""),
        ("logs/one.log", "file", 12, ""),
    ]


PATTERNS = [
    (["dist/app"], [], ["dist/app"]),
    (["./dist/app"], [], ["dist/app"]),
    (["dist"], ["dist/lib"], ["dist", "dist/app", "dist/current", "dist/dangling", "dist/empty"]),
    (["dist/*"], ["**/*.so", "dist/lib/deep"], ["dist/app", "dist/current", "dist/dangling", "dist/empty", "dist/lib"]),
    (["**/*.so"], [], ["dist/lib/a.so", "dist/lib/deep/er/b.so"]),
    (["dist/**/*.so"], ["**/er/**"], ["dist/lib/a.so"]),
    (["dist/lib/*"], [], ["dist/lib/a.so", "dist/lib/deep", "dist/lib/deep/er", "dist/lib/deep/er/b.so"]),
    (["*.py", "src/ma?n.p[xyz]"], [], ["src/main.py"]),
    (["{src,logs}/*.{py,log}"], [], ["logs/.two.log", "logs/one.log", "src/main.py"]),
    (["**/main.py", "src"], [], ["src", "src/main.py"]),
    (["**/*.log"], ["logs/.*"], ["logs/one.log"]),
    (["with*"], [], ["with space\nand line"]),
    ([".loom"], [], [".loom", ".loom/workflow.yml"]),
    ([".git/config", ".git/loom"], [], [".git/config"]),
]


@pytest.mark.parametrize(("paths", "exclude", "names"), PATTERNS, ids=lambda value: " ".join(value))
def test_patterns(
    workspace: Path, kept: Kept, view_of: ViewOf, paths: list[str], exclude: list[str], names: list[str]
) -> None:
    kept.collect(view_of(workspace), *paths, exclude=tuple(exclude))
    assert sorted(kept.names) == names


@pytest.mark.parametrize(
    ("paths", "exclude", "names"),
    [
        ("dist/lib", "dist/lib", ["dist/lib/a.so", "dist/lib/deep", "dist/lib/deep/er", "dist/lib/deep/er/b.so"]),
        ("dist/lib", "dist/lib/", ["dist/lib/a.so", "dist/lib/deep", "dist/lib/deep/er", "dist/lib/deep/er/b.so"]),
        ("dist/lib", "dist/lib/*", ["dist/lib", "dist/lib/deep/er", "dist/lib/deep/er/b.so"]),
        ("dist/lib", "dist/lib/**/*", ["dist/lib"]),
        ("dist/lib", "dist/lib/**", ["dist/lib"]),
        ("dist/lib", "dist/lib/**/*.so", ["dist/lib", "dist/lib/deep", "dist/lib/deep/er"]),
        ("dist/lib", ".", []),
        ("logs/*", "logs/.two.log", ["logs/one.log"]),
    ],
)
def test_an_exclusion_may_concern_the_path_alone(
    workspace: Path, kept: Kept, view_of: ViewOf, paths: str, exclude: str, names: list[str]
) -> None:
    kept.collect(view_of(workspace), paths, exclude=(exclude,), exclude_alone=True)
    assert sorted(kept.names) == names


@pytest.mark.parametrize("everything", [".", "**", "**/*", "*"])
def test_everything_is_without_git_and_looms_record(
    workspace: Path, kept: Kept, view_of: ViewOf, everything: str
) -> None:
    kept.collect(view_of(workspace), everything)
    assert ".loom/workflow.yml" in kept.names
    assert "dist/lib/deep/er/b.so" in kept.names
    assert not [name for name in kept.names if name.startswith((".git", ".loom/.runtime"))]


def test_missing_paths_are_said(workspace: Path, kept: Kept, view_of: ViewOf) -> None:
    result = kept.collect(view_of(workspace), "dist/app", "nope/", "*.zip")
    assert result.missing == ("nope/", "*.zip")
    assert "warning: nothing found for nope/\n" in kept.said
    result = kept.collect(view_of(workspace), "nope")
    assert (result.files, kept.names, result.missing) == (0, [], ("nope",))


@pytest.mark.parametrize(
    ("pattern", "said"),
    [
        ("/etc/passwd", "relative to the workspace"),
        ("../other", "must not climb out"),
        ("a/../../b", "must not climb out"),
        ("dist/**/../../..", "must not climb out"),
        ("~/x", "relative to the workspace"),
        ("", "is empty"),
        ("/", "is empty"),
        ("a\0b", "is empty"),
    ],
)
def test_paths_that_lead_out_are_refused(workspace: Path, kept: Kept, pattern: str, said: str) -> None:
    for more in ({}, {"exclude": (pattern,)}):
        with pytest.raises(ArtifactError, match=said) as refused:
            kept.collect(DirectoryView(workspace), *(("dist",) if more else (pattern,)), **more)
        assert refused.value.code == "ARTIFACT_PATH_INVALID"
        assert not kept.archive.exists()


def test_links_are_never_followed(tmp_path: Path, workspace: Path, kept: Kept) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "private").write_text("private")
    (workspace / "out").symlink_to(outside)
    (workspace / "up").symlink_to("../outside/private")
    (workspace / "dist/host").symlink_to("/etc/hostname")
    result = kept.collect(
        DirectoryView(workspace), "out/private", "out/*", "out", "up", "dist/host", "dist/current/a.so"
    )
    assert kept.names == ["dist/host", "out", "up"]
    assert result.missing == ("out/private", "out/*", "dist/current/a.so")
    assert result.links_out == ("dist/host", "out", "up")
    assert [file.target for file in artifacts.index_of(kept.archive) if file.path == "out"] == [str(outside)]
    assert "dist/host is a link out of the workspace" in kept.said


def test_what_is_no_file_is_left_out_and_said(workspace: Path, kept: Kept) -> None:
    os.mkfifo(workspace / "dist/pipe")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(workspace / "dist/sock"))
        result = kept.collect(DirectoryView(workspace), "dist")
    assert [(item.path, item.reason) for item in result.skipped] == [
        ("dist/pipe", "a FIFO, not a file"),
        ("dist/sock", "a socket, not a file"),
    ]
    assert "dist/pipe" not in kept.names


@pytest.mark.skipif(os.geteuid() != 0, reason="acts as another user")
def test_a_plain_users_file_without_permission_is_left_out() -> None:
    root = Path(tempfile.mkdtemp())
    skipped: list[str] = []
    try:
        (root / "out/shut").mkdir(parents=True)
        (root / "out/none").write_text("none")
        (root / "out/shut/file").write_text("file")
        for name, mode in (("out", 0o755), ("out/none", 0), ("out/shut", 0o400)):
            os.chown(root / name, 1500, 1500)
            (root / name).chmod(mode)
        root.chmod(0o755)
        os.seteuid(1500)
        try:
            view = DirectoryView(root).read(PathSelection(("out",)), lambda item: skipped.append(item.path))
            found = {entry.path: (entry.mode, content and content.read()) for entry, content in view}
        finally:
            os.seteuid(0)
        assert found == {"out": (0o755, None), "out/shut": (0o400, None)}
        assert skipped == ["out/none", "out/shut/file"]
    finally:
        shutil.rmtree(root)


def test_hard_links_stay_one_file(tmp_path: Path, workspace: Path, kept: Kept, view_of: ViewOf) -> None:
    (workspace / "dist/zapp").hardlink_to(workspace / "dist/app")
    result = kept.collect(view_of(workspace), "dist")
    (tmp_path / "next").mkdir()
    artifacts.restore({kept.archive: result.sha256}, view_of(tmp_path / "next"))
    assert (tmp_path / "next/dist/app").samefile(tmp_path / "next/dist/zapp")


def test_a_hard_link_to_a_file_that_is_not_taken_is_kept_with_its_content(
    tmp_path: Path, workspace: Path, kept: Kept, view_of: ViewOf
) -> None:
    (workspace / "dist/main.py").hardlink_to(workspace / "src/main.py")
    (workspace / "dist/other.py").hardlink_to(workspace / "src/main.py")
    (workspace / "aaa").write_text("first in every listing")
    (workspace / "dist/aaa").hardlink_to(workspace / "aaa")
    result = kept.collect(view_of(workspace), "**/dist", exclude=("src", "aaa"))
    assert result.skipped == ()
    assert {"dist/aaa", "dist/main.py", "dist/other.py"} <= set(kept.names)
    (tmp_path / "next").mkdir()
    artifacts.restore({kept.archive: result.sha256}, view_of(tmp_path / "next"))
    there = tmp_path / "next/dist"
    assert (there / "aaa").read_text() == "first in every listing"
    assert (there / "main.py").read_bytes() == (workspace / "src/main.py").read_bytes()
    assert (there / "main.py").samefile(there / "other.py")
    assert not (there / "main.py").samefile(there / "aaa")


def test_a_file_with_a_secret_in_it_is_left_out(workspace: Path, kept: Kept) -> None:
    (workspace / "dist/config").write_bytes(b"x" * 3_000_000 + base64.b64encode(b"a:hunter2-secret") + b"x" * 10)
    (workspace / "dist/config-copy").hardlink_to(workspace / "dist/config")
    result = kept.collect(DirectoryView(workspace), "dist", masker=Masker({"TOKEN": "hunter2-secret"}))
    assert [item.path for item in result.skipped] == ["dist/config", "dist/config-copy"]
    assert "dist/config left out: it holds the secret TOKEN" in kept.said
    assert "dist/config" not in kept.names
    assert "dist/app" in kept.names
    files = [
        path
        for path in (workspace / "dist").rglob("*")
        if not path.name.startswith("config") and (path.is_symlink() or path.is_file())
    ]
    assert result.files == len(files)
    assert result.bytes == sum(path.lstat().st_size for path in files if not path.is_symlink())


def test_a_second_attempt_replaces_the_first(workspace: Path, kept: Kept) -> None:
    kept.collect(DirectoryView(workspace), "dist/app")
    kept.collect(DirectoryView(workspace), "src")
    assert sorted(kept.names) == ["src", "src/main.py"]
    assert [path.name for path in kept.archive.parent.iterdir()] == ["artifacts.tar.gz"]


def test_nothing_is_kept_where_the_record_can_take_no_more(
    workspace: Path, kept: Kept, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(stream: Stream, data: bytes) -> None:
        raise InfrastructureError("the record can't be written")

    monkeypatch.setattr(kept, "on_output", full)
    with pytest.raises(InfrastructureError):
        kept.collect(DirectoryView(workspace), "dist")
    assert list(kept.archive.parent.iterdir()) == []


def test_restoring_replaces_files_and_leaves_the_rest(workspace: Path, kept: Kept, tmp_path: Path) -> None:
    result = kept.collect(DirectoryView(workspace), "dist")
    later = tmp_path / "later"
    (later / "dist").mkdir(parents=True)
    (later / "dist/app").write_text("old")
    (later / "dist/other").write_text("stays")
    (later / "dist/current").write_text("was a file")
    artifacts.restore({kept.archive: result.sha256}, DirectoryView(later))
    assert (later / "dist/app").read_text() == "dist/app"
    assert (later / "dist/other").read_text() == "stays"
    assert (later / "dist/current").is_symlink()


def test_a_file_of_the_same_size_and_time_is_replaced_too(
    tmp_path: Path, workspace: Path, kept: Kept, view_of: ViewOf
) -> None:
    """Times from an engine are whole seconds: two jobs of a matrix write within one."""
    (workspace / "version").write_text("2")
    os.utime(workspace / "version", (1_700_000_000, 1_700_000_000))
    kept.collect(DirectoryView(workspace), "version")
    target = tmp_path / "target"
    target.mkdir()
    (target / "version").write_text("1")
    shutil.copystat(workspace / "version", target / "version")
    artifacts.restore({kept.archive: None}, view_of(target))
    assert (target / "version").read_text() == "2"


def test_several_archives_are_one_transfer_in_which_later_files_win(
    tmp_path: Path, workspace: Path, kept: Kept, view_of: ViewOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    archives: dict[Path, str | None] = {}
    for number, mode in enumerate((0o555, 0o750)):
        (workspace / "dist/app").write_text(f"of {number}")
        (workspace / "dist/lib").chmod(mode)
        kept.archive = tmp_path / f"{number}.tar.gz"
        archives[kept.archive] = kept.collect(DirectoryView(workspace), "dist/app", "dist/lib").sha256
    transfers = []
    put = TarSession.put
    monkeypatch.setattr(TarSession, "put", lambda *given: (transfers.append(1), put(*given)))
    (tmp_path / "next").mkdir()
    view = view_of(tmp_path / "next")
    written = artifacts.restore(archives, view)
    assert [(each.files, each.bytes) for each in written] == [(3, 4 + 13 + 21)] * 2
    assert (tmp_path / "next/dist/app").read_text() == "of 1"
    assert (tmp_path / "next/dist/lib").stat().st_mode & 0o777 == 0o750
    assert len(transfers) == (not isinstance(view, DirectoryView))
    kept.archive.write_bytes(b"x")
    with pytest.raises(ArtifactError, match=r"1\.tar\.gz is not what the job left"):
        artifacts.restore(archives, view_of(tmp_path / "next"))


def test_a_read_only_directory_can_be_restored(workspace: Path, kept: Kept, tmp_path: Path) -> None:
    (workspace / "dist/lib").chmod(0o555)
    result = kept.collect(DirectoryView(workspace), "dist/lib")
    (tmp_path / "next").mkdir()
    artifacts.restore({kept.archive: result.sha256}, DirectoryView(tmp_path / "next"))
    assert (tmp_path / "next/dist/lib").stat().st_mode & 0o777 == 0o555
    assert (tmp_path / "next/dist/lib/a.so").exists()
    for root in (workspace, tmp_path / "next"):
        (root / "dist/lib").chmod(0o755)


# Archives that loom did not make


def hostile(path: Path, *members: tarfile.TarInfo) -> Path:
    with tarfile.open(path, "w:gz") as tar:
        for member in members:
            tar.addfile(member, io.BytesIO(b"x" * member.size))
    return path


def member(name: str, kind: bytes = tarfile.REGTYPE, target: str = "", size: int = 0) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname, info.size, info.mode = kind, target, size, 0o7777
    return info


HOSTILE = {
    "absolute": [member("/tmp/evil", size=1)],
    "climbing": [member("../evil", size=1)],
    "climbing inside": [member("a/../../evil", size=1)],
    "device": [member("dev", tarfile.CHRTYPE)],
    "block device": [member("dev", tarfile.BLKTYPE)],
    "fifo": [member("pipe", tarfile.FIFOTYPE)],
    "through a link out": [member("l", tarfile.SYMTYPE, "/etc"), member("l/evil", size=1)],
    "below a link up": [member("a/l", tarfile.SYMTYPE, "../../x"), member("a/l/b/evil", size=1)],
    "through its own link": [member("l", tarfile.SYMTYPE, "d"), member("d", tarfile.DIRTYPE), member("l/evil", size=1)],
    "hard link out": [member("h", tarfile.LNKTYPE, "/etc/passwd")],
    "hard link by a path from the root": [member("a", size=1), member("h", tarfile.LNKTYPE, "/a")],
    "hard link up": [member("h", tarfile.LNKTYPE, "../x")],
    "hard link to a file of the workspace": [member("h", tarfile.LNKTYPE, "theirs")],
    "hard link to a link": [member("l", tarfile.SYMTYPE, "theirs"), member("h", tarfile.LNKTYPE, "l")],
    "loom's record": [member(".git/loom/receipt", size=1)],
    "loom's record by its link": [member(".loom/.runtime", tarfile.SYMTYPE, "x")],
}


SAID = {
    "absolute": "'/tmp/evil' leads out of the workspace",
    "climbing": "'../evil' leads out of the workspace",
    "climbing inside": "'a/../../evil' leads out of the workspace",
    "device": "'dev' is a device or FIFO",
    "block device": "'dev' is a device or FIFO",
    "fifo": "'pipe' is a device or FIFO",
    "through a link out": "'l/evil' leads through a link of the same archive",
    "below a link up": "'a/l/b/evil' leads through a link of the same archive",
    "through its own link": "'l/evil' leads through a link of the same archive",
    "hard link out": "'h' is a hard link to '/etc/passwd', which is not a file of the archive",
    "hard link by a path from the root": "'h' is a hard link to '/a', which is not a file of the archive",
    "hard link up": "'h' is a hard link to '../x', which is not a file of the archive",
    "hard link to a file of the workspace": "'h' is a hard link to 'theirs', which is not a file of the archive",
    "hard link to a link": "'h' is a hard link to 'l', which is not a file of the archive",
    "loom's record": "'.git/loom/receipt' is a path of loom's own record",
    "loom's record by its link": "'.loom/.runtime' is a path of loom's own record",
}


@pytest.mark.parametrize("case", HOSTILE)
def test_a_hostile_archive_is_refused(tmp_path: Path, case: str, view_of: ViewOf) -> None:
    directory = tmp_path / "directory"
    directory.mkdir()
    (directory / "theirs").write_text("theirs")
    archive = hostile(tmp_path / "a.tar.gz", *HOSTILE[case])
    with pytest.raises(ArtifactError) as refused:
        artifacts.restore({archive: None}, view_of(directory))
    assert refused.value.code == "ARTIFACT_UNSAFE"
    assert SAID[case] in str(refused.value)
    assert not (tmp_path / "evil").exists()
    assert (directory / "theirs").stat().st_nlink == 1


def test_nothing_is_written_through_a_link_of_the_workspace(tmp_path: Path) -> None:
    directory, outside = tmp_path / "directory", tmp_path / "outside"
    directory.mkdir()
    outside.mkdir()
    (outside / "f").write_text("theirs")
    (directory / "dist").symlink_to(outside)
    (directory / "file").symlink_to(outside / "f")
    with pytest.raises(ArtifactError, match="'dist' is a link or a file"):
        artifacts.restore({hostile(tmp_path / "a.tar.gz", member("dist/evil", size=1)): None}, DirectoryView(directory))
    assert list(outside.iterdir()) == [outside / "f"]
    artifacts.restore({hostile(tmp_path / "b.tar.gz", member("file", size=1)): None}, DirectoryView(directory))
    assert (outside / "f").read_text() == "theirs"
    assert (directory / "file").read_text() == "x"


@pytest.mark.parametrize("what", ["a file", "a link", "a hard link"])
def test_a_directory_of_the_workspace_is_not_replaced(tmp_path: Path, what: str) -> None:
    directory = tmp_path / "directory"
    (directory / "d").mkdir(parents=True)
    new = {
        "a file": member("d", size=1),
        "a link": member("d", tarfile.SYMTYPE, "made"),
        "a hard link": member("d", tarfile.LNKTYPE, "made"),
    }[what]
    archive = hostile(tmp_path / "a.tar.gz", member("made", size=1), new)
    with pytest.raises(ArtifactError, match="'d' is a directory in the workspace; no file replaces it") as refused:
        artifacts.restore({archive: None}, DirectoryView(directory))
    assert refused.value.code == "ARTIFACT_UNSAFE"
    assert (directory / "d").is_dir()


def test_a_file_that_ends_early_is_damaged_and_leaves_nothing(tmp_path: Path) -> None:
    archive = hostile(tmp_path / "a.tar.gz", member("first", size=1), member("second", size=100_000))
    archive.write_bytes(gzip.compress(gzip.decompress(archive.read_bytes())[:50_000]))
    (tmp_path / "directory").mkdir()
    with pytest.raises(ArtifactError, match="ends"):
        artifacts.restore({archive: None}, DirectoryView(tmp_path / "directory"))
    assert list((tmp_path / "directory").iterdir()) == []


def test_set_user_id_is_not_restored(tmp_path: Path) -> None:
    artifacts.restore({hostile(tmp_path / "a.tar.gz", member("f", size=1)): None}, DirectoryView(tmp_path))
    assert (tmp_path / "f").stat().st_mode & 0o7777 == 0o777


def test_a_damaged_or_changed_archive(workspace: Path, kept: Kept, tmp_path: Path) -> None:
    result = kept.collect(DirectoryView(workspace), "dist")
    whole = kept.archive.read_bytes()
    kept.archive.write_bytes(whole[:-40])
    with pytest.raises(ArtifactError, match="checksum differs"):
        artifacts.restore({kept.archive: result.sha256}, DirectoryView(tmp_path))
    with pytest.raises(ArtifactError, match="is damaged") as refused:
        artifacts.restore({kept.archive: None}, DirectoryView(tmp_path / "workspace"))
    assert refused.value.code == "ARTIFACT_UNREADABLE"
    kept.archive.write_bytes(b"no gzip at all")
    with pytest.raises(ArtifactError, match="is damaged"):
        artifacts.restore({kept.archive: None}, DirectoryView(tmp_path))
    with pytest.raises(ArtifactError, match="No such file"):
        artifacts.restore({tmp_path / "gone.tar.gz": None}, DirectoryView(tmp_path))


DISK_FULL = (
    "/there: the disk is full",
    "`loom clean` removes old runs; LOOM_STATE_DIR and LOOM_TMP_DIR name directories on another disk",
    "ARTIFACT_NO_SPACE",
)
OUTSIDE = "Nothing outside of the workspace was touched."


@pytest.mark.parametrize("named", [False, True], ids=["no archive is named", "the archive is named"])
@pytest.mark.parametrize(
    ("error", "said"),
    [
        (OSError(5, "Input/output error", "/there"), ("/there: Input/output error", None, "ARTIFACT_FAILED")),
        (OSError("became shorter"), ("became shorter", None, "ARTIFACT_FAILED")),
        (OSError(28, "No space left", "/there"), DISK_FULL),
        (OSError(122, "Quota exceeded", "/there"), DISK_FULL),
        (EOFError("ends"), ("{archive} is damaged (ends)", None, "ARTIFACT_UNREADABLE")),
        (gzip.BadGzipFile("no gzip"), ("{archive} is damaged (no gzip)", None, "ARTIFACT_UNREADABLE")),
        (zlib.error("bits"), ("{archive} is damaged (bits)", None, "ARTIFACT_UNREADABLE")),
        (DamagedArchive("bits"), ("{archive} is damaged (bits)", None, "ARTIFACT_UNREADABLE")),
        (UnsafeArchive("climbs"), ("{archive}: climbs", OUTSIDE, "ARTIFACT_UNSAFE")),
    ],
)
def test_what_could_not_be_done_is_said_with_the_reason(
    error: Exception, said: tuple[str, str | None, str], named: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Broken(DirectoryView):
        def read(self, *_: object) -> Iterator[Any]:
            raise error

        def write(self, *_: object) -> Sequence[Any]:
            raise error

    def broken(*_: object) -> Any:
        raise error

    view, archive, spec = Broken(tmp_path), tmp_path / "a.tar.gz", Artifacts(paths=("x",))
    archive.write_bytes(gzip.compress(b""))
    monkeypatch.setattr(artifacts, "read", broken)
    cases: dict[str, Callable[[], object]] = {
        "read the artifacts": lambda: artifacts.index_of(archive),
        "restore the artifacts": lambda: artifacts.restore({archive: None}, view),
        "fetch the artifacts": lambda: artifacts.fetch(archive, tmp_path / "new"),
    }
    if not named:
        cases = {
            "keep the artifacts": lambda: artifacts.collect(spec, view, archive=archive, on_output=lambda *_: None),
            "read the reports": lambda: artifacts.read_reports(["x"], view, lambda *_: None),
        }
    message, hint, code = said
    if not named:
        message = message.replace("{archive}: ", "").replace("{archive}", "the archive")
    for what, call in cases.items():
        with pytest.raises(ArtifactError) as refused:
            call()
        assert refused.value.message == f"can't {what}: {message.format(archive=archive)}"
        assert (refused.value.hint, refused.value.code) == (hint, code)


def test_a_record_that_can_not_be_written_says_so(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(ArtifactError) as refused:
        Kept(tmp_path / "file").collect(DirectoryView(tmp_path), "x")
    assert refused.value.message == f"can't keep the artifacts: {tmp_path}/file/record: Not a directory"


def test_what_goes_wrong_with_several_archives_names_none(tmp_path: Path) -> None:
    view = DirectoryView(tmp_path)

    class Broken(DirectoryView):
        def write(self, *archives: object) -> Sequence[Any]:
            raise UnsafeArchive("climbs") if len(archives) == 2 else EOFError("ends")

    one, two = tmp_path / "1.tar.gz", tmp_path / "2.tar.gz"
    for archives, said in (
        ({one: None, two: None}, "can't restore the artifacts: climbs"),
        ({one: None, two: None, tmp_path: None}, "can't restore the artifacts: the archive is damaged (ends)"),
        ({one: None}, f"can't restore the artifacts: {one} is damaged (ends)"),
    ):
        with pytest.raises(ArtifactError) as refused:
            artifacts.restore(archives, Broken(tmp_path))
        assert refused.value.message == said
    assert artifacts.restore({}, view) == ()


def test_the_one_of_several_archives_that_is_damaged_is_named(workspace: Path, kept: Kept) -> None:
    kept.collect(DirectoryView(workspace), "dist")
    damaged = kept.archive.with_name("damaged.tar.gz")
    damaged.write_bytes(kept.archive.read_bytes()[:60])
    with pytest.raises(ArtifactError) as refused:
        artifacts.restore({kept.archive: None, damaged: None}, DirectoryView(workspace))
    assert refused.value.message.startswith(f"can't restore the artifacts: {damaged} is damaged (")


def test_a_report_is_a_file_also_below_a_directory(tmp_path: Path) -> None:
    (tmp_path / "reports/deep").mkdir(parents=True)
    (tmp_path / "reports/deep/a.xml").write_text("a")
    found = artifacts.read_reports(["reports/"], DirectoryView(tmp_path), lambda file, path: (path, file.read()))
    assert found == artifacts.ReadReports(read=(("reports/deep/a.xml", b"a"),), missing=(), problems=())


def test_what_an_action_uploaded_is_fetched_from_its_zip_file(tmp_path: Path) -> None:
    archive = tmp_path / "one.zip"
    with zipfile.ZipFile(archive, "w") as made:
        made.writestr("a/b.txt", "text")
    assert [(one.path, one.size) for one in artifacts.index_of(archive)] == [("a/b.txt", 4)]
    artifacts.fetch(archive, tmp_path / "made/below")
    assert (tmp_path / "made/below/a/b.txt").read_text() == "text"


@pytest.mark.skipif(os.geteuid() != 0, reason="needs to mount a small file system")
def test_a_full_disk_is_said_and_leaves_nothing(workspace: Path, tmp_path: Path) -> None:
    small = tmp_path / "small"
    small.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "none", str(small)], check=False).returncode:
        pytest.skip("may not mount")
    try:
        kept = Kept(small)
        (workspace / "dist/large").write_bytes(os.urandom(300_000))
        with pytest.raises(ArtifactError, match="the disk is full") as refused:
            kept.collect(DirectoryView(workspace), "dist")
        assert refused.value.code == "ARTIFACT_NO_SPACE"
        assert list(kept.archive.parent.iterdir()) == []
    finally:
        subprocess.run(["umount", str(small)], check=True)


@pytest.mark.parametrize(
    ("when", "success", "failure", "timed_out"),
    [("on_success", True, False, False), ("on_failure", False, True, True), ("always", True, True, True)],
)
def test_when(when: str, success: bool, failure: bool, timed_out: bool) -> None:
    statuses = (Status.SUCCESS, Status.FAILURE, Status.TIMED_OUT)
    assert [wanted(when, status) for status in statuses] == [success, failure, timed_out]  # type: ignore[arg-type]


def test_what_git_does_not_track(workspace: Path, kept: Kept, view_of: ViewOf) -> None:
    (workspace / "vendor/lib").mkdir(parents=True)
    (workspace / "vendor/lib/new").write_text("of a submodule")
    (workspace / "dist/main.pyc").write_text("new, beside a tracked file")
    tracked = Tracked(
        paths=frozenset(
            {"src/main.py", "src", ".loom/workflow.yml", ".loom", "dist/app", "dist", "vendor", "vendor/lib"}
        ),
        submodules=("vendor/lib",),
    )
    result = kept.collect(view_of(workspace), "src/", tracked=tracked, exclude=("logs/*.log", "dist/lib"))
    assert [name for name in kept.names if (workspace / name).is_symlink() or not (workspace / name).is_dir()] == [
        "dist/current", "dist/dangling", "dist/main.pyc", "src/main.py", "with space\nand line",
    ]  # fmt: skip
    assert result.missing == ()


def test_reports(workspace: Path, view_of: ViewOf) -> None:
    (workspace / "reports").mkdir()
    (workspace / "reports/a.xml").write_text(
        '<testsuite name="pytest"><testcase classname="t.test_a" name="x"/>'
        '<testcase classname="t.test_a" name="y"><failure message="assert 1 == 2">t/test_a.py:7: AssertionError</failure>'
        "</testcase></testsuite>"
    )
    (workspace / "reports/b.xml").write_text("<testsuites>")
    found = artifacts.read_reports(
        ["reports/*.xml", "gone.xml"], view_of(workspace), lambda file, path: junit.read(file, report=path)
    )
    (report,) = found.read
    assert (report.tests, report.failures) == (2, 1)
    assert [(test.name, test.file, test.line, test.report) for test in report.failing] == [
        ("y", "t/test_a.py", 7, "reports/a.xml")
    ]
    assert found.missing == ("gone.xml",)
    assert found.problems[0].startswith("reports/b.xml: it is not well-formed XML")


def test_an_archive_is_packed_in_little_time(workspace: Path, kept: Kept) -> None:
    kept.collect(DirectoryView(workspace), "dist")
    assert kept.archive.read_bytes()[:9] == b"\x1f\x8b\x08" + bytes(5) + b"\x04", "the flag of gzip's fastest level"


def test_more_than_could_be_unpacked_is_not_packed(
    workspace: Path, kept: Kept, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(unpacking, "MOST_ENTRIES", 1)
    for masker in (None, Masker()):
        with pytest.raises(ArtifactError, match=r"can't keep the artifacts: .*more than 1 "):
            kept.collect(DirectoryView(workspace), "dist/lib/**/*.so", masker=masker)
        assert not kept.archive.exists()
