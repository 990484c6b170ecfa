"""`loom attest`: what a run has shown of a commit's tree, signed, as a note of the commit; and the check of such notes."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterator
from contextlib import suppress
from itertools import islice
from pathlib import Path

from msgspec.structs import replace

from loom.commands.gate.signing import (
    UNLIKE,
    Configuration,
    Envelope,
    JobResults,
    Statement,
    Subject,
    read_envelope,
    sign,
    signers_of,
    signing_of,
)
from loom.commands.project import Here, here
from loom.commands.project.checkout import git, origin_of
from loom.errors import InfrastructureError, RecordError, RequestError
from loom.record.reader import Reading
from loom.record.request import Request
from loom.record.run import load_run
from loom.render.output import print_either
from loom.snapshot.git import Running, for_server, in_repository, with_config
from loom.snapshot.repository import find
from loom.status import ExitCode, Status
from loom.util import jsons
from loom.util.controls import shown
from loom.util.untrusted_files import read_regular

NOTES = "refs/notes/loom"
_MOST_RUNS = 200
"""The newest runs among which the one of a commit's tree is searched."""
_LARGEST_NOTE = 1 << 20


_HINT = "loom run, then loom attest"


_USUAL = (("container", True),)
"""Settings of a run that make it no other than CI's."""


class NothingShown(RequestError):
    """No run, or none that counts, has shown what was asked for."""

    default_code = "NOTHING_SHOWN"


def attest_sign(what: str, *, push: bool, as_json: bool) -> None:
    project = here()
    reading, commit = shown_by(project, what)
    statement = statement_of(reading)
    listed = git(project.root, project.environ, "config", "--null", "--list") or b""
    signing = signing_of(dict(setting.partition("\n")[::2] for setting in os.fsdecode(listed).split("\0")))
    envelope = sign(statement, signing)
    kept = {line for line in _note(project, commit).split(b"\n") if line and not _is_older(line, envelope, statement)}
    kept.add(jsons.encode_line(envelope).strip())
    who = ("-c", f"user.name={signing.who}", "-c", f"user.email={signing.who}")
    note = b"\n".join(sorted(kept)) + b"\n"
    if (
        git(project.root, project.environ, *who, "notes", f"--ref={NOTES}", "add", "-f", "-F", "-", commit, given=note)
        is None
    ):
        raise InfrastructureError(f"git could not write the note of {commit[:12]}", hint="see: git fsck, and the disk")
    if push:
        _push(project, signing.who)
    jobs = ", ".join(statement.predicate.passed_tests)
    lines = [f"commit {commit[:12]}: run {reading.run_id} passed ({jobs}), signed by {signing.who}"]
    lines += [f"unlike CI: {each}" for each in statement.unlike]
    lines += [] if push else [f"push it with the branch: git push origin {NOTES}, or loom attest --push"]
    values = {"commit": commit, "run_id": reading.run_id, "signer": signing.who, "envelope": envelope}
    print_either(as_json, "attestation", values, map(shown, lines))


def attest_verify(commit: str, *, signers: Path, jobs: list[str], allow_unlike: bool, as_json: bool) -> int:
    project = here()
    sha, tree = _commit(project, commit)
    try:
        allowed = read_regular(signers).decode("utf-8", "replace")
    except OSError as error:
        hint = "it has lines as git's gpg.ssh.allowedSignersFile, or armored OpenPGP keys"
        raise RequestError(f"{signers}: {error.strerror}", hint=hint) from None
    passed: dict[str, list[str]] = {}
    unlike: list[str] = []
    for envelope, statement in _envelopes(_note(project, sha)):
        if statement.is_of(tree) and statement.predicate.result == "PASSED" and (who := signers_of(envelope, allowed)):
            unlike += statement.unlike
            if allow_unlike or not statement.unlike:
                for job in statement.predicate.passed_tests:
                    passed.setdefault(job, []).extend(who)
    missing = [job for job in jobs if job not in passed]
    good = bool(passed) and not missing
    signed = [f"passed   {job}, signed by {', '.join(dict.fromkeys(names))}" for job, names in passed.items()]
    lines = signed or [f"commit {sha[:12]}: no valid attestation of its tree by these signers"]
    lines += [f"missing  {job}" for job in missing]
    lines += [f"unlike CI: {each}" for each in dict.fromkeys(unlike)]
    lines += ["--allow-unlike accepts it"] if unlike and not allow_unlike else []
    values = {"commit": sha, "tree": tree, "passed": passed, "missing": missing, "unlike": unlike, "good": good}
    print_either(as_json, "attestations", values, map(shown, lines))
    return ExitCode.OK if good else ExitCode.JOB_FAILED


def shown_by(project: Here, what: str) -> tuple[Reading, str]:
    """Return the run that has passed, and the commit whose tree it is of. NothingShown if there is none."""
    try:
        reading = project.find(what)
    except RequestError as no_run:
        try:
            return _run_of(project, *_commit(project, what))
        except NothingShown:
            raise
        except RequestError as error:
            raise RequestError(f"{what}: neither a commit nor a run", hint=no_run.hint, code=error.code) from None
    if why := unlike_ci(reading):
        raise NothingShown(f"run {reading.run_id} does not count: {why}", hint=_HINT)
    for name in (str(reading.receipt()["snapshot_head_sha"]), "HEAD"):
        with suppress(RequestError):
            sha, tree = _commit(project, name)
            if tree == _tree_of(reading):
                return reading, sha
    raise NothingShown(f"no commit has the tree of run {reading.run_id} yet", hint=f"commit the work that ran: {_HINT}")


