"""What a person asked a run for: the options of the command line and the settings that count, and their saved form."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
from msgspec.structs import replace

from loom.config import KEYS
from loom.util import typed
from loom.values import Immutable

FAILURE, PAUSE = "failure", "pause"
"""Words of `--stop-at`."""
NOT_REPEATED = frozenset(
    {
        # the display, and its audience
        *("stream", "quiet", "verbose", "color", "form", "local", "as_json"),
        *("dry_run", "trust", "detach", "repeat", "reuse", "suggest_inputs"),
        # actions around steps, and what remains after the run
        *("stop_at", "keep", "keep_for", "keep_max_size", "keep_runs", "keep_workspaces", "auto_clean"),
        *("cache_max_size", "bucket", "state_dir", "cache_dir", "tmp_dir"),
        # what the user allows
        *("protected_branches", "reported", "gate_accept"),
    }
)
"""Options of `loom run` and settings that do not decide how a job ends: a run again, and the command that is printed for it,
go without them. Consent (`trust`) is given each time."""


class Request(Immutable, omit_defaults=True, forbid_unknown_fields=True):
    """The request for a run, by the names of the command's parameters. Parameters that are also settings are in `flags`."""

    names: tuple[str, ...] = ()
    workflow: str | None = None
    stage: tuple[str, ...] = ()
    from_job: str | None = None
    needs: bool | None = None
    var: tuple[str, ...] = ()
    inputs: tuple[str, ...] = ()
    """`NAME=value` of the inputs that the workflow's main file declares."""
    matrix: tuple[str, ...] = ()
    changes_base: str | None = None
    event: str = "push"
    event_file: str | None = None
    secret_file: str | None = None
    """The path of a file with secrets (`NAME=value`)."""
    allow_unmerged: bool = False
    """Whether files in conflict are no reason to refuse."""
    dry_run: bool = False
    quiet: bool = False
    verbose: bool = False
    strict: bool = False
    staged: bool = False
    """Whether files count only as they are staged."""
    no_cache: bool = False
    form: str = "screen"
    """`screen`, `json`, `github` or `gitlab`."""
    stop_at: tuple[str, ...] = ()
    """`failure`, `pause` or `JOB[:STEP]`."""
    detach: bool = False
    """Whether jobs are handed over to their sessions, where they go on without this process."""
    no_delay: bool = False
    """Whether delayed jobs start at once."""
    reuse: bool = False
    """Whether results of earlier runs count, of jobs that have all that decides as it was."""
    suggest_inputs: bool = False
    """Whether the run is to tell which inputs its jobs need."""
    repeat: int | None = None
    """The number of runs on one snapshot."""
    trust: bool = False
    """Whether all that the workflow asks for is allowed, this once."""
    flags: dict[str, Any] = {}
    """Settings that the command line gives, by their keys."""
    environment: dict[str, str] = {}
    """The settings that variables of the environment gave: `LOOM_NETWORK` and its value. Known when the run is planned."""

    @classmethod
    def of(cls, given: Mapping[str, Any]) -> Request:
        """Divide what was given into settings and the rest; None means "not given".

        Files that no checkout needs to have get absolute paths.
        """
        default = cls()
        there = {name: value for name, value in given.items() if value not in (None, getattr(default, name, None))}
        there |= {name: Path(there[name]).absolute() for name in ("event_file", "secret_file") if name in there}
        flags = {name: there.pop(name) for name in KEYS if name in there}
        return typed.convert(msgspec.to_builtins({**there, "flags": flags}, enc_hook=str), cls)

    @property
    def settings(self) -> dict[str, Any]:
        """The settings that were given. `--strict`: no network but what the workflow declares, and locked images only."""
        given = {**{setting_of(name): value for name, value in self.environment.items()}, **self.flags}
        strict = {"mount_mode": "auto", **given, "network": "none", "frozen": True}
        return {**({"keep": "on-failure"} if self.pauses else {}), **(strict if self.strict else given)}

    @property
    def repeated(self) -> Request:
        """The request without the options and settings that may differ when the run is repeated."""
        default = Request()
        return replace(
            self,
            **{name: getattr(default, name) for name in NOT_REPEATED.intersection(self.__struct_fields__)},
            flags={name: value for name, value in self.flags.items() if name not in NOT_REPEATED},
            environment={
                name: value for name, value in self.environment.items() if setting_of(name) not in NOT_REPEATED
            },
        )

    @property
    def attended(self) -> bool:
        """Return whether the run asks a person before or after steps."""
        return any(when != PAUSE for when in self.stop_at)

    @property
    def pauses(self) -> bool:
        """Return whether a failed job waits at its failing step for `loom resume`."""
        return PAUSE in self.stop_at


def setting_of(variable: str) -> str:
    """`network` for `LOOM_NETWORK`."""
    return variable.removeprefix("LOOM_").lower()
