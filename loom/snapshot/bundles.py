"""The repository of a run in a bundle: its objects in a pack, and the tree that they become elsewhere."""

from __future__ import annotations

import io
import os
import re
import subprocess
import tempfile
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Annotated

from msgspec import Meta

from loom.errors import RequestError
from loom.snapshot import git, repository
from loom.util.controls import shown
from loom.values import Environ, Immutable

PACK = "tree.pack"
MOST_TAGS = 1000
Check = Callable[[str, Callable[[int], bytes]], None]
"""Searches what a name has, as read in parts, for values of secrets. RequestError where it finds one."""
_REF = "refs/loom/bundle"
_MOST_KEPT = 64 << 20
"""Bytes of texts that were searched; a larger object is read in parts."""
_AUTHOR = {
    f"GIT_{role}_{what}": value
    for role in ("AUTHOR", "COMMITTER")
    for what, value in (("NAME", "loom"), ("EMAIL", "loom@localhost"), ("DATE", "@0 +0000"))
}
_Sha = Annotated[str, Meta(pattern=r"^(?:[0-9a-f]{40}|[0-9a-f]{64})\Z")]
Text = Annotated[str, Meta(max_length=4096, pattern=r"^[^\x00-\x1f\x7f]*\Z")]


class BundledTree(Immutable, forbid_unknown_fields=True):
    """The files and commits of one repository."""

    head_sha: _Sha
    tree_sha: _Sha
    tip_sha: _Sha
    """A commit with the tree: HEAD, or one on top of it with what was not committed."""
    pack: bool
    """Whether it has objects; if not, HEAD is all, and the other one has it."""
    tags: Annotated[dict[Text, _Sha], Meta(max_length=MOST_TAGS)] = {}


class TreeOfBundle:
    """A tree of a bundle, laid out as a repository of its own. `stores`: objects that the bundle may build on."""

    def __init__(self, tree: BundledTree, directory: Path, stores: Sequence[Path], file: Path) -> None:
        self._tree = tree
        self._directory = directory
        self._file = file
        made = git.environment_for(os.environ, git_dir=directory / ".git")
        form = "sha256" if len(tree.head_sha) == 64 else "sha1"
        git.run(("init", "--bare", "-q", "--template=", f"--object-format={form}"), made, cwd=directory)
        git.run(("config", "core.bare", "false"), made, cwd=directory)
        self._plain = git.environment_for(os.environ, git_dir=directory / ".git", work_tree=directory)
        self._lent = {**self._plain, **git.environment_for({}, alternates=stores)}

    def fetch(self, pack: Path) -> None:
        """Take the commits from the bundle and from the user's clone. RequestError where one is missing."""
        if self._tree.pack:
            self._checked("bundle", "unbundle", str(pack))
        self._checked("update-ref", "--no-deref", "HEAD", self._tree.head_sha)
        git.run(("update-ref", "refs/loom/tip", self._tree.tip_sha), self._lent, cwd=self._directory)
        asked = "".join(f"{sha}\n" for sha in self._tree.tags.values()).encode()
        answer = git.run(("cat-file", "--batch-check=%(objectname)"), self._lent, cwd=self._directory, given=asked)
        there = set(answer.decode().splitlines())
        tags = "".join(f"create refs/tags/{name} {sha}\n" for name, sha in self._tree.tags.items() if sha in there)
        git.run(("update-ref", "--stdin"), self._lent, cwd=self._directory, given=tags.encode())
        quick = git.with_config(self._lent, [("pack.window", "0"), ("pack.compression", "1")])
        git.run(("repack", "-a", "-d", "-q"), quick, cwd=self._directory)  # the clone's objects are copied from now on

    def contents(self) -> tuple[int, list[str]]:
        """Return the size of the files, and the paths of submodules. RequestError for another tree than it says."""
        tip = self._tree.tip_sha
        if self._git("rev-parse", f"{tip}^{{tree}}").decode().strip() != self._tree.tree_sha:
            raise RequestError(f"{self._file}: its files are not those that it names", code="BUNDLE_INVALID")
        entries = [entry.split(b"\t", 1) for entry in git.nul_list(self._git("ls-tree", "-r", "-l", "-z", tip))]
        sizes = [about.split()[3] for about, _ in entries]
        links = [os.fsdecode(path) for (_, path), size in zip(entries, sizes, strict=True) if size == b"-"]
        return sum(int(size) for size in sizes if size != b"-"), links

    def check_out(self, branch: str | None) -> None:
        if branch is not None:
            named = ("check-ref-format", "--branch", branch)
            if git.Running(named, self._plain, cwd=self._directory).result(check=False)[0] == 0:
                self._git("update-ref", f"refs/heads/{branch}", self._tree.head_sha)
                self._git("symbolic-ref", "HEAD", f"refs/heads/{branch}")
        self._git("read-tree", "-u", "--reset", self._tree.tip_sha)

    def _git(self, *arguments: str) -> bytes:
        return git.run(arguments, self._plain, cwd=self._directory)

    def _checked(self, *arguments: str) -> None:
        code, _, said = git.Running(arguments, self._lent, cwd=self._directory).result(check=False)
        if code != 0:
            lacks = re.findall(r"[0-9a-f]{40,64}", said)
            commit = (lacks or [self._tree.head_sha])[0][:12]
            raise RequestError(
                f"{self._file}: this clone lacks commit {commit}, on which the bundle builds",
                hint="go to a clone of the project and `git fetch` (submodules, too); or ask for a bundle with --full",
                code="BUNDLE_BASE",
            )


