"""A directory that was not cloned but unpacked or shared: somebody else wrote its `.git`."""

import hashlib
import json
import os
import shutil
import struct
import subprocess
import tarfile
from functools import partial
from pathlib import Path

import pytest

from loom.cancel import Cancel
from loom.errors import LoomError, SnapshotError
from loom.snapshot import copy_files, inside, merge
from loom.snapshot.capture import take
from loom.snapshot.model import Change
from loom.snapshot.names import checked_listing, is_refused
from loom.snapshot.source import discover, lenders
from tests.support.waiting import promptly

from .conftest import Victim

ENVIRONMENT = {"PATH": os.environ["PATH"], "HOME": "/dev/null/home", "GIT_CONFIG_GLOBAL": "/dev/null"}
FILE, LINK, GITLINK = 0o100644, 0o120000, 0o160000

REFUSED = [
    *("../up", "a/../../up", "..", "a/..", "/tmp/absolute", "a//b", "./a", "a/.", "a/", ""),
    *(".git/config", ".git", "a/.git/hooks/x", ".GIT/config", "a/.Git"),
    *(".git ", ".git. .", "git~1", "a/GIT~1/x", ".git::$INDEX_ALLOCATION/x", "a\\.git\\config", ".git\\config"),
    *(".g\u200cit/config", "\ufeff.git", ".GI\u206fT", "a/.git\u200e/x"),
]
ALLOWED = [
    *(
        ".gitignore",
        ".github/x",
        "a.git/HEAD",
        "..a",
        "a..",
        "...",
        "a\\b",
        "git~2",
        "x/.gitmodules",
        "d.git",
        "-",
        "~",
    ),
    *("\u2018quoted\u2019", ".g\u2018it", "\u200ca"),
]


@pytest.mark.parametrize("path", REFUSED)
def test_paths_that_git_refuses(path: str) -> None:
    assert is_refused(path)
    listing = b"H 100644 0 0\tbefore\0H 100644 0 0\t" + os.fsencode(path) + b"\0H 100644 0 0\tz\0"
    with pytest.raises(SnapshotError) as raised:
        checked_listing(listing, Path("index"))
    assert raised.value.code == "INDEX_PATH_REFUSED"


def test_paths_that_git_allows() -> None:
    for path in ALLOWED:
        assert not is_refused(path), path
        listing = b"H 100644 0 0\t" + os.fsencode(path) + b"\0"
        assert checked_listing(listing, Path("index")) == [f"H 100644 0 0\t{path}"]


@pytest.mark.slow
def test_it_is_what_git_itself_says(tmp_path: Path) -> None:
    subprocess.run(["git", "init", "-q", str(tmp_path)], check=True)
    strict = ["git", "-c", "core.protectHFS=true", "-c", "core.protectNTFS=true", "update-index", "--add", "-z"]
    for path in (*REFUSED, *ALLOWED):
        entry = f"100644 {'1' * 40}\t{path}".encode() + b"\0"
        done = subprocess.run([*strict, "--index-info"], cwd=tmp_path, input=entry, capture_output=True, check=False)
        assert (done.returncode != 0 or b"gnoring path" in done.stderr) == is_refused(path), path


def crafted(git_dir: Path, *entries: tuple[str, int], skip: bool = False) -> None:
    """Write an index as nobody's git would."""
    data = b"DIRC" + struct.pack(">II", 3 if skip else 2, len(entries))
    for path, mode in entries:
        command = ["git", f"--git-dir={git_dir}", "hash-object", "-w", "--stdin"]
        content = os.fsencode(git_dir.parents[3] / "outside") if mode == LINK else b""
        blob = bytes.fromhex(subprocess.check_output(command, input=content).decode())
        name = os.fsencode(path)
        flags = min(len(name), 0xFFF) | (0x4000 if skip else 0)
        entry = struct.pack(">10I", 0, 0, 0, 0, 0, 0, mode, 0, 0, 0) + blob + struct.pack(">H", flags)
        entry += (struct.pack(">H", 0x4000) if skip else b"") + name
        data += entry + b"\0" * (8 - len(entry) % 8)
    (git_dir / "index").write_bytes(data + hashlib.sha1(data).digest())


