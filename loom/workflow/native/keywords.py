"""Every key of loom's own language: the tables of keywords.yml, beside this module."""

from __future__ import annotations

from pathlib import Path

from loom.workflow.keywords import read_tables, tabled

DEFAULT = "Keys for every job; a job's own value wins."
ROOT_KEYS = ("version", "stages", "variables", "default", "include", "workflow")

_TABLES = read_tables(Path(__file__).with_suffix(".yml"))
TABLES = {name: tabled(_TABLES[name]) for name in ("job", "default", "root", "included")}
JOB_KEYS = tuple(TABLES["job"][""])
DEFAULT_KEYS = tuple(TABLES["default"][""])
