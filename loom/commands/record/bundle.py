"""`loom bundle`: a run in one file, for somebody else to look at and to run again."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import msgspec

from loom import __version__, snapshot
from loom.cancel import Cancel, signals
from loom.commands.project import CheckoutRoot, Project, open_project
from loom.commands.project.bundle_file import (
    SUFFIX,
    BundleManifest,
    pack_name,
    write_bundle,
)
from loom.commands.project.checkout import git
from loom.commands.project.recreate_tree import checked_out, taken_again, trees_of
from loom.commands.project.trusting import settle_objects
from loom.commands.record import outgoing
from loom.commands.screen import progress_line
from loom.errors import LoomError, RequestError, SnapshotError
from loom.plan.model import Plan
from loom.record.reader import Reading
from loom.record.run import load_run
from loom.record.store import UNFINISHED
from loom.snapshot import BundledRepository, BundledTree
from loom.util.masking import Masker
from loom.util.paths import new_workspace
from loom.util.units import machine_size, rough_size


def bundle(run: str, output: Path | None, *, full: bool, base: str | None, without_secret_check: bool) -> None:
    project = open_project()
    reading = project.find(run)
    target = output or Path(f"loom-{reading.run_id}{SUFFIX}")
    settle_objects(project)
    print(_made(project, reading, target, full=full, base=base, without_secret_check=without_secret_check))


def leave_bundle(project: Project, run_id: str) -> None:
    """Leave a bundle of a failed run in the current directory; print the command to type, or the reason for leaving none."""
    try:
        print(
            _made(
                project,
                project.find(run_id),
                Path(f"loom-{run_id}{SUFFIX}"),
                full=False,
                base=None,
                without_secret_check=False,
            )
        )
    except LoomError as error:
        print(f"loom: no bundle: {error.message}", file=sys.stderr)


def _made(
    project: Project, reading: Reading, target: Path, *, full: bool, base: str | None, without_secret_check: bool
) -> str:
    receipt = reading.receipt()
    taken, root = receipt.snapshot, receipt.repo_root
    if reading.state in UNFINISHED or not taken or not taken["head_sha"] or not root:
        raise RequestError(f"run {reading.run_id} is not finished, or has no snapshot: it can't be repeated")
    if not Path(root).is_dir():
        raise RequestError(f"the checkout of run {reading.run_id} ({root}) is gone", code="BUNDLE_TREE")
    project = project if project.root == Path(root) else open_project(root=Path(root))
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
        masker, unknown = outgoing.masker_for(project, Path(root), reading.entry, plan)
        if unknown:
            raise RequestError(
                "the bundle can't be searched for secrets whose values are not known here: "
                + "; ".join(f"{name} ({why})" for name, why in unknown.items()),
                hint="let loom look them up as in the run (variables of this shell, an unlocked store); or hand out the"
                " bundle as it is: --without-secret-check",
                code="SECRET_NOT_SEARCHED",
            )
        not_searched = ()
    cancel, check = Cancel(), partial(outgoing.check, masker)
    with signals(cancel), progress_line("collects the files of the run") as show, ExitStack() as stack:
        workspace = stack.enter_context(_tree(project, reading, taken, cancel, planned.variables))
        show("packs the files and commits")
        trees, packs, whole = dict[str, BundledTree](), dict[str, Path](), True
        heads = [taken["head_sha"], *(each["head_sha"] for each in taken.get("submodules", ()))]
        for number, ((path, tree), head) in enumerate(zip(trees_of(taken).items(), heads, strict=True)):
            repo = _repository(workspace, path, project)
            tip, tags = repo.tip(head, tree), repo.tags(head)
            known = [] if full else _known(project, path, None if path else base)
            whole = whole and not known
            if packed := repo.check_objects(check if masker.active else None, tip, tags.values(), known):
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
    project: Project, reading: Reading, taken: Mapping[str, Any], cancel: Cancel, variables: Mapping[str, str]
) -> Iterator[Path]:
    """Yield a workspace with the trees that ran, by their paths. RequestError where nothing has them any more."""
    trees, found = trees_of(taken), dict[str, str]()
    committed = not any(each["changed"] for each in (taken, *taken.get("submodules", ())))
    with ExitStack() as stack:
        workspace: Path | None = None
        with suppress(SnapshotError):
            if committed:
                workspace = stack.enter_context(checked_out(project, taken["head_sha"], cancel))
                found = {path: _repository(workspace, path, project).git("rev-parse", "HEAD^{tree}") for path in trees}
        if workspace is not None and found == trees:
            yield workspace
            return
    workspace = new_workspace(project.config.tmp_dir, str(time.time_ns()))
    there = [project.root, *map(Path, reading.entry.workspaces[:1])]
    hint = "run it again, and bundle that run"
    taken_again(project, reading.run_id, taken, there, workspace, cancel, hint=hint, variables=variables)
    try:
        yield workspace
    finally:
        snapshot.remove(workspace)
        project.store.workspaces.forget(workspace)


def _repository(workspace: Path, path: str, project: Project) -> BundledRepository:
    whole = git(_checkout(project, path), "rev-parse", "--is-shallow-repository") == b"false\n"
    return BundledRepository(workspace, path, project.environ, whole=whole)


def _checkout(project: Project, path: str) -> CheckoutRoot:
    """Return the checkout, or its submodule at `path`."""
    return CheckoutRoot(root=project.root / path, environ=snapshot.elsewhere(project.environ)) if path else project


def _known(project: Project, path: str, base: str | None) -> Sequence[str]:
    """Return the commits that the other one has: as named, else what the remotes had."""
    asked = ("rev-parse", "--verify", "-q", "--end-of-options", f"{base}^{{commit}}")
    listed = ("for-each-ref", "--format=%(objectname)", "refs/remotes")
    found = git(_checkout(project, path), *(listed if base is None else asked))
    if base is not None and found is None:
        raise RequestError(f"--base {base}: no commit of this repository", hint="git log names them")
    return (found or b"").decode().split()


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
