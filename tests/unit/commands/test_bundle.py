"""`loom bundle` and `loom replay`: a run in one file, from one account to another, and hostile files."""

import asyncio
import io
import json
import shutil
import subprocess
import tarfile
from base64 import b64encode
from collections.abc import Callable
from contextlib import redirect_stdout
from pathlib import Path

import msgspec
import pytest
import zstandard

from loom.cancel import Cancel
from loom.cli.boundary import run_app
from loom.commands.agents.tools import AgentTools, Limits
from loom.commands.project.bundle_file import MOST_BYTES, UnpackedBundle, unpacked, write_bundle
from loom.errors import RequestError
from loom.snapshot import occupied
from tests.support.repository import commit_all, git
from tests.unit.commands.test_gitlab_runs import Project, at_home
from tests.unit.commands.test_gitlab_runs import project as project

pytestmark = pytest.mark.slow


def unsearched(what: str, read: object) -> None:
    """Search nothing of a bundle."""


def opened(path: Path) -> UnpackedBundle:
    return unpacked(path, path.parent / "unpacked")


LIBRARY = """
.base: {before_script: ["echo of the library, $OWN"]}
"""
WORKFLOW = """
include: [{{project: group/library, file: library.yml}}]
test:
  extends: .base
  variables: {{WORD: plain}}
  script:
    - cat word.yml; echo "at $(date +%T) in $PWD, $WORD"
    - if [ ! -e {flag} ]; then echo "error. no flag, token $TOKEN"; exit 4; fi
"""

ACTION = {"uses": "a/b@v1", "commit": "1" * 40, "directory": "/etc"}


