"""`loom gate`: whether CI would pass if this commit were pushed, from what earlier runs have shown and a run of the rest."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Container, Iterable, Iterator, Sequence
from contextlib import nullcontext, redirect_stdout
from itertools import takewhile
from typing import Any, Literal

from msgspec.structs import replace

from loom.cancel import Cancel, signals
from loom.commands.gate.checked_commit import CheckedCommit, CommitFinder, unpushed
from loom.commands.plan.plan_run import plan_run
from loom.commands.project import Project, Worktree, open_project
from loom.commands.project.recreate_tree import working_in
from loom.commands.run.shown import Expected, Shown, may_fail, skipped_as_in_ci, waits_for
from loom.config.gate import UNLIKE
from loom.errors import NoJobRuns
from loom.plan.candidates import DEPLOYMENTS
from loom.plan.model import Job, NotSelected, Plan
from loom.record.fold import JobState, RunFold
from loom.record.past_run import PastRun
from loom.record.proofs import Proofs, RunProof
from loom.record.run import Run
from loom.record.store import Store
from loom.render.output import print_either
from loom.snapshot import git, tree_entries
from loom.status import ExitCode, Status
from loom.util.controls import shown as printable
from loom.util.units import counted
from loom.values import Immutable

_AFTER_HELD = {DEPLOYMENTS, "what needs them"}
"""The kinds of jobs that a gate leaves out as CI's own decision stands: they begin once the others have passed."""
_SKIPPED = "skipped by its condition, as in CI"
State = Literal["shown", "passed", "failed", "doubtful", "to-run", "not-gating"]


class JobVerdict(Immutable):
    """What a gate says of one job."""

    job_id: str
    state: State
    text: str
    run_id: str | None = None


class Judgement(Immutable):
    """What is known of a commit. `passed`: all that decides has."""

    commit: CheckedCommit
    verdicts: list[JobVerdict]
    plan: Plan
    accepted: frozenset[str]
    images: dict[str, str] = {}
    """The digests of the images of its jobs, by name; empty for one that is known by its tag alone."""
    whole: bool = True
    """Whether nobody changed the list of proofs."""
    code: ExitCode = ExitCode.OK
    why: str = ""
    """Why the server runs nothing."""
    unpushed: Sequence[str] = ()
    """The submodules whose commits no server is known to have."""

    @property
    def passed(self) -> bool:
        return all(one.state in ("shown", "passed", "not-gating") for one in self.verdicts)


def gate_commit(
    ref: str,
    *,
    for_: Literal["push", "merge-request"],
    target: str | None,
    dry_run: bool,
    trust: bool,
    as_json: bool,
) -> int:
    project = open_project(trusting=trust)
    asked = CommitFinder(project)
    commit = asked.named(ref) if for_ == "push" else asked.merging(ref, target)
    return judged(project, commit, dry_run=dry_run, as_json=as_json)


def judge(project: Project, commit: CheckedCommit, *, dry_run: bool, as_json: bool) -> Judgement:
    """Judge a commit by what has been shown of it, and by a run of the rest, unless it is a `dry_run`."""
    cancel = Cancel()
    at_root = replace(project, start=project.root)  # from which the commit's workflow is named
    there = working_in(at_root, commit.sha, cancel, branch=commit.branch, tag=commit.tag)
    with signals(cancel), there as root:
        config = open_project(root=root).config
        accepted = frozenset(config.gate_accept)

        def none(left_out: Sequence[NotSelected] = (), why: str = "") -> Judgement:
            plan = Plan(workflow_path="", stages=(), jobs=(), left_out=tuple(left_out))
            verdicts = list(_left_out(plan, accepted))
            return Judgement(commit=commit, verdicts=verdicts, plan=plan, accepted=accepted, why=why)

        workflow = CommitFinder(project).workflow(root)
        if why := commit.no_pipeline(root, workflow):
            return none(why=why)
        request = commit.request(config.gate_accept, trust=project.trusting, workflow=workflow)
        # Only what is committed may keep files from a job.
        settings: dict[str, Any] = {} if config.origins["job_inputs"].layer == "project" else {"job_inputs": {}}
        try:
            worktree, run = plan_run(request, ask=not as_json, settings=settings, renewing=True)
        except NoJobRuns as error:
            return none(error.left_out)
        found = _Gate(project, worktree, replace(run, repo_root=project.root), commit, cancel)
        verdicts = found.verdicts_before_run()
        code = ExitCode.OK
        if any(one.state == "to-run" for one in verdicts) and not dry_run:
            from loom.commands.run import run as running  # most gates run nothing

            with redirect_stdout(sys.stderr) if as_json else nullcontext():
                code = ExitCode(running.execute(worktree, found.rest()))
            verdicts = found.verdicts_after_run()
        return Judgement(
            commit=commit,
            verdicts=verdicts,
            plan=run.plan,
            images=found.images(),
            accepted=accepted,
            whole=found.whole,
            code=code,
            unpushed=found.unpushed,
        )


