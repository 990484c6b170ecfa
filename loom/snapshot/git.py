"""Run git processes, the only module that does: environment, configuration, errors, concurrency.

No process searches for a repository: each is led to one by `GIT_DIR`, either a directory that loom made, or a `RepositoryView`,
of whose configuration git sees a short list (`snapshot.repository`). No process starts a hook or a file system monitor, asks
for a password, or fetches an object that is missing; only one that `for_server` made the environment of may talk to a server, and
it has no repository but loom's own. The user's own configuration (system, home, environment) counts.

Snapshots are taken and proved by git itself: a git process costs 3 ms, `import pygit2` 40 to 100, and libgit2's status takes
twice the time on a large tree (docs/benchmarks.md).
"""

from __future__ import annotations

import errno
import os
import re
import select
import subprocess
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import BinaryIO

from loom.addresses import hide_credentials
from loom.cancel import Cancel
from loom.errors import RequestError, SnapshotError
from loom.snapshot import repository as repositories
from loom.snapshot.model import SnapshotCanceled
from loom.snapshot.repository import RepositoryView
from loom.util import processes
from loom.values import Environ

# What points a git process at a repository; a workspace's git must never inherit it from the caller (`git rev-parse
# --local-env-vars` prints this list, and GIT_NO_REPLACE_OBJECTS, which is set for all).
LOCAL_VARIABLES = frozenset(
    f"GIT_{name}"
    for name in (
        *("ALTERNATE_OBJECT_DIRECTORIES", "ATTR_SOURCE", "COMMON_DIR", "CONFIG", "CONFIG_COUNT", "CONFIG_PARAMETERS"),
        *("DIR", "GRAFT_FILE", "IMPLICIT_WORK_TREE", "INDEX_FILE", "INTERNAL_SUPER_PREFIX", "NAMESPACE"),
        *("OBJECT_DIRECTORY", "PREFIX", "REPLACE_REF_BASE", "SHALLOW_FILE", "WORK_TREE"),
    )
)


def elsewhere(environ: Environ) -> dict[str, str]:
    """Return `environ` for the repository of a directory, whichever one `GIT_DIR` and its like name."""
    return {name: value for name, value in environ.items() if name not in LOCAL_VARIABLES}


# On the command line, so that they win over every file: no hook, no file system monitor, no question in a window, no
# background work, and nothing that rewrites an index in passing, or makes trees of it.
_ALWAYS = tuple(
    word
    for setting in (
        *("safe.bareRepository=explicit", "core.hooksPath=/dev/null", "core.fsmonitor=false", "core.askPass="),
        *("core.untrackedCache=false", "index.sparse=false", "gc.auto=0", "maintenance.auto=false"),
    )
    for word in ("-c", setting)
)
_NOWHERE = Path("/dev/null")
"""In place of a git directory."""

IDLE_S = 10.0
"""The time that git may sleep without a child process to wait for."""

_QUIET = {
    # `git replace` is local to one repository; clones lack it, and a proof can't use it.
    "GIT_NO_REPLACE_OBJECTS": "1",
    "GIT_OPTIONAL_LOCKS": "0",
    "GIT_TERMINAL_PROMPT": "0",
    "GIT_ASKPASS": "",
    "SSH_ASKPASS_REQUIRE": "never",
    "GIT_NO_LAZY_FETCH": "1",
    "GIT_ALLOW_PROTOCOL": "none",  # for versions of git that do not know the line above
    "GIT_LITERAL_PATHSPECS": "1",
    "GIT_LFS_SKIP_SMUDGE": "1",
    "LC_ALL": "C",
    "LANGUAGE": "C",
}


_SERVERS = "https:http:ssh:git:file"
NO_USER_CONFIG = {"GIT_CONFIG_NOSYSTEM": "1", "GIT_CONFIG_GLOBAL": "/dev/null"}


class GitFailed(SnapshotError):
    """A failed git command; `stderr` has its messages."""

    default_code = "GIT_FAILED"

    def __init__(self, arguments: Sequence[str], exit_code: int, stderr: str, *, cwd: Path | None) -> None:
        reason = stderr.strip() or f"exit code {exit_code}"
        full = "No space left" in reason or "Out of diskspace" in reason  # the latter in git's words
        super().__init__(
            f"{f'{cwd}: ' if cwd else ''}git {arguments[0]} failed: {reason}",
            hint="free some space there, or name another disk with LOOM_TMP_DIR"
            if full
            else "see what `git status` says there",
        )
        self.stderr = stderr
        self.returncode = exit_code


