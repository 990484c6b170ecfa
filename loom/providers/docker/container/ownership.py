"""The owner of workspace files: the job's user during the job, then the caller.

Usually nothing is needed: the job runs as root or as the caller, and a root caller has all rights. With a rootless
engine, the container's root is the caller.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from pathlib import Path

from msgspec import Struct


class Owner(Struct, frozen=True):
    uid: int
    gid: int

    @classmethod
    def of_this_process(cls) -> Owner:
        return cls(os.geteuid(), os.getegid())


_SAME = ((0, 0, 1 << 32),)


class Ids(Struct, frozen=True):
    """Maps a container's users to this machine's; they differ if the engine runs in a user namespace.

    Ranges of ids in the kernel's form: first inside, first outside, count.
    """

    users: tuple[tuple[int, int, int], ...] = _SAME
    groups: tuple[tuple[int, int, int], ...] = _SAME

    @classmethod
    def read(cls, users: str, groups: str) -> Ids:
        """Parse what the driver prints of its namespace: `INSIDE:OUTSIDE:COUNT,` for each span."""
        return cls(_spans(users, "/proc/self/uid_map"), _spans(groups, "/proc/self/gid_map"))

    def outside(self, owner: Owner) -> Owner | None:
        """Map the container's `owner` to this machine; None when it has no ids here."""
        uid = _looked_up(owner.uid, [(inside, outside, count) for inside, outside, count in self.users])
        gid = _looked_up(owner.gid, [(inside, outside, count) for inside, outside, count in self.groups])
        return None if uid is None or gid is None else Owner(uid, gid)

    def inside(self, owner: Owner) -> Owner | None:
        """Map this machine's `owner` to the container; None when it has no ids there."""
        uid = _looked_up(owner.uid, [(outside, inside, count) for inside, outside, count in self.users])
        gid = _looked_up(owner.gid, [(outside, inside, count) for inside, outside, count in self.groups])
        return None if uid is None or gid is None else Owner(uid, gid)


def _spans(text: str, own: str) -> tuple[tuple[int, int, int], ...]:
    spans = []
    for span in text.split(","):
        words = span.split(":")
        if len(words) == 3 and all(word.isdigit() for word in words):
            spans.append((int(words[0]), int(words[1]), int(words[2])))
    try:
        own_spans = [tuple(map(int, line.split())) for line in Path(own).read_text().splitlines()]
    except (OSError, ValueError):
        own_spans = []
    # In one namespace with us, ids are the same.
    return _SAME if not spans or spans == own_spans else tuple(spans)


def _looked_up(number: int, spans: list[tuple[int, int, int]]) -> int | None:
    return next((to + number - start for start, to, count in spans if start <= number < start + count), None)


class Workspaces:
    """The users of running jobs per workspace, so that the end of one job does not take files from another.

    Users as on this machine.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._active: dict[Path, list[Owner]] = {}
        self._chowned: dict[Path, Owner] = {}
        self._opened: set[Path] = set()

    def enter(self, workspace: Path, user: Owner) -> bool:
        """True when the files must be given to `user` first."""
        with self._lock:
            self._active.setdefault(workspace, []).append(user)
            if user.uid in (0, workspace.stat().st_uid):
                return False
            if self._chowned.get(workspace) == user:
                return False
            self._chowned[workspace] = user
            return True

    def open(self, workspace: Path) -> bool:
        """True when jobs of different users run there, so the directory must be opened to all of them."""
        with self._lock:
            if len({user.uid for user in self._active.get(workspace, []) if user.uid != 0}) < 2:
                return False
            self._opened.add(workspace)
            return True

    def close(self, workspace: Path) -> bool:
        """True when it was opened and must be closed again."""
        with self._lock:
            opened = workspace in self._opened
            self._opened.discard(workspace)
            return opened

    def nobody_in(self, workspace: Path) -> bool:
        with self._lock:
            return not self._active.get(workspace)

    def leave(self, workspace: Path, user: Owner) -> bool:
        """True when no job is left and the files must return to the caller."""
        with self._lock:
            active = self._active.get(workspace, [])
            if user in active:
                active.remove(user)
            if active:
                return False
            self._active.pop(workspace, None)
            return self._chowned.pop(workspace, None) is not None


def chown_all(workspace: Path, owner: Owner, ids: Ids, project_dir: str, as_root: Callable[[str], int]) -> None:
    """Change the owner of everything in `workspace`: directly if permitted, else from inside the container."""
    if os.geteuid() == 0:
        _chown(workspace, owner)
    elif (inside := ids.inside(owner)) is not None:
        as_root(f"chown -Rh {inside.uid}:{inside.gid} '{project_dir}'")


def open_to_all(workspace: Path, project_dir: str, as_root: Callable[[str], int]) -> None:
    """Let every user enter: files have only one owner, and the others need access."""
    if os.geteuid() == 0:
        workspace.chmod(0o755)
    else:
        as_root(f"chmod 755 '{project_dir}'")


def _chown(directory: Path, owner: Owner) -> None:
    pending = [str(directory)]
    os.chown(directory, owner.uid, owner.gid, follow_symlinks=False)
    while pending:
        try:
            entries = os.scandir(pending.pop())
        except FileNotFoundError:
            continue
        for entry in entries:
            try:
                status = entry.stat(follow_symlinks=False)
                if (status.st_uid, status.st_gid) != (owner.uid, owner.gid):
                    os.chown(entry.path, owner.uid, owner.gid, follow_symlinks=False)
                if entry.is_dir(follow_symlinks=False):
                    pending.append(entry.path)
            except FileNotFoundError:
                continue  # another job is running here


def foreign(workspace: Path, me: Owner) -> str:
    """Find a file in `workspace` of another owner, or nothing. About 3 µs per file."""
    try:
        if workspace.stat().st_uid != me.uid:
            return str(workspace)
    except FileNotFoundError:
        return ""
    pending = [str(workspace)]
    while pending:
        directory = pending.pop()
        try:
            entries = os.scandir(directory)
        except PermissionError:
            return directory
        except FileNotFoundError:
            continue
        for entry in entries:
            try:
                if entry.stat(follow_symlinks=False).st_uid != me.uid:
                    return entry.path
            except FileNotFoundError:
                continue
            if entry.is_dir(follow_symlinks=False):
                pending.append(entry.path)
    return ""
