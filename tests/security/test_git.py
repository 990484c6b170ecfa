"""A stranger's `.git`, unpacked or shared: git starts nothing, reads nothing and fetches nothing that it names."""

import ast
import os
import re
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import loom
from loom.errors import RequestError
from loom.snapshot import repository
from tests.support.watching import Watched

from .conftest import Victim

HOME = Path(loom.__file__).parent
STARTS = re.compile(
    r"Popen|run|call|check_call|check_output|system|popen|exec\w*|spawn\w*|posix_spawnp?|create_subprocess_\w+"
)
WORKFLOW = """\
version: v1
stages: [t]
a: {stage: t, script: [cat *.data], rules: [{changes: [x]}, {exists: ["*.data"]}, {when: always}]}
"""
SECRET = "line-of-a-private-file"
COMPLETION = {"_LOOM_COMPLETE": "complete_bash", "COMP_WORDS": "loom run --job ", "COMP_CWORD": "3"}
COMMANDS: list[tuple[str, ...]] = [
    ("trust", "--json"),
    ("check",),
    ("doctor",),
    ("compile",),
    ("snapshot",),
    ("snapshot", "--explain", "new.data"),
    ("run", "--dry-run"),
    ("images", "ls"),
    ("cache", "ls"),
    ("diff", "last", "last"),
    ("verify",),
    (),
]


