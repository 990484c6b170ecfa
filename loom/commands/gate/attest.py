"""`loom attest`: what a run has shown of a commit's tree, signed, as a note of the commit; and the check of such notes."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterator
from pathlib import Path

from loom import __version__
from loom.commands.gate.checked_commit import CheckedCommit, CommitFinder
from loom.commands.gate.gate import Judgement, judge
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
from loom.commands.project import Project, open_project
from loom.commands.project.checkout import git, origin_of
from loom.errors import InfrastructureError, RequestError
from loom.render.output import print_either
from loom.snapshot.git import Running, for_server, in_repository, with_config
from loom.snapshot.repository import find
from loom.status import ExitCode
from loom.util import jsons
from loom.util.controls import shown as printable
from loom.util.untrusted_files import read_regular

NOTES = "refs/notes/loom"
_LARGEST_NOTE = 1 << 20
_AS_GOOD = {"other-commit"}
"""What a gate may accept without a loss: a statement is about a tree."""


class NothingShown(RequestError):
    """No run, or none that counts, has shown what was asked for."""

    default_code = "NOTHING_SHOWN"


def attest_sign(what: str, *, push: bool, as_json: bool) -> None:
    project = open_project()
    judgement = shown(project, what)
    statement, commit = statement_of(judgement), judgement.commit.sha
    listed = git(project, "config", "--null", "--list") or b""
    signing = signing_of(dict(setting.partition("\n")[::2] for setting in os.fsdecode(listed).split("\0")))
    envelope = sign(statement, signing)
    kept = {line for line in _note(project, commit).split(b"\n") if line and not _is_older(line, envelope, statement)}
    kept.add(jsons.encode_line(envelope).strip())
    note = b"\n".join(sorted(kept)) + b"\n"
    words = (*_author_options(signing.who), "notes", f"--ref={NOTES}", "add", "-f", "-F", "-", commit)
    if git(project, *words, given=note) is None:
        raise InfrastructureError(f"git could not write the note of {commit[:12]}", hint="see: git fsck, and the disk")
    if push:
        _push(project, signing.who)
    jobs = ", ".join(statement.predicate.passed_tests)
    lines = [f"commit {commit[:12]}: passed ({jobs}), signed by {signing.who}"]
    lines += [f"unlike CI: {each}" for each in statement.unlike]
    lines += [] if push else [f"push it with the branch: git push origin {NOTES}, or loom attest --push"]
    values = {"commit": commit, "signer": signing.who, "envelope": envelope}
    print_either(as_json, "attestation", values, map(printable, lines))


def attest_verify(commit: str, *, signers: Path, jobs: list[str], allow_unlike: bool, as_json: bool) -> int:
    project = open_project()
    finder = CommitFinder(project)
    sha = finder.commit(commit)
    tree, ref = finder.tree(sha), finder.ref_of(commit)
    try:
        allowed = read_regular(signers).decode("utf-8", "replace")
    except OSError as error:
        hint = "it has lines as git's gpg.ssh.allowedSignersFile, or armored OpenPGP keys"
        raise RequestError(f"{signers}: {error.strerror}", hint=hint) from None
    passed: dict[str, list[str]] = {}
    unlike: list[str] = []
    refs: list[str] = []
    for envelope, statement in _envelopes(_note(project, sha)):
        if not statement.is_of(tree) or statement.predicate.result != "PASSED" or ref not in (None, statement.ref):
            continue
        if who := signers_of(envelope, allowed):
            refs.append(statement.ref)
            unlike += statement.unlike
            if allow_unlike or not statement.unlike:
                for job in statement.predicate.passed_tests:
                    passed.setdefault(job, []).extend(who)
    missing = [job for job in jobs if job not in passed]
    good = bool(passed) and not missing
    signed = [f"passed   {job}, signed by {', '.join(dict.fromkeys(names))}" for job, names in passed.items()]
    of = f" for {ref}" if ref else ""
    lines = signed or [f"commit {sha[:12]}: no valid attestation of its tree{of} by these signers"]
    lines += [f"missing  {job}" for job in missing]
    lines += [f"unlike CI: {each}" for each in dict.fromkeys(unlike)]
    lines += ["--allow-unlike accepts it"] if unlike and not allow_unlike else []
    lines += (
        [f"for {', '.join(sorted({*refs}))}: name a branch or tag to ask for its jobs alone"]
        if signed and not ref
        else []
    )
    values = {
        "commit": sha,
        "tree": tree,
        "refs": refs,
        "passed": passed,
        "missing": missing,
        "unlike": unlike,
        "good": good,
    }
    print_either(as_json, "attestations", values, map(printable, lines))
    return ExitCode.OK if good else ExitCode.JOB_FAILED


def shown(project: Project, what: str) -> Judgement:
    """Return the judgement of a commit, or of the one with a run's tree, by what is shown already. NothingShown unless all is."""
    judgement = judge(project, _commit(project, what), dry_run=True, as_json=True)
    if not judgement.passed:
        open_jobs = [one for one in judgement.verdicts if one.state not in ("shown", "not-gating")]
        why = "; ".join(f"{one.job_id} {one.text}" for one in open_jobs[:3])
        raise NothingShown(
            f"commit {judgement.commit.sha[:12]}: it is not shown that CI would pass ({why})", hint="loom gate"
        )
    if not jobs_of(judgement):
        raise NothingShown(f"commit {judgement.commit.sha[:12]} has no job that decides anything", hint="loom gate")
    return judgement