def is_config(name: str) -> bool:
    """Return whether a variable carries configuration, like `git -c` and `GIT_CONFIG_COUNT`; submodules inherit it."""
    return name in ("GIT_CONFIG_COUNT", "GIT_CONFIG_PARAMETERS") or name.startswith(
        ("GIT_CONFIG_KEY_", "GIT_CONFIG_VALUE_")
    )


def environment_for(
    environ: Environ,
    *,
    keep_config: bool = False,
    repository: RepositoryView | None = None,
    git_dir: Path | None = None,
    work_tree: Path | None = None,
    index: Path | None = None,
    objects: Path | None = None,
    alternates: Sequence[Path] = (),
    config: Sequence[tuple[str, str]] = (),
) -> dict[str, str]:
    """Return `environ` for a git process with exactly these settings.

    `git_dir` is a directory whose configuration loom wrote, `repository` anybody's. git writes to `objects` and also reads
    `alternates`. `keep_config`: keep configuration variables of the environment; `config` overrides them.
    """
    result = {
        name: value
        for name, value in as_inherited(environ).items()
        if (keep_config if is_config(name) else name not in LOCAL_VARIABLES)
    }
    named = {"GIT_DIR": git_dir, "GIT_WORK_TREE": work_tree, "GIT_INDEX_FILE": index, "GIT_OBJECT_DIRECTORY": objects}
    if repository is not None:
        result |= repository.environment
    result.update({name: str(path) for name, path in named.items() if path is not None})
    if alternates:
        result["GIT_ALTERNATE_OBJECT_DIRECTORIES"] = ":".join(quoted_store(path) for path in alternates)
    return with_config(result, config) if config else result


def with_config(environment: Environ, config: Sequence[tuple[str, str]]) -> dict[str, str]:
    """Add configuration that overrides existing."""
    first = int(environment.get("GIT_CONFIG_COUNT") or 0)
    result = {**environment, "GIT_CONFIG_COUNT": str(first + len(config))}
    for number, (key, value) in enumerate(config, first):
        result[f"GIT_CONFIG_KEY_{number}"] = key
        result[f"GIT_CONFIG_VALUE_{number}"] = value
    return result


def in_repository(repository: RepositoryView, environ: Environ) -> dict[str, str]:
    """Return `environ` for a git process in a repository that was found with it: git's own variables count."""
    return as_inherited(environ) | repository.environment


def without_repository(environ: Environ) -> dict[str, str]:
    """Return `environ` for a git process that needs no repository, and finds none."""
    return environment_for(environ, keep_config=True, git_dir=_NOWHERE)


def for_server(environ: Environ, config: Sequence[tuple[str, str]] | None, store: Path | None = None) -> dict[str, str]:
    """Return `environ` for a git process that talks to a server, in no repository, or in a `store` that loom made.

    `config` is the user's own configuration as it counts for the repository that asks (`includeIf`), with credentials, addresses
    and ssh; without it, as git reads it. The repository's own configuration, and what its variables name, do not count.
    """
    result = environment_for(environ, keep_config=config is None, git_dir=store or _NOWHERE)
    if config is not None:
        result = with_config(result | NO_USER_CONFIG, config)
    return result | {"GIT_ALLOW_PROTOCOL": environ.get("GIT_ALLOW_PROTOCOL", _SERVERS)}


def as_inherited(environ: Environ) -> dict[str, str]:
    """Return `environ` for git, with git's own variables, but without what would change the answers or ask somebody."""
    # GIT_TRACE=1 would write to standard error, which is parsed; pathspec switches contradict ours.
    return {
        name: value
        for name, value in environ.items()
        if not name.startswith("GIT_TRACE") and not name.endswith("_PATHSPECS")
    } | _QUIET


def quoted_store(path: Path) -> str:
    """Quote a path for a list of object stores, where needed."""
    text = str(path)
    if not (text.startswith(('"', "#")) or any(c in text for c in ':\n"\\')):
        return text
    return c_quoted(text)


def c_quoted(text: str) -> str:
    """Quote a text as git parses it; any text fits in one line."""
    for plain, escaped in (("\\", "\\\\"), ('"', '\\"'), ("\n", "\\n"), ("\r", "\\r")):
        text = text.replace(plain, escaped)
    return f'"{text}"'


PATIENCE_S = 1800.0
"""Time limit of one git command: a filter, a file system monitor's hook or a network mount may hang."""
_at_work: set[subprocess.Popen[bytes]] = set()
_heeded: list[Cancel] = []


@contextmanager
def ended_by(cancel: Cancel) -> Iterator[None]:
    """Let a cancel, in the block, end this process's git commands and prevent new ones: SnapshotCanceled."""

    def stop_all() -> None:
        for process in list(_at_work):
            processes.kill_tree(process)  # on TERM, git waits for its running filter, which may hang

    _heeded.append(cancel)
    unregister = cancel.on_request(stop_all)
    try:
        yield
    finally:
        unregister()
        _heeded.remove(cancel)


