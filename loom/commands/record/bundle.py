"""`loom bundle`: a run in one file, for somebody else to look at and to run again."""

from __future__ import annotations

import io
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import msgspec

from loom import __version__, snapshot
from loom.cancel import Cancel, signals
from loom.commands import project
from loom.commands.project import Here
from loom.commands.project.bundle_file import (
    MOST_TAGS,
    PACK,
    SUFFIX,
    BundledTree,
    BundleManifest,
    pack_name,
    write_bundle,
)
from loom.commands.project.checkout import git as git_answer
from loom.commands.project.recreate_tree import checked_out, taken_again, trees_of
from loom.commands.project.trusting import settle_objects
from loom.commands.record import outgoing
from loom.commands.screen import progress_line
from loom.errors import LoomError, RequestError, SnapshotError
from loom.plan.model import Plan
from loom.record.reader import Reading
from loom.record.run import load_run
from loom.record.store import UNFINISHED
from loom.snapshot import git, repository
from loom.util.controls import shown
from loom.util.masking import Masker
from loom.util.paths import new_workspace
from loom.util.units import machine_size, rough_size

_REF = "refs/loom/bundle"
_MOST_KEPT = 64 << 20
"""Bytes of texts that were searched; a larger object is read in parts."""
_AUTHOR = {
    f"GIT_{role}_{what}": value
    for role in ("AUTHOR", "COMMITTER")
    for what, value in (("NAME", "loom"), ("EMAIL", "loom@localhost"), ("DATE", "@0 +0000"))
}


def bundle(run: str, output: Path | None, *, full: bool, base: str | None, without_secret_check: bool) -> None:
    here = project.here()
    reading = here.find(run)
    target = output or Path(f"loom-{reading.run_id}{SUFFIX}")
    if target.suffix != SUFFIX:
        raise RequestError(f"{target}: the name of a bundle ends in {SUFFIX}")
    settle_objects(here)
    print(_made(here, reading, target, full=full, base=base, without_secret_check=without_secret_check))


def leave_bundle(here: Here, run_id: str) -> None:
    """Leave a bundle of a failed run in the current directory; print the command to type, or the reason for leaving none."""
    try:
        print(
            _made(
                here,
                here.find(run_id),
                Path(f"loom-{run_id}{SUFFIX}"),
                full=False,
                base=None,
                without_secret_check=False,
            )
        )
    except LoomError as error:
        print(f"loom: no bundle: {error.message}", file=sys.stderr)


def _made(
    here: Here, reading: Reading, target: Path, *, full: bool, base: str | None, without_secret_check: bool
) -> str:
    receipt = reading.receipt()
    taken, root = receipt["snapshot"], receipt["repo_root"]
    if reading.state in UNFINISHED or not taken or not taken["head_sha"] or not root:
        raise RequestError(f"run {reading.run_id} is not finished, or has no snapshot: it can't be repeated")
    if not Path(root).is_dir():
        raise RequestError(f"the checkout of run {reading.run_id} ({root}) is gone", code="BUNDLE_TREE")
    here = here if here.root == Path(root) else project.here(root=Path(root))
    planned = load_run(reading.paths.plan)
    plan = planned.plan
    if any(job.artifacts_above or (job.trigger is not None and not job.trigger.files) for job in plan.jobs):
        raise RequestError(
            f"run {reading.run_id} is part of another run: it is a repetition, or uses artifacts of its parent run",
            hint="`loom runs` lists the runs; bundle one that stands alone",
        )
    actions = _actions(plan)
    masker, not_searched = Masker(), tuple(sorted({one.name for job in plan.jobs for one in job.all_secrets}))
    if not without_secret_check:
        masker, unknown = outgoing.masker_for(here, Path(root), reading.entry, plan)
        if unknown:
            raise RequestError(
                "the bundle can't be searched for secrets whose values are not known here: "
                + "; ".join(f"{name} ({why})" for name, why in unknown.items()),
                hint="let loom look them up as in the run (variables of this shell, an unlocked store); or hand out the"
                " bundle as it is: --without-secret-check",
                code="SECRET_NOT_SEARCHED",
            )
        not_searched = ()
    cancel = Cancel()
    with signals(cancel), progress_line(at_once=True) as show, ExitStack() as stack:
        show("collects the files of the run")
        workspace = stack.enter_context(_tree(here, reading, taken, cancel, planned.variables))
        show("packs the files and commits")
        trees, packs, whole = dict[str, BundledTree](), dict[str, Path](), True
        heads = [taken["head_sha"], *(each["head_sha"] for each in taken.get("submodules", ()))]
        for number, ((path, tree), head) in enumerate(zip(trees_of(taken).items(), heads, strict=True)):
            repo = _Repository(workspace, path, here)
            tip, tags = repo.tip(head, tree), repo.tags(head)
            known = [] if full else repo.known(None if path else base)
            whole = whole and not known
            if packed := repo.check_objects(masker, tip, tags.values(), known):
                packs[pack_name(number)] = repo.packed(tip, tags, known)
            trees[path] = BundledTree(head_sha=head, tree_sha=tree, tip_sha=tip, pack=packed, tags=tags)
        own = trees.pop("")
        manifest = BundleManifest(
            loom_version=__version__,
            run_id=reading.run_id,
            branch=taken.get("branch"),
            machine=machine_size(),
            submodules=trees,
            not_searched=not_searched,
            **msgspec.structs.asdict(own),
        )
        try:
            check = partial(outgoing.check, masker)
            write_bundle(target, manifest, reading.paths.root, packs, actions, check)
        except OSError as error:
            raise RequestError(
                f"the bundle can't be written to {target}: {error.strerror or error}", hint="name another file with -o"
            ) from error
    needs = "" if whole else f", for checkouts with commit {own.head_sha[:12]} or an ancestor of it"
    unsearched = f", not searched for {', '.join(not_searched)}" if not_searched else ""
    return f"bundle: {rough_size(target.stat().st_size)}{needs}{unsearched}; look and run again: loom replay {target}"


