"""Which jobs of a plan an earlier run has shown to pass: by the keys of their outcomes, and for nothing that is in doubt."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import suppress
from functools import cache, cached_property
from itertools import takewhile

from msgspec.structs import replace

from loom.cancel import Cancel
from loom.commands.plan.wiring import job_tools
from loom.commands.project import Worktree
from loom.errors import ImageError, LoomError
from loom.plan.model import Image, Job, Plan, Resolved
from loom.providers.base import ResolveRequest
from loom.record.fold import JobState
from loom.record.past_run import PastRun
from loom.record.proofs import JobProof, Proofs, RunProof, commit_of, has_key, job_key, record_digest
from loom.record.reader import Reading
from loom.record.run import Run
from loom.record.store import Store
from loom.runner import JobTools
from loom.snapshot import input_tree, present_entries
from loom.snapshot.tree import Entries
from loom.status import Status
from loom.util.seen_values import key_in, whole_digest


def waits_for(plan: Plan, job: Job) -> Iterator[Job]:
    """Yield the jobs that a job waits for, or gets artifacts from."""
    before = plan.stages[: plan.stages.index(job.stage)]
    names = {*(job.artifacts_from or ()), *(need.job for need in job.needs or ())}
    for other in plan.jobs:
        if other.id in names or (job.needs is None and other.stage in before):
            yield other


def may_fail(job: Job) -> bool:
    """Return whether the pipeline goes on, whatever the job's end."""
    return job.allow_failure.always


def skipped_as_in_ci(job: Job, state: JobState) -> bool:
    """Return whether a job was skipped by its own condition, which CI has too."""
    return (
        state.status is Status.SKIPPED and job.late is not None and not (state.blocked_by or state.outcome.get("held"))
    )


class Expected:
    """What a run of this plan would have: the keys of its jobs, found without a container."""

    def __init__(self, project: Worktree, run: Run, tree: str, entries: Callable[[], Entries], cancel: Cancel) -> None:
        self._project, self._run, self._cancel = project, run, cancel
        self._asked_entries = entries
        self.commit = commit_of(run)
        self.tree = tree
        self._images: dict[tuple[str, Image], Resolved | None] = {}
        self._keys: dict[tuple[str, bool], str] = {}

    @cached_property
    def _tools(self) -> JobTools:
        return job_tools(self._project, self._run, self._project.source.root)

    def key(self, job: Job, *, skipped: bool = False) -> str:
        """Return the job's key; empty where it can't be known before the job runs. SecretError as in a run.

        `skipped`: the key of a job that was, which had neither images nor secrets.
        """
        at = (job.id, skipped)
        if at not in self._keys:
            images = None if not has_key(job) else [] if skipped else self.images(job)
            secrets = {} if skipped or images is None else self._secrets(job)
            self._keys[at] = "" if images is None else self._key(job, [image.image_id for image in images], secrets)
        return self._keys[at]

    def images(self, job: Job) -> list[Resolved] | None:
        """Return the images that the job and its services would have now; None where one can't be had without a build."""
        wanted = [*([job.image] if job.image else []), *(service.image for service in job.services)]
        found = [self._resolved(job.provider, image) for image in wanted]
        return None if None in found else [image for image in found if image is not None]

    def _resolved(self, provider: str, image: Image) -> Resolved | None:
        resolver = self._tools.providers[provider].images
        if resolver is None or image.build is not None or not image.name:
            return None
        if (provider, image) not in self._images:
            self._images[provider, image] = None
            with suppress(ImageError):  # the run has to say why
                request = ResolveRequest(workspace=self._project.source.root, cancel=self._cancel)
                self._images[provider, image] = resolver.resolve(image, request)
        return self._images[provider, image]

    def _key(self, job: Job, images: Collection[str], secrets: Mapping[str, str]) -> str:
        config = self._project.config
        tree = self.tree if job.inputs is None else input_tree(self._entries, self.tree, job.inputs)
        return job_key(self._run, job, tree=tree, config=config, images=images, secrets=secrets)

    @cached_property
    def _entries(self) -> Entries:
        return self._asked_entries()

    def _secrets(self, job: Job) -> Mapping[str, str]:
        if not job.all_secrets:
            return {}
        values, _ = self._tools.secrets(job)
        key, found = key_in(self._project.config.state_dir), dict[str, set[str]]()
        owners = [(job.secrets, values.own)]
        owners += [(service.secrets, own) for service, own in zip(job.services, values.services, strict=True)]
        for wanted, own in owners:
            for secret in wanted:
                if secret.name in own:
                    digest = whole_digest(own[secret.name], key)
                    found.setdefault(f"{secret.name} {secret.ref}", set()).add(digest)
        return {name: " ".join(sorted(digests)) for name, digests in found.items()}


