"""Proofs: what decided the outcome of each job, as keys in a chained list that only the user's own key can write.

A proof of a job holds for another run exactly if the key is the same. Each line of the list is signed together with the
line before it, so that a line that was changed, moved or taken out ends the trust in the whole list.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from hashlib import blake2b
from pathlib import Path

import msgspec

import loom
from loom.config import KEYS, Config
from loom.plan.model import Job, Plan
from loom.record.extent import images_of, unlike_of
from loom.record.fold import RunFold
from loom.record.request import NOT_REPEATED
from loom.record.run import Run
from loom.record.run_paths import RunPaths
from loom.status import Status
from loom.util import atomic, jsons, processes, typed
from loom.util.digests import value_digest
from loom.util.private import make_private
from loom.util.seen_values import key_in, noted
from loom.util.units import machine
from loom.util.untrusted_files import read_regular
from loom.values import Immutable

_NO_MATTER = NOT_REPEATED | {"jobs", "pull", "deploy", "fail_fast", "grace", "job_inputs", "keepass"}
"""Settings that do not decide how a job ends, or whose effect a key has by itself (images, inputs, secrets)."""
_OF_RUN = {"LOOM_RUN_ID", "LOOM_PIPELINE_ID", "CI_PIPELINE_ID", "CI_PIPELINE_IID", "CI_PIPELINE_URL"}
_OF_RUN |= {"CI_PIPELINE_CREATED_AT"}
_OF_REF = {f"CI_COMMIT_{part}" for part in ("BRANCH", "TAG", "REF_NAME", "REF_SLUG", "REF_PROTECTED")}
_OF_EVENT = ("head_commit", "commits", "before", "after")
"""The parts of GitHub's event `push` that describe commits."""
_READS_COMMIT = re.compile(
    rb"(?:\b|\\[nt])(?:git|gitlint|commitlint)\s|GITHUB_SHA|github\.sha|head_commit|event\.(?:commits|before|after)"
    rb"|CI_COMMIT_(?!BRANCH|TAG\b|REF_)"
)
"""Words of a job, as JSON, that looks at the commit beside its files."""
_MAX_BYTES = 8 << 20
"""The list's size at which its older half goes."""


class JobProof(Immutable, omit_defaults=True):
    job_id: str
    key: str = ""
    """Empty for a job whose outcome depends on more than a key can have."""
    status: Status | None = None
    allowed: bool = False
    """It failed, as its file allows."""
    unlike: tuple[str, ...] = ()
    """Words of `config.gate.UNLIKE`."""
    run_id: str = ""
    """The run whose result was taken over; empty: it ran."""


class RunProof(Immutable):
    """The outcome of one run."""

    run_id: str
    tree: str
    commit: str
    """The digest of all that describes the commit; another commit can have the same tree."""
    record: str
    """The digest of the record, as it was at the run's end."""
    jobs: tuple[JobProof, ...]

    def job(self, job_id: str) -> JobProof | None:
        return next((one for one in self.jobs if one.job_id == job_id), None)


class _Line(Immutable):
    mac: bytes
    entry: msgspec.Raw


# -- keys -------------------------------------------------------------------------------------------------------------


def is_of_commit(name: str) -> bool:
    """Return whether a variable of a run describes its commit, and not the branch or tag."""
    return name.startswith("CI_COMMIT_") and name not in _OF_REF


def commit_of(run: Run) -> str:
    """Return the digest of what describes the commit of a run."""
    return value_digest({name: value for name, value in run.variables.items() if is_of_commit(name)})


def has_key(job: Job) -> bool:
    """Return whether a key can have all that decides the job's outcome."""
    images = [job.image, *(service.image for service in job.services)]
    return not (
        job.trigger is not None
        or job.refused
        or job.becomes_several
        or (job.late is not None and job.late.image)
        or any(image is not None and (image.build is not None or not image.name) for image in images)
        or any(step.kind in ("docker", "written") for step in job.steps)
    )


def job_key(run: Run, job: Job, *, tree: str, config: Config, images: Iterable[str], secrets: Mapping[str, str]) -> str:
    """Return the key of a job's outcome.

    `tree`: of the files that it has; `images`: the ids of its images; `secrets`: keyed hashes of the values, by name.
    """
    shape = {**msgspec.to_builtins(job, enc_hook=str), "delay_s": None}
    event = (((shape["late"] or {}).get("contexts") or {}).get("github") or {}).get("event")
    if isinstance(event, dict):
        for part in _OF_EVENT:
            event.pop(part, None)
    variables = {name: value for name, value in run.variables.items() if name not in _OF_RUN and not is_of_commit(name)}
    steady = {run.run_id: "RUN", run.variables.get("CI_COMMIT_SHA", ""): "COMMIT"}
    steady[run.variables.get("CI_COMMIT_SHORT_SHA", "")] = "COMMIT"

    def without(text: str) -> str:
        for value, word in steady.items():
            text = text.replace(value, word) if value else text
        return text

    reads_commit = _READS_COMMIT.search(msgspec.json.encode(shape)) is not None
    settings = {name: config.text_of(name) for name in KEYS if name not in _NO_MATTER}
    decisive = {
        "loom": loom.__version__,
        "tree": tree,
        "commit": run.variables.get("CI_COMMIT_SHA") if reads_commit else None,
        "job": jsons.map_texts(shape, without),
        "variables": variables,
        "event": run.request.event,
        "images": sorted(set(images)),
        "secrets": dict(secrets),
        "settings": settings,
        "isolated": run.isolated,
        "machine": machine(),
    }
    return value_digest(decisive)


# -- a run's proof ----------------------------------------------------------------------------------------------------