@pytest.fixture
def unpacked(victim: Victim) -> Victim:
    """The repository as it comes out of an archive, in the user's downloads."""
    archive = victim.home.parent / "project.tar"
    with tarfile.open(archive, "w") as tar:
        tar.add(victim.root, "project")
    downloads = victim.home / "downloads"
    downloads.mkdir()
    with tarfile.open(archive) as tar:
        tar.extractall(downloads, filter="tar")
    victim.root = downloads / "project"
    return victim


COMMANDS = (("snapshot",), ("run", "--dry-run"), ("run",), ("check",), ("compile",), ("trust",), ("explain", "a"))


@pytest.mark.slow
@pytest.mark.parametrize("path", ["../../.bash_profile", ".git/hooks/post-checkout", "a/../../../.bash_profile"])
def test_no_command_writes_where_a_crafted_index_leads(unpacked: Victim, path: str) -> None:
    for beside in (unpacked.root.parent, unpacked.root):
        (beside / ".bash_profile").write_text("touch /tmp/taken-over\n")
    crafted(unpacked.root / ".git", (".loom/workflow.yml", FILE), (path, FILE))
    before = {file: file.stat().st_mtime_ns for file in unpacked.home.iterdir()}
    for command in COMMANDS:
        done = unpacked.loom(*command)
        if command[0] in ("snapshot", "run") and command != ("run", "--dry-run"):
            assert "git never writes such a path" in " ".join((done.stdout + done.stderr).split())
            assert done.returncode == 3
        assert not (unpacked.home / ".bash_profile").exists(), command
    assert all(file.stat().st_mtime_ns == time for file, time in before.items() if file.name not in (".local", "tmp"))
    assert not list((unpacked.home / "tmp").rglob("post-checkout"))


def snapshot_of(root: Path, workspace: Path) -> Path:
    return take(discover(root, environ=ENVIRONMENT, lends=lambda _: True), workspace, cancel=Cancel()).path


@pytest.mark.parametrize("skip", [False, True])
def test_nothing_is_made_behind_a_link_of_the_index(unpacked: Victim, tmp_path: Path, *, skip: bool) -> None:
    """A submodule, a file and a missing file below what is a link in the index or on disk."""
    outside = unpacked.home.parent / "outside"
    (outside / "sub/empty").mkdir(parents=True)
    root = unpacked.root
    for entries in (
        [("a", LINK), ("a/sub", GITLINK), ("a/x", FILE)],
        [("a/new", GITLINK), ("a/sub/empty/gone", FILE), ("a/x", FILE)],
        [("a", LINK), ("a", FILE), ("a/x", FILE), ("B", FILE), ("A", FILE)],
    ):
        crafted(root / ".git", *entries, skip=skip)
        for on_disk in ("link", "directory"):
            subprocess.run(["rm", "-rf", str(root / "a")], check=True)
            if on_disk == "link":
                (root / "a").symlink_to(outside)
            else:
                (root / "a/sub").mkdir(parents=True)
            workspace = tmp_path / f"loom-run-local-{os.urandom(4).hex()}"
            workspace.mkdir()
            try:
                snapshot_of(root, workspace)
            except (LoomError, OSError):
                pass  # a refusal is as good
            assert [str(found.relative_to(outside)) for found in sorted(outside.rglob("*"))] == ["sub", "sub/empty"]


def test_no_nul_and_no_step_up_is_a_name(tmp_path: Path) -> None:
    assert is_refused("a\0b")
    (tmp_path / "a").mkdir()
    for path in ("..", "a/..", "a/.", "a/"):
        with pytest.raises(OSError), inside.parent_in(tmp_path, path):
            pass


def test_a_directory_that_passes_itself_off_as_a_linked_worktree(unpacked: Victim, tmp_path: Path) -> None:
    """It leads back, as git's own do, but is not among the repository's worktrees; or it is that of another directory."""
    subprocess.run(["git", "init", "-q", str(private := tmp_path / "private")], check=True)
    dot = unpacked.root / ".git"
    (dot / "gitdir").write_text(f"{dot}\n")
    (dot / "commondir").write_text(f"{private}/.git\n")
    with pytest.raises(LoomError) as refused:
        discover(unpacked.root, environ=ENVIRONMENT)
    assert refused.value.code == "REPOSITORY_ELSEWHERE"
    (private / ".git/worktrees").mkdir()
    dot = dot.rename(private / ".git/worktrees/x")
    (unpacked.root / ".git").write_text(f"gitdir: {dot}\n")
    for back in (f"{tmp_path}/another/.git\n", None):
        (dot / "gitdir").write_text(back) if back else (dot / "gitdir").unlink()
        with pytest.raises(LoomError) as refused:
            discover(unpacked.root, environ=ENVIRONMENT)
        assert refused.value.code == "REPOSITORY_ELSEWHERE"


