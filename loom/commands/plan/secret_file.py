"""The secrets of `--secret-file`, for one command: their values go to jobs as those of other secrets, and into no record."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

from msgspec.structs import replace

from loom.config import Config
from loom.errors import RequestError, reason_of

_LINE = re.compile(r"(?:export\s+)?([A-Za-z_][A-Za-z0-9_]*)\s*=\s*(.*)")


def read_secrets(path: str | None) -> dict[str, str]:
    """Read the lines `NAME=value`; comments and empty lines count for nothing. RequestError with the line of a mistake."""
    if path is None:
        return {}
    try:
        lines = Path(path).read_text().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        why = reason_of(error) if isinstance(error, OSError) else "it is not UTF-8"
        raise RequestError(f"--secret-file {path}: {why}") from error
    found = {}
    for number, line in enumerate(map(str.strip, lines), 1):
        if not line or line.startswith("#"):
            continue
        if (match := _LINE.fullmatch(line)) is None:
            raise RequestError(f"--secret-file {path}:{number}: expected NAME=value")  # not the line: it may be a value
        name, value = match.groups()
        quoted = len(value) > 1 and value[0] == value[-1] and value[0] in "\"'"
        found[name] = value[1:-1] if quoted else value
    return found


def with_secrets(config: Config, names: tuple[str, ...]) -> Config:
    """Return the configuration in which GitHub's and GitLab's files find these secrets."""
    own = {name: f"env://{name}" for name in names}
    github = replace(config.github, secrets={**config.github.secrets, **own})
    gitlab = replace(config.gitlab, secrets={**config.gitlab.secrets, **own})
    return dataclasses.replace(config, github=github, gitlab=gitlab)
