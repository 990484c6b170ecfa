"""The parts of a plan that stay open until a job or a step starts: texts with the expressions of the workflow's language.

Only languages with such expressions (GitHub's) fill it in. `loom.runner` evaluates it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Literal

from loom.values import Immutable

MINUTE_S = 60.0
"""The unit of `timeout-minutes`."""
WITHOUT_MATRIX = {"fail-fast": True, "job-index": 0.0, "job-total": 1.0, "max-parallel": 1.0}
"""The context `strategy` of a job without one."""


def limit_of(minutes: object) -> float | None:
    """Return the seconds of `timeout-minutes`, of which whole ones count, as on GitHub; None for no number, or less than one."""
    return int(minutes) * MINUTE_S if isinstance(minutes, float) and 1 <= minutes < math.inf else None


class LateNeed(Immutable):
    name: str
    """As `needs.<name>` has it."""
    jobs: tuple[str, ...]
    """Ids of jobs of this plan: of a matrix or a called workflow several. Empty: it is left out of this run."""
    result: Literal["success", "skipped"] = "success"
    """The result of a need without jobs: skipped if its `if` is false, else success."""
    inside: tuple[LateNeed, ...] = ()
    """The jobs of a called workflow, as `jobs.<name>` of its outputs has them."""
    outputs: Mapping[str, str] = {}
    contexts: Mapping[str, Any] = {}
    """`github`, `inputs` and `vars` of its outputs."""


class LateCaller(Immutable):
    """The job with `uses` whose called workflow a job is in."""

    condition: str = ""
    contexts: Mapping[str, Any] = {}
    needs: tuple[LateNeed, ...] = ()
    inputs: Mapping[str, Any] = {}
    """The inputs of the called workflow. Texts may hold expressions, in the contexts and needs of the caller."""
    types: Mapping[str, str] = {}
    """The types of the inputs."""
    caller: LateCaller | None = None


class LateJob(Immutable):
    condition: str = ""
    """Its `if`, with or without `${{ }}`; empty: `success()`."""
    env: Mapping[str, str] = {}
    """The variables of the workflow, then those of the job."""
    container_env: Mapping[str, str] = {}
    """Variables of the container's programs, which the context `env` does not have."""
    outputs: Mapping[str, str] = {}
    continue_on_error: str = ""
    contexts: Mapping[str, Any] = {}
    """`github`, `inputs`, `vars`, `matrix`, `strategy`, `job` as of the plan, as JSON has them; without secrets."""
    needs: tuple[LateNeed, ...] = ()
    secrets: Mapping[str, str] = {}
    """The names in `secrets`, each with the name of the job's Secret that has its value."""
    strategy: Mapping[str, Any] = {}
    """As written, if its matrix needs results of other jobs: the job becomes several when it starts."""
    name: str = ""
    """The name of the job with such a strategy; empty: its id."""
    shown: str = ""
    """Its name on GitHub's pages."""
    timeout_minutes: str = ""
    """As written, if the plan knows no number."""
    runs_on: str = ""
    """The labels of the job, if they need results of other jobs or such a matrix."""
    image: str = ""
    """The image of its container, if that is so."""
    group: str = ""
    """The same for all jobs of one matrix."""
    of: str = ""
    """The job that became this one, and others, by such a strategy."""
    fail_fast: bool = True
    max_parallel: int = 0
    """The most jobs of the group that run at a time; 0: any number."""
    caller: LateCaller | None = None
    """It applies first: it may skip the job, and gives its `inputs`."""


class Action(Immutable, omit_defaults=True):
    """The program of a step that uses an action."""

    uses: str
    """As written."""
    repository: str = ""
    """`owner/name`; empty for an action in the project or an image."""
    ref: str = ""
    commit: str = ""
    path: str = ""
    """Its directory within the repository."""
    directory: str = ""
    """The repository's files on this machine; empty: the action is in the workspace."""
    using: str = ""
    entry: str = ""
    """The file that Node runs, relative to `path`."""
    image: str = ""
    """`docker://IMAGE`, or a Dockerfile relative to `path`."""
    entrypoint: str = ""
    args: tuple[str, ...] = ()
    env: Mapping[str, str] = {}
    """The variables of its container; the step's own take precedence."""