class Shown:
    """The results of earlier runs that hold for a plan."""

    def __init__(self, store: Store, proofs: Proofs, plan: Plan, expected: Expected, accepted: Collection[str]) -> None:
        known, self.whole = proofs.read()
        self._proofs = {proof.run_id: proof for proof in known}
        self._store, self._plan, self._expected, self._accepted = store, plan, expected, frozenset(accepted)
        self._held: dict[tuple[str, str], bool] = {}
        self._records: dict[str, PastRun | None] = {}

    def run_of(self, job: Job) -> str | None:
        """Return the run that has shown the job to pass; None if none has, or the last one that ran it has not."""
        for proof in reversed(self._proofs.values()):
            one = proof.job(job.id)
            if one is None or one.key != self._key(job, one):
                continue
            if self._holds(job, proof):
                return None if self._began_and_did_not_pass(job.id, since=proof.run_id) else proof.run_id
            if one.status in (Status.FAILURE, Status.TIMED_OUT) and not one.allowed:
                return None
        return None

    def _began_and_did_not_pass(self, job_id: str, *, since: str) -> bool:
        """Return whether it did so in a later run of these files that has no proof: it was killed, or the disk was full."""
        runs = takewhile(lambda run_id: int(run_id) > int(since), self._run_ids)
        jobs = (self._unproved(run_id).get(job_id) for run_id in runs if run_id not in self._proofs)
        return any(job is not None and job.started_at and job.status is not Status.SUCCESS for job in jobs)

    @cached_property
    def _run_ids(self) -> list[str]:
        return self._store.run_ids()

    @cache  # noqa: B019  # one of these lives as long as a command
    def _unproved(self, run_id: str) -> Mapping[str, JobState]:
        """Return the jobs of a run that has ended on these files, whether or not it told."""
        with suppress(LoomError, OSError):
            entry = self._store.entry(run_id)
            if entry.child_of is None and not entry.goes_on:
                fold = Reading(entry).fold
                if fold.fact("snapshot_taken").get("tree_sha") == self._expected.tree:
                    return fold.jobs
        return {}

    def record(self, run_id: str) -> PastRun | None:
        """Return the record of a run; None if it is gone, or not what it was at the run's end."""
        if run_id not in self._records:
            self._records[run_id] = None
            with suppress(LoomError, OSError):
                past, proof = PastRun(self._store.entry(run_id)), self._proofs[run_id]
                self._records[run_id] = past if record_digest(past.paths) == proof.record else None
        return self._records[run_id]

    def _holds(self, job: Job, proof: RunProof) -> bool:
        at = (proof.run_id, job.id)
        if at not in self._held:
            self._held[at] = False
            self._held[at] = self._decided(job, proof)
        return self._held[at]

    def _decided(self, job: Job, proof: RunProof) -> bool:
        one = proof.job(job.id)
        if one is None or (past := self.record(proof.run_id)) is None:
            return False
        if one.run_id:
            before = self._proofs.get(one.run_id)
            return before is not None and before.run_id != proof.run_id and self._holds(job, before)
        passed = one.status is Status.SUCCESS or one.allowed or skipped_as_in_ci(job, past.fold.jobs[job.id])
        if not (passed and self._is_same(job, proof, one)):
            return False
        return all(self._stood(other, proof) for other in waits_for(self._plan, job))

    def _stood(self, job: Job, proof: RunProof) -> bool:
        """Return whether a job before was as it would be: shown, or without a say in whether others run."""
        one = proof.job(job.id)
        if job.when == "manual":
            return one is None or one.status in (Status.SKIPPED, None)
        if may_fail(job) and one is not None and not one.run_id:
            return self._is_same(job, proof, one)
        return self._holds(job, proof)

    def _key(self, job: Job, one: JobProof) -> str:
        return self._expected.key(job, skipped=one.status is Status.SKIPPED)

    def _is_same(self, job: Job, proof: RunProof, one: JobProof) -> bool:
        other = {"other-commit"} if proof.commit != self._expected.commit else set()
        key = self._key(job, one)
        same = bool(key) and one.key == key and (job.inputs is not None or proof.tree == self._expected.tree)
        return same and ({*one.unlike} | other) <= self._accepted


_BESIDE = frozenset(
    {"behind", "image-by-tag", "job-left-out", "mapped-image", "other-commit", "own-rules", "undecided"}
)
"""What makes a run unlike CI's and does not matter to another run here with the same key."""


def with_results_of_before(project: Worktree, run: Run, cancel: Cancel) -> Run:
    """Return the run with the results that earlier runs have shown, instead of these jobs; its notices name them."""
    found = present_entries(project.source, project.config.tmp_dir, cancel)
    if found is None:
        return replace(run, notices=(*run.notices, "a submodule has uncommitted work, so that all jobs run"))
    tree, entries = found
    expected = Expected(project, run, tree, lambda: entries, cancel)
    earlier = Shown(
        project.store, Proofs(project.config.state_dir), run.plan, expected, {*_BESIDE, *project.config.gate_accept}
    )
    starts, notices = dict(run.starts), list(run.notices)
    for job in run.plan.jobs:
        if job.when in ("manual", "on_failure") or job.deploys or (run_id := earlier.run_of(job)) is None:
            continue
        if (past := earlier.record(run_id)) is not None and past.has_artifacts_of(job.id):
            starts[job.id] = past.taken_over(job.id)
            notices.append(f"{job.id} does not run: its result is that of run {run_id}, as nothing of it has changed")
    return replace(run, starts=starts, notices=tuple(notices))