class BundledRepository:
    """git in a workspace of loom's own, or in a submodule there. RequestError where that has no repository."""

    def __init__(self, workspace: Path, path: str, environ: Environ, *, whole: bool) -> None:
        """`whole`: the user's clone has all objects, also where a job cut the history of the workspace."""
        self._root = workspace / path
        environ = git.elsewhere(environ)
        found = repository.find(self._root, environ)
        if found is None or found.root != Path(os.path.realpath(self._root)):
            raise RequestError(shown(f"submodule {path} of the run has no commits here"), code="BUNDLE_TREE")
        self._git_dir = found.git_dir
        self._environment = git.in_repository(found, environ) | _AUTHOR
        if whole:
            self._environment["GIT_SHALLOW_FILE"] = ""

    def git(self, *arguments: str) -> str:
        return git.run(arguments, self._environment, cwd=self._root).decode(errors="replace").strip()

    def tip(self, head: str, tree: str) -> str:
        """Return a commit with the tree: HEAD, or a new one on top of it."""
        if self.git("rev-parse", f"{head}^{{tree}}") == tree:
            return head
        self.git("add", "-A", "-f", ".")
        if (found := self.git("write-tree")) != tree:
            raise RequestError(
                f"git makes the tree {found[:12]} of the files of {tree[:12]}",
                hint="commit them first",
                code="BUNDLE_TREE",
            )
        return self.git("commit-tree", tree, "-p", head, "-m", "what was not committed")

    def check_objects(self, check: Check | None, tip: str, tags: Iterable[str], known: Sequence[str]) -> bool:
        """Search all that a pack would hold; return whether there is anything."""
        listed = git.run(("rev-list", "--objects", tip, *tags, "--not", *known), self._environment, cwd=self._root)
        if not listed or check is None:
            return bool(listed)
        check("a file's name", io.BytesIO(listed).read)
        form = "--batch=%(objecttype) %(objectsize) %(rest)"
        with tempfile.TemporaryFile() as names:
            names.write(listed)
            names.seek(0)
            streams = (names, subprocess.PIPE, subprocess.DEVNULL)
            with git.started(
                ("cat-file", "--buffer", form), self._environment, streams=streams, cwd=self._root
            ) as process:
                assert isinstance(process.stdout, io.BufferedReader)
                try:
                    _search(process.stdout, len(tip) // 2, check)
                except BaseException:
                    process.kill()
                    raise
        return True

    def tags(self, head: str) -> dict[str, str]:
        """Return the newest tags that a commit has."""
        form = ("--sort=-creatordate", f"--count={MOST_TAGS}", "--format=%(objectname) %(refname:strip=2)")
        listed = self.git("for-each-ref", f"--merged={head}", *form, "refs/tags").splitlines()
        named = (line.partition(" ") for line in listed)
        return {name: sha for sha, _, name in named if "\ufffd" not in name}  # a name in another encoding

    def packed(self, tip: str, tags: Iterable[str], known: Sequence[str]) -> Path:
        """Write the objects of a commit and of tags that those lack, into a file. RequestError in a shallow clone."""
        if self.git("rev-parse", "--is-shallow-repository") == "true" and not known:
            raise RequestError(
                "this clone is shallow: it has no whole history to bundle",
                hint="git fetch --unshallow, or name a commit that the other one has: --base REV",
                code="BUNDLE_SHALLOW",
            )
        target = self._git_dir / PACK
        self.git("update-ref", _REF, tip)
        # Of a whole history, what is packed already keeps its form: a search among the rest costs more than it saves.
        asked = git.with_config(self._environment, [] if known else [("pack.window", "2")])
        names = (_REF, *(f"refs/tags/{name}" for name in tags))
        git.run(("bundle", "create", "-q", str(target), *names, "--not", *known), asked, cwd=self._root)
        return target


def _search(objects: io.BufferedReader, id_bytes: int, check: Check) -> None:
    """Search the objects that `git cat-file --batch` prints.

    Versions of a file share most paragraphs, and each is searched once: no form of a value holds a line end.
    """
    names = re.compile(rb" ([^\0]+)\0.{%d}" % id_bytes, re.DOTALL)
    searched, held = set[bytes](), 0
    while header := objects.readline():
        kind, size, path = header.rstrip(b"\n").split(b" ", 2)
        left = int(size)
        what = f"the file {os.fsdecode(path)}" if path else f"the message of a {kind.decode()}"

        def read(most: int) -> bytes:
            nonlocal left
            data = objects.read(min(most, left))
            left -= len(data)
            return data

        if kind == b"tree":  # the list has one name of each object
            what, parts = "a file's name", names.findall(read(left))
        elif left <= _MOST_KEPT:
            parts = read(left).split(b"\n\n")
        else:
            parts = []
            check(what, read)
        if new := set(parts) - searched:
            text = b"\n".join(new)
            check(what, io.BytesIO(text).read)
            if (held := held + len(text)) > _MOST_KEPT:
                searched, held = set(), 0
            searched |= new
        objects.read(1)