def judged(project: Project, commit: CheckedCommit, *, dry_run: bool = False, as_json: bool = False) -> int:
    """Judge a commit, and say what counted; return the exit code: 0 only if all that decides has passed."""
    found = judge(project, commit, dry_run=dry_run, as_json=as_json)
    values = {
        "commit": commit.sha,
        "tree": commit.tree,
        "branch": commit.branch,
        "event": commit.event,
        "passed": found.passed,
        "jobs": found.verdicts,
    }
    print_either(as_json, "gate", values, _lines(found))
    return ExitCode.OK if found.passed else found.code or ExitCode.JOB_FAILED


class _Gate:
    def __init__(self, project: Project, worktree: Worktree, run: Run, commit: CheckedCommit, cancel: Cancel) -> None:
        self._project, self._worktree, self._run, self._commit = project, worktree, run, commit
        self._accepted = frozenset(worktree.config.gate_accept)
        modules = (worktree.root / ".gitmodules").exists()
        self.unpushed = list(unpushed(project.root, commit.sha, worktree.environ)) if modules else []
        tree = commit.tree
        if worktree.source.pull_request is not None:
            tree = _merged_tree(worktree, worktree.source.pull_request.tip, commit.sha)
        source = worktree.source
        environment = git.in_repository(source.repository, worktree.environ)
        self._expected = Expected(worktree, run, tree, lambda: tree_entries(environment, source.root, tree), cancel)
        self._shown: dict[str, str] = {}
        earlier = self._earlier()
        self.whole = earlier.whole
        for job in run.plan.jobs:
            if (found := earlier.run_of(job)) is not None:
                self._shown[job.id] = found
        self._records = {job_id: earlier.record(run_id) for job_id, run_id in self._shown.items()}

    @property
    def _store(self) -> Store:
        return self._project.store

    def _earlier(self) -> Shown:
        proofs = Proofs(self._worktree.config.state_dir)
        return Shown(self._store, proofs, self._run.plan, self._expected, self._accepted)

    def images(self) -> dict[str, str]:
        """Return the digests of the images of the jobs that are shown, by name."""
        jobs = [job for job in self._run.plan.jobs if job.id in self._shown]
        return {image.name: image.digest for job in jobs for image in self._expected.images(job) or ()}

    def verdicts_before_run(self) -> list[JobVerdict]:
        """Return what is known without a run; a job that could not count if it ran is in doubt."""
        return [*map(self._verdict_before_run, self._run.plan.jobs), *_left_out(self._run.plan, self._accepted)]

    def _verdict_before_run(self, job: Job) -> JobVerdict:
        if (why := _no_say(self._run.plan, job)) is not None:
            return JobVerdict(job_id=job.id, state="not-gating", text=why)
        if words := sorted({*self._foreseen(job)} - self._accepted):
            return JobVerdict(job_id=job.id, state="doubtful", text=f"can't count: {_reasons(words)}")
        if (run_id := self._shown.get(job.id)) is not None:
            past = self._records[job.id]
            if (known := self._skipped(job, run_id, past.fold.jobs[job.id] if past is not None else None)) is not None:
                return known
            return JobVerdict(job_id=job.id, state="shown", text=f"shown by run {run_id}", run_id=run_id)
        return JobVerdict(job_id=job.id, state="to-run", text="has to run")

    def _foreseen(self, job: Job) -> Iterator[str]:
        """Yield what will make the run of a job unlike CI's, as far as its plan tells."""
        if job.image is None and job.trigger is None:
            yield "not-isolated"
        elif job.sources.get("image", "").startswith("`") and job.trigger is None:
            yield "mapped-image"
        if self._run.plan.replaced:
            yield "mapped-image"
        if any(not image.digest for image in self._expected.images(job) or ()):
            yield "image-by-tag"
        if self._run.plan.undecided:
            yield "undecided"
        if self._run.plan.behind:
            yield "behind"
        if self.unpushed:
            yield "unpushed"

    def _skipped(self, job: Job, run_id: str, state: JobState | None) -> JobVerdict | None:
        """Return the verdict on a job that was skipped, or whose steps were by a value that the server alone knows; else None."""
        from loom.plan.github.unknown import unknown_of  # most gates are of other files

        skipped = state is not None and skipped_as_in_ci(job, state)
        if "undecided" not in self._accepted and (names := unknown_of(job, skipped=skipped)):
            what = "it was skipped" if skipped else "a step was skipped"
            text = f"{what}; {_asking(names)} (undecided)"
            return JobVerdict(job_id=job.id, state="doubtful", text=text, run_id=run_id)
        return JobVerdict(job_id=job.id, state="not-gating", text=_SKIPPED, run_id=run_id) if skipped else None

    def rest(self) -> Run:
        """Return the run of what is not shown, or has lost what it left for others."""
        records = {job_id: past for job_id, past in self._records.items() if past and past.has_artifacts_of(job_id)}
        self._shown = {job_id: run_id for job_id, run_id in self._shown.items() if job_id in records}
        starts = {job_id: past.taken_over(job_id) for job_id, past in records.items()}
        return replace(self._run, starts=starts)

    def verdicts_after_run(self) -> list[JobVerdict]:
        """Return what is known after the run of the rest."""
        left_out = _left_out(self._run.plan, self._accepted)
        grown = _grown(self._run.plan, self._proof(), self._accepted)
        return [*map(self._verdict_after_run, self._run.plan.jobs), *grown, *left_out]

    def _proof(self) -> RunProof | None:
        return Proofs(self._worktree.config.state_dir).of_run(self._run.run_id)

    def _verdict_after_run(self, job: Job) -> JobVerdict:
        known = self._verdict_before_run(job)
        if known.state != "to-run":
            return known
        run_id = self._run.run_id
        proof = self._proof()
        reading = self._project.find(run_id)
        state = reading.fold.jobs.get(job.id)
        one = proof.job(job.id) if proof is not None else None

        def verdict(kind: State, text: str) -> JobVerdict:
            return JobVerdict(job_id=job.id, state=kind, text=text, run_id=run_id)

        if job.becomes_several and state is None and proof is not None:
            return verdict(
                "passed" if reading.entry.receipt and reading.state == "success" else "failed", "became several"
            )
        if proof is None or one is None or state is None or proof.tree != self._expected.tree:
            return verdict("doubtful", self._reason_of_missing_proof(reading.fold, proof))
        if (skipped := self._skipped(job, run_id, state)) is not None:
            return skipped
        if one.status is not Status.SUCCESS and not one.allowed:
            said = f"{state.status or 'did not end'}: {_first_line(state.error)}"
            return verdict("failed", f"{said}; why: loom diagnose {run_id} {job.id}")
        words = {*one.unlike, *self._deviations_of_children(run_id)} if job.trigger is not None else {*one.unlike}
        if missing := sorted(words - self._accepted):
            return verdict("doubtful", f"passed, and does not count: {_reasons(missing)}")
        return verdict("passed", f"passed in run {run_id}")

    def _reason_of_missing_proof(self, fold: RunFold, proof: RunProof | None) -> str:
        run_id, kept = self._run.run_id, self._worktree.config.state_dir
        if error := fold.end.get("error"):
            return f"run {run_id} did not get to it: {_first_line(error)}; why: loom diagnose {run_id}"
        return f"run {run_id} left no proof of it" + (
            f": none could be written in {kept}; is it full?" if not proof else ""
        )

    def _deviations_of_children(self, run_id: str) -> Iterator[str]:
        """Yield what made the runs of child pipelines unlike CI's."""
        for entry in takewhile(lambda one: int(one.run_id) > int(run_id), self._store.entries()):
            if entry.child_of == run_id and entry.receipt is not None:
                for words in entry.receipt.unlike_ci.values():
                    yield from words
                if any(left.unknown for left in PastRun(entry).plan.left_out):
                    yield "undecided"
                yield from self._deviations_of_children(entry.run_id)


