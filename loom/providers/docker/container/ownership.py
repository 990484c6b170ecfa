"""The owner of workspace files: the job's user during the job, then the caller.

Usually nothing is needed: the job runs as root or as the caller, and a root caller has all rights. With a rootless
engine, the container's root is the caller.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from msgspec import Struct

from loom.errors import ProviderError


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

    def enter(self, workspace: Path, user: Owner) -> bool:
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
            if user.uid in (0, workspace.stat().st_uid) or self._chowned.get(workspace) == user:
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


def chown_all(workspace: Path, owner: Owner, ids: Ids, project_dir: str, as_root: Callable[[str], int]) -> None:
    """Change the owner of everything in `workspace`: directly if permitted, else from inside the container."""
    if os.geteuid() != 0:
        if (inside := ids.inside(owner)) is not None:
            as_root(f"chown -Rh {inside.uid}:{inside.gid} '{project_dir}'")
        return
    for directory, names, files in os.walk(workspace):
        for name in (".", *names, *files):
            with suppress(FileNotFoundError):  # another job is running here
                os.chown(f"{directory}/{name}", owner.uid, owner.gid, follow_symlinks=False)
