"""Which bytes count: line endings, attributes, filters, large files."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from loom.cancel import Cancel
from loom.errors import RequestError
from loom.plan.clone import Clone
from loom.snapshot import apply_patch, as_cloned, discover, line_endings, manifest_bytes, patch_of, take, verify
from loom.snapshot.git import GitFailed
from loom.snapshot.proof import Filled, Proof
from loom.snapshot.renewal import KnownFiles

from .conftest import ENVIRONMENT, NewRepo, Repo, Snap, check, clone, contents, proved


@pytest.mark.slow
def test_line_endings(work: Repo, snap: Snap, tmp_path: Path) -> None:
    work.write(".gitattributes", "*.txt text eol=crlf\n*.auto text=auto\n*.bin -text\n")
    work.write("a.txt", "one\r\ntwo\r\n")
    work.write("b.auto", "one\r\n")
    work.commit()
    for autocrlf in ("false", "true", "input"):
        work.git("config", "core.autocrlf", autocrlf)
        work.write("a.txt", f"{autocrlf}\r\n")
        work.write("new.txt", "new\r\n")
        work.write("c.auto", "x\r\ny\r\n")
        work.write("d.bin", "x\r\n")
        work.write("plain", "x\r\ny\r\n")
        work.write("README", "now with\r\nother endings\r\n")
        snapshot = snap(work)
        # The user's setting is not CI's: a clone has what the workspace has, and git there sees no change.
        assert snapshot.tree_sha == work.would_commit()
        (named,) = snapshot.left_out
        assert ("by .gitattributes" if autocrlf == "false" else "by your core.autocrlf") in named.reason
        assert "the workspace has the bytes of CI" in named.reason
        assert proved(snapshot).same
        work.commit(autocrlf)
        assert contents(snap(work).path) == contents(clone(work, tmp_path / autocrlf, str(work.root)).root)
        assert contents(snapshot.path) == contents(tmp_path / autocrlf)
        assert Repo(snap(work).path).git("status", "--porcelain") == ""


@pytest.mark.parametrize(
    "attributes",
    ["* text=auto", "* text", "* text eol=lf", "* text eol=crlf", "* text=auto eol=crlf", "* -text", "*.c ident"],
)
@pytest.mark.parametrize("before", ["", pytest.param("* -text", marks=pytest.mark.slow)])
def test_a_job_has_what_a_checkout_writes_by_the_attributes(
    work: Repo, snap: Snap, tmp_path: Path, attributes: str, before: str
) -> None:
    files = {"lf.c": b"a\nb\n", "crlf.c": b"a\r\nb\r\n", "mixed": b"a\r\nb\n", "cr": b"a\rb\n", "nul": b"\0a\r\nb\n", "id.c": b"$Id$ x\r\n$Id: old $\n"}  # fmt: skip
    for name, content in files.items():
        work.write(f"same {name}", content)
        work.write(f"edited {name}", b"x\n" + content)
    work.write(".gitattributes", f"{before or attributes}\n")
    work.commit()
    work.write(".gitattributes", f"{attributes}\n")
    for name, content in files.items():
        work.write(f"new {name}", content)
        work.write(f"edited {name}", content)
        os.utime(work.root / f"same {name}", (1_600_000_000, 1_600_000_000))
    work.git("status")
    snapshot = snap(work)
    assert snapshot.tree_sha == work.would_commit()
    assert proved(snapshot).same
    work.commit()
    committed = contents(clone(work, tmp_path / "clone", str(work.root)).root)
    assert contents(snapshot.path) == committed
    assert bool(snapshot.left_out) == (contents(work.root) != committed)
    assert contents(snap(work).path) == committed


def test_attributes_outside_of_the_work_tree(work: Repo, snap: Snap, new_repo: NewRepo, tmp_path: Path) -> None:
    (tmp_path / "attributes").write_text("*.unix text eol=crlf\n*.loud filter=quiet\n")
    (tmp_path / "config").write_text(
        f'[core]\n\tattributesFile = {tmp_path / "attributes"}\n[filter "quiet"]\n\tclean = tr A-Z a-z\n'
    )
    work.environ["GIT_CONFIG_GLOBAL"] = str(tmp_path / "config")
    inner = new_repo("inner")
    inner.write("a")
    inner.commit()
    work.git("submodule", "add", "-q", str(inner.root), "inner")
    work.commit("submodule")
    (work.root / ".git/info/attributes").write_text("*.own text\n")
    for directory in ("", "inner/"):
        work.write(f"{directory}x.unix", "a\r\nb\r\n")
        work.write(f"{directory}x.loud", "LOUD\n", 0o755)
    work.write("x.own", "a\r\nb\r\n")
    snapshot = snap(work)
    assert [item.path for item in snapshot.left_out] == ["x.own"]
    assert contents(snapshot.path)["x.own"] == ("100644", b"a\nb\n")
    work.write("x.own", "a\nb\n")
    snapshot = snap(work)
    check(work, snapshot)
    assert [sub.tree_sha for sub in snapshot.submodules] == [Repo(work.root / "inner", work.environ).would_commit()]
    verified = proved(snapshot)
    assert verified.same, verified.changes


@pytest.mark.parametrize(
    ("file", "attributes", "is_own"),
    [
        (".git/info/attributes", "x text eol=crlf", True),
        (".git/info/attributes", "* text=auto diff", False),
        ("users", "x eol=crlf", True),
        ("users", "x diff", False),
        (".gitattributes", "x filter=lower", True),
        (".gitattributes", "x eol=crlf ident filter=lfs", False),
        (".gitattributes", "x filter=none", False),
    ],
)
def test_files_that_may_be_others_in_a_clone(work: Repo, snap: Snap, file: str, attributes: str, is_own: bool) -> None:
    work.write(".git/config-of-user", f"[core]\n\tattributesFile = {work.root}/users\n")
    work.environ["GIT_CONFIG_GLOBAL"] = f"{work.root}/.git/config-of-user"
    if "lower" in attributes:
        work.git("config", "filter.lower.clean", "tr A-Z a-z")
    work.git("config", "filter.none.clean", "")
    work.write("x", "A\n")
    work.write(file, f"{attributes}\n")
    assert snap(work).document()["own_rules"] is is_own


def test_large_files_without_git_lfs(work: Repo, snap: Snap, tmp_path: Path) -> None:
    pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:{}\nsize {}\n"
    known = pointer.format("5891b5b522d5df086d0ff0b110fbd9d21bb4fc7163af34d08286a2e846f6be03", 6)
    work.write(".gitattributes", "*.big filter=lfs diff=lfs merge=lfs -text\n")
    work.write("pointer.big", known)
    work.write("smudged.big", known)
    work.commit()
    for key, value in {
        "clean": "git-lfs clean -- %f",
        "smudge": "git-lfs smudge -- %f",
        "process": "git-lfs filter-process",
        "required": "true",
    }.items():
        work.git("config", f"filter.lfs.{key}", value)
    work.write("smudged.big", "hello\n")  # what the pointer stands for
    work.write("new.big", "hello\n")
    snapshot = snap(work)
    assert contents(snapshot.path)["smudged.big"][1] == b"hello\n"
    assert contents(snapshot.path)["pointer.big"][1] == known.encode()
    assert [(change.path, change.kind) for change in snapshot.changed] == [("new.big", "added")]
    assert snapshot.changed[0].sha == work.git("rev-parse", "HEAD:pointer.big").strip()
    assert snapshot.left_out == (), "on GitHub, a checkout has pointers"
    (tmp_path / "as-runner").mkdir()
    source = as_cloned(discover(work.root, environ=work.environ), Clone(), ())
    (left,) = take(source, tmp_path / "as-runner", cancel=Cancel()).left_out
    assert (left.path, left.reason.partition(":")[0]) == ("pointer.big", "a pointer of git-lfs")


def test_filters(work: Repo, snap: Snap) -> None:
    work.git("config", "filter.rot.clean", "tr a-z n-za-m")
    work.git("config", "filter.rot.smudge", "tr n-za-m a-z")
    work.write(".gitattributes", "*.rot filter=rot\n")
    work.write("a.rot", "clear\n")
    work.commit()
    work.write("b.rot", "also clear\n")
    work.write("a.rot", "edited\n")
    snapshot = snap(work)
    check(work, snapshot, status=False)
    assert contents(snapshot.path)["a.rot"][1] == b"edited\n"


def test_a_filter_that_can_not_run(work: Repo, snap: Snap) -> None:
    work.write(".gitattributes", "*.enc filter=gone\n")
    work.commit()
    work.git("config", "filter.gone.clean", "no-such-program-anywhere")
    work.git("config", "filter.gone.required", "true")
    work.write("a.enc", "x\n")
    snapshot = snap(work)
    assert contents(snapshot.path)["a.enc"][1] == b"x\n"
    assert any("filter" in left.reason for left in snapshot.left_out)


def test_a_filter_that_need_not_work_and_does_not(work: Repo, snap: Snap) -> None:
    work.git("config", "filter.broken.clean", "false")
    work.write(".gitattributes", "*.b filter=broken\n")
    work.write("x.b")
    snapshot = snap(work)
    assert snapshot.tree_sha == work.would_commit()
    assert ["external filter 'false' failed" in left.reason for left in snapshot.left_out] == [True]


def test_a_filter_that_no_longer_works_where_a_workspace_is_verified(work: Repo, snap: Snap, tmp_path: Path) -> None:
    """Of files that go through the user's own filters the bytes are compared: nothing of theirs is run."""
    script = work.write("../filter", "#!/bin/sh\ntr a-z A-Z\n", 0o755)
    work.git("config", "filter.up.clean", str(script))
    work.git("config", "filter.up.required", "true")
    work.write(".gitattributes", "*.up filter=up\n")
    work.write("x.up")
    work.commit()
    work.write("y.up")
    snapshot = snap(work)
    check(work, snapshot, status=False)
    script.unlink()
    shutil.rmtree(work.root / ".git/info")
    assert proved(snapshot).same
    own = verify(snapshot.path, environ=ENVIRONMENT, tree_sha=snapshot.tree_sha)
    assert (own.same, own.believed) == (True, False)
    (snapshot.path / "x.up").write_text("changed\n")
    (snapshot.path / "y.up").chmod(0o755)
    assert [(change.path, change.kind) for change in proved(snapshot).changes] == [
        ("x.up", "modified"),
        ("y.up", "mode_changed"),
    ]


