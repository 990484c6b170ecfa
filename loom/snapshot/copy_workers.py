"""Copy whole trees, large ones by helpers: on two cores a snapshot takes 0.64 of one process's time (1,500 files: 0.83)."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from loom.cancel import Cancel
from loom.errors import SnapshotError
from loom.snapshot import copy_files
from loom.snapshot.model import SnapshotCanceled, readable
from loom.util import processes
from loom.util.paths import RUNTIME, Tracked

# A helper's start takes 10 to 20 ms, which smaller trees do not recover (docs/benchmarks.md).
HELPERS_FROM_FILES = 1_200
# Files per portion: larger ones leave copiers idle at the end.
_PORTION = (200, 800)
_PORTIONS = 16
# As a module: a script would be compiled each time.
_HELPER = "import sys; sys.path.append(sys.argv[1]); import copy_files; copy_files.main()"


class CopyPool:
    """Copies files from `source` to `target`. Exiting ends the helpers. `own` copies alone, without helpers."""

    def __init__(
        self,
        source: Path,
        target: Path,
        *,
        since_ns: int,
        cancel: Cancel,
        own: copy_files.Copier | None = None,
        umask: int = copy_files.GITS_UMASK,
    ) -> None:
        self._source, self._target = str(source), str(target)
        self._since = since_ns
        self._cancel = cancel
        self._failed = threading.Event()
        self._alone = own is not None
        self._own = own or copy_files.Copier(self._source, self._target, since_ns=since_ns, umask=umask)
        self._own.stop = self._stopped
        self._helpers: list[subprocess.Popen[bytes]] = []
        self._lock = threading.Lock()

    def __enter__(self) -> CopyPool:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None:
            processes.end(*self._helpers)
        for helper in self._helpers:
            for pipe in (helper.stdin, helper.stdout):
                if pipe is not None:
                    with suppress(OSError):  # the helper is gone; its report was already received
                        pipe.close()
            helper.wait()  # no limit: its input is closed, or it was killed
        self._own.close()
        self._own.stop = None  # it leads back here: a process that takes many snapshots would keep all lists of files

    def prepare(self, about: int) -> None:
        """Prepare to copy about this many files: start helpers early if worthwhile."""
        if about >= HELPERS_FROM_FILES:
            self._start_helpers()

    def copy(
        self, files: Iterable[tuple[str, int]], *, about: int, on_portion: Callable[[int], None] | None = None
    ) -> copy_files.Findings:
        """Copy sorted `files` (path, kind); SnapshotError when the target can't be written."""
        self.prepare(about)
        found = copy_files.Findings()
        failures: list[BaseException] = []
        smallest, biggest = _PORTION
        work = copy_files.portions(files, max(smallest, min(biggest, about // _PORTIONS)))

        def next_portion() -> copy_files.Portion | None:
            with self._lock:
                return None if self._stopped() else next(work, None)

        def finished(findings: dict[str, Any]) -> None:
            with self._lock:
                found.add(findings)
                if on_portion is not None:
                    on_portion(found.files)

        def drive(helper: subprocess.Popen[bytes]) -> None:
            assert helper.stdin is not None and helper.stdout is not None  # noqa: PT018  both are pipes
            try:
                while (portion := next_portion()) is not None:
                    copy_files.send(helper.stdin, portion)
                    answer = copy_files.receive(helper.stdout)
                    if answer is None:
                        raise SnapshotError("a copying process ended without an answer", code="COPY_HELPER_LOST")
                    if "failed" in answer:
                        raise copy_files.WriteFailed(*answer["failed"])
                    finished(answer)
            except BaseException as error:  # noqa: BLE001  raised again by the thread that waits
                failures.append(error)
                self._failed.set()

        threads = [threading.Thread(target=drive, args=(helper,), daemon=True) for helper in self._helpers]
        for thread in threads:
            thread.start()
        try:
            while (portion := next_portion()) is not None:
                self._own.findings = copy_files.Findings()
                for directory, group in portion:
                    self._own.copy(directory, group)
                finished(vars(self._own.findings))
        except BaseException as error:  # noqa: BLE001  raised again below, when nothing copies any more
            failures.append(error)
            self._failed.set()
            processes.end(*self._helpers)
        for thread in threads:
            thread.join()  # no limit: after a failure or cancel a helper ends with its portion
        if self._cancel.requested:
            raise SnapshotCanceled("interrupted while the workspace was being filled")
        for failure in failures:
            if isinstance(failure, copy_files.WriteFailed):
                raise could_not_write(Path(self._target), failure) from failure
            raise failure
        return found

    def _stopped(self) -> bool:
        return self._cancel.requested or self._failed.is_set()

    def _start_helpers(self) -> None:
        wanted = min(len(os.sched_getaffinity(0)), 4) - 1
        if self._alone or self._helpers or wanted < 1 or not sys.executable:
            return
        program = Path(copy_files.__file__)
        if not program.is_file():
            return  # loom runs from an archive: copy in this thread only
        for _ in range(wanted):
            helper = processes.start_python(
                _HELPER,
                str(program.parent),
                flags=("-S",),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                # In its own session, so that Ctrl-C reaches only this process.
                process_group=0,
            )
            self._helpers.append(helper)
            assert helper.stdin is not None
            copy_files.send(helper.stdin, (self._source, self._target, self._since, self._own.umask))


def could_not_write(target: Path, failure: copy_files.WriteFailed) -> SnapshotError:
    path, number = failure.args
    hint = (
        "free some space there, or name another disk with LOOM_TMP_DIR" if number in _FULL else "check its permissions"
    )
    return SnapshotError(
        f"{target}: the workspace could not be written: {readable(path)}: {os.strerror(number)}",
        hint=hint,
        code="WORKSPACE_NOT_WRITTEN",
    )


_FULL = (28, 122)  # ENOSPC, EDQUOT


_NOTHING_IS_RECENT = 1 << 62


def duplicate(workspace: Path, target: Path, *, cancel: Cancel, only: Tracked | None = None) -> None:
    """Fill the empty directory `target` with the content of the complete snapshot `workspace`; `only`: what of it.

    Files, links and directories with their times and modes, without the link to the record. SnapshotError when a file can't be
    read or written, SnapshotCanceled when the flag was set.
    """
    files = list(_lay_out(workspace, target, only))
    with CopyPool(workspace, target, since_ns=_NOTHING_IS_RECENT, cancel=cancel, umask=0) as pool:
        found = pool.copy(files, about=len(files))
    special = {path for path, _ in found.special}  # a job's files replace a snapshot that is gone
    missing = [path for path in (*found.absent, *(path for path, _ in found.denied)) if path not in special]
    if missing:
        raise SnapshotError(
            f"{workspace}: {readable(missing[0])} could not be copied into {target}",
            hint="nothing but loom may change a run's workspace while its jobs start",
        )


def _lay_out(workspace: Path, target: Path, only: Tracked | None) -> Iterator[tuple[str, int]]:
    """Create the directories; return every file with its kind."""
    pending = [""]
    while pending:
        directory = pending.pop()
        shutil.copymode(workspace / directory, target / directory)
        with os.scandir(workspace / directory) as scanned:
            entries = list(scanned)
        for entry in entries:
            path = f"{directory}/{entry.name}" if directory else entry.name
            if path == RUNTIME or (only is not None and path not in only):
                continue
            if entry.is_dir(follow_symlinks=False):
                (target / path).mkdir(exist_ok=True)
                pending.append(path)
            elif entry.is_symlink():
                yield path, copy_files.LINK
            else:
                yield path, copy_files.SAME