def calls(tree: ast.AST) -> Iterator[tuple[ast.Call, str]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            yield node, ast.unparse(node.func).rpartition(".")[2]


@pytest.mark.slow
def test_every_git_process_starts_in_one_module_and_is_led_to_a_view() -> None:
    starting, searching, made_by_loom = set(), set(), set()
    for file in HOME.rglob("*.py"):
        name = str(file.relative_to(HOME))
        text = file.read_text()
        for call, called in calls(ast.parse(text)) if "git" in text else ():
            words = [
                part.value for part in ast.walk(call) if isinstance(part, ast.Constant) and isinstance(part.value, str)
            ]
            if STARTS.fullmatch(called) and any(re.match(r"(\S*/)?git(\s|$)", word) for word in words):
                starting.add(name)
            keywords = {keyword.arg for keyword in call.keywords}
            if "searching" in keywords and ast.unparse(call.func) == "git.Running":
                searching.add(name)
            if called == "environment_for" and "git_dir" in keywords:
                made_by_loom.add(name)
    assert starting == {"snapshot/git.py"}
    assert searching == {"snapshot/source.py"}
    # Directories that loom has just made, or whose processes get no configuration of anybody's.
    assert made_by_loom == {
        "commands/plan/git_server.py",
        "snapshot/bundles.py",
        "snapshot/git.py",
        "snapshot/proof.py",
        "snapshot/questions.py",
        "snapshot/verification.py",
    }


def test_a_git_process_that_would_search_for_a_repository_is_a_mistake() -> None:
    from loom.snapshot import git

    with pytest.raises(AssertionError, match="would search"):
        git.started(("status",), {}, streams=(0, 1, 2))


def test_views_that_nobody_uses_go_with_a_clean_and_the_cache_is_closed(victim: Victim) -> None:
    cache = victim.home / ".cache/loom"
    cache.mkdir(parents=True, mode=0o755)
    assert victim.loom("check").returncode == 0
    assert cache.stat().st_mode & 0o777 == 0o700
    [view] = (cache / "git").iterdir()
    victim.git("config", "user.name", "another")
    assert victim.loom("check").returncode == 0
    [other] = set((cache / "git").iterdir()) - {view}
    month = time.time() - 31 * 86_400
    for each in (view, other):
        os.utime(each, (month, month))
    assert victim.loom("check").returncode == 0  # uses the other one
    assert victim.loom("clean").returncode == 0
    assert list((cache / "git").iterdir()) == [other]


# What git sees of a configuration


def seen(root: Path, text: str, **environ: str) -> set[tuple[str, str]]:
    """The entries that git sees in a repository with such a configuration."""
    for name in ("objects", "refs"):
        (root / ".git" / name).mkdir(parents=True, exist_ok=True)
    (root / ".git/HEAD").write_text("ref: refs/heads/main\n")
    (root / ".git/config").write_text(text)
    return set(repository.parse((found_in(root, **environ).view / "config").read_text()))


def found_in(root: Path, **environ: str) -> repository.RepositoryView:
    found = repository.find(root, {"HOME": str(root.parent), **environ})
    assert found is not None
    return found


@pytest.mark.parametrize(
    ("key", "value", "counts"),
    [
        ("core.eol", "lf", True),
        ("remote.a.url", "x", True),
        ("remote.a.url.vcs", "x", False),
        ("submodule.a.update", "rebase", True),
        ("submodule.a.update", "!x", False),
        ("filter.lfs.required", "true", True),
        ("filter.lfs.clean", "git-lfs clean -- %f", True),
        ("filter.lfs.clean", "git-lfs clean -- %f; x", False),
        ("filter.lfs.smudge", "x; git-lfs smudge --skip -- %f", False),
        ("filter.lfs.process", "git-lfs filter-process --skip", True),
        ("filter.lfs.process", "git-lfs clean -- %f", False),
        ("filter.a.clean", "git-lfs clean -- %f", False),
    ],
)
def test_an_entry_counts_if_all_of_it_is_on_the_list(tmp_path: Path, key: str, value: str, *, counts: bool) -> None:
    found = seen(tmp_path / "root", repository.config_text([(key, value)]))
    assert ((key, value) in found) is counts
    assert found - {(key, value)} == {("core.repositoryformatversion", "0"), ("core.bare", "false")}


def test_no_key_that_counts_names_a_program_or_a_file() -> None:
    listed = subprocess.run(["git", "help", "--config"], capture_output=True, text=True, check=True).stdout.lower()
    ends = "command|program|proxy|path|file|pack|askpass|helper|driver|textconv|external|editor|pager|cmd|vcs|insteadof|tool"
    names = rf"(?!core\.quotepath)\S*({ends})"
    dangerous = [key for key in re.sub("<[^>]*>", "x", listed).split() if re.fullmatch(names, key)]
    assert len(dangerous) > 60
    assert [key for key in dangerous if repository._counts(key, "x")] == []


def test_a_configuration_of_a_worktree_counts_only_with_the_extension(tmp_path: Path) -> None:
    named = repository.config_text([("user.name", "of the worktree")])
    (tmp_path / "root/.git").mkdir(parents=True)
    (tmp_path / "root/.git/config.worktree").write_text(named)
    for value, counts in (("true", True), ("no", False)):
        text = repository.config_text([("extensions.worktreeConfig", value)])
        assert (("user.name", "of the worktree") in seen(tmp_path / "root", text)) is counts


def test_a_view_that_others_may_have_written_is_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    cache = tmp_path / "cache"
    cache.mkdir()
    base = cache / "loom/git"
    text = repository.config_text([("core.eol", "lf")])
    expected = seen(tmp_path / "root", text, XDG_CACHE_HOME=str(cache))
    (view,) = base.iterdir()
    (view / "config").write_text(repository.config_text([("core.sshCommand", "x")]))
    for directory in (cache, base):
        directory.chmod(0o777)
        assert seen(tmp_path / "root", text, XDG_CACHE_HOME=str(cache)) == expected
        directory.chmod(0o700)
        if os.geteuid() == 0:
            os.chown(directory, 1500, -1)
            assert seen(tmp_path / "root", text, XDG_CACHE_HOME=str(cache)) == expected
            os.chown(directory, 0, -1)


def test_git_sees_no_credential_of_an_address_and_an_unknown_extension_is_refused(tmp_path: Path) -> None:
    text = repository.config_text([("remote.a.url", "https://user:token@host/x")])
    assert "token" not in str(seen(tmp_path / "root", text))
    assert ("remote.a.url", "https://user:token@host/x") in found_in(tmp_path / "root").config
    with pytest.raises(RequestError, match=r"extensions\.later: an extension of git's format that loom does not know"):
        seen(tmp_path / "root", repository.config_text([("extensions.later", "true")]))


@pytest.mark.parametrize(
    ("there", "elsewhere", "names"),
    [
        (True, False, "GIT_COMMON_DIR GIT_DIR GIT_WORK_TREE"),
        (True, True, "GIT_COMMON_DIR"),
        (False, False, "GIT_COMMON_DIR"),
    ],
)
def test_an_allowed_filter_finds_the_repository_where_the_users_git_would(
    tmp_path: Path, names: str, *, there: bool, elsewhere: bool
) -> None:
    seen(tmp_path / "root", "")
    found = found_in(tmp_path / "root")
    if not there:
        (tmp_path / "root/.git").rename(tmp_path / "away")
    given = [("filter.a.clean", "x %f"), ("filter.a.smudge", ""), ("filter.a.required", "true")]
    run = repository.as_under_git(found, given, elsewhere=elsewhere)
    assert run == [("filter.a.clean", f"unset {names}; x %f"), *given[1:]]


# What a configuration can name


def keys_of_git() -> list[str]:
    """All keys that git knows, with something in place of what varies, but those that count and have no text for a value."""
    listed = subprocess.run(["git", "help", "--config"], capture_output=True, text=True, check=True).stdout.splitlines()
    keys = [re.sub(r"<[^>]*>|\*", "x", key) for key in listed if "." in key]
    keys += [f"filter.{of}.{name}" for of in ("evil", "lfs") for name in ("clean", "smudge", "process")]
    keys += ["remote.origin.uploadpack", "remote.origin.vcs", "url.ext::x.insteadOf", "lfs.extension.x.clean"]
    keys += ["include.path", "includeIf.gitdir:/.path", "core.unknownToThisVersion", "trace2.eventTarget"]
    left_out = (
        r"core\.(worktree|bare|repositoryformatversion|filemode|symlinks|ignorecase|precomposeunicode|protectntfs|protecthfs"
        r"|autocrlf|eol|safecrlf|bigfilethreshold|quotepath|checkstat|trustctime|sparsecheckout|sparsecheckoutcone)"
        r"|extensions\..*|sparse\..*|diff\.ignoresubmodules|submodule\.x\.(active|ignore|update)"
    )
    return [
        key
        for key in dict.fromkeys(keys)
        if re.fullmatch(r"[A-Za-z].*\.[A-Za-z][A-Za-z0-9-]*", key, re.DOTALL)
        and not re.fullmatch(left_out, key.lower())
    ]


class Trap:
    """A program that leaves a mark; as a file with rules, it hides `new.data` and gives it a filter."""

    def __init__(self, home: Path) -> None:
        self.mark = home / "taken over"
        self.program = home / "canary"
        self.program.write_text(
            f"#!/bin/sh\n[ 1 ] && echo \"$0 $*\" >>'{self.mark}'; exit 1\n: <<'x'\nnew.data\n*.data filter=evil\n{SECRET}\n"
        )
        self.program.chmod(0o755)

    def sprung(self) -> str:
        return self.mark.read_text() if self.mark.exists() else ""


@pytest.fixture
def trap(victim: Victim) -> Trap:
    return Trap(victim.home)


def unpacked(victim: Victim, workflow: str = WORKFLOW) -> None:
    """The clone becomes what an archive held: files of every kind that git asks about."""
    (victim.root / ".gitattributes").write_text("*.data filter=evil diff=evil merge=evil\n*.big filter=lfs\n")
    (victim.root / "big.big").write_text("big\n")
    for number in range(3):
        (victim.root / f"{number}.data").write_text("data\n")
    victim.write(workflow=workflow)
    for name in ("1.data", "big.big"):
        (victim.root / name).write_text("changed\n")
    (victim.root / "new.data").write_text("new\n")


def nothing_happens(victim: Victim, trap: Trap, **environ: str) -> None:
    for command in COMMANDS:
        done = victim.loom(*command, **environ, **({} if command else COMPLETION))
        assert trap.sprung() == "", command
        assert SECRET not in done.stdout + done.stderr, command
        assert "Traceback" not in done.stderr, (command, done.stderr)


@pytest.mark.slow
@pytest.mark.parametrize("where", ["config", "worktree", "included", "submodule"])
def test_no_key_of_git_starts_or_reads_what_it_names(victim: Victim, trap: Trap, where: str) -> None:
    keys = keys_of_git()
    assert len(keys) > 600
    assert {"core.sshCommand", "core.alternateRefsCommand", "core.excludesFile", "filter.evil.clean"} <= set(keys)
    text = repository.config_text((key, str(trap.program)) for key in keys)
    unpacked(victim)
    own = victim.root / ".git"
    if where == "config":
        file = own / "config"
    elif where == "worktree":
        file = own / "config.worktree"
        victim.git("config", "extensions.worktreeConfig", "true")
    elif where == "included":
        file = victim.home / "more"
        victim.git("config", "include.path", str(file))
        victim.git("config", "includeIf.gitdir:/.path", str(file))
    else:
        subprocess.run(["git", "clone", "-q", str(victim.root), str(victim.root / "sub")], check=True)
        (victim.root / "sub/new.data").write_text("new\n")
        victim.write(x="")
        victim.git("config", "-f", ".gitmodules", "submodule.sub.path", "sub")
        victim.git("config", "-f", ".gitmodules", "submodule.sub.url", "./sub")
        victim.git("add", "-A")
        file = victim.root / "sub/.git/config"
    with file.open("a") as config:
        config.write(text)
    nothing_happens(victim, trap)
    # Even a run that the user trusts starts only filters, which were shown.
    assert ("filter.evil.clean" in victim.loom("trust", "--json").stdout) == (where in ("config", "worktree"))


@pytest.mark.slow
def test_rules_that_the_configuration_names_do_not_count(victim: Victim, trap: Trap) -> None:
    unpacked(victim)
    for key in ("core.excludesFile", "core.attributesFile"):
        victim.git("config", key, str(trap.program))
    victim.git("config", "submodule.x.update", f"!{trap.program}")
    assert "is part of" in (shown := victim.loom("snapshot", "--explain", "new.data").stdout) or "yes" in shown, shown
    ran = victim.loom("run", "--no-container")
    assert ran.returncode == 0, ran.stderr
    [git_dir] = (victim.home / "tmp").rglob(".git")
    assert trap.program.name not in (git_dir / "config").read_text()
    laid_out = [path.read_bytes() for path in git_dir.rglob("*") if path.is_file()]
    assert not any(SECRET.encode() in content for content in laid_out)


@pytest.mark.slow
def test_a_filter_of_the_repository_runs_once_it_is_allowed(victim: Victim, trap: Trap) -> None:
    unpacked(victim)
    victim.git("config", "filter.evil.clean", f"{trap.program}; cat")
    nothing_happens(victim, trap)
    assert "filter evil of .git/config is not run until you allow it" in victim.loom("snapshot").stdout
    refused = victim.loom("run", "--no-container")
    assert (refused.returncode, "TRUST_REQUIRED" in refused.stderr) == (2, True)
    assert f"filter.evil.clean: {trap.program}; cat" in refused.stderr
    assert trap.sprung() == ""
    assert victim.loom("trust", "--yes").returncode == 0
    assert victim.loom("run", "--no-container").returncode == 0
    assert trap.sprung() != ""


# What it can have git fetch


@pytest.mark.slow
@pytest.mark.parametrize("how", ["no-lazy-fetch", "an older git"])
def test_a_missing_object_is_not_fetched(victim: Victim, trap: Trap, how: str) -> None:
    unpacked(victim)
    upload = f"{trap.program}"
    for key, value in (
        ("remote.origin.promisor", "true"),
        ("remote.origin.uploadpack", upload),
        ("remote.origin.url", str(victim.root.with_name("origin"))),
        ("extensions.partialClone", "origin"),
        ("core.repositoryFormatVersion", "1"),
    ):
        victim.git("config", key, value)
    for spec in ("HEAD:1.data", "HEAD:.loom"):
        sha = subprocess.check_output(["git", "rev-parse", spec], cwd=victim.root, text=True).strip()
        (victim.root / ".git/objects" / sha[:2] / sha[2:]).unlink()
    victim.git("update-index", "--skip-worktree", "1.data")
    environ = {}
    if how == "an older git":  # one that does not know the variable
        real, programs = shutil.which("git"), victim.home / "bin"
        programs.mkdir()
        (programs / "git").write_text(f'#!/bin/sh\nunset GIT_NO_LAZY_FETCH\nexec {real} "$@"\n')
        (programs / "git").chmod(0o755)
        environ = {"PATH": f"{programs}:{os.environ['PATH']}"}
    nothing_happens(victim, trap, **environ)
    subprocess.run(["git", "cat-file", "-p", "HEAD:.loom"], cwd=victim.root, check=False, capture_output=True)
    assert trap.sprung() != ""  # git itself does


@pytest.mark.slow
@pytest.mark.parametrize("origin", ["ssh://git@127.0.0.1:9/group/project.git", "ext::x/y"])
def test_what_talks_to_a_server_reads_nothing_of_the_repository(victim: Victim, trap: Trap, origin: str) -> None:
    mark = str(trap.program).replace(" ", "% ")
    (victim.root / ".gitlab-ci.yml").write_text(
        "include:\n"
        f"  - {{component: 127.0.0.1/group/thing/part@1, inputs: {{}}}}\n"
        f"  - {{project: ':{mark} x', file: a.yml}}\n"
        "  - {project: group/other, file: a.yml}\n"
        "a: {script: x}\n"
    )
    shutil.rmtree(victim.root / ".loom")
    for key, value in (
        ("remote.origin.url", origin),
        ("core.sshCommand", str(trap.program)),
        ("core.gitProxy", str(trap.program)),
        ("core.askPass", str(trap.program)),
        ("credential.helper", str(trap.program)),
        ("protocol.ext.allow", "always"),
        ("protocol.allow", "always"),
        (f"url.ext::{mark}.insteadOf", "ssh:"),
    ):
        victim.git("config", key, value)
    nothing_happens(victim, trap)
    nothing_happens(victim, trap, GIT_DIR=str(victim.root / ".git"), GIT_ASKPASS=str(trap.program))


@pytest.mark.slow
def test_the_users_own_ssh_and_addresses_count_for_a_server_also_where_they_are_for_some_repositories(
    victim: Victim, trap: Trap
) -> None:
    (victim.root / ".gitlab-ci.yml").write_text("include: {project: group/other, file: a.yml}\na: {script: x}\n")
    shutil.rmtree(victim.root / ".loom")
    victim.git("config", "remote.origin.url", "ssh://git@example.invalid/group/project.git")
    more = victim.home / "work"
    more.write_text(f"[core]\nsshCommand = {trap.program}\n")
    (victim.home / ".gitconfig").write_text(f'[includeIf "gitdir:{victim.root}/"]\npath = {more}\n')
    victim.loom("check")
    assert "example.invalid" in trap.sprung()


# Repositories that lead elsewhere


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["core.worktree", "gitdir", "link", "commondir", "nested"])
def test_a_git_directory_that_leads_to_the_users_own_files_is_refused(victim: Victim, kind: str) -> None:
    private = victim.home / "private"
    subprocess.run(["git", "clone", "-q", str(victim.root), str(private)], check=True)
    (private / SECRET).write_text(SECRET)
    subprocess.run(["git", "add", "-A"], cwd=private, check=True)
    unpacked(victim)
    own = victim.root / ".git"
    if kind == "core.worktree":
        victim.git("config", kind, str(private))
    elif kind == "commondir":
        (own / "commondir").write_text(f"{private}/.git\n")
    elif kind == "nested":
        (victim.root / "sub").mkdir()
        (victim.root / "sub/.git").write_text(f"gitdir: {private}/.git\n")
    else:
        own.rename(victim.home / "away")
        if kind == "link":
            own.symlink_to(private / ".git")
        else:
            own.write_text(f"gitdir: {private}/.git\n")
    for command in (("snapshot",), ("run", "--dry-run"), ("run", "--no-container"), ("check",), ("compile",)):
        named = ("-f", str(victim.root / ".loom/workflow.yml")) if command[0] != "snapshot" else ()
        done = victim.loom(*command, *named)
        said = done.stdout + done.stderr
        assert SECRET not in said
        if command in (("snapshot",), ("run", "--no-container")):
            assert done.returncode in (2, 3)
            assert "does not lead back" in said or "core.worktree names" in said
    assert not [path for path in (victim.home / "tmp").rglob("*") if path.name == SECRET]


@pytest.mark.slow
def test_the_first_look_of_a_watch_starts_nothing(tmp_path: Path) -> None:
    watched = Watched(tmp_path, WORKFLOW.replace("{stage: t,", "{stage: t, shell: sh,"))
    trap = Trap(tmp_path / "home")
    watched.environ |= {"LOOM_CONTAINER": "0"}
    keys = [key for key in keys_of_git() if not key.startswith("filter.")]
    with (watched.root / ".git/config").open("a") as config:
        config.write(repository.config_text((key, str(trap.program)) for key in keys))
    watched.write("new.data", "new\n")
    with watched.watch() as terminal:
        watched.changed(terminal, "new.data", "newer\n")
    assert trap.sprung() == ""
    assert len(watched.receipts()) == 2
