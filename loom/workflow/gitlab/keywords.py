"""Every keyword of GitLab's CI/CD YAML reference: the tables of keywords.yml, beside this module."""

from __future__ import annotations

from pathlib import Path

from loom.workflow.keywords import Keyword, read_tables, shape_of

_TABLES = read_tables(Path(__file__).with_suffix(".yml"))
ROOT_KEYWORDS, JOB = _TABLES["root"], _TABLES["job"]
RUNNER_VARIABLES = _TABLES["runner"]
"""Variables by which a file tells GitLab's runner how to run a job; `*` is any ending."""
GLOBALS = ("image", "services", "cache", "before_script", "after_script")
"""Keywords of jobs that may stand at the root, instead of in `default`; GitLab calls this deprecated."""
DEFAULTS = next(
    shape.items.words for one in JOB if one.name == "inherit:default" and (shape := shape_of(one.shape)).items
)
"""Keywords of jobs that `default` may have."""
ROOT = frozenset({"default", "include", "spec", "stages", "types", "variables", "workflow", "$schema", *GLOBALS})
"""The root keys that are no jobs."""


def runner_variable(name: str) -> Keyword | None:
    for one in RUNNER_VARIABLES:
        if name == one.name or (one.name.endswith("*") and name.startswith(one.name[:-1])):
            return one
    return None