def test_a_copier_can_not_leave_its_root(tmp_path: Path) -> None:
    (tmp_path / "source/in").mkdir(parents=True)
    (tmp_path / "target").mkdir()
    (tmp_path / "source/in/file").touch()
    (tmp_path / "up").mkdir()
    (tmp_path / "up/file").touch()
    (tmp_path / "target/link").symlink_to(tmp_path / "up")
    (tmp_path / "source/link").mkdir()
    (tmp_path / "source/link/other").touch()
    copier = copy_files.Copier(str(tmp_path / "source"), str(tmp_path / "target"), since_ns=0)
    for directory in ("../up", "in/../../up", "/up", "in//", ".", "in/."):
        with pytest.raises(copy_files.WriteFailed):
            copier.copy(directory, [("file", copy_files.ANY)])
    copier.copy("link", [("other", copy_files.ANY)])
    assert copier.findings.absent == ["link/other"]
    copier.close()
    assert [path.name for path in (tmp_path / "up").iterdir()] == ["file"]
    for path in ("../up", "link", "/up"):
        with pytest.raises(OSError), inside.directory_in(tmp_path / "target", path, umask=0o022):
            pass


def test_what_a_job_left_is_applied_inside_the_checkout_alone(tmp_path: Path) -> None:
    """The paths are checked when both sides are compared, and links are not followed when it is written."""
    source, target, outside = (tmp_path / name for name in ("source", "target", "outside"))
    for directory in (source / "link", target, outside):
        directory.mkdir(parents=True)
    (source / "link/new").touch()
    paths = ["../outside/new", ".git/config", "a/.GIT/config", "git~1"]
    changes = [
        Change(path=path, kind="added", old_mode="0", mode="100644", old_sha="0", sha="0")
        for path in (*paths, "link/new")
    ]
    found = merge.merge(partial(merge.content_at, source), changes, target, {})
    assert sorted(found.conflicts) == sorted(paths)
    assert [change.path for change in found.changes] == ["link/new"]
    (target / "link").symlink_to(outside)  # by a job, after the comparison
    applied = merge.apply_to(target, [*changes], lambda _: (0o100644, b"taken over"))
    assert {"../outside/new", "link/new"} <= applied.failed.keys()
    assert merge.content_at(target, "link/new") is None
    assert list(outside.iterdir()) == []


@pytest.mark.slow
def test_only_objects_of_a_repository_are_borrowed_or_copied(unpacked: Victim) -> None:
    """`objects/info/alternates` of an archive names any directory of the user."""
    private = unpacked.home / "private"
    for name in ("ab", "pack"):
        (private / "objects" / name).mkdir(parents=True)
    (private / "objects/ab" / ("c" * 38)).write_text("an object by its name")
    (private / "objects/pack" / f"pack-{'c' * 40}.pack").write_text("a pack by its name")
    fake = unpacked.root / "fake"
    (fake / "refs").mkdir(parents=True)
    (fake / "HEAD").write_text("ref: refs/heads/main\n")
    (fake / "objects").symlink_to(private / "objects")
    alternates = unpacked.root / ".git/objects/info/alternates"
    for named in (private / "objects", fake / "objects", unpacked.home, private / "objects/ab"):
        alternates.write_text(f"{named}\n")
        for command in (("snapshot",), ("run",)):
            done = unpacked.loom(*command)
            assert done.returncode == 2
            assert "is no repository's store of objects" in done.stderr or "loom follows no link" in done.stderr
    for file in (unpacked.home / "tmp").rglob("*"):
        assert not file.is_file() or b"by its name" not in file.read_bytes()


