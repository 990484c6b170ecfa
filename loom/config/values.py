"""Parse the values of settings. A parser raises ValueError that states what it expects."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from msgspec import Struct
from msgspec.structs import replace

from loom.config.pools import converted
from loom.util import globs
from loom.util.units import duration, meant, memory, platform, processors, size
from loom.values import Immutable


class KeepassDatabase(Immutable, forbid_unknown_fields=True):
    """A database for `keepass://alias#...`. `password` is a reference to another store."""

    path: Path
    key_file: Path | None = None
    password: str | None = None


class GitLabSettings(Immutable, forbid_unknown_fields=True):
    """The needs of a `.gitlab-ci.yml` on this machine."""

    projects: Mapping[str, Path] = {}
    """Clones of projects that it includes files of, by their paths on the server."""
    templates: Path | None = None
    """The folder of the templates that `include:template` names."""
    secrets: Mapping[str, str] = {}
    """References to the secrets that it asks a store of its own for, by their names."""
    variables: Path | None = None
    """A file with the variables that the project has on the server."""
    git_depth: int = 20
    """The depth of a job's clone where no `GIT_DEPTH` says it, as in the project's settings there; 0: everything."""


class GitHubSettings(Immutable, forbid_unknown_fields=True):
    """The needs of the workflows in `.github/workflows` on this machine."""

    server: str = "https://github.com"
    """The server of the actions' repositories, for git: `SERVER/OWNER/NAME`."""
    secrets: Mapping[str, str] = {}
    """References to secrets by their names in `secrets`."""
    vars: Mapping[str, str | int | float | bool] = {}
    """The values of `vars`."""
    docker_socket: bool = False
    """Whether jobs without `container` ask for the engine's socket, since GitHub's machines have an engine."""


class ValueContext(Struct, frozen=True):
    """The context of a value's parser: the base of relative paths."""

    base: Path | None
    home: Path | None


Parse = Callable[[Any, ValueContext], Any]


def _found(value: Any) -> str:
    if value is None:
        return "nothing"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, dict | list):
        return "a mapping" if isinstance(value, dict) else "a list"
    return repr(value)


def parse_text(value: Any, _: ValueContext) -> str:
    if not isinstance(value, str) or not value.strip() or "\n" in value:
        raise ValueError(f"expected one line of text, found {_found(value)}")
    return value.strip()


def parse_names(value: Any, context: ValueContext) -> tuple[str, ...]:
    items = value.split(",") if isinstance(value, str) else value
    if not isinstance(items, list):
        raise ValueError(f"expected a list of names, found {_found(value)}")
    return tuple(parse_text(item, context) for item in items if item != "")


def parse_images(value: Any, context: ValueContext) -> Mapping[str, str]:
    if isinstance(value, list | tuple):
        pairs = [(str(item).partition("=")) for item in value]
        if wrong := [name for name, equals, _ in pairs if not equals]:
            raise ValueError(
                f"expected NAME=IMAGE, found {wrong[0]!r}; NAME is the image that the workflow has: `loom jobs` lists them"
            )
        value = {name: image for name, _, image in pairs}
    if not isinstance(value, dict):
        raise ValueError(f"expected images by the names that they replace, found {_found(value)}")
    return {parse_text(name, context): parse_text(image, context) for name, image in value.items()}


def parse_inputs(value: Any, context: ValueContext) -> Mapping[str, tuple[str, ...]]:
    if not isinstance(value, dict):
        raise ValueError(f"expected globs of files by the names of jobs, found {_found(value)}")
    return {parse_text(name, context): tuple(map(_glob, parse_names(each, context))) for name, each in value.items()}


def _glob(text: str) -> str:
    globs.compile(text)
    return text


def parse_choice(*allowed: str) -> Parse:
    def parse(value: Any, _: ValueContext) -> str:
        if not isinstance(value, str) or value not in allowed:
            close = meant(value, allowed) if isinstance(value, str) else ""
            raise ValueError(f"expected one of {', '.join(allowed)}, found {_found(value)}{close}")
        return value

    return parse


_FLAGS = {"true": True, "1": True, "yes": True, "on": True, "false": False, "0": False, "no": False, "off": False}


def parse_flag(value: Any, _: ValueContext) -> bool:
    if (found := _FLAGS.get(str(value).lower())) is None:
        raise ValueError(f"expected true or false, found {_found(value)}")
    return found


def parse_count(value: Any, _: ValueContext) -> int:
    number = int(value) if isinstance(value, str) and value.strip().isdecimal() and len(value) < 10 else value
    if not isinstance(number, int) or isinstance(number, bool) or number < 1:
        raise ValueError(f"expected a whole number from 1 up, found {_found(value)}")
    return number


def parse_cpus(value: Any, _: ValueContext) -> float:
    return processors(str(value).strip())


def parse_size(value: Any, _: ValueContext) -> int:
    if isinstance(value, bool) or not isinstance(value, int | str):
        raise ValueError(f"expected a size such as 512m, 2g or 1.5GiB, found {_found(value)}")
    return size(str(value).strip())


def parse_memory(value: Any, context: ValueContext) -> int:
    parse_size(value, context)
    return memory(str(value).strip())


def parse_platform(value: Any, context: ValueContext) -> str:
    return platform(parse_text(value, context))


def parse_duration(value: Any, _: ValueContext) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise ValueError(f"expected a duration such as 90s, 10m or 1h30m, found {_found(value)}")
    return duration(str(value).strip())


def parse_path(value: Any, context: ValueContext) -> Path:
    text = parse_text(value, context)
    if text == "~" or text.startswith("~/"):
        if context.home is None:
            raise ValueError(f"can't resolve ~: HOME is not set; write {text!r} as an absolute path")
        return context.home / text[2:]
    path = Path(text)
    # Paths from the command line and environment are relative to the working directory.
    return path.absolute() if context.base is None else context.base / path


def _converted(value: Any, kind: Any, context: ValueContext) -> Any:
    return converted(value, kind, hook=lambda _, text: parse_path(text, context))


def parse_keepass(value: Any, context: ValueContext) -> Mapping[str, KeepassDatabase]:
    found: Mapping[str, KeepassDatabase] = _converted(value, Mapping[str, KeepassDatabase], context)
    # Where the paths lead now: what trust is asked for, and what is opened later.
    return {
        alias: replace(one, path=one.path.resolve(), key_file=one.key_file and one.key_file.resolve())
        for alias, one in found.items()
    }


def parse_gitlab(value: Any, context: ValueContext) -> GitLabSettings:
    found: GitLabSettings = _converted(value, GitLabSettings, context)
    return found


def parse_github(value: Any, context: ValueContext) -> GitHubSettings:
    found: GitHubSettings = _converted(value, GitHubSettings, context)
    return replace(found, server=found.server.rstrip("/"), vars={name: str(text) for name, text in found.vars.items()})
