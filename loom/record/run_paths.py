"""The files of a run's record, by name."""

from __future__ import annotations

from pathlib import Path

from loom.util.paths import RUN_PREFIX
from loom.values import Immutable


class RunPaths(Immutable):
    """The paths of one run's record. `.loom/.runtime` points to `root`."""

    root: Path
    run_id: str

    def sibling(self, run_id: str) -> RunPaths:
        """Return the paths of another run in the same store."""
        return RunPaths(root=self.root.with_name(run_id), run_id=run_id)

    @property
    def receipt(self) -> Path:
        return self.root / "receipts" / f"{RUN_PREFIX}{self.run_id}.json"

    @property
    def logs(self) -> Path:
        return self.root / "logs" / self.run_id

    @property
    def events(self) -> Path:
        return self.logs / "events.jsonl"

    @property
    def diagnosis(self) -> Path:
        return self.logs / "diagnosis.json"

    def job_diagnosis(self, job_id: str) -> Path:
        """Return the diagnosis of a failed job which is not the first."""
        return self.job(job_id) / "diagnosis.json"

    @property
    def identity(self) -> Path:
        """The process and boot, the repository, the workspace. With it the run exists: it has its first event."""
        return self.root / "run.json"

    @property
    def draft_of_identity(self) -> Path:
        """The identity until the first event is written."""
        return self.root / ".run.json"

    @property
    def plan(self) -> Path:
        return self.root / "plan.json"

    @property
    def snapshot(self) -> Path:
        """A copy of the workspace's manifest, protected from jobs, which may remove `.git`."""
        return self.root / "snapshot.json"

    @property
    def builds(self) -> Path:
        """The inputs of image builds, during the run."""
        return self.root / "builds"

    @property
    def assistance(self) -> Path:
        """Return the file of those who entered the jobs' containers."""
        return self.root / "assistance.jsonl"

    def job(self, job_id: str) -> Path:
        return self.logs / "jobs" / job_id

    def saved(self, job_id: str) -> Path:
        """Return the saved differences of a kept job's files from the snapshot."""
        return self.root / "saved" / f"{job_id}.zst"

    @property
    def seen(self) -> Path:
        """Return the file of the secrets whose values the run has seen (`util.seen_values`)."""
        return self.root / "seen.jsonl"

    def handed_over(self, job_id: str, attempt: int) -> Path:
        """Return the file on a job whose steps were handed over to its container."""
        return self.job(job_id) / f"handed-over.{attempt}"

    def artifacts(self, job_id: str) -> Path:
        """Return the directory of what its actions uploaded."""
        return self.job(job_id) / "artifacts"

    def artifacts_archive(self, job_id: str) -> Path:
        return self.job(job_id) / "artifacts.tar.gz"


def artifacts_beside(archive: Path) -> Path:
    """Return the folder of what a job's actions uploaded, by the path of its `artifacts_archive`."""
    return archive.with_name("artifacts")
