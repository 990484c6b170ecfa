"""`loom snapshot` and `loom verify`."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

from loom import snapshot as snapshots
from loom.cancel import Cancel, signals
from loom.commands.project import open_project
from loom.commands.project.trusting import discover, settle_objects
from loom.commands.screen import progress_line
from loom.errors import RequestError
from loom.record.proofs import Proofs, record_digest
from loom.record.run_paths import RunPaths
from loom.record.store import RunEntry, Store
from loom.render.output import print_either
from loom.snapshot import Explanation, Snapshot, Source, Verification, is_workspace, readable
from loom.status import ExitCode
from loom.util.paths import new_workspace, run_of_workspace
from loom.util.units import rough_size


def snapshot(paths: list[str] | None, *, explain: bool, as_json: bool) -> None:
    source = discover(Path.cwd(), os.environ)
    settle_objects(open_project(root=source.root), can_ask=not as_json)
    if explain:
        if not paths:
            raise RequestError("--explain needs at least one path", hint="loom snapshot --explain PATH...")

        tmp_dir = open_project(root=source.root).config.tmp_dir
        answers = snapshots.explain(source, paths, start=Path.cwd(), tmp_dir=tmp_dir)
        values = {"paths": [answer.document() for answer in answers]}
        print_either(as_json, "snapshot-explanation", values, _answer_lines(answers), kind="loom-snapshot-explain")
        return
    if paths:
        raise RequestError(
            f"unexpected argument {paths[0]!r}", hint="to ask about paths: loom snapshot --explain PATH..."
        )
    taken = _take(source, show_progress=not as_json)
    print_either(as_json, "snapshot", taken.document(changes=None), _snapshot_lines(taken), kind="loom-snapshot")


def _take(source: Source, *, show_progress: bool) -> Snapshot:
    cancel = Cancel()
    project = open_project(root=source.root)
    run_id = str(time.time_ns())
    workspace = new_workspace(project.config.tmp_dir, run_id)
    try:
        with signals(cancel), progress_line(wanted=show_progress) as show:

            def on_progress(done: int, total: int) -> None:
                show(f"copying: {done:,} of {max(done, total):,} files")

            # Only the person who asked: what is in the checkout may be private.
            project.store.workspaces.make(workspace, run_id=run_id, repo_root=source.root, kind="snapshot")
            try:
                taken = snapshots.take(source, workspace, cancel=cancel, on_progress=on_progress)
            except BaseException:
                with suppress(OSError):  # the first error is the reason
                    workspace.rmdir()
                raise
        try:
            project.store.add_snapshot(workspace, snapshots.manifest_bytes(workspace))
        except OSError as error:
            print(f"loom: `loom verify` will have to believe the workspace: {error}", file=sys.stderr)
        return taken
    except snapshots.SnapshotCanceled:
        print("interrupted: no workspace was left behind", file=sys.stderr)
        raise SystemExit(int(cancel.exit_code or ExitCode.INTERRUPTED)) from None


def _snapshot_lines(taken: Snapshot) -> list[str]:
    lines = [
        f"isolated workspace: {taken.path}",
        f"head: {taken.head_sha}" + (f" ({taken.branch})" if taken.branch else " (detached)"),
        f"tree: {taken.tree_sha}",
        f"files: {taken.files:,} ({rough_size(taken.bytes)}), {taken.duration_ms:,.0f} ms",
        f"changed since HEAD: {len(taken.changed):,}",
    ]
    shown = 20
    lines += [f"  {change.kind:12} {readable(change.path)}" for change in taken.changed[:shown]]
    if len(taken.changed) > shown:
        lines.append(f"  and {len(taken.changed) - shown:,} more (--json lists all)")
    lines += [f"submodule: {readable(sub.path)} at {sub.head_sha}" for sub in taken.submodules]
    lines.append(f"left out: {len(taken.left_out):,}")
    lines += [f"  {readable(left.path)}: {left.reason}" for left in taken.left_out]
    return lines


def _answer_lines(answers: Sequence[Explanation]) -> Iterator[str]:
    for answer in answers:
        yield f"{'yes' if answer.included else 'no ':3}  {snapshots.readable(answer.path) or '.'}: {answer.reason}"
        if answer.rule is not None:
            yield f"     {snapshots.readable(str(answer.rule))}"


def verify(what: str, job: str | None, *, as_json: bool) -> int:
    workspace, tree_sha, manifest = _workspace_of(what) if job is None else _files_of(what, job)
    verified = snapshots.verify(workspace, environ=os.environ, tree_sha=tree_sha, manifest_file=manifest)
    record = _record_state(manifest)
    lines = [*_verification_lines(verified), *([f"record: {record}"] if record else [])]
    values = {**verified.document(), "record": record}
    print_either(as_json, "verification", values, lines, kind="loom-verify")
    return ExitCode.OK if verified.same and record != CHANGED else ExitCode.JOB_FAILED


CHANGED = "changed since the run's end"


def _record_state(manifest: Path | None) -> str | None:
    """Return whether the record with this manifest is what it was at its run's end; None without a record."""
    if manifest is None or manifest.name != "snapshot.json":
        return None
    paths = RunPaths(root=manifest.parent, run_id=manifest.parent.name)
    noted = Proofs(open_project().config.state_dir)
    if not noted.read()[1]:
        return f"not known: another hand changed {noted.path}"
    if (found := noted.of_run(paths.run_id)) is None:
        return "not known: no proof of the run was kept"
    return "unchanged since the run's end" if record_digest(paths) == found.record else CHANGED


