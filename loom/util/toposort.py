"""Stable topological order."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import TypeVar

Name = TypeVar("Name", bound=str)


class CycleError(Exception):
    """`cycle` starts and ends with the same name; each name depends on the next."""

    def __init__(self, cycle: tuple[str, ...]) -> None:
        super().__init__(" -> ".join(cycle))
        self.cycle = cycle


def order(names: Iterable[Name], needs: Mapping[Name, Iterable[Name]]) -> list[Name]:
    """Sort `names` after their needs, otherwise in the given order.

    Unknown needs are ignored. CycleError reports the first cycle. Iterative, so long chains are safe; linear in names
    and needs.
    """
    listed = list(names)
    wanted = set(listed)
    done: dict[Name, None] = {}
    for start in listed:
        if start in done:
            continue
        path: dict[Name, None] = {start: None}
        pending = [iter(needs.get(start, ()))]
        while pending:
            current = next(reversed(path))
            for needed in pending[-1]:
                if needed in path:
                    trail = list(path)
                    raise CycleError((*trail[trail.index(needed) :], needed))
                if needed in wanted and needed not in done:
                    path[needed] = None
                    pending.append(iter(needs.get(needed, ())))
                    break
            else:
                done[current] = None
                del path[current]
                pending.pop()
    return list(done)


def closure(starts: Iterable[Name], edges: Callable[[Name], Iterable[Name]]) -> set[Name]:
    """Return everything reachable from `starts`, including them."""
    found = set(starts)
    pending = list(found)
    while pending:
        for target in edges(pending.pop()):
            if target not in found:
                found.add(target)
                pending.append(target)
    return found