NEEDS_ITS_PLACE = """#!/bin/sh
# Nothing but what `git add` gives a filter: the configuration, the git directory, and the checkout it is started in.
key=$(git config loom.key) && cat "$(git rev-parse --git-dir)/key" .ignored-key && echo "$key" && tr a-z A-Z
"""


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["plain", "submodule", "worktree"])
def test_filters_that_need_the_checkout(work: Repo, snap: Snap, new_repo: NewRepo, tmp_path: Path, kind: str) -> None:
    script = work.write("../filter", NEEDS_ITS_PLACE, 0o755)
    work.write(".gitattributes", "*.key filter=key\n*.txt text\n")
    work.write(".gitignore", ".ignored-key\n")
    work.commit()
    place = work
    if kind == "worktree":
        work.git("worktree", "add", "-q", str(tmp_path / "linked"))
        place = Repo(tmp_path / "linked")
    elif kind == "submodule":
        outer = new_repo("outer")
        outer.git("submodule", "add", "-q", str(work.root), "s")
        outer.commit()
        place = Repo(outer.root / "s")
    place.git("config", "filter.key.clean", str(script))
    place.git("config", "filter.key.required", "true")
    place.git("config", "loom.key", "from the configuration")
    Path(place.git("rev-parse", "--absolute-git-dir").strip(), "key").write_text("from the git directory\n")
    place.write(".ignored-key", "ignored\n")
    place.write("old.key", "old\n")
    place.commit()
    place.write("old.key", "edited\n")
    place.write("with space/new.key", "new\n", 0o755)
    place.write("plain.txt", "a\r\nb\r\n")
    state = place.state()
    snapshot = snap(outer if kind == "submodule" else place)
    assert place.state() == state
    tree = snapshot.submodules[0].tree_sha if kind == "submodule" else snapshot.tree_sha
    assert tree == place.would_commit()
    assert [item.path.removeprefix("s/") for item in snapshot.left_out] == ["plain.txt"]  # a checkout writes LF
    verified = proved(snapshot)
    assert verified.same, verified.changes
    inside = snapshot.path / ("s" if kind == "submodule" else "")
    (inside / "old.key").write_text("a job\n")
    # What the filter made of it before is another input, not the same one.
    (inside / "with space/new.key").write_bytes(
        subprocess.run(
            [script], cwd=place.root, env=place.environ, input=b"new\n", capture_output=True, check=True
        ).stdout
    )
    verified = proved(snapshot)
    assert [change.path.removeprefix("s/") for change in verified.changes] == ["old.key"]
    assert [path.removeprefix("s/") for path, _ in verified.unreadable] == ["with space/new.key"]


