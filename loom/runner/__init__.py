"""One run: the snapshot, then the plan's jobs, each in a session; every fact goes to the record as an event."""

# mypy: implicit-reexport
# ruff: noqa: F401  the names that other folders use

from loom.record.run import View
from loom.runner.hooks import AtStep, Gate, Verdict
from loom.runner.session import JobTools, SessionOpener