def _heed() -> None:
    if any(cancel.requested for cancel in _heeded):
        raise SnapshotCanceled("interrupted while git was at work")


def started(
    arguments: Sequence[str],
    environment: Environ,
    *,
    streams: tuple[int | BinaryIO, int | BinaryIO, int | BinaryIO],
    cwd: Path | None = None,
    searching: bool = False,
    umask: int = -1,
) -> subprocess.Popen[bytes]:
    """Start git with standard input, output and error. `environment` leads it to a repository, unless it is `searching`."""
    if "GIT_DIR" not in environment and not searching:
        raise AssertionError(f"git {arguments[0]} is led to no repository, and would search for one")
    stdin, stdout, stderr = streams
    return subprocess.Popen(
        ["git", *_ALWAYS, *arguments],
        stdin=stdin,
        stdout=stdout,
        stderr=stderr,
        cwd=cwd,
        env=dict(environment),
        umask=umask,
    )


class Running:
    """A running git process. Output goes to memory, so that several run concurrently without readers."""

    def __init__(
        self,
        arguments: Sequence[str],
        environment: Environ,
        *,
        cwd: Path | None,
        given: bytes | None = None,
        stdin: BinaryIO | None = None,
        searching: bool = False,
        umask: int = -1,
    ) -> None:
        """Start it. `searching`: git itself looks for the repository, to explain why it refuses it."""
        self._result: tuple[int, bytes, str] | None = (0, b"", "")
        _heed()
        self._arguments = arguments
        self._cwd = cwd
        self._out, self._err = _memory_file(), _memory_file()
        with _memory_file(given) if given is not None else nullcontext(stdin) as stdin:
            try:
                self._process = started(
                    arguments,
                    environment,
                    cwd=cwd,
                    streams=(subprocess.DEVNULL if stdin is None else stdin, self._out, self._err),
                    searching=searching,
                    umask=umask,
                )
            except FileNotFoundError as error:
                self._close()
                if cwd is not None and not cwd.is_dir():
                    raise SnapshotError(f"{cwd}: no such directory", code="SOURCE_MISSING") from error
                raise SnapshotError(
                    "git is not installed, or not on PATH", hint="install git 2.31 or newer", code="GIT_MISSING"
                ) from error
        _at_work.add(self._process)
        self._result = None
        try:
            _heed()  # a cancel since the last look did not know of this process
        except SnapshotCanceled:
            self.stop()
            raise

    def __del__(self) -> None:
        # The other one of two, when waiting for the first failed.
        if self._result is None:
            self.stop()

    def stop(self) -> None:
        """Kill the process when its result is no longer needed."""
        processes.kill_tree(self._process)
        processes.end(self._process)
        self._result = self._process.returncode, b"", ""
        _at_work.discard(self._process)
        self._close()

    @property
    def pid(self) -> int:
        return self._process.pid

    def result(self, *, check: bool = True) -> tuple[int, bytes, str]:
        """Return (exit code, output, standard error). GitFailed when `check` and the code is not 0."""
        if self._result is None:
            code = self._ended()
            self._result = (
                code,
                _content(self._out),
                hide_credentials(_content(self._err).decode("utf-8", "backslashreplace")),
            )
        code, _, stderr = self._result
        if check and code != 0:
            raise GitFailed(self._arguments, code, stderr, cwd=self._cwd)
        return self._result

    def _ended(self) -> int:
        deadline = time.monotonic() + PATIENCE_S
        try:
            self._check_progress(deadline)
            return self._process.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            self.stop()
            words = " ".join(("git", *self._arguments[:3]))
            raise SnapshotError(
                f"{words} has not ended within {PATIENCE_S / 60:.0f} minutes",
                hint="look for a filter (.gitattributes) or a file system that hangs",
                code="GIT_HANGS",
            ) from None
        finally:
            _at_work.discard(self._process)

    def output(self) -> bytes:
        return self.result()[1]

    def _check_progress(self, deadline: float) -> None:
        """Wait until this time. SnapshotError when git only sleeps, for example on a FIFO in place of a file."""
        descriptor = os.pidfd_open(self._process.pid)
        try:
            poll = select.poll()
            poll.register(descriptor, select.POLLIN)
            since, before = time.monotonic(), _activity(self._process.pid)
            while not poll.poll(1000) and time.monotonic() < deadline:
                now = _activity(self._process.pid)
                if now is None or now != before:
                    since, before = time.monotonic(), now
                elif time.monotonic() - since > IDLE_S:
                    self.stop()
                    raise SnapshotError(
                        f"{self._cwd or Path.cwd()}: git {self._arguments[0]} waits for something that does not come, "
                        "such as a FIFO in the place of a file",
                        hint=f"look for it, also where a .git leads to: find {self._cwd or Path.cwd()} -type p",
                        code="GIT_WAITS",
                    )
        finally:
            os.close(descriptor)

    def _close(self) -> None:
        self._out.close()
        self._err.close()