def test_a_filter_that_a_workspace_names_itself_is_not_run(work: Repo, snap: Snap, tmp_path: Path) -> None:
    work.write(".gitattributes", "* filter=evil\n")
    work.commit()
    snapshot = snap(work)
    manifest = snapshot.path / ".git/loom-snapshot.json"
    document = json.loads(manifest.read_bytes())
    document["rules"]["config"].append(["filter.evil.clean", f"touch {tmp_path}/ran; cat"])
    manifest.write_text(json.dumps(document))
    (snapshot.path / "README").write_text("changed\n")
    verified = verify(snapshot.path, environ=ENVIRONMENT, tree_sha=snapshot.tree_sha)
    assert [change.path for change in verified.changes] == ["README"]
    assert not verified.believed
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("required", ["true", "false"])
@pytest.mark.parametrize("program", ["true", "false", "sleep 0.05", "no-such-program", "printf 0000"])
def test_filters_that_speak_no_protocol_are_named(work: Repo, snap: Snap, required: str, program: str) -> None:
    work.write(".gitattributes", "*.p filter=p\n")
    work.git("config", "filter.p.process", program)
    work.git("config", "filter.p.required", required)
    for number in range(30):
        work.write(f"{number}.p", f"{number}\n" * 5000)
    snapshot = snap(work)
    assert (snapshot.path / "7.p").read_text() == "7\n" * 5000
    assert [left.path for left in snapshot.left_out] == [".gitattributes"]
    assert "filter" in snapshot.left_out[0].reason