def test_objects_are_copied_by_name(unpacked: Victim, tmp_path: Path) -> None:
    objects = unpacked.root / ".git/objects"
    (objects / "zz").mkdir()
    for name in ("zz/" + "a" * 38, "pack/notes.pack", "pack/pack-x.idx", "pack/id_rsa.pack"):
        (objects / name).write_text("no object")
    folder = next(path for path in objects.iterdir() if path.name not in ("zz", "pack", "info"))
    (folder / "notes").write_text("no object")
    workspace = tmp_path / "workspace"
    workspace.mkdir()
    copied = snapshot_of(unpacked.root, workspace) / ".git/objects"
    assert any(path.is_file() for path in copied.rglob("*"))
    assert not [path for path in copied.rglob("*") if path.is_file() and b"no object" in path.read_bytes()]


GIT_SAYS_NO = ("NO_REPOSITORY", "REPOSITORY_UNREADABLE")
LINKS = ["info/exclude", "info/attributes", "info", "index", "packed-refs", "shallow", "HEAD", "refs", "objects/info"]


@pytest.mark.parametrize("name", [*LINKS, "objects/pack", "objects/info/alternates", "modules"])
def test_no_link_is_followed_out_of_git(unpacked: Victim, tmp_path: Path, name: str) -> None:
    place = unpacked.root / ".git" / name
    aside = unpacked.home / "aside"
    if os.path.lexists(place):
        place.rename(aside)
    else:
        aside.write_text("")
    place.symlink_to(aside)
    workspace = tmp_path / "workspace"
    workspace.mkdir()
    with pytest.raises(LoomError) as raised:
        snapshot_of(unpacked.root, workspace)
    assert raised.value.code == "REPOSITORY_LINKED" or (name == "HEAD" and raised.value.code in GIT_SAYS_NO)
    assert list(workspace.iterdir()) == []


OBJECTS = [
    f"pack/pack-{'a' * 40}.pack",
    f"ab/{'c' * 38}",
    "cd",
    "info/packs",
    "info/commit-graphs",
    "info/commit-graphs/x",
]


@pytest.mark.slow
@pytest.mark.parametrize("name", OBJECTS)
def test_no_link_among_the_objects_is_followed(unpacked: Victim, tmp_path: Path, name: str) -> None:
    """git follows them, and so would a job on objects that are borrowed: the packs of your other repositories."""
    private = unpacked.home / "private"
    private.mkdir()
    link = unpacked.root / ".git/objects" / name
    link.parent.mkdir(exist_ok=True)
    link.symlink_to(private)
    for command in (("snapshot",), ("run",)):
        done = unpacked.loom(*command)
        assert done.returncode == 2
        assert f"{link} is a link to {private}" in done.stderr, done.stderr
    workspace = tmp_path / "workspace"
    workspace.mkdir()
    with pytest.raises(LoomError, match="loom follows no link out of a repository"):
        snapshot_of(unpacked.root, workspace)


@pytest.mark.parametrize(
    "name", [*LINKS, "objects/info/alternates", "objects/info/commit-graph", "info/sparse-checkout"]
)
def test_a_fifo_in_place_of_a_file_of_git_is_named(unpacked: Victim, name: str) -> None:
    place = unpacked.root / ".git" / name
    if place.is_dir():
        shutil.rmtree(place)
    place.unlink(missing_ok=True)
    place.parent.mkdir(exist_ok=True)
    os.mkfifo(place)
    with promptly(), pytest.raises(LoomError) as raised:
        discover(unpacked.root, environ=ENVIRONMENT)
    assert raised.value.code in ("REPOSITORY_UNREADABLE", *(["NO_REPOSITORY"] if name == "refs" else []))
    assert "FIFO in place of a file" in raised.value.message or name == "refs"


def test_a_list_of_stores_that_would_fill_the_memory_is_named(unpacked: Victim) -> None:
    with (unpacked.root / ".git/objects/info/alternates").open("wb") as file:
        file.truncate(20 << 30)
    with promptly(), pytest.raises(LoomError, match="a file of that size in place of a file of git's"):
        discover(unpacked.root, environ=ENVIRONMENT)