def _run_of(project: Here, commit: str, tree: str) -> tuple[Reading, str]:
    reasons = []
    for reading in _newest(project):
        if _tree_of(reading) == tree:
            if not (why := unlike_ci(reading)):
                return reading, commit
            reasons.append(f"run {reading.run_id}: {why}")
    of_it = "; ".join(reasons[:3]) or "no run had its tree"
    raise NothingShown(f"commit {commit[:12]}: no run shows that it passes ({of_it})", hint=_HINT)


def unlike_ci(reading: Reading) -> str:
    """Return why a run is no proof that CI passes; empty if it is one."""
    receipt = reading.receipt()
    extent = receipt["extent"]
    if receipt["status"] != Status.SUCCESS:
        return f"its status is {receipt['status']}"
    if not extent["proof"]:
        return f"it is {', '.join(extent['kinds'])}"
    request = load_run(reading.paths.plan).request.repeated
    usual = Request(workflow=request.workflow, event=request.event, no_cache=request.no_cache, strict=request.strict)
    flags = {name: value for name, value in request.flags.items() if (name, value) not in _USUAL}
    if (odd := replace(request, flags=flags)) != usual:
        given = [name for name in odd.__struct_fields__ if getattr(odd, name) != getattr(usual, name)]
        return f"it had options that CI has not: {', '.join([*given, *flags])}"
    return ""


def statement_of(reading: Reading) -> Statement:
    """Return the statement about a run that passed."""
    run, receipt = load_run(reading.paths.plan), reading.receipt()
    passed, warned = [], []
    for job_id, job in reading.fold.jobs.items():
        of_plan = run.plan.job(job_id)
        if job.status is Status.SUCCESS:
            passed.append(of_plan.title)
        elif job.status is not Status.SKIPPED:
            warned.append(of_plan.title)
    digests = {image["name"]: image.get("digest", "").rpartition("sha256:")[2] for image in receipt["images"]}
    annotations = {
        "run": reading.run_id,
        "version": receipt["loom_version"],
        "workflow": receipt["workflow_path"],
        "event": run.request.event,
        "architecture": platform.machine(),
        UNLIKE: [f"{name} is known by its tag alone" for name, digest in digests.items() if not digest],
    }
    tree = {"gitTree": _tree_of(reading)}
    images = [Configuration(name=name, digest={"sha256": digest}) for name, digest in digests.items() if digest]
    configuration = [Configuration(name="loom", digest=tree, annotations=annotations), *images]
    result = JobResults(result="PASSED", configuration=configuration, passed_tests=passed, warned_tests=warned)
    return Statement(subject=[Subject(digest=tree)], predicate=result)


def _tree_of(reading: Reading) -> str:
    """Return the tree that ran; empty where somebody may have changed it."""
    return reading.receipt()["extent"]["tree_sha"] or ""


def _newest(project: Here) -> Iterator[Reading]:
    """Yield the newest runs of this checkout that have ended, those with a record that can be read."""
    for entry in islice(project.store.entries(project.root), _MOST_RUNS):
        if entry.receipt is not None and entry.child_of is None:
            with suppress(RecordError):
                yield Reading(entry)


def _commit(project: Here, name: str) -> tuple[str, str]:
    """Return the commit and its tree. RequestError for another name."""
    found = []
    for kind in ("commit", "tree"):
        words = ("rev-parse", "--verify", "-q", "--end-of-options", f"{name}^{{{kind}}}")
        answer = git(project.root, project.environ, *words)
        if answer is None:
            raise RequestError(f"{name}: no commit of this repository", hint="git log names them")
        found.append(answer.decode().strip())
    return found[0], found[1]


def _note(project: Here, commit: str, ref: str = NOTES) -> bytes:
    """Return the note of a commit, a line for each envelope; empty without one."""
    note = git(project.root, project.environ, "notes", f"--ref={ref}", "show", commit) or b""
    return note if len(note) <= _LARGEST_NOTE else b""


def _envelopes(note: bytes) -> Iterator[tuple[Envelope, Statement]]:
    for line in note.split(b"\n"):
        if (read := read_envelope(line)) is not None:
            yield read


def _is_older(line: bytes, envelope: Envelope, statement: Statement) -> bool:
    """Return whether a line of a note is what this envelope replaces: of the same person, about the same event."""
    if (read := read_envelope(line)) is None:
        return True
    names = [{one.keyid for one in each.signatures} for each in (read[0], envelope)]
    return names[0] == names[1] and read[1].event == statement.event


def _push(project: Here, who: str) -> None:
    """Push the notes to `origin`, with those that are there already."""
    root, found = project.root, find(project.root, project.environ)
    address = origin_of(root, project.environ)
    if found is None or address is None:
        raise RequestError("there is no remote named origin", hint=f"git push REMOTE {NOTES}")
    url, credential, more = address.git_arguments()
    allowed = for_server(project.environ, None)["GIT_ALLOW_PROTOCOL"]
    environment = with_config(in_repository(found, project.environ) | more, credential)
    environment["GIT_ALLOW_PROTOCOL"] = allowed
    theirs = f"{NOTES}-of-origin"

    def talk(*words: str) -> tuple[int, str]:
        code, _, said = Running(words, environment, cwd=root).result(check=False)
        return code, said

    told = ""
    for _ in range(3):  # somebody else may push meanwhile
        code, told = talk("push", "--quiet", url, f"{NOTES}:{NOTES}")
        if code == 0:
            return
        if talk("fetch", "--quiet", url, f"+{NOTES}:{theirs}")[0] == 0:
            names = ("-c", f"user.name={who}", "-c", f"user.email={who}")
            talk(*names, "notes", f"--ref={NOTES}", "merge", "--quiet", "--strategy=cat_sort_uniq", theirs)
            talk("update-ref", "-d", theirs)
    why = (told.strip().splitlines() or ["no answer"])[-1]
    raise RequestError(f"the note was written, but not pushed: {why}", hint=f"git push origin {NOTES}")