@contextmanager
def _tree(
    here: Here, reading: Reading, taken: Mapping[str, Any], cancel: Cancel, variables: Mapping[str, str]
) -> Iterator[Path]:
    """Yield a workspace with the trees that ran, by their paths. RequestError where nothing has them any more."""
    trees, found = trees_of(taken), dict[str, str]()
    committed = not any(each["changed"] for each in (taken, *taken.get("submodules", ())))
    with ExitStack() as stack:
        workspace: Path | None = None
        with suppress(SnapshotError):
            if committed:
                workspace = stack.enter_context(checked_out(here, taken["head_sha"], cancel))
                found = {path: _Repository(workspace, path, here).git("rev-parse", "HEAD^{tree}") for path in trees}
        if workspace is not None and found == trees:
            yield workspace
            return
    workspace = new_workspace(here.config.tmp_dir, str(time.time_ns()))
    there = [here.root, *map(Path, reading.entry.workspaces[:1])]
    hint = "run it again, and bundle that run"
    taken_again(here, reading.run_id, taken, there, workspace, cancel, hint=hint, variables=variables)
    try:
        yield workspace
    finally:
        snapshot.remove(workspace)
        here.store.workspaces.forget(workspace)


class _Repository:
    """git in a workspace of loom's own, or in a submodule there. RequestError where that has no repository."""

    def __init__(self, workspace: Path, path: str, here: Here) -> None:
        self._root = workspace / path
        self._origin = here.root / path
        self._here = here
        found = repository.find(self._root, here.environ)
        if found is None or found.root != Path(os.path.realpath(self._root)):
            raise RequestError(shown(f"submodule {path} of the run has no commits here"), code="BUNDLE_TREE")
        self._git_dir = found.git_dir
        self._environment = git.in_repository(found, here.environ) | _AUTHOR
        if git_answer(self._origin, here.environ, "rev-parse", "--is-shallow-repository") == b"false\n":
            self._environment["GIT_SHALLOW_FILE"] = ""  # a job's checkout cut the history there: the objects are whole

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

    def check_objects(self, masker: Masker, tip: str, tags: Iterable[str], known: Sequence[str]) -> bool:
        """Search all that a pack would hold; return whether there is anything. RequestError for the value of a secret."""
        listed = git.run(("rev-list", "--objects", tip, *tags, "--not", *known), self._environment, cwd=self._root)
        if not listed or not masker.active:
            return bool(listed)
        outgoing.check(masker, "a file's name", io.BytesIO(listed).read)
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
                    _search(process.stdout, len(tip) // 2, masker)
                except BaseException:
                    process.kill()
                    raise
        return True

    def known(self, base: str | None) -> Sequence[str]:
        """Return the commits that the other one has: as named, else what the remotes had."""
        asked = ("rev-parse", "--verify", "-q", "--end-of-options", f"{base}^{{commit}}")
        listed = ("for-each-ref", "--format=%(objectname)", "refs/remotes")
        found = git_answer(self._origin, self._here.environ, *(listed if base is None else asked))
        if base is not None and found is None:
            raise RequestError(f"--base {base}: no commit of this repository", hint="git log names them")
        return (found or b"").decode().split()

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


def _search(objects: io.BufferedReader, id_bytes: int, masker: Masker) -> None:
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
            outgoing.check(masker, what, read)
        if new := set(parts) - searched:
            text = b"\n".join(new)
            outgoing.check(masker, what, io.BytesIO(text).read)
            if (held := held + len(text)) > _MOST_KEPT:
                searched, held = set(), 0
            searched |= new
        objects.read(1)


def _actions(plan: Plan) -> dict[str, Path]:
    """Return the directories of the actions that a plan uses, by their commits. RequestError for one that is gone."""
    used = (step.action for job in plan.jobs for step in job.steps)
    found = {one.commit: Path(one.directory) for one in used if one is not None and one.directory}
    for commit, directory in found.items():
        if not directory.is_dir():
            raise RequestError(
                f"the files of an action at commit {commit[:12]} are gone from loom's cache ({directory})",
                hint="run it again, and bundle that run",
                code="BUNDLE_TREE",
            )
    return found