def _grown(plan: Plan, proof: RunProof | None, accepted: frozenset[str]) -> Iterator[JobVerdict]:
    """Yield the verdicts on jobs that only came into being in the run."""
    if proof is None:
        return
    for one in proof.jobs:
        if plan.has(one.job_id):
            continue
        words = sorted({*one.unlike} - accepted)
        passed = one.status in (Status.SUCCESS, Status.SKIPPED) or one.allowed
        text = f"does not count: {_reasons(words)}" if words else f"{one.status} in run {proof.run_id}"
        kind: State = "failed" if not passed else "doubtful" if words else "passed"
        yield JobVerdict(job_id=one.job_id, state=kind, text=text, run_id=proof.run_id)


def _left_out(plan: Plan, accepted: Container[str]) -> Iterator[JobVerdict]:
    """Yield the verdicts on the jobs that CI runs, or may run, and a run here does not."""
    for left in plan.left_out:
        word = "job-left-out" if left.held else "undecided"
        if not left.held and not left.unknown:
            continue
        doubt = left.held not in _AFTER_HELD and word not in accepted
        why = f"left out: {left.reason}"
        if left.unknown:
            why += f"; {_asking(left.unknown)}"
        text = f"{why} ({word})" if doubt else why
        yield JobVerdict(job_id=left.id, state="doubtful" if doubt else "not-gating", text=text)