def jobs_of(judgement: Judgement) -> list[str]:
    """Return the names on the server of the jobs that are shown."""
    titles = {job.id: job.title for job in judgement.plan.jobs}
    return [titles[one.job_id] for one in judgement.verdicts if one.state == "shown"]


def statement_of(judgement: Judgement) -> Statement:
    tree = {"gitTree": judgement.commit.tree}
    annotations = {
        "event": judgement.commit.event,
        "ref": judgement.commit.ref,
        "architecture": platform.machine(),
        "version": __version__,
        "runs": sorted({one.run_id for one in judgement.verdicts if one.run_id}),
        UNLIKE: sorted(judgement.accepted - _AS_GOOD),
    }
    images = [
        Configuration(name=name, digest={"sha256": found})
        for name, digest in judgement.images.items()
        if (found := digest.rpartition("sha256:")[2])
    ]
    configuration = [Configuration(name="loom", digest=tree, annotations=annotations), *images]
    results = JobResults(result="PASSED", configuration=configuration, passed_tests=jobs_of(judgement))
    return Statement(subject=[Subject(digest=tree)], predicate=results)


def _commit(project: Project, what: str) -> CheckedCommit:
    """Return the commit that is meant, for its push: a ref, another commit (as of the branch), or the one with a run's tree."""
    finder = CommitFinder(project)
    try:
        reading = project.find(what)
    except RequestError:
        names = [what]
    else:
        receipt = reading.receipt()
        names = [str(receipt.snapshot_head_sha), "HEAD"]
        names = [name for name in names if finder.tree(finder.commit(name)) == receipt.extent.tree_sha]
        if not names:
            raise NothingShown(f"no commit has the tree of run {reading.run_id} yet", hint="commit the work that ran")
    sha = finder.commit(names[0])
    try:
        return finder.named(names[0])
    except RequestError:
        head = finder.named("HEAD")
        return finder.pushed(sha, head.ref, head.base)


def _author_options(who: str) -> tuple[str, ...]:
    """Return git's options for the author of notes."""
    return "-c", f"user.name={who}", "-c", f"user.email={who}"


def _note(project: Project, commit: str) -> bytes:
    """Return the note of a commit, a line for each envelope; empty without one."""
    note = git(project, "notes", f"--ref={NOTES}", "show", commit) or b""
    return note if len(note) <= _LARGEST_NOTE else b""


def _envelopes(note: bytes) -> Iterator[tuple[Envelope, Statement]]:
    for line in note.split(b"\n"):
        if (read := read_envelope(line)) is not None:
            yield read


def _is_older(line: bytes, envelope: Envelope, statement: Statement) -> bool:
    """Return whether a line of a note is what this envelope replaces: of the same person, about the same push."""
    if (read := read_envelope(line)) is None:
        return False  # of another tool, or of a later loom
    names = [{one.keyid for one in each.signatures} for each in (read[0], envelope)]
    return names[0] == names[1] and (read[1].event, read[1].ref) == (statement.event, statement.ref)


def _push(project: Project, who: str) -> None:
    """Push the notes to `origin`, with those that are there already."""
    root, found = project.root, find(project.root, project.environ)
    address = origin_of(project)
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
            talk(
                *_author_options(who), "notes", f"--ref={NOTES}", "merge", "--quiet", "--strategy=cat_sort_uniq", theirs
            )
            talk("update-ref", "-d", theirs)
    why = (told.strip().splitlines() or ["no answer"])[-1]
    raise RequestError(f"the note was written, but not pushed: {why}", hint=f"git push origin {NOTES}")
