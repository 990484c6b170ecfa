"""`loom run --cache-diff`: the same jobs without caches and with them, and what came out differently."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from msgspec.structs import replace

from loom.commands.run import Options, Prepared, execute, prepare, screen_parts
from loom.status import ExitCode

if TYPE_CHECKING:
    from loom.record.reader import Reading
    from loom.storage.cache import CacheDifference, JobOutcome


def run(options: Options) -> int:
    """The exit code: of the run with caches, or if that is 0, of the one without; 1 when only the outcomes differ."""
    from loom.errors import RequestError
    from loom.storage.cache import compare

    if options.no_cache or options.dry_run or options.output != "screen":
        other = "--no-cache" if options.no_cache else "--dry-run" if options.dry_run else "--json or --format"
        raise RequestError(f"--cache-diff does not go with {other}", hint="Leave one of them out.")
    # Both before the first one runs: `--only-failed` means the run before these two.
    prepared = prepare(options), prepare(options)
    if not any(job.cache for job in prepared[0].plan.jobs):
        raise RequestError(
            "no job that would run has a cache: there is nothing to compare", hint="Leave --cache-diff out."
        )
    _, write = screen_parts(prepared[0].config.color, quiet=options.quiet, verbose=options.verbose, stream=False)
    codes = []
    for plan, no_cache in zip(prepared, (True, False), strict=True):
        if not options.quiet:
            write(f"{'without' if no_cache else 'with'} caches:")
        codes.append(execute(plan, replace(options, no_cache=no_cache)))
        if codes[-1] not in (ExitCode.OK, ExitCode.JOB_FAILED, ExitCode.TIMED_OUT):
            return codes[-1]  # interrupted, or something could not be had: no outcome to compare
    without, with_caches = (_read(plan) for plan in prepared)
    found = compare(_outcomes(without), _outcomes(with_caches))
    for line in lines(found, without, with_caches):
        write(line)
    return codes[1] or codes[0] or (ExitCode.JOB_FAILED if found else ExitCode.OK)


def lines(found: list[CacheDifference], without: Reading, with_caches: Reading) -> list[str]:
    """What to say of the two runs."""
    said = []
    trees = [run.receipt().get("snapshot_tree_sha") for run in (without, with_caches)]
    if trees[0] != trees[1]:
        said.append("cache diff: the checkout was changed between the two runs; the changes may be why they differ")
    restored = any(hit != "miss" for outcome in _outcomes(with_caches).values() for _, hit in outcome.keys)
    if not restored:
        said.append(
            "cache diff: no cache was there to be restored; the same command again compares with what was saved now"
        )
    elif not found:
        said.append("cache diff: every job ended the same way without caches and with them")
    for difference in found:
        if difference.keys:
            said.append(f"cache diff: {difference.job_id} depends on its cache: {', '.join(difference.keys)}")
        else:
            said.append(
                f"cache diff: {difference.job_id} differs, though it restored nothing: by a job before it, or by chance"
            )
        said += [f"    {what}" for what in difference.what]
    return said


def _read(prepared: Prepared) -> Reading:
    from loom.record.reader import Reading
    from loom.record.store import Store

    return Reading(Store(prepared.config.state_dir).entry(prepared.run_id))


def _outcomes(run: Reading) -> dict[str, JobOutcome]:
    from loom.storage.cache import JobOutcome

    found = {}
    for job_id in run.job_ids():
        manifest = run.job_manifest(job_id)
        found[job_id] = JobOutcome(
            status=str(manifest["status"]),
            exit_code=manifest["exit_code"],
            failing_step=manifest["failing_step"],
            failing_tests=frozenset(
                f"{test.get('classname') or ''}::{test['name']}".removeprefix("::")
                for test in manifest["failing_tests"]
            ),
            artifacts=frozenset(_left(run.paths.artifacts_archive(job_id))),
            keys=tuple(
                (str(cache.get("key") or cache.get("wanted")), str(cache["hit"]))
                for cache in manifest["caches"]
                if cache["action"] == "restore"
            ),
        )
    return found


def _left(archive: Path) -> list[tuple[str, str]]:
    """What a job left as artifacts: paths, with what tells one content from another."""
    from loom.storage.artifacts import index_of

    index = index_of(archive) if archive.exists() else []
    return [(file.path, f"link to {file.target}" if file.target else f"{file.size} {file.content}") for file in index]