@pytest.fixture(scope="module")
def sent(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make a failing run of what was not committed, in a clone of a project, and bundle it; then its author's files are elsewhere.

    It includes a file of another project, and has a variable of its author's, which nobody else has.
    """
    place = tmp_path_factory.mktemp("sent")
    with pytest.MonkeyPatch.context() as monkeypatch:
        root = at_home(place, monkeypatch)
        library = place / "library"
        library.mkdir()
        (library / "library.yml").write_text(LIBRARY)
        (library / "own.yml").write_text("OWN: of the author")
        commit_all(library)
        config = place / "home" / ".config" / "loom" / "config.yml"
        config.parent.mkdir(parents=True)
        config.write_text(f"gitlab: {{projects: {{group/library: {library}}}, variables: {library}/own.yml}}")
        (root / ".gitlab-ci.yml").write_text(WORKFLOW.format(flag=place / "flag"))
        (root / "word.yml").write_text("committed\n")
        commit_all(root)
        for name in ("mine", "theirs"):
            git(place, "clone", "-q", str(root), name)
        monkeypatch.chdir(place / "mine")
        Path("word.yml").write_text("not committed\n")
        Path("new file").write_text("new\n")
        assert run_app(["run", "--no-container", "test"]) == 1
        for name, more in (("thin", ()), ("full", ("--full",))):
            with redirect_stdout(io.StringIO()) as out:
                assert run_app(["bundle", "-o", f"{place}/{name}.bundle", *more]) == 0
            assert f"loom replay {place / name}.bundle" in out.getvalue()
    shutil.rmtree(library)
    (place / "mine").rename(place / "gone")
    (place / "mine" / ".loom").mkdir(parents=True)  # where the record says that it ran: nobody looks there
    (place / "mine" / ".loom" / "config.yml").write_text("no setting")
    return place


@pytest.fixture
def made(project: Project, sent: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The bundles of the failing run, and somebody else at work in a clone of the project."""
    for name in ("thin.bundle", "full.bundle"):
        shutil.copyfile(sent / name, tmp_path / name)
    shutil.copytree(sent / "theirs", tmp_path / "theirs")
    for name in ("HOME", "XDG_STATE_HOME", "XDG_CACHE_HOME"):
        monkeypatch.setenv(name, str(tmp_path / "other"))
    monkeypatch.chdir(tmp_path / "theirs")
    return tmp_path


def test_a_run_fails_for_somebody_else_in_the_same_way(project: Project, made: Path) -> None:
    thin = str(made / "thin.bundle")
    assert "error. no flag" in project.loom("diagnose", thin)[1]
    shown = project.loom("show", thin)[1]
    assert ("failed in" in shown, "receipt" in shown) == (True, False)
    assert shown.endswith(f"again:   loom replay {thin}\n")
    assert "not committed" in project.loom("logs", thin)[1]
    renamed = shutil.copyfile(thin, made / "renamed")
    told = project.loom("diagnose", str(renamed))[1]
    assert "failed: job test" in told
    assert told.endswith(f"again:   loom replay {renamed}\nmore:    loom logs {renamed} test script/02\n")
    assert project.loom("report", thin)[0] == 0
    assert "error. no flag" in (made / "thin.html").read_text()
    assert "same inputs, same outcome, same output" in project.loom("diff", thin, str(made / "full.bundle"))[1]
    code, out, err = project.loom("replay", str(renamed), "--trust", "--json")
    assert code == 1, err
    found = json.loads(out)
    assert f"loom replay {renamed}" in project.loom("diagnose", found["run_id"])[1]
    assert (found["verdict"], found["there"]["exit_code"]) == ("reproduced", 4)
    assert found["differs"] == []
    assert "not committed" in project.output("test", found["run_id"])
    assert "of the library, of the author" in project.output("test", found["run_id"])
    status = subprocess.run(["git", "status", "--short"], cwd=made / "theirs", capture_output=True, check=True)
    assert status.stdout == b""


def test_a_full_bundle_runs_without_a_clone(
    project: Project, made: Path, sent: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    nowhere = made / "nowhere"
    nowhere.mkdir()
    monkeypatch.chdir(nowhere)
    code, out, err = project.loom("replay", str(made / "thin.bundle"), "--trust")
    assert (code, "BUNDLE_BASE" in err or "lacks commit" in err) == (2, True), err
    (sent / "flag").touch()
    repeated = project.loom("replay", str(made / "full.bundle"), "--trust", "--repeat", "2", "--json")
    code, out, err = project.loom("replay", str(made / "full.bundle"), "--trust")
    (sent / "flag").unlink()
    assert (repeated[0], len(json.loads(repeated[1])["passed"])) == (0, 2), repeated[2]
    assert code == 0, err
    assert "passes here; the logs part at line 1 of" in out
    assert list(nowhere.iterdir()) == []
    assert list((made / "other" / "loom" / "bundles").iterdir()) == []


def test_nothing_of_a_bundle_runs_without_trust(project: Project, made: Path) -> None:
    code, _, err = project.loom("replay", str(made / "full.bundle"))
    assert (code, "TRUST_REQUIRED" in err) == (2, True), err
    assert json.loads(project.loom("runs", "--all", "--json")[1])["runs"] == []


def test_nobody_enters_the_run_of_a_bundle(project: Project, made: Path) -> None:
    file = str(made / "full.bundle")
    for name, *rest in (("pull",), ("pull", "--apply"), ("exec", "--", "true"), ("workspace",)):
        code, out, err = project.loom(name, file, *rest)
        assert (code, out, "loom replay" in err) == (125 if name == "exec" else 2, "", True), err


def test_a_failed_run_leaves_a_bundle_where_it_is_wanted(
    project: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LOOM_BUNDLE", "on-failure")
    project.write(gitlab="test: {script: [exit 3]}\nfine: {script: [ls]}")
    assert "loom replay" not in project.run("fine")[1]
    shown = project.run("test")[1]
    last = shown.strip().splitlines()[-1]
    assert (project.root / last.rpartition(" ")[2]).is_file()
    monkeypatch.setenv("LOOM_BUNDLE", "sometimes")
    assert project.run("test")[0] == 2


SECRETS = """
version: v1
stages: [t]
test:
  stage: t
  secrets: {TOKEN: {ref: env://TOKEN}, KEY: {ref: "file://key", file: false}}
  script: ['cat $TOKEN; echo $KEY', exit 3]
"""


def test_no_value_of_a_secret_is_in_a_bundle(project: Project, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    values = {"TOKEN": "s3cr3t-value-of-it", "KEY": "t0ken-of-a-file"}
    monkeypatch.setenv("TOKEN", values["TOKEN"])
    (project.root / ".loom").mkdir()
    (project.root / ".loom" / "workflow.yml").write_text(SECRETS)
    project.write(word="w")
    (project.root / "key").write_text(values["KEY"])
    assert project.run("test", "--trust")[0] == 1
    code, _, err = project.loom("bundle", "-o", str(tmp_path / "x.bundle"))
    assert (code, "the file key has the value of the secret KEY" in err) == (2, True), err
    (project.root / ".gitignore").write_text("key\n")
    assert project.run("test", "--trust")[0] == 1
    assert project.loom("bundle", "-o", str(tmp_path / "x.bundle"))[0] == 0
    found = opened(tmp_path / "x.bundle")
    project.git("bundle", "unbundle", str(found.folder / "tree.pack"))
    objects = subprocess.run(
        ["git", "cat-file", "--batch-all-objects", "--batch"], cwd=project.root, check=True, capture_output=True
    )
    content = b"".join(path.read_bytes() for path in found.folder.rglob("*") if path.is_file()) + objects.stdout
    assert b"[REDACTED:SECRET_TOKEN]" in content
    assert not [value for value in values.values() if value.encode() in content]
    monkeypatch.delenv("TOKEN")
    code, _, err = project.loom("replay", str(tmp_path / "x.bundle"), "--trust")
    assert (code, "does not have the secrets TOKEN, KEY: give each" in err) == (3, True), err
    for name, value in values.items():
        monkeypatch.setenv(name, value)
    code, out, err = project.loom("replay", str(tmp_path / "x.bundle"), "--trust")
    assert (code, "reproduced: same failing command" in out) == (1, True), out + err
    assert values["KEY"] not in out


ONE_SECRET = """
version: v1
stages: [test, after]
test:
  stage: test
  secrets: {TOKEN: {ref: "env://TOKEN", file: false}}
  script: [exit 3]
"""
VALUE = "s3cr3t-value-of-it"


@pytest.mark.parametrize(
    ("where", "content"),
    [
        ("file", VALUE),
        ("file", b64encode(f"user:{VALUE}".encode()).decode()),
        ("deep/na\nme", f"x{VALUE[:4]}\\x{ord(VALUE[4]):02x}{VALUE[5:]}"),
        (f"name-{VALUE}", "w"),  # the text of another file: one object with two names
        ("message", VALUE),
    ],
)
def test_a_value_that_a_run_has_seen_is_found_from_a_shell_without_it(
    project: Project, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, where: str, content: str
) -> None:
    monkeypatch.setenv("TOKEN", VALUE)
    (project.root / ".loom").mkdir()
    (project.root / ".loom" / "workflow.yml").write_text(ONE_SECRET)
    project.write(word="w")
    if where != "message":
        (project.root / where).parent.mkdir(exist_ok=True)
        (project.root / where).write_text(content)
    project.git("add", "-A")
    project.git("commit", "-q", "--allow-empty", "-m", content if where == "message" else "x")
    if where not in ("message", "file"):
        project.git("rm", "-q", where)  # it is in the history alone
        project.git("commit", "-qm", "gone")
    assert project.run("test", "--trust")[0] == 1
    monkeypatch.delenv("TOKEN")
    target = tmp_path / "x.bundle"
    code, _, err = project.loom("bundle", "-o", str(target), "--full")
    assert (code, "has the value of the secret TOKEN" in err, target.exists()) == (2, True, False), err
    [lines] = (tmp_path / "home").rglob("seen.jsonl")
    assert "TOKEN" in lines.read_text()
    assert VALUE not in lines.read_text()
    if where not in ("message", "file"):  # the other one has that history
        code, out, err = project.loom("bundle", "-o", str(target), "--base", "HEAD")
        assert code == 0, err
        assert not list(opened(target).folder.rglob("seen.jsonl"))
    code, out, err = project.loom("bundle", "-o", str(target), "--full", "--without-secret-check")
    assert (code, "not searched for TOKEN" in out) == (0, True), err
    assert opened(target).manifest.not_searched == ("TOKEN",)


def test_a_secret_whose_value_nobody_knows_is_a_refusal(
    project: Project, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (project.root / ".loom").mkdir()
    workflow = project.root / ".loom" / "workflow.yml"
    workflow.write_text(ONE_SECRET)
    project.write(word="w")
    assert project.run("test", "--trust")[0] != 0  # before it has a value
    target = str(tmp_path / "x.bundle")
    code, _, err = project.loom("bundle", "-o", target)
    assert (code, "TOKEN (" in err, "--without-secret-check" in err) == (2, True, True), err
    workflow.write_text(ONE_SECRET.replace("file: false", "file: false, required: false"))
    assert project.run("test", "--trust")[0] == 1
    assert project.loom("bundle", "-o", target)[0] == 0, "it has no value"


def test_what_was_printed_before_a_secret_was_known_goes_into_no_report_and_no_bundle(
    project: Project, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    # Here, for each worker reads this file, and these take it a second.
    from mcp.server.mcpserver.exceptions import ToolError

    from loom.commands.agents.mcp import _Serving

    monkeypatch.setenv("TOKEN", "unlike-any-other-1")
    (project.root / ".loom").mkdir()
    early = "early: {stage: test, script: ['printf %s unlike-any -other-1']}\n"
    (project.root / ".loom" / "workflow.yml").write_text(ONE_SECRET.replace("stage: test\n", "stage: after\n") + early)
    project.write(word="w")
    assert project.run("early", "test", "--trust")[0] == 1
    for command in (("report", "-o", str(tmp_path / "x.html")), ("bundle", "-o", str(tmp_path / "x.bundle"))):
        code, _, err = project.loom(*command)
        assert (code, "has the value of the secret TOKEN" in err) == (2, True), err
    assert "unlike-any-other-1" in project.output("early")
    told = AgentTools(Limits(), None).said(("logs", "last", "early"), Cancel()).text
    assert "[REDACTED:SECRET_TOKEN]" in told
    assert "unlike-any" not in told

    def refused(_: Cancel) -> None:
        raise RequestError("there is no job unlike-any-other-1")

    with pytest.raises(ToolError, match="REDACTED"):
        asyncio.run(_Serving(AgentTools(Limits(), None)).call(refused))


def hostile(path: Path, *entries: tuple[tarfile.TarInfo, bytes], manifest: bytes = b"{}") -> Path:
    """Write a file that looks like a bundle."""
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w") as archive:
        for entry, content in ((tarfile.TarInfo("manifest.json"), manifest), *entries):
            if entry.isreg() and not entry.size:
                entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content) if entry.size == len(content) else None)
    path.write_bytes(zstandard.compress(data.getvalue()))
    return path


def entry(name: str, change: Callable[[tarfile.TarInfo], None] = lambda _: None) -> tarfile.TarInfo:
    found = tarfile.TarInfo(name)
    change(found)
    return found


def link(found: tarfile.TarInfo) -> None:
    found.type, found.linkname = tarfile.SYMTYPE, "/etc"


def fifo(found: tarfile.TarInfo) -> None:
    found.type = tarfile.FIFOTYPE


def huge(found: tarfile.TarInfo) -> None:
    found.size = MOST_BYTES


@pytest.mark.parametrize(
    ("bad", "why"),
    [
        (entry("record/../../out"), "leads out"),
        (entry("/tmp/out"), "no part of a bundle"),
        (entry("other"), "no part of a bundle"),
        (entry("record/x", link), "no part of a bundle"),
        (entry("record/x", fifo), "no part of a bundle"),
        (entry("record/x", huge), "holds more than"),
    ],
)
def test_a_hostile_archive_is_refused(tmp_path: Path, bad: tarfile.TarInfo, why: str) -> None:
    with pytest.raises(RequestError, match=why):
        opened(hostile(tmp_path / "x.bundle", (bad, b"x")))


@pytest.mark.parametrize(
    "change",
    [
        {"more": 1},
        {"head_sha": "HEAD"},
        {"run_id": "../../x"},
        {"branch": "a\nb"},
        {"pack": "yes"},
        {"head_sha": "0" * 40 + "\n"},
    ],
)
def test_a_hostile_manifest_is_refused(made: Path, change: dict[str, object]) -> None:
    good = msgspec.to_builtins(opened(made / "full.bundle").manifest)
    with pytest.raises(RequestError, match="is no bundle"):
        opened(hostile(made / "x.bundle", manifest=json.dumps(good | change).encode()))
    with pytest.raises(RequestError, match="its record holds no record"):
        opened(hostile(made / "x.bundle", manifest=json.dumps(good).encode()))


def again(made: Path, pack: bytes, **change: str) -> Path:
    """Write the bundle with other objects, and other facts in its manifest."""
    found = opened(made / "full.bundle")
    manifest = msgspec.to_builtins(found.manifest) | change
    record = [
        (tarfile.TarInfo(f"record/{path.relative_to(found.folder / 'record')}"), path.read_bytes())
        for path in (found.folder / "record").rglob("*")
        if path.is_file()
    ]
    entries = [(tarfile.TarInfo("tree.pack"), pack), *record]
    return hostile(made / "x.bundle", *entries, manifest=json.dumps(manifest).encode())


@pytest.mark.parametrize(
    "change",
    [
        {"artifacts_above": {"x": "/etc/passwd"}},
        {"steps": [], "trigger": {"files": [{"path": "../../child.yml"}]}},
        {"steps": [], "trigger": {"files": [{"path": "/etc/child.yml"}]}},
        {"steps": [{"phase": "script", "number": 1, "script": "x", "kind": "node", "action": ACTION}]},
        {"id": "../x"},
        {"steps": "ls"},
    ],
)
def test_a_plan_that_wants_what_is_on_this_machine_is_refused(
    project: Project, made: Path, change: dict[str, object]
) -> None:
    found = opened(made / "full.bundle")
    plan = found.folder / "record" / "plan.json"
    content = json.loads(plan.read_text())
    content["plan"]["jobs"][0] |= change
    plan.write_text(json.dumps(content))
    write_bundle(
        made / "x.bundle", found.manifest, plan.parent, {"tree.pack": found.folder / "tree.pack"}, {}, unsearched
    )
    code, _, err = project.loom("replay", str(made / "x.bundle"), "--trust")
    assert (code, "x.bundle: " in err) == (2, True), err
    assert json.loads(project.loom("runs", "--all", "--json")[1])["runs"] == []


def test_a_bundle_of_another_loom_is_named_as_such(tmp_path: Path) -> None:
    manifest = {"schema_version": "loom.bundle.v9", "loom_version": "9.1", "new": 1}
    with pytest.raises(RequestError, match=r"no bundle that this loom reads: Invalid enum value 'loom\.bundle\.v9'"):
        opened(hostile(tmp_path / "x.bundle", manifest=json.dumps(manifest).encode()))


def test_a_truncated_bundle_is_refused(project: Project, made: Path) -> None:
    whole = (made / "full.bundle").read_bytes()
    (made / "x.bundle").write_bytes(whole[: len(whole) // 2])
    code, _, err = project.loom("replay", str(made / "x.bundle"), "--trust")
    assert (code, "is no bundle that this loom reads" in err) == (2, True), err


def test_other_files_than_named_are_refused(project: Project, made: Path) -> None:
    pack = (opened(made / "full.bundle").folder / "tree.pack").read_bytes()
    code, _, err = project.loom("replay", str(again(made, pack, tree_sha="0" * 40)), "--trust")
    assert (code, "not those that it names" in err) == (2, True), err
    code, _, err = project.loom("replay", str(again(made, b"no objects")), "--trust")
    assert code == 2, err


def test_a_tree_with_files_of_gits_own_harms_nothing(project: Project, made: Path, sent: Path) -> None:
    gone = sent / "gone"
    hook = git(gone, "hash-object", "-w", "--stdin", input=f"#!/bin/sh\ntouch {made}/owned\n")
    inner = git(gone, "mktree", input=f"100755 blob {hook}\tpost-checkout\n")
    inner = git(gone, "mktree", input=f"040000 tree {inner}\thooks\n")
    tree = git(gone, "mktree", input=git(gone, "ls-tree", "HEAD") + f"\n040000 tree {inner}\t.git\n")
    tip = git(gone, "commit-tree", "-p", "HEAD", "-m", "x", tree)
    git(gone, "update-ref", "refs/loom/x", tip)
    git(gone, "bundle", "create", "-q", str(made / "evil"), "refs/loom/x")
    bad = again(made, (made / "evil").read_bytes(), tree_sha=tree, tip_sha=tip)
    code, _, err = project.loom("replay", str(bad), "--trust")
    assert (code, "internal error" in err) in ((2, False), (3, False)), err
    assert "invalid path" in err
    assert not (made / "owned").exists()
    assert not list((made / "other").rglob("hooks/post-checkout"))


def test_no_bundle_at_all(project: Project, tmp_path: Path) -> None:
    for content in (b"", b"plain text", zstandard.compress(b"no tar")):
        (tmp_path / "x.bundle").write_bytes(content)
        for command in ("show", "replay"):
            code, _, err = project.loom(command, str(tmp_path / "x.bundle"))
            assert (code, "is no bundle" in err) == (2, True), err
    assert list((tmp_path / "home" / ".cache" / "loom" / "bundles").iterdir()) == []


def test_a_child_pipeline_of_a_stranger_gets_no_variables_of_the_user(
    project: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    project.write(
        gitlab="c: {trigger: {include: child.yml, strategy: depend}}",
        child="t: {script: ['test -n \"$PRIVATE\" && exit 4; exit 3']}",
    )
    assert project.run()[0] == 1
    assert project.loom("bundle", "--full", "-o", str(tmp_path / "x.bundle"))[0] == 0
    config = tmp_path / "home" / ".config" / "loom" / "config.yml"
    config.parent.mkdir(parents=True)
    config.write_text(f"gitlab: {{variables: {tmp_path}/own.yml}}")
    (tmp_path / "own.yml").write_text("PRIVATE: of the user")
    monkeypatch.chdir(tmp_path)
    code, out, err = project.loom("replay", str(tmp_path / "x.bundle"), "--trust")
    assert (code, "failed with exit code 3" in out) == (1, True), out + err
    assert f"again:   loom replay {tmp_path / 'x.bundle'}" in out


def test_a_replay_that_fails_alike_has_no_reasons_and_tells_what_differs(
    project: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    project.write(gitlab="test: {script: [cat only.local]}")
    assert project.run()[0] == 1
    assert project.loom("bundle", "--full", "-o", str(tmp_path / "x.bundle"))[0] == 0
    found = opened(tmp_path / "x.bundle")
    other = msgspec.structs.replace(found.manifest, machine="1 CPUs, 1 GB")
    write_bundle(
        tmp_path / "x.bundle", other, found.folder / "record", {"tree.pack": found.folder / "tree.pack"}, {}, unsearched
    )
    near = tmp_path / "near"
    near.mkdir()
    subprocess.run(["git", "init", "-q", near], check=True)
    (near / "only.local").touch()
    monkeypatch.chdir(near)
    code, out, err = project.loom("replay", str(tmp_path / "x.bundle"), "--trust", "--json")
    assert code == 1, err
    told = json.loads(out)
    assert (told["verdict"], told["reasons"]) == ("reproduced", [])
    assert [(each["name"], each["a"]) for each in told["differs"]] == [("machine", "1 CPUs, 1 GB")]


@pytest.fixture
def of_submodules(project: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Make a failing run with work that is not committed in submodules, and bundle it; the files are gone then."""

    for name, inner in (("deep", None), ("lib", tmp_path / "deep")):
        folder = tmp_path / name
        folder.mkdir()
        git(folder, "init", "-q")
        (folder / name).write_text("committed\n")
        if inner is not None:
            git(folder, "submodule", "add", "-q", str(inner), "in")
        git(folder, "add", "-A")
        git(folder, "commit", "-qm", "x")
    git(project.root, "submodule", "add", "-q", str(tmp_path / "lib"), "lib")
    project.write(
        gitlab="test: {variables: {GIT_SUBMODULE_STRATEGY: recursive}, script: ['cat lib/lib lib/in/deep lib/new; exit 3']}"
    )
    for name in ("mine", "theirs"):
        git(tmp_path, "clone", "-q", "--recurse-submodules", str(project.root), name)
    monkeypatch.chdir(tmp_path / "mine")
    for name in ("lib/lib", "lib/new", "lib/in/deep"):
        (tmp_path / "mine" / name).write_text(f"mine, {name}\n")
    assert project.run()[0] == 1
    assert project.loom("bundle", "-o", str(tmp_path / "x.bundle"))[0] == 0
    (tmp_path / "mine" / "lib" / "lib").write_text("later\n")
    workspace = json.loads(project.loom("show", "--json")[1])["receipt"]["snapshot_path"]
    shutil.rmtree(workspace, ignore_errors=True)
    code, _, err = project.loom("bundle", "-o", str(tmp_path / "y.bundle"))
    assert (code, "the checkout has changed since" in err) == (2, True), err
    monkeypatch.chdir(tmp_path / "theirs")
    return tmp_path


def test_submodules_are_part_of_a_bundle(project: Project, of_submodules: Path) -> None:
    code, out, err = project.loom("replay", str(of_submodules / "x.bundle"), "--trust", "--json")
    found = json.loads(out)
    assert (code, found["verdict"], found["differs"]) == (1, "reproduced", []), err
    assert project.output("test", found["run_id"]) == "mine, lib/lib\nmine, lib/in/deep\nmine, lib/new\n"
    (of_submodules / "theirs" / "lib").rename(of_submodules / "no lib")
    code, _, err = project.loom("replay", str(of_submodules / "x.bundle"), "--trust")
    assert (code, "this clone lacks commit" in err) == (2, True), err


def test_a_submodule_where_the_files_have_none_is_refused(project: Project, of_submodules: Path) -> None:
    for path in ("../out", ".git/hooks", "", "lib/.."):
        found = opened(of_submodules / "x.bundle")
        inner = found.manifest.submodules
        packs = {each.name: each for each in found.folder.glob("*tree.pack")}
        bad = msgspec.structs.replace(found.manifest, submodules={**inner, path: inner["lib"]})
        write_bundle(of_submodules / "bad.bundle", bad, found.folder / "record", packs, {}, unsearched)
        code, _, err = project.loom("replay", str(of_submodules / "bad.bundle"), "--trust")
        assert (code, f"its tree has no submodule '{path}'" in err) == (2, True), err


def test_what_a_killed_command_unpacked_is_cleaned(project: Project, tmp_path: Path) -> None:
    folder = tmp_path / "home" / ".cache" / "loom" / "bundles"
    for name in ("left", "used"):
        (folder / name).mkdir(parents=True)
        (folder / name / "manifest.json").touch()
    with occupied(folder / "used"):
        assert project.loom("clean")[0] == 0
    assert [path.name for path in folder.iterdir()] == ["used"]


def test_a_replay_has_the_tags_of_the_commit(project: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    project.write(gitlab="test: {script: [git describe --tags, git tag -l, exit 3]}")
    project.git("tag", "light")
    project.git("clone", "-q", ".", str(tmp_path / "theirs"))
    project.git("remote", "add", "origin", str(tmp_path / "theirs"))
    project.git("fetch", "-q", "origin")
    project.git("tag", "-a", "-m", "x", "mine")
    assert project.run()[0] == 1
    assert project.loom("bundle", "-o", str(tmp_path / "x.bundle"))[0] == 0
    monkeypatch.chdir(tmp_path / "theirs")
    code, out, err = project.loom("replay", str(tmp_path / "x.bundle"), "--trust", "--json")
    found = json.loads(out)
    assert (code, found["verdict"]) == (1, "reproduced"), err
    assert project.output("test", found["run_id"]) == "mine\nlight\nmine\n"
    good = opened(tmp_path / "x.bundle")
    commit = good.manifest.head_sha
    packs = {"tree.pack": good.folder / "tree.pack"} if good.manifest.pack else {}
    record = shutil.copytree(good.folder / "record", tmp_path / "record")
    kept = {name: Path(shutil.copy(path, tmp_path / name)) for name, path in packs.items()}
    for tags, said in (({"../../HEAD": commit}, (2, 3)), ({"a b": commit}, (2, 3)), ({"gone": "0" * 40}, (1,))):
        bad = msgspec.structs.replace(good.manifest, tags=tags)
        write_bundle(tmp_path / "bad.bundle", bad, record, kept, {}, unsearched)
        monkeypatch.chdir(tmp_path / "theirs")
        code, out, err = project.loom("replay", str(tmp_path / "bad.bundle"), "--trust")
        assert (code in said, "internal error" in err) == (True, False), out + err


def test_a_replay_that_can_not_run_tells_why(project: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    project.write(gitlab="test: {script: [exit 3]}")
    assert project.run()[0] == 1
    assert project.loom("bundle", "--full", "-o", str(tmp_path / "x.bundle"))[0] == 0
    (tmp_path / "file").touch()
    monkeypatch.setenv("LOOM_TMP_DIR", str(tmp_path / "file" / "no directory"))
    code, out, err = project.loom("replay", str(tmp_path / "x.bundle"), "--trust", "--quiet")
    assert (code, "the job did not run to its end here: skipped: the isolated workspace can" in out) == (3, True), (
        out + err
    )
    monkeypatch.chdir(project.root)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    for words in (("show",), ("replay", "--trust")):
        code, _, err = project.loom(*words, str(tmp_path / "x.bundle"))
        assert (code, "XDG_CACHE_HOME" in err, "internal error" in err) == (3, True, False), err
