"""The instances of jobs with `parallel`: the ids that loom uses, and the names that GitLab prints."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import product

from loom.util.budget import spend
from loom.util.yaml_file import Node, fields_of, one_or_more, text_of
from loom.values import Immutable
from loom.workflow.job_ids import MOST, id_part, unique_id


class Instance(Immutable):
    id: str
    """Loom's name for it: safe as a folder's name and on a command line, and unique in the pipeline."""
    title: str
    """GitLab's name for it: `build`, `test 2/3`, `deploy: [eu, prod]`."""
    matrix: Mapping[str, str] = {}
    index: int | None = None
    """From 1; None without `parallel`."""
    total: int | None = None


def instances(parallel: Mapping[str, Node | None]) -> dict[str, list[Instance]]:
    """Return the instances of all jobs, whose `parallel` is given by name.

    Of jobs whose names differ only in characters that an id can't have, the one whose name is an id keeps it; the others
    get a number.
    """
    taken: set[str] = set()
    bases = {name: unique_id(name, taken) for name in parallel if id_part(name) == name}
    bases |= {name: unique_id(id_part(name), taken) for name in parallel if name not in bases}
    found: dict[str, list[Instance]] = {}
    for name, node in parallel.items():
        if node is None or node.value is None:
            found[name] = [Instance(id=bases[name], title=name)]
        elif (matrix := node.get("matrix")) is not None:
            found[name] = _matrix_instances(name, bases[name], combinations(matrix), taken)
        else:
            count = node.get("count") or node
            found[name] = _copies(name, bases[name], min(int(count.value or 0), MOST + 1), taken)
        if node is not None:
            spend("jobs", node, len(found[name]))
    return found


def combinations(matrix: Node | None) -> list[dict[str, str]]:
    """Return the combinations of a `parallel:matrix` in their order: the last variable varies fastest.

    No more than one above MOST, so that a number that is refused costs nothing.
    """
    found: list[dict[str, str]] = []
    for row in one_or_more(matrix):
        values = {
            name: list(dict.fromkeys(text_of(value) for value in one_or_more(node)))
            for name, node in fields_of(row).items()
        }
        for chosen in product(*values.values()) if values else ():
            combination = dict(zip(values, chosen, strict=True))
            if combination not in found:
                found.append(combination)
            if len(found) > MOST:
                return found
    return found


def _copies(name: str, base: str, total: int, taken: set[str]) -> list[Instance]:
    return [
        Instance(id=unique_id(f"{base}.{number}", taken), title=f"{name} {number}/{total}", index=number, total=total)
        for number in range(1, total + 1)
    ]


def _matrix_instances(name: str, base: str, found: list[dict[str, str]], taken: set[str]) -> list[Instance]:
    return [
        Instance(
            id=unique_id(f"{base}.{'-'.join(id_part(value, 32) for value in combination.values())}"[:128], taken),
            title=f"{name}: [{', '.join(combination.values())}]",
            matrix=combination,
            index=number,
            total=len(found),
        )
        for number, combination in enumerate(found, start=1)
    ]
