"""The variables that jobs may report (dotenv) for other jobs.

A job in a container may be anybody's code, and what it reports reaches jobs on this machine too, where countless names make a
program load, run, trust or contact what the value names. So nobody lists the names that do: there, only names count that a
person gave for it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from loom.util.globs import match_name

if TYPE_CHECKING:
    from loom.plan.model import Job


def is_looms(name: str) -> bool:
    """Return whether loom alone sets the variable, in every job."""
    return name.upper().startswith("LOOM_")


def may_get(job: Job, name: str, allowed: Sequence[str]) -> bool:
    """Return whether a job gets a reported variable. On this machine: one that the file declares without a value for it, or
    that matches a name or glob which the user `allowed`.
    """
    elsewhere = job.image is not None or job.trigger is not None
    declared = job.variables.get(name) == "" and (job.referring is None or name not in job.referring.variables)
    return not is_looms(name) and (elsewhere or declared or any(match_name(one, name) for one in allowed))
