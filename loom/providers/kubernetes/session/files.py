"""The files of a job in its pod, as tar streams over the connection to the pod's helper.

The snapshot is packed once, however many pods get it. Its content is proved in the pod: the digests of all its files, made
while it was packed, are compared there.
"""

from __future__ import annotations

import os
import stat
import tempfile
import threading
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from functools import partial
from itertools import chain
from pathlib import Path
from typing import IO, TypeVar

from msgspec import Struct

from loom.cancel import Cancel
from loom.errors import LoomError, ProviderError
from loom.providers.base import SessionRequest
from loom.providers.files import members_in, unless_canceled
from loom.providers.kubernetes.cluster.client import Cluster, Gone, is_transient
from loom.providers.kubernetes.cluster.pods import loss_error
from loom.providers.kubernetes.images.snapshot import difference, digests_below, members_below
from loom.providers.kubernetes.pod.spec import HELPER
from loom.providers.kubernetes.session import exec as execs
from loom.providers.kubernetes.session.exec import Exec
from loom.storage.tar import Item, packed
from loom.storage.workspace import OnSkipped
from loom.util.paths import normal
from loom.util.retrying import Policy, retrying

T = TypeVar("T")
_PIECE = 256 * 1024
_AT_ONCE = 200
"""Paths of one command."""
_SILENT_S = 600.0
"""The time that a transfer may stand still."""
_CANCELED_SILENT_S = 10.0
"""The same, after a cancel."""
_TRIES = Policy(when=is_transient, limit_s=300.0, first_wait_s=0.2, most_wait_s=30.0)
"""The repetition of a transfer whose connection breaks."""
# $1: the number of bytes, which follow when it has printed its process group; $2: the folder. The input of a command in a pod
# can't be closed. $3, $4: a directory, and the mode that it gets if the helper owns it. $5: the process group of an earlier try
# whose connection broke: what arrived of it would be unpacked over the files of this one, so it is ended first. $6: the umask,
# for directories that the stream has files of, but not themselves.
_UNPACK = """ended() {
  for stat in /proc/[0-9]*/stat; do
    { IFS= read -r line <"$stat"; } 2>/dev/null || continue
    set -- "$1" ${line##*) }
    [ "$2" = Z ] || [ "$4" != "$1" ] || return 1
  done
}
if [ -n "$5" ]; then
  kill -9 "-$5" 2>/dev/null
  until ended "$5"; do sleep 0.1 || sleep 1; done
fi
echo "$$"
umask "$6"
head -c "$1" | tar -x -p -f - -C "$2" && { [ -z "$3" ] || chmod "$4" "$3" 2>/dev/null || :; }
"""
# $1: the folder, then paths; those that are not there are left out.
_PACK = """cd "$1" || exit 3
shift
for p; do
  shift
  if [ -e "$p" ] || [ -h "$p" ]; then set -- "$@" "./$p"; fi
done
[ "$#" != 0 ] || exit 0
exec tar -c -f - -- "$@"
"""
# $1: the number of bytes, which follow; $2: the folder.
_PROVE = """cd "$2" || exit 3
command -v sha256sum >/dev/null || { head -c "$1" >/dev/null; exit 127; }
head -c "$1" | sha256sum -c - 2>&1 | while IFS= read -r l; do case $l in *": OK") ;; *) printf '%s\\n' "$l" ;; esac; done
"""


class PackedSnapshot(Struct, frozen=True):
    """A packed snapshot: its tar stream in a file without a name, and the digests of its files as `sha256sum` reads them."""

    file: IO[bytes]
    size: int
    digests: bytes
    files: int
    mode: str = ""
    """The mode of the workspace itself, which is a volume in the pod."""

    def content(self) -> Iterator[bytes]:
        at = 0
        while piece := os.pread(self.file.fileno(), _PIECE, at):
            at += len(piece)
            yield piece