@pytest.mark.parametrize("how", ["variable", "config", "nothing"])
def test_attributes_from_a_tree(work: Repo, snap: Snap, new_repo: NewRepo, how: str) -> None:
    work.write(".gitattributes", "*.txt -text\n")
    work.commit()
    tree = work.git("rev-parse", "HEAD").strip()
    work.write(".gitattributes", "*.txt text\n")
    inner = new_repo("inner")
    inner.write(".gitattributes", "*.txt text\n")
    inner.commit()
    work.git("submodule", "add", "-q", str(inner.root), "s")
    work.commit()
    for directory in ("", "s/"):
        work.write(f"{directory}x.txt", "a\r\nb\r\n")
    if how == "variable":
        work.environ |= {"GIT_ATTR_SOURCE": tree}
    else:
        work.git("config", "attr.tree", "HEAD~1" if how == "config" else "nothing")
    snapshot = snap(work)
    assert snapshot.tree_sha == work.would_commit()
    assert snapshot.submodules[0].tree_sha == Repo(work.root / "s").would_commit()
    verified = proved(snapshot)
    assert verified.same, verified.changes
    work.environ.pop("GIT_ATTR_SOURCE", None)
    inside = Repo(snapshot.path)
    assert inside.git("check-attr", "text", "x.txt").endswith({"nothing": ": set\n"}.get(how, ": unset\n"))


def test_attributes_from_a_tree_that_is_none(work: Repo) -> None:
    with pytest.raises(RequestError, match="GIT_ATTR_SOURCE=nothing"):
        discover(work.root, environ=work.environ | {"GIT_ATTR_SOURCE": "nothing"})


