"""The problems of a workflow, in the order of its files."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence

from msgspec import Struct
from msgspec.structs import replace

from loom.errors import Problem, WorkflowError
from loom.util.budget import spend
from loom.util.units import meant
from loom.util.yaml_file import Node

MAX_PROBLEMS = 200
MAX_COMPARISONS = 50_000
"""Names compared for suggestions: after thousands of misspellings, suggestions stop."""
NO_EFFECT = "GL_NO_EFFECT"
GITHUBS_NO_EFFECT = "GH_NO_EFFECT"
"""The code of notices about keywords without a meaning on one machine."""


class Problems(Struct, kw_only=True):
    found: list[Problem] = []
    code: str = "WF_SCHEMA_V1"
    _comparisons: int = MAX_COMPARISONS

    def say(self, node: Node, message: str, *, code: str = "", offset: int = 0, hidden: bool = False) -> None:
        """Report a problem; a hidden one doesn't show the line, which may have a secret's value."""
        try:
            spend("mistakes", node)
        except WorkflowError as error:
            raise refused([*self.found, *error.problems], error.hint or "") from None
        problem = node.file.problem(node, message, code=code or self.code, offset=offset)
        self.found.append(replace(problem, source_line=None) if hidden else problem)

    def meant(self, name: str, known: Collection[str], else_: str = "") -> str:
        """Return `; did you mean X?` for an unknown name, if one is similar, else `else_`."""
        self._comparisons -= len(known)
        return (meant(name, known) if self._comparisons > 0 else "") or else_


def sort_problems(problems: Iterable[Problem], ranks: Mapping[str, int]) -> list[Problem]:
    """Return the problems without repetition, sorted by file, line and column."""
    unique = dict.fromkeys(problems)
    return sorted(unique, key=lambda one: (ranks.get(one.file, 0), one.file, one.line, one.column))


def refused(problems: Sequence[Problem], hint: str = "") -> WorkflowError:
    """Return the error that has these problems, up to a limit."""
    more = len(problems) - MAX_PROBLEMS
    hints = [f"{more} more problems are not shown."] if more > 0 else []
    return WorkflowError(problems[:MAX_PROBLEMS], hint="\n".join([*hints, hint] if hint else hints) or None)