def test_no_list_of_stores_is_read_by_git_otherwise(unpacked: Victim, tmp_path: Path) -> None:
    """git takes what stands before the end of a quotation, or before a NUL, for the directory."""
    subprocess.run(["git", "init", "-q", str(private := tmp_path / "private")], check=True)
    store = os.fsencode(private / ".git/objects")
    alternates = unpacked.root / ".git/objects/info/alternates"
    for refused in (
        b'"%s"x\n' % store,
        b'"%s"\\n\n' % store,
        b"%s\0x\n" % store,
        b'"%s\\000x"\n' % store,
        b'"\\x"\n',
        b'"/a\n',
        b"#" * 2_000_000,
    ):
        alternates.write_bytes(refused)
        with pytest.raises(LoomError, match="alternates is not a list of directories in git's format"):
            discover(unpacked.root, environ=ENVIRONMENT)
    octal = b"".join(b"\\%03o" % byte for byte in store)
    for read in (
        b'"%s"\n' % octal,
        b'"%s"\n' % store.replace(b"/", b"\\057"),
        b"# a remark\n%s" % store,
        b"x" * 5000 + b"\n" + store,
    ):
        alternates.write_bytes(read)
        assert [path.parent.parent for path in lenders(unpacked.root / ".git/objects")] == [private]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root makes directories of another user")
def test_another_users_repository_lends_nothing(unpacked: Victim, tmp_path: Path) -> None:
    subprocess.run(["git", "init", "-q", str(private := tmp_path / "private")], check=True)
    (unpacked.root / ".git/objects/info/alternates").write_text(f"{private}/.git/objects\n")
    assert len(list(lenders(unpacked.root / ".git/objects"))) == 1
    os.chown(private / ".git/objects", 1500, 1500)
    with pytest.raises(LoomError, match="which belongs to another user"):
        list(lenders(unpacked.root / ".git/objects"))


def test_what_is_no_directory_among_the_objects_is_passed_over(unpacked: Victim, tmp_path: Path) -> None:
    objects = unpacked.root / ".git/objects"
    (objects / "yy").write_text("")
    os.mkfifo(objects / "zz")
    workspace = tmp_path / "workspace"
    workspace.mkdir()
    assert (snapshot_of(unpacked.root, workspace) / ".loom/workflow.yml").is_file()


@pytest.mark.slow
def test_a_link_that_stays_inside_of_git_is_followed(unpacked: Victim, tmp_path: Path) -> None:
    """HEAD is one as git made it twenty years ago."""
    head, rules = unpacked.root / ".git/HEAD", unpacked.root / ".git/info/exclude"
    head.unlink()
    head.symlink_to("refs/heads/main")
    rules.unlink(missing_ok=True)
    rules.symlink_to("../rules")
    (unpacked.root / ".git/rules").write_text("hidden\n")
    (unpacked.root / "hidden").touch()
    workspace = tmp_path / "workspace"
    workspace.mkdir()
    snapshot = snapshot_of(unpacked.root, workspace)
    assert (snapshot / ".loom/workflow.yml").is_file()
    assert not (snapshot / "hidden").exists()