class PackedSnapshots:
    """The snapshots of one run, each packed once. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._made: dict[tuple[Path, tuple[Path, ...]], PackedSnapshot] = {}

    def of(self, request: SessionRequest, cancel: Cancel) -> PackedSnapshot:
        key = (request.workspace, request.read_only_mounts)
        with self._lock:
            if key not in self._made:
                self._made[key] = _packed(request, cancel)
            return self._made[key]

    def close(self) -> None:
        with self._lock:
            for packed_up in self._made.values():
                packed_up.file.close()
            self._made.clear()


def _packed(request: SessionRequest, cancel: Cancel) -> PackedSnapshot:
    """Pack the request's workspace, and the git object stores that it borrows from, under the same paths.

    Without these directories themselves, which are volumes. The digests are those of the workspace.
    """
    file = tempfile.TemporaryFile(prefix="loom-packed_up-")  # noqa: SIM115  closed with the run
    folder = request.project_dir.strip("/")
    marks: dict[str, str] = {}
    members = [
        members_below(request.workspace, folder),
        # By their real paths, since links on the way are not followed.
        *(members_below(store.resolve(), store.as_posix().strip("/")) for store in request.read_only_mounts),
    ]
    pieces = packed(difference(chain.from_iterable(members), {}, marks))
    for piece in unless_canceled(pieces, request.job_id, cancel):
        file.write(piece)
    file.flush()
    mode = f"{stat.S_IMODE(request.workspace.stat().st_mode):o}"
    digests = digests_below(folder, marks)
    return PackedSnapshot(file, file.tell(), b"".join(digests), len(digests), mode)


class PodFiles:
    """The workspace in one pod."""

    def __init__(
        self,
        cluster: Cluster,
        pod: str,
        request: SessionRequest,
        *,
        is_lost: Callable[[], bool] = lambda: False,
        cancel: Cancel | None = None,
        owner: tuple[int, int] = (0, 0),
    ) -> None:
        """`is_lost`: whether the cluster has given the pod up. After a `cancel` nothing is repeated."""
        self.owner = owner
        """The owner of the files that are put there."""
        self._cluster = cluster
        self._pod = pod
        self._request = request
        self._is_lost = is_lost
        self._cancel = cancel or Cancel()
        self._root = request.project_dir

    def fill(self, packed_up: PackedSnapshot, cancel: Cancel) -> str:
        """Send the snapshot and prove it; return what was proved, for the record."""
        job_id = self._request.job_id
        self._unpacked(
            "/",
            packed_up.size,
            lambda: unless_canceled(packed_up.content(), job_id, cancel),
            f"sending the workspace to job {job_id}",
            packed_up.mode,
        )
        return self.prove(packed_up.digests, packed_up.files)

    def prove(self, digests: bytes, files: int) -> str:
        """Compare the workspace with these digests; return what was proved, for the record."""
        job_id = self._request.job_id
        if not digests:
            return "sha256 of 0 files"
        command = ["sh", "-c", _PROVE, "loom", str(len(digests)), self._root]
        code, out, err = self._run(command, [digests], doing="proving the workspace in the pod")
        if code == 127:
            return "not proved: the image has no sha256sum"
        if code or out.strip():
            differs = (out or err).decode("utf-8", "replace").strip().splitlines()
            raise ProviderError(
                f"the workspace of job {job_id} is not what was sent: {'; '.join(differs[:5])}", code="POD_FILES_DIFFER"
            )
        return f"sha256 of {files} files"

    def change(self, program: str, to: str) -> None:
        """Change the owner (`chown`) or the mode (`chmod`) of all files, but not what links lead to."""
        command = [program, "-R", *(("-h",) if program == "chown" else ()), to, self._root]
        code, _, err = self._run(command, None, doing="giving the workspace to the job")
        if code:
            raise ProviderError(
                f"the workspace of job {self._request.job_id} can't be given to it ({program} {to}): "
                + err.decode("utf-8", "replace").strip()
            )

    def _run(self, command: Sequence[str], given: list[bytes] | None, *, doing: str) -> tuple[int, bytes, bytes]:
        """Run a command in the helper that may be run again."""
        run = partial(execs.run, self._cluster, self._pod, HELPER, command, silent_s=_SILENT_S, is_vain=self._is_vain)
        return self._repeated(lambda: run(stdin=None if given is None else lambda: given, doing=doing))

    def _is_vain(self, silent_s: float) -> bool:
        return self._is_lost() or (self._cancel.requested and silent_s > _CANCELED_SILENT_S)

    def _repeated(self, do: Callable[[], T]) -> T:
        """Repeat an operation while its connection breaks (the API server restarts, for example) and the pod exists."""

        def once() -> T:
            if self._is_lost():
                raise self._loss()
            try:
                return do()
            except Gone as error:
                raise self._loss() from error

        def look(*_: object) -> None:
            if not is_transient(found := self._loss()):
                raise found

        return retrying(once, _TRIES, before=look, cancel=self._cancel)

    def _loss(self, doing: str = "while it ran") -> LoomError:
        return loss_error(self._cluster, self._pod, self._request.job_id, doing=doing)

    def put(self, items: Iterable[Item]) -> None:
        """Implement `Archives.put`."""
        with tempfile.TemporaryFile(prefix="loom-archive-") as file:  # its length has to be known first
            for piece in packed(items, self.owner):
                file.write(piece)
            file.flush()
            packed_up = PackedSnapshot(file, file.tell(), b"", 0)
            doing = f"writing to the workspace of job {self._request.job_id}"
            self._unpacked(self._root, packed_up.size, packed_up.content, doing)

    def _unpacked(
        self, folder: str, size: int, content: Callable[[], Iterator[bytes]], doing: str, mode: str = ""
    ) -> None:
        """Unpack a stream of this many bytes, which `content` begins again for each try."""
        words = ["sh", "-c", _UNPACK, "loom", str(size), folder, self._root if mode else "", mode]
        groups, umask = [""], f"{self._request.umask:o}"
        self._repeated(lambda: self._unpack([*words, groups[-1], umask], content(), doing, groups.append))

    def _unpack(self, words: Sequence[str], content: Iterator[bytes], doing: str, began: Callable[[str], None]) -> None:
        """Run `_UNPACK`. It gets no byte before `began` has its process group, so that a try without one has no effect."""
        failed: list[Exception] = []

        def watched() -> Iterator[bytes]:
            try:
                yield from content
            except (LoomError, OSError) as error:
                failed.append(error)
                ran.abort()

        ran = Exec(self._cluster, self._pod, HELPER, words, stdin=True)
        said = b""
        feeding: threading.Thread | None = None
        try:
            for stream, data in ran.output(silent_s=_SILENT_S, is_vain=self._is_vain):
                if stream == "stdout" and feeding is None:
                    began(data.decode().strip())
                    feeding = ran.feed(watched())
                else:
                    said = (said + data)[-4000:]
            if feeding is not None:
                feeding.join(10.0)
        except OSError as error:
            raise (failed[0] if failed else self._lost(doing, error)) from error
        finally:
            ran.close()
        if ran.code:
            raise self._failed(doing, said, f"exit code {ran.code}")

    def get(self, paths: Iterable[str], on_skipped: OnSkipped) -> Generator[Item, None, None]:
        """Implement `Archives.get`."""
        plain = [normal(path) or "." for path in paths]
        groups = [plain[start : start + _AT_ONCE] for start in range(0, len(plain), _AT_ONCE)]
        return members_in((("", self._pack(group)) for group in groups), on_skipped)

    def _pack(self, paths: Sequence[str]) -> Iterator[bytes]:
        """Pass on an archive when it is here: one that breaks off is made again."""
        with tempfile.TemporaryFile(prefix="loom-archive-") as file:
            self._repeated(lambda: self._packed(paths, file))
            file.seek(0)
            while piece := file.read(_PIECE):
                yield piece

    def _packed(self, paths: Sequence[str], file: IO[bytes]) -> None:
        doing = f"reading from the workspace of job {self._request.job_id}"
        ran = Exec(self._cluster, self._pod, HELPER, ["sh", "-c", _PACK, "loom", self._root, *paths])
        said, last = b"", b""
        file.seek(0)
        file.truncate()
        try:
            for stream, data in ran.output(silent_s=_SILENT_S, is_vain=self._is_vain):
                if stream == "stdout":
                    _write(file, data, doing)
                    last = (last + data)[-1024:]
                else:
                    said = (said + data)[-4000:]
        except OSError as error:
            raise self._lost(doing, error) from error
        finally:
            ran.close()
        # 1: a file changed while it was read.
        if ran.code not in (0, 1) or last.strip(b"\0"):
            raise self._failed(doing, said, "the stream was cut short")
        if not last:
            file.write(bytes(10240))

    def _lost(self, doing: str, error: OSError) -> LoomError:
        found = self._loss(f"while {doing}")
        if not is_transient(found):
            return found
        return ProviderError(f"{doing}: the connection to the pod was lost: {error}", code=found.code)

    def _failed(self, doing: str, said: bytes, how: str) -> LoomError:
        """Return the error of a command that failed: by itself, or with its pod."""
        found = self._loss(f"while {doing}")
        if not is_transient(found):
            return found
        return ProviderError(f"{doing}: {said.decode('utf-8', 'replace').strip() or how}")


def _write(file: IO[bytes], data: bytes, doing: str) -> None:
    try:
        file.write(data)
    except OSError as error:
        raise ProviderError(
            f"{doing}: {error.strerror} ({tempfile.gettempdir()})", hint="TMPDIR names another directory"
        ) from error