def record_digest(paths: RunPaths) -> str:
    """Return the digest of what no command changes after the end of a run: receipt, plan, events, output."""
    found = hashlib.sha256()
    files = sorted(
        path for path in paths.logs.rglob("*") if not {"artifacts", "artifacts.tar.gz"}.intersection(path.parts)
    )
    for path in (paths.receipt, paths.plan, *files):
        if path.is_symlink() or not path.is_file():
            continue
        content = hashlib.sha256()
        with path.open("rb") as file:
            while chunk := file.read(1 << 20):
                content.update(chunk)
        found.update(os.fsencode(path.relative_to(paths.root)) + b"\0" + content.digest())
    return found.hexdigest()


def proof_of(run: Run, plan: Plan, fold: RunFold, config: Config, paths: RunPaths) -> RunProof | None:
    """Return the proof of a run that has ended; None for one that can be none, such as without a snapshot."""
    taken = fold.facts.get("snapshot_taken")
    if taken is None or run.child_of is not None or any(each["changed"] for each in taken.get("submodules", ())):
        return None
    seen: dict[str, set[str]] = {}
    for value in noted(paths.seen):
        seen.setdefault(f"{value.name} {value.ref}", set()).add(value.whole)
    unlike, jobs = unlike_of(fold), list[JobProof]()
    for job in plan.jobs:
        state = fold.jobs.get(job.id)
        start = run.starts.get(job.id)
        if start is not None and job.id in run.done:
            jobs.append(JobProof(job_id=job.id, run_id=start.run_id))
        elif state is not None:
            named = {f"{one.name} {one.ref}" for one in job.all_secrets}
            secrets = {name: " ".join(sorted(seen[name])) for name in named if name in seen}
            ids = [str(image["id"]) for image in images_of(state)]
            tree = taken["tree_sha"] if job.inputs is None else state.fact("session_opened").get("input_tree")
            key = ""
            if has_key(job) and tree:
                key = job_key(run, job, tree=tree, config=config, images=ids, secrets=secrets)
            of_job = JobProof(
                job_id=job.id,
                key=key,
                status=state.status,
                allowed=state.allowed_failure,
                unlike=unlike.get(job.id, ()),
            )
            jobs.append(of_job)
    return RunProof(
        run_id=run.run_id, tree=taken["tree_sha"], commit=commit_of(run), record=record_digest(paths), jobs=tuple(jobs)
    )


# -- the list ---------------------------------------------------------------------------------------------------------


class Proofs:
    """The list of proofs in a state directory."""

    def __init__(self, state_dir: Path) -> None:
        self._state_dir = state_dir
        self.path = state_dir / "proofs.jsonl"

    def add(self, proof: RunProof) -> None:
        """Append a proof. A list that somebody changed is put aside. OSError on failure."""
        make_private(self._state_dir)
        key = key_in(self._state_dir)
        with self._locked():
            lines, whole = self._lines(key)
            if not whole:
                self.path.replace(self.path.with_suffix(".changed"))
                lines = []
            if lines and self.path.stat().st_size > _MAX_BYTES:
                lines = _chained([line.entry for line in lines[len(lines) // 2 :]], b"", key)
                atomic.write(self.path, b"".join(map(jsons.encode_line, lines)), mode=0o600)
            (line,) = _chained([msgspec.json.encode(proof)], lines[-1].mac if lines else b"", key)
            file = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
            with os.fdopen(file, "r+b") as stream:
                stream.seek(stream.read().rfind(b"\n") + 1)  # a full disk may have left half a line
                stream.truncate()
                stream.write(jsons.encode_line(line))

    def read(self) -> tuple[list[RunProof], bool]:
        """Return the proofs, oldest first, and whether nobody else has changed the list; if so, there are none."""
        try:
            lines, whole = self._lines(key_in(self._state_dir))
        except OSError:
            return [], True
        return ([typed.decode(line.entry, RunProof) for line in lines] if whole else []), whole

    def of_run(self, run_id: str) -> RunProof | None:
        """Return the proof of a run, if there is one."""
        return next((proof for proof in reversed(self.read()[0]) if proof.run_id == run_id), None)

    @contextmanager
    def _locked(self) -> Iterator[None]:
        with self.path.with_suffix(".lock").open("wb") as lock:
            processes.lock(lock, fcntl.LOCK_EX)
            yield

    def _lines(self, key: bytes) -> tuple[list[_Line], bool]:
        """Return the lines, and whether each is signed with the one before it. A line that was never whole is no line."""
        try:
            data = read_regular(self.path)
        except FileNotFoundError:
            return [], True
        before, lines = b"", list[_Line]()
        for text in data.split(b"\n")[:-1]:
            try:
                line = typed.decode(text, _Line)
            except msgspec.MsgspecError:
                return [], False
            if line.mac != _signed(bytes(line.entry), before, key):
                return [], False
            before = line.mac
            lines.append(line)
        return lines, True


def _chained(entries: Iterable[bytes | msgspec.Raw], before: bytes, key: bytes) -> list[_Line]:
    lines = []
    for entry in entries:
        before = _signed(bytes(entry), before, key)
        lines.append(_Line(mac=before, entry=msgspec.Raw(bytes(entry))))
    return lines


def _signed(entry: bytes, before: bytes, key: bytes) -> bytes:
    return blake2b(before + entry, key=key, digest_size=24, person=b"loom proof").digest()


def note(run: Run, plan: Plan, fold: RunFold, config: Config, paths: RunPaths) -> None:
    """Add the proof of a run that has ended to the user's list; a run that can't be noted proves nothing later."""
    with suppress(OSError, TimeoutError):
        if (proof := proof_of(run, plan, fold, config, paths)) is not None:
            Proofs(config.state_dir).add(proof)
