"""A run's plan as its record keeps it (`plan.json`), with what else it takes to make a job's place again.

No secret is in it: a plan knows secrets by reference, and who makes a place again resolves them anew.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import msgspec
from msgspec import Struct

from loom.errors import RecordError
from loom.plan import Plan, WorkspaceMode


class Planned(Struct, frozen=True, kw_only=True):
    """What a run was asked to do."""

    schema_version: Literal["loom.plan.v1"] = "loom.plan.v1"
    plan: Plan
    variables: Mapping[str, str]
    """What loom gave every job (`LOOM_RUN_ID`, `CI_COMMIT_SHA`, ...)."""
    mount_mode: WorkspaceMode = WorkspaceMode.SHARED
    read_only_mounts: tuple[str, ...] = ()
    container: bool = False
    """Whether jobs that name no image ran in a container."""
    isolated: bool = False
    """Whether services' networks led nowhere else (`--strict`)."""
    grace_s: float = 10.0


def dump_planned(planned: Planned) -> bytes:
    return msgspec.json.format(msgspec.json.encode(planned, order="deterministic"), indent=2) + b"\n"


def load_planned(data: bytes, place: str) -> Planned:
    """RecordError when it is not (or not any more) what `dump_planned` wrote; `place` names it for the message."""
    try:
        return msgspec.json.decode(data, type=Planned)
    except msgspec.DecodeError as error:
        raise RecordError(
            f"{place}: this plan can't be read: {error}",
            hint="it was written by another version of loom, or edited; run the workflow again with `loom run`",
        ) from error