def _workspace_of(what: str) -> tuple[Path, str | None, Path | None]:
    """Return the workspace, the tree that its receipt names and the record's copy of its manifest, where there are such."""
    project = open_project()
    around = next((folder for folder in (project.start, *project.start.parents) if run_of_workspace(folder.name)), None)
    store = project.store
    directory = around if what == "last" else Path(os.path.realpath(what))
    if what and directory is not None and os.path.isdir(directory):  # noqa: PTH112  a name may be too long for Path
        if (found := store.run_in(directory)) is not None:
            return directory, *_kept(found, store)
        if (kept := store.manifest_of(directory)) is not None or is_workspace(directory):
            return directory, None, kept  # `loom snapshot` made it, or its run's record is gone
    entry = store.find(what, repo_root=project.root)
    receipt = entry.receipt
    recorded = next(iter(entry.workspaces), receipt.snapshot_path if receipt else None)
    if recorded is None or (receipt and not receipt.snapshot_tree_sha):
        raise RequestError(f"run {entry.run_id} ended before it had a workspace", hint="`loom show` gives the reason")
    return Path(recorded), *_kept(entry, store)


def _files_of(run: str, job: str) -> tuple[Path, str | None, Path | None]:
    from loom.commands.inside import session  # with providers and runner: only for a job's own files

    project = open_project()
    past = session.find_job(project, [run, job])
    return session.files_of(project, past), *_kept(past.run.entry, project.store)


def _kept(entry: RunEntry, store: Store) -> tuple[str | None, Path | None]:
    """Return the tree that a run's receipt names, and the manifest's copy in the record, if it is in the store."""
    kept, tree = entry.paths.snapshot, entry.receipt.snapshot_tree_sha if entry.receipt else None
    return tree, kept if store.has_record(entry) and kept.is_file() else None


def _verification_lines(verified: Verification) -> list[str]:
    lines = [f"isolated workspace: {verified.workspace}", f"snapshot tree: {verified.snapshot_tree_sha}"]
    if not verified.believed:
        lines.append("held to its own word, which whoever works in it can change")
    if verified.same:
        return [*lines, "verified: the workspace holds exactly this tree"]
    lines.append(f"tree now:      {verified.tree_sha}")
    lines.append(f"changed since the snapshot: {len(verified.changes):,}")
    lines += [f"  {change.kind:12} {readable(change.path)}" for change in verified.changes]
    lines += [f"  unreadable   {readable(path)}: {why}" for path, why in verified.unreadable]
    lines += [f"  left out     {readable(path)}: a {kind}, not a file" for path, kind in verified.special]
    return lines
