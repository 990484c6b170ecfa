"""The command that runs a failing job again, from the options that its record saved."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping
from typing import Any

from loom.config import KEYS
from loom.record.documents import Invocation

NOT_REPEATED = frozenset(
    {
        # the display, and its audience
        *("stream", "quiet", "verbose", "color", "form", "local", "as_json"),
        *("dry_run", "trust", "detach", "repeat"),
        # actions around steps, and what remains after the run
        *("stop_at", "keep", "keep_for", "keep_max_size", "keep_runs", "keep_workspaces", "auto_clean"),
        *("cache_max_size", "bucket", "state_dir", "cache_dir", "tmp_dir"),
        # what the user allows
        *("protected_branches", "reported"),
    }
)
"""Options of `loom run` and settings that do not decide how a job ends; consent (`trust`) is given each time."""
WITH_OPTION = frozenset(
    ("color", "container", "deploy", "fail_fast", "frozen", "jobs", "keep", "mount_mode", "on", "pull", "stream")
)
"""The settings that are options of `loom run` too; the others are set by variables."""
_SELECTION = frozenset({"names", "stage", "from_job"})
_FLAGS = {"from_job": "--from", "inputs": "--input"}


def repeated(invocation: Invocation) -> Invocation:
    """Return `invocation` without the options that may differ when the run is repeated."""
    return Invocation(
        options={name: value for name, value in invocation.options.items() if name not in NOT_REPEATED},
        variables={name: value for name, value in invocation.variables.items() if setting_of(name) not in NOT_REPEATED},
    )


def setting_of(variable: str) -> str:
    """`network` for `LOOM_NETWORK`."""
    return variable.removeprefix("LOOM_").lower()


def reproduce_command(invocation: Invocation, job_id: str | None) -> str:
    """Return the command that runs the job again, or the whole selection without one."""
    invocation = repeated(invocation)
    options = dict(invocation.options)
    # A job alone gets what it needs from jobs that run with it; one that ran without them has to stay in its selection.
    if job_id is not None and options.get("needs") is not False and "from_job" not in options:
        options = {name: value for name, value in options.items() if name not in _SELECTION} | {"names": [job_id]}
    names = options.pop("names", ())
    unnamed = {name: options.pop(name) for name in KEYS if name in options and name not in WITH_OPTION}
    words = [
        word
        for name, value in options.items()
        for word in _words(_FLAGS.get(name, f"--{name.replace('_', '-')}"), value)
    ]
    given = {
        f"LOOM_{name.upper()}": str(value).lower() if isinstance(value, bool) else str(value)
        for name, value in unnamed.items()
    }
    variables = [f"{name}={shlex.quote(value)}" for name, value in {**invocation.variables, **given}.items()]
    return " ".join([*variables, shlex.join(["loom", "run", "--local", *words, *names])])


def _words(flag: str, value: Any) -> Iterator[str]:
    if isinstance(value, bool):
        yield flag if value else flag.replace("--", "--no-", 1)
    else:
        for item in value if isinstance(value, list | tuple) else (value,):
            # A value that begins with a dash would be taken for an option.
            yield from (f"{flag}={item}",) if str(item).startswith("-") else (flag, str(item))


def options_again(invocation: Invocation) -> Mapping[str, Any]:
    """Return the options and settings that a run that does it again starts with, by their names."""
    invocation = repeated(invocation)
    settings = {setting_of(name): value for name, value in invocation.variables.items()}
    return {**settings, **invocation.options}