@pytest.mark.slow
def test_objects_of_another_repository_of_the_user_need_trust(unpacked: Victim) -> None:
    """An archive can name any repository by a path that can be guessed; `git clone --shared` writes just that."""
    private = Victim(root=unpacked.home / "private", home=unpacked.home)
    subprocess.run(["git", "init", "-q", str(private.root)], check=True)
    private.write(secret="committed in private\n")
    private.git("commit", "-q", "--allow-empty", "-m", "said in private")
    store = private.root / ".git/objects"
    lent = {path.name for path in store.glob("??/*")}
    assert unpacked.loom("run").returncode == 0
    (unpacked.root / ".git/objects/info/alternates").write_text(f"{store}\n")
    unpacked.git("commit", "-q", "--allow-empty", "-m", "another")
    bisect = ("bisect", "hello", "HEAD~1", "HEAD")
    plans = [("run", "--dry-run"), ("compile",), ("compile", "--format", "json")]
    acts = [("run",), ("snapshot",), ("snapshot", "--explain", "x"), ("bundle", "last"), bisect, ("rerun", "last")]
    for command in (*acts, *plans, ("check",)):
        done = unpacked.loom(*command)
        if command != ("check",):
            assert done.returncode == 2, (command, done)
            assert "TRUST_REQUIRED" in done.stderr, (command, done.stderr)
            assert str(store) in done.stderr, (command, done.stderr)
        assert not [path for path in (unpacked.home / "tmp").rglob("*") if path.name in lent]
    [request] = json.loads(unpacked.loom("trust", "--json").stdout)["requests"]
    assert (request["kind"], request["subject"], request["allowed"]) == ("objects", str(store), False)
    head = (unpacked.root / ".git/HEAD").read_text()
    lent_commit = subprocess.check_output(["git", "-C", str(private.root), "rev-parse", "HEAD"], text=True)
    (unpacked.root / ".git/HEAD").write_text(lent_commit)
    (unpacked.root / ".gitlab-ci.yml").write_text("{include: [{local: '$CI_COMMIT_MESSAGE.yml'}], t: {script: [ls]}}")
    for allowed in ("0", "1"):
        shown = unpacked.loom("check", "--workflow", ".gitlab-ci.yml", LOOM_TRUST=allowed).stdout
        assert (str(store) in shown, "said in private.yml" in shown) == (True, allowed == "1"), shown
    (unpacked.root / ".git/HEAD").write_text(head)
    (unpacked.root / ".gitlab-ci.yml").unlink()
    unpacked.loom("trust", "--yes")
    assert unpacked.loom("run").returncode == 0
    taken = unpacked.loom("snapshot")
    workspace = next(Path(word) for word in taken.stdout.split() if "/loom-run-local-" in word)
    assert unpacked.loom("run", cwd=workspace).returncode == 0, "a workspace borrows from its checkout"


@pytest.mark.parametrize("used", [True, False])
def test_a_submodule_borrows_nothing_that_its_project_does_not(unpacked: Victim, tmp_path: Path, *, used: bool) -> None:
    private = Victim(root=unpacked.home / "private", home=unpacked.home)
    subprocess.run(["git", "init", "-q", str(private.root)], check=True)
    private.write(secret="committed in private\n")
    allow = ("-c", "protocol.file.allow=always")
    unpacked.git(*allow, "submodule", "add", "-q", str(private.root), "inner")
    unpacked.git("commit", "-q", "-m", "a submodule")
    module = unpacked.root / ".git/modules/inner"
    workspace = tmp_path / "workspace"
    workspace.mkdir()
    assert (snapshot_of(unpacked.root, workspace) / "inner/.loom/secret.yml").is_file()
    (module / "objects/info/alternates").write_text(f"{private.root / '.git/objects'}\n")
    if not used:
        unpacked.git("rm", "-q", "-f", "inner")
        unpacked.git("commit", "-q", "-m", "no submodule")
        assert module.is_dir()
    other = tmp_path / "other"
    other.mkdir()
    with pytest.raises(LoomError, match="the project borrows nothing there"):
        snapshot_of(unpacked.root, other)
    (unpacked.root / ".git/objects/info/alternates").write_text(f"{private.root / '.git/objects'}\n")
    assert snapshot_of(unpacked.root, other).is_dir()


def test_a_shared_index_is_no_link(unpacked: Victim, tmp_path: Path) -> None:
    unpacked.git("update-index", "--split-index")
    [shared] = (unpacked.root / ".git").glob("sharedindex.*")
    shared.rename(unpacked.home / "aside")
    shared.symlink_to(unpacked.home / "aside")
    workspace = tmp_path / "workspace"
    workspace.mkdir()
    with pytest.raises(LoomError) as raised:
        snapshot_of(unpacked.root, workspace)
    assert raised.value.code == "REPOSITORY_LINKED"
    assert " is a link to " in raised.value.message


@pytest.mark.skipif(os.geteuid() != 0, reason="only root makes directories of another user")
@pytest.mark.slow
def test_a_folder_that_another_user_shares_is_no_repository(unpacked: Victim) -> None:
    crafted(unpacked.root / ".git", ("../../.bash_profile", FILE))
    for path in (unpacked.root, *unpacked.root.rglob("*")):
        os.chown(path, 1500, 1500, follow_symlinks=False)
    for command in (("snapshot",), ("run",)):
        done = unpacked.loom(*command)
        assert done.returncode == 2
        assert "belongs to another user" in done.stderr
    assert not (unpacked.home / ".bash_profile").exists()
    assert list((unpacked.home / "tmp").glob("loom-run-*")) == []