@pytest.mark.slow
def test_filters_run_as_under_git_add(work: Repo, snap: Snap, tmp_path: Path) -> None:
    """The locale, the index, other repositories, one after the other: nothing that loom needs for itself is in the way."""
    other = Repo(tmp_path / "other")
    other.root.mkdir()
    other.git("init", "-q")
    other.commit("the other one")
    work.environ |= {"LC_ALL": "C.UTF-8"}
    script = work.write(
        "../filter",
        f"""#!/bin/sh
sed s/./x/g
git -C {other.root} log --format=%s
git ls-files "*" | wc -l
echo $$ >.git/mine; sleep 0.02; [ "$(cat .git/mine)" = $$ ] || echo twice at once
""",
        0o755,
    )
    work.git("config", "filter.odd.clean", str(script))
    work.write(".gitattributes", "*.odd filter=odd\n")
    work.commit()
    for name in ("a", "b", "c", "d", 'q"uo', "n\nl", '"'):
        work.write(f"{name}.odd", "\u00e9\n".encode())
    snapshot = snap(work)
    assert proved(snapshot).same
    work.git("add", "-A")  # itself: whatever judges from outside has an environment of its own
    assert snapshot.tree_sha == work.git("write-tree").strip()


def test_a_process_filter_is_started_once(work: Repo, snap: Snap, tmp_path: Path) -> None:
    script = work.write("../process", PROCESS.format(python=sys.executable, log=tmp_path / "started"), 0o755)
    work.git("config", "filter.p.process", str(script))
    work.git("config", "filter.p.required", "true")
    work.write(".gitattributes", "*.p filter=p\n")
    for number in range(30):
        work.write(f"{number}.p", f"{number}\n")
    expected = work.would_commit()
    (tmp_path / "started").unlink()
    snapshot = snap(work)
    assert snapshot.tree_sha == expected
    assert (tmp_path / "started").read_text() == "once\n"
    assert proved(snapshot).same
    assert (tmp_path / "started").read_text() == "once\n"


PROCESS = """#!{python}
import sys
open("{log}", "a").write("once\\n")
i, o = sys.stdin.buffer, sys.stdout.buffer
def read():
    lines = []
    while True:
        n = int(i.read(4) or sys.exit(0), 16)
        if n == 0:
            return lines
        lines.append(i.read(n - 4))
def write(*lines):
    for line in lines:
        o.write(b"%04x" % (len(line) + 4) + line)
    o.write(b"0000"); o.flush()
read(); write(b"git-filter-server\\n", b"version=2\\n")
read(); write(b"capability=clean\\n")
while True:
    read(); data = b"".join(read())
    write(b"status=success\\n"); write(data.upper() + b"!"); write()
"""


def test_a_filter_that_is_given_up_is_given_up_for_all(work: Repo, snap: Snap) -> None:
    work.git("config", "filter.x.required", "true")
    work.git("config", "filter.y.clean", "tr a-z A-Z")
    work.write(".gitattributes", "*.x filter=x\n*.y filter=y\n")
    work.write("a.x")
    work.write("b.y", "lower\n")
    snapshot = snap(work)
    assert any("filter" in left.reason for left in snapshot.left_out)
    assert proved(snapshot).same


def test_filters_are_given_up_once_and_for_no_other_failure(work: Repo, tmp_path: Path) -> None:
    work.commit()
    done = Filled(KnownFiles(0o022))
    proof = Proof(discover(work.root, environ=work.environ), tmp_path, tmp_path, done, Cancel())
    full, broken = (
        GitFailed(("hash-object",), 128, f"fatal: {why}", cwd=None) for why in ("disk full", "filter x failed")
    )
    with pytest.raises(GitFailed, match="disk full"):
        proof.give_up_filters(full)
    assert not done.left_out
    proof.give_up_filters(broken)
    assert [left.path for left in done.left_out] == [".gitattributes"]
    with pytest.raises(GitFailed, match="filter x"):
        proof.give_up_filters(broken)