def _activity(pid: int) -> tuple[str, ...] | None:
    """Return the activity of a sleeping process without children; None for an active one."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        children = any(task.joinpath("children").read_text() for task in Path(f"/proc/{pid}/task").iterdir())
    except (OSError, ValueError):
        return None
    return None if fields[0] != "S" or children else tuple(fields[11:13])


def _memory_file(content: bytes = b"") -> BinaryIO:
    file = os.fdopen(os.memfd_create("git"), "w+b")
    file.write(content)
    file.seek(0)
    return file


def _content(file: BinaryIO) -> bytes:
    with file:
        file.seek(0)
        return file.read()


def run(
    arguments: Sequence[str], environment: Environ, *, cwd: Path | None = None, given: bytes | None = None
) -> bytes:
    """Return the output of one git command; GitFailed on failure."""
    return Running(arguments, environment, cwd=cwd, given=given).output()


def unlisted_directories(stderr: str) -> list[tuple[str, str]]:
    """Parse unreadable directories and reasons from the standard error of `ls-files --others`."""
    start = "warning: could not open directory '"
    result = []
    for line in stderr.splitlines():
        if line.startswith(start):
            path, _, why = line.removeprefix(start).rpartition("': ")
            if not path:  # git cuts its messages at 4,095 bytes
                path, why = line.removeprefix(start), os.strerror(errno.ENAMETOOLONG)
            if why != os.strerror(errno.ENOENT):  # otherwise it is gone
                result.append((path, why))
    return result


def refused_names(stderr: str) -> list[str]:
    """Parse skipped paths from the standard error of `update-index`."""
    return [line.removeprefix("Ignoring path ") for line in stderr.splitlines() if line.startswith("Ignoring path ")]


def literal_pattern(path: str) -> str:
    """Escape a path as an ignore pattern."""
    return re.sub(r"([\\*?\[])", r"\\\1", path)


def nul_joined(paths: Iterable[str]) -> bytes:
    """Encode input for `-z --stdin`."""
    return b"".join(os.fsencode(path) + b"\0" for path in paths)


def nul_list(data: bytes) -> list[bytes]:
    """Split `-z` output."""
    items = data.split(b"\0")
    if items and not items[-1]:
        items.pop()
    return items


def unmerged(listed: bytes) -> tuple[str, ...]:
    """Return the paths of the entries that `source.UNMERGED` lists."""
    return tuple(dict.fromkeys(os.fsdecode(item.partition(b"\t")[2]) for item in nul_list(listed)))


EMPTY_BLOBS = (
    "e69de29bb2d1d6434b8b29ae775ad8c2e48c5391",
    "473a0f4c3be8a93681a267e3b1e9a7dcda1185436fe141f7749120a303721813",
)
"""The content id of an intent-to-add entry (`git add -N`)."""
_INTENT_TO_ADD = 1 << 29


def intended(environment: Environ, *, cwd: Path) -> set[str]:
    """Return the intent-to-add entries, which no tree contains."""
    result = set()
    path = b""
    for item in run(("ls-files", "-z", "--debug"), environment, cwd=cwd).split(b"\0"):
        # After each path's NUL come five lines about it, then the next path.
        *about, following = item.split(b"\n", 5) if path else [item]
        if about and int(about[-1].rpartition(b" ")[2], 16) & _INTENT_TO_ADD:
            result.add(os.fsdecode(path))
        path = following
    return result


def repository_at(directory: Path, environ: Environ, *, modules: Iterable[Path] = ()) -> RepositoryView | None:
    """Return the repository of a checkout's directory; None for another directory, or where git recognises no repository."""
    if not os.path.lexists(directory / ".git"):
        return None
    try:
        plain = environment_for(environ) | {"GIT_CEILING_DIRECTORIES": str(directory.parent)}
        return repositories.find(directory, plain, modules=modules)
    except RequestError:
        return None


def is_repository(directory: Path, environment: Environ) -> bool:
    """Return whether git recognises the directory as another repository; its `.git` may be invalid."""
    if not os.path.lexists(directory / ".git"):
        return False
    asked = Running(
        ("rev-parse", "--resolve-git-dir", str(directory / ".git")), without_repository(environment), cwd=directory
    )
    return asked.result(check=False)[0] == 0
