"""The command that runs a failing job again, from the options that its record saved."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from typing import Any

from loom.record.documents import plain
from loom.record.request import Request

WITH_OPTION = frozenset(
    (
        "color",
        "container",
        "deploy",
        "fail_fast",
        "frozen",
        "images",
        "jobs",
        "keep",
        "mount_mode",
        "on",
        "pull",
        "stream",
    )
)
"""The settings that are options of `loom run` too; the others are set by variables."""
_SELECTION = frozenset({"names", "stage", "from_job"})
_FLAGS = {"from_job": "--from", "inputs": "--input", "images": "--image"}


def reproduce_command(request: Request, job_id: str | None) -> str:
    """Return the command that runs the job again, or the whole selection without one."""
    options = plain(request.repeated)
    environment, flags = options.pop("environment", {}), options.pop("flags", {})
    # A job alone gets what it needs from jobs that run with it; one that ran without them has to stay in its selection.
    if job_id is not None and options.get("needs") is not False and "from_job" not in options:
        options = {name: value for name, value in options.items() if name not in _SELECTION} | {"names": [job_id]}
    names = options.pop("names", ())
    options |= {name: value for name, value in flags.items() if name in WITH_OPTION}
    words = [
        word
        for name, value in options.items()
        for word in _words(_FLAGS.get(name, f"--{name.replace('_', '-')}"), value)
    ]
    given = {
        f"LOOM_{name.upper()}": str(value).lower() if isinstance(value, bool) else str(value)
        for name, value in flags.items()
        if name not in WITH_OPTION
    }
    variables = [f"{name}={shlex.quote(value)}" for name, value in {**environment, **given}.items()]
    return " ".join([*variables, shlex.join(["loom", "run", *words, *names])])


def _words(flag: str, value: Any) -> Iterator[str]:
    if isinstance(value, bool):
        yield flag if value else flag.replace("--", "--no-", 1)
    else:
        for item in value if isinstance(value, list | tuple) else (value,):
            # A value that begins with a dash would be taken for an option.
            yield from (f"{flag}={item}",) if str(item).startswith("-") else (flag, str(item))