def test_what_a_filter_says_is_no_failure(work: Repo, snap: Snap) -> None:
    work.git("config", "filter.loud.clean", "echo starting subprocess of an external filter >&2; cat")
    work.write(".gitattributes", "*.l filter=loud\n")
    work.write("a.l")
    snapshot = snap(work)
    assert (snapshot.tree_sha, snapshot.left_out) == (work.would_commit(), ())


def test_a_filter_of_the_users_that_is_called_lfs(work: Repo, snap: Snap) -> None:
    work.git("config", "filter.lfs.clean", "tr a-z A-Z")
    work.write(".gitattributes", "*.y filter=lfs\n")
    work.write("a.y")
    assert snap(work).tree_sha == work.would_commit()


def test_hidden_files_that_go_through_a_filter_with_a_key(work: Repo, snap: Snap) -> None:
    work.write(".git/key", "K\n")
    for name, how in (("clean", "a-z A-Z"), ("smudge", "A-Z a-z")):
        work.git("config", f"filter.g.{name}", f"test -f $(git rev-parse --git-dir)/key && tr {how}")
    work.git("config", "filter.g.required", "true")
    work.write(".gitattributes", "*.t filter=g\n")
    work.write("s.t", "secret\n")
    work.write("racy.t", "secret\n")
    work.commit()
    work.git("update-index", "--skip-worktree", "s.t")
    (work.root / "s.t").unlink()
    state = work.state()
    snapshot = snap(work)
    assert work.state() == state
    assert snapshot.tree_sha == work.would_commit()
    assert (snapshot.path / "s.t").read_text() == "secret\n"
    assert proved(snapshot).same


def test_line_endings_that_the_index_has(work: Repo, snap: Snap) -> None:
    """git leaves alone what it does not look at, and keeps what is there; a proof without an index has to see that."""
    for name in ("whole.txt", "edited", "hidden.txt"):
        work.write(name, "one\r\n")
        os.utime(work.root / name, (1_600_000_000, 1_600_000_000))
    work.commit()
    work.write(".gitattributes", "*.txt text\n")
    work.git("add", ".gitattributes")
    work.git("commit", "-q", "-m", "attributes")
    work.git("config", "core.autocrlf", "input")
    work.git("update-index", "--assume-unchanged", "hidden.txt")
    work.write("edited", "one\r\ntwo\r\n")
    snapshot = snap(work)
    assert snapshot.tree_sha == work.would_commit()
    verified = proved(snapshot)
    assert verified.same, verified.changes
    (snapshot.path / "edited").write_bytes(b"one\r\nthree\r\n")
    assert [change.path for change in proved(snapshot).changes] == ["edited"]


@pytest.mark.parametrize(
    ("data", "encoding", "unlike", "expected"),
    [
        ("a\r\nb".encode("utf-16-le"), "UTF-16LE", "", "a\nb".encode("utf-16-le")),
        ("\ufeffa\r\nb".encode("utf-16-be"), "UTF-16", "", "\ufeffa\nb".encode("utf-16-be")),
        ("a\r\nb".encode("utf-16-le"), "UTF-16", "", None),  # git refuses it without its mark
        (b"a\r\n+AOQ", "UTF-7", "", None),  # it would be written otherwise than it was
        (b"a\r\nb\0", "latin-1", "", b"a\nb\0"),
        (b"a\r\nb\0", "latin-1", line_endings._UNLIKE_TEXT, None),
        (b"a\r\nb\r", "latin-1", line_endings._UNLIKE_TEXT, None),
        (b"a\r\nb\r\n", "latin-1", line_endings._UNLIKE_TEXT, b"a\nb\n"),
        (b"a\r\n", "no-such", "", None),
        (b"a\nb\n", "latin-1", "", None),
    ],
)
def test_a_file_is_rewritten_only_where_nothing_else_would_change(
    tmp_path: Path, data: bytes, encoding: str, unlike: str, expected: bytes | None
) -> None:
    file = tmp_path / "file"
    file.write_bytes(data)
    assert line_endings._rewrite(file, "\n", encoding, unlike) is (expected is not None)
    assert file.read_bytes() == (data if expected is None else expected)


