"""The owner of workspace files: the job's user during the job, then the caller.

Usually nothing is needed: the job runs as root or as the caller, and a root caller has all rights. With a rootless
engine, the container's root is the caller, and its other users are no users of this machine.
"""

from __future__ import annotations

import os
import stat
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

from msgspec import Struct

from loom.errors import ProviderError


class Owner(Struct, frozen=True):
    uid: int
    gid: int

    @classmethod
    def process_owner(cls, *, rootless: bool = False) -> Owner:
        """Return the caller; in containers of a rootless engine, that is root."""
        return cls(0, 0) if rootless else cls(os.geteuid(), os.getegid())


def may_all(root: int, uid_map: str = "/proc/self/uid_map") -> bool:
    """Return whether a container's root, which is this user of the machine, is the machine's root or the caller."""
    with suppress(OSError, ValueError):
        for inside, outside, count in (map(int, line.split()) for line in Path(uid_map).read_text().splitlines()):
            if 0 <= os.geteuid() - inside < count:
                return root in (0, os.geteuid() - inside + outside)
    return True


class Workspaces:
    """The users of running jobs per workspace, so that the end of one job does not take files from another."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._active: dict[Path, list[Owner]] = {}
        self._chowned: dict[Path, Owner] = {}

    def enter(self, workspace: Path, user: Owner, *, has_files: bool) -> bool:
        """Return whether the files must be given to `user` first. ProviderError while another one, neither root, has them."""
        with self._lock:
            active = self._active.setdefault(workspace, [])
            if user.uid and (others := {one.uid for one in active} - {0, user.uid}):
                raise ProviderError(
                    f"a job runs in the same directory as user {others.pop()}, and this one as user {user.uid}: "
                    "its files have one owner",
                    hint="use another mount mode than bind_mount, or run one job at a time (--jobs 1)",
                )
            active.append(user)
            if has_files or self._chowned.get(workspace) == user:
                return False
            self._chowned[workspace] = user
            return True

    def leave(self, workspace: Path, user: Owner) -> tuple[bool, bool]:
        """Return whether no job is left, and whether the files must return to the caller."""
        with self._lock:
            active = self._active.get(workspace, [])
            if user in active:
                active.remove(user)
            return not active, not active and self._chowned.pop(workspace, None) is not None


def chown_all(workspace: Path, owner: Owner, project_dir: str, as_root: Callable[[str], int]) -> None:
    """Change the owner of everything in `workspace`: directly if permitted, else from inside the container."""
    if os.geteuid() != 0:
        as_root(f"chown -Rh {owner.uid}:{owner.gid} '{project_dir}'")
        return
    for directory, names, files in os.walk(workspace):
        for name in (".", *names, *files):
            with suppress(FileNotFoundError):  # another job is running here
                os.chown(f"{directory}/{name}", owner.uid, owner.gid, follow_symlinks=False)


def foreign_paths(root: Path, me: Owner) -> Iterator[str]:
    """Yield the paths below a directory, relative to it, that belong to other users; an overlay's whiteouts do not count.

    Somebody may remove it meanwhile.
    """
    if (status := lstat(root)) is not None and status.st_uid != me.uid:
        yield "."
    for directory, names, files in os.walk(root):
        for name in (*names, *files):
            path = Path(directory) / name
            status = lstat(path)
            if status is not None and status.st_uid != me.uid and not stat.S_ISCHR(status.st_mode):
                yield path.relative_to(root).as_posix()


def lstat(path: Path) -> os.stat_result | None:
    try:
        return path.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return None
