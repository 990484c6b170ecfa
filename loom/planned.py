"""A run's plan as its record keeps it (`plan.json`), with what else it takes to make a job's place again.

No secret is in it: a plan knows secrets by reference, and who makes a place again resolves them anew.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any, Literal

import orjson

from loom.errors import RecordError
from loom.plan import MountMode, Plan

if TYPE_CHECKING:
    from pydantic import TypeAdapter


@dataclass(frozen=True, kw_only=True)
class Planned:
    """What a run was asked to do."""

    schema_version: Literal["loom.plan.v1"] = "loom.plan.v1"
    plan: Plan
    variables: Mapping[str, str]
    """What loom gave every job (`LOOM_RUN_ID`, `CI_COMMIT_SHA`, ...)."""
    mount_mode: MountMode = MountMode.BIND
    read_only_mounts: tuple[str, ...] = ()
    container: bool = False
    """Whether every job was asked to run in a container."""
    isolated: bool = False
    """Whether services' networks led nowhere else (`--strict`)."""
    grace_s: float = 10.0


def dump_planned(planned: Planned) -> bytes:
    return orjson.dumps(planned, default=_plain, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE)


def load_planned(data: bytes, place: str) -> Planned:
    """RecordError when it is not (or not any more) what `dump_planned` wrote; `place` names it for the message."""
    try:
        return _adapter().validate_json(data)
    except ValueError as error:
        raise RecordError(
            f"{place}: this plan can't be read: {str(error).splitlines()[0]}",
            hint="it was written by another version of loom, or edited; run the workflow again with `loom run`",
        ) from error


@cache
def _adapter() -> TypeAdapter[Planned]:
    from pydantic import TypeAdapter

    return TypeAdapter(Planned)


def _plain(value: Any) -> Any:
    if isinstance(value, frozenset):
        return sorted(value)
    if isinstance(value, Mapping):
        return dict(value)
    raise TypeError(f"a plan holds {type(value).__name__}, which has no JSON form")