@pytest.mark.slow
def test_line_endings_in_other_encodings_are_those_that_a_checkout_writes(
    work: Repo, snap: Snap, tmp_path: Path
) -> None:
    encodings = {"UTF-16LE": "utf-16-le", "UTF-16BE": "utf-16-be", "UTF-16": "utf-16", "ISO-8859-1": "latin-1", "UTF-32BE": "utf-32-be"}  # fmt: skip
    lines = []
    for encoding, codec in encodings.items():
        for number, attributes in enumerate(("", "text", "text=auto", "text eol=lf", "text eol=crlf", "-text")):
            name = f"{encoding}.{number}"
            lines.append(f"*{name} working-tree-encoding={encoding} {attributes}\n")
            for kind, text in (
                ("lf", "ä\nb\n"),
                ("crlf", "ä\r\nb\r\n"),
                ("mixed", "ä\r\nb\n\r"),
                ("odd", "\u0a0d\u0d0a\n"),
            ):
                if encoding != "ISO-8859-1" or kind != "odd":
                    work.write(f"{kind} {name}", text.encode(codec))
    work.write(".gitattributes", "".join(lines))
    snapshot = snap(work)
    assert snapshot.tree_sha == work.would_commit()
    assert proved(snapshot).same
    work.commit()
    assert contents(snapshot.path) == contents(clone(work, tmp_path / "clone", str(work.root)).root)
    assert contents(snap(work).path) == contents(snapshot.path)
    work.git("config", "core.autocrlf", "true")
    assert contents(snap(work).path) == contents(snapshot.path)


def test_settings_without_a_value_and_numbers(work: Repo, snap: Snap) -> None:
    with (work.root / ".git/config").open("a") as config:
        config.write("[core]\n\tautocrlf\n\tfilemode = 2\n")
    (work.root / "README").chmod(0o755)
    work.write("crlf", "a\r\n")
    snapshot = snap(work)
    assert snapshot.tree_sha == work.would_commit()
    assert contents(snapshot.path)["crlf"] == ("100644", b"a\n")
    work.git("config", "--replace-all", "core.filemode", "")
    assert snap(work).tree_sha == work.would_commit()


def test_changes_of_converted_files_are_pulled_as_bytes(work: Repo, snap: Snap, tmp_path: Path) -> None:
    work.write(
        ".gitattributes",
        "*.id ident\n*.up filter=up\n*.lf text eol=lf\n*.crlf text eol=crlf\n*.16 working-tree-encoding=UTF-16LE\n",
    )
    work.git("config", "filter.up.clean", "tr a-z A-Z")
    work.git("config", "filter.up.smudge", "tr A-Z a-z")
    work.write("a.id", "$Id: 1 $\nx\n")
    work.write("a.up", "lower\n")
    work.write("a.lf", "a\n")
    work.write("a.crlf", "a\r\nb\r\n")
    work.write("a.16", "a\n".encode("utf-16-le"))
    work.commit()
    work.write("a.id", "$Id: 2 $\nx\n")
    snapshot = snap(work)
    manifest = tmp_path / "manifest.json"
    manifest.write_bytes(manifest_bytes(snapshot.path))
    job = Repo(snapshot.path)
    changed = {
        "a.id": b"$Id: 2 $\nx\nmore\n",
        "a.up": b"lower\nmore\n",
        "a.lf": b"a\r\nmore\n",
        "a.crlf": b"a\r\nb\r\nmore\r\n",
        "a.16": "a\nmore\n".encode("utf-16-le"),
        "new.up": b"new\n",
    }
    for path, content in changed.items():
        job.write(path, content)
    patch = patch_of(snapshot.path, work.root, environ=work.environ, manifest_file=manifest, leave_out=lambda _: False)
    # The job had the id that a checkout writes, and the bytes of such a file count: nothing is overwritten.
    assert list(patch.conflicts) == ["a.id"]
    assert not apply_patch(patch, work.root).failed
    changed["a.id"] = b"$Id: 2 $\nx\n"
    assert {path: (work.root / path).read_bytes() for path in changed} == changed