def _merged_tree(worktree: Worktree, tip: str, sha: str) -> str:
    """Return the tree of the merge that GitHub would run."""
    environ = git.in_repository(worktree.source.repository, worktree.environ)
    return os.fsdecode(git.run(("merge-tree", "--write-tree", tip, sha), environ, cwd=worktree.root)).split("\n")[0]


def _no_say(plan: Plan, job: Job) -> str | None:
    """Return why a job does not decide whether the pipeline of this event passes; None if it does."""
    if job.when == "manual" or job.deploys:
        return "manual: nobody starts it" if job.when == "manual" else "it deploys"
    if job.when == "on_failure":
        return "runs after a failure alone"
    if may_fail(job):
        return "may fail"
    held = next((one for one in _all_before(plan, job) if one.when == "manual" and not may_fail(one)), None)
    return None if held is None else f"waits for {held.id}, which is manual, as in CI"


def _all_before(plan: Plan, job: Job) -> Iterator[Job]:
    for one in waits_for(plan, job):
        yield one
        yield from _all_before(plan, one)


def _first_line(error: str | None) -> str:
    return (error or "").partition("\n")[0]


def _asking(names: Iterable[str]) -> str:
    names = list(names)
    given = any(not name.startswith("github") for name in names)
    return f"only the server knows {', '.join(names)}" + (
        ": your configuration may give it, also empty" if given else ""
    )


def _reasons(words: list[str]) -> str:
    return "; ".join(f"{UNLIKE[word]} ({word})" for word in words)


_SIGNS = {"shown": "✓", "passed": "✓", "failed": "✗", "doubtful": "?", "to-run": "▸", "not-gating": "-"}


def _lines(found: Judgement) -> Iterator[str]:
    commit, verdicts = found.commit, found.verdicts
    widest = max((len(one.job_id) for one in verdicts), default=0)
    for one in verdicts:
        yield printable(f"{_SIGNS[one.state]} {one.job_id:<{widest}}  {one.text}")
    for path in found.unpushed:
        yield printable(f"the commit of {path} is on no branch or tag of its server: git -C {shlex.quote(path)} push")
    if not found.whole:
        yield "another hand changed the list of proofs, so no earlier run counts (loom verify)"
    of = f"{commit.sha[:12]} ({commit.branch or 'tag'}, {commit.event})"
    ran = sum(one.state == "passed" for one in verdicts)
    count = sum(one.state == "shown" for one in verdicts)
    if found.passed:
        shown = f"would pass for {of}: {counted(count, 'job')} shown before, {ran} ran now"
        none = f"runs no job for {of}" + (f": {found.why}" if found.why else "")
        yield printable(f"yes: CI {shown if verdicts else none}")
        return
    yield f"no: it is not shown that CI would pass for {of}"
    if any(one.state == "doubtful" for one in verdicts):
        yield "what a gate accepts: the setting gate_accept (docs/guides/gate.md)"
