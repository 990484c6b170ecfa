"""The files of a kept container, by the marks that loom gave it: alike for every engine."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from loom.errors import ProviderError
from loom.providers import labels
from loom.providers.base import SessionRequest
from loom.providers.driver.steps import quoted
from loom.providers.files import members_of, unpack
from loom.storage.workspace import Archives, OnSkipped
from loom.values import Immutable

# Deletes what is at a path, and a link or a file in the place of a directory above it.
_CLEAR = b"""clear() {
    a=$1
    while :; do
        case $a in */*) a=${a%/*} ;; *) break ;; esac
        if [ -h "$a" ] || { [ -e "$a" ] && [ ! -d "$a" ]; }; then rm -f -- "$a" || exit 1; fi
    done
    rm -rf -- "$1" || exit 1
}
"""


class KeptFiles(Immutable):
    """A part of `providers.base.KeptSession`. An engine runs a script in it (`as_root`) and gives its `files`."""

    name: str
    kept: bool
    marks: Mapping[str, str]

    @property
    def project_dir(self) -> str:
        return self.marks.get(labels.PROJECT_DIR, "/workspace")

    def as_root(self, program: bytes) -> tuple[int, str]:
        """Let `sh` read a program; return its exit code and output."""
        raise NotImplementedError

    def files(self, *, to_write: bool = False) -> Archives:
        """Return the job's files."""
        raise NotImplementedError

    def copy_files(self, target: Path, on_skipped: OnSkipped) -> None:
        target.mkdir(parents=True, mode=0o700)
        unpack(self.files().get(["."], on_skipped), target)

    def view(self) -> Path | None:
        return None

    def bring(self, source: Path, paths: Sequence[str]) -> None:
        lines = [b"cd " + quoted(self.project_dir) + b" || exit 1\n", _CLEAR]
        lines += [b"clear " + quoted(path) + b"\n" for path in paths]
        code, said = self.as_root(b"".join([*lines, b"exit 0\n"]))
        if code != 0:
            raise ProviderError(f"files of the kept container {self.name} could not be replaced: {said}")
        self.files(to_write=True).put(members_of(source, [path for path in paths if os.path.lexists(source / path)]))

    def request(self) -> SessionRequest:
        """Return a request with the paths of its files."""
        return SessionRequest(
            run_id=self.marks.get(labels.RUN, ""),
            job_id=self.marks.get(labels.JOB, ""),
            workspace=Path(self.marks.get(labels.WORKSPACE, "")),
            project_dir=self.project_dir,
        )
