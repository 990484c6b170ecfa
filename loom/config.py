"""Runtime configuration in layers, each value with its origin.

Low to high: built-in, `~/.config/loom/config.yml`, `.loom/config.yml`, `LOOM_*` variables, flags. `load` is the only
reader; the environment and the flags are handed in.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

from msgspec import Struct

from loom import yamlfile
from loom.errors import Problem, RequestError, WorkflowError
from loom.names import run_of_workspace
from loom.units import duration, duration_text, memory, nearest, platform, size, size_text

CODE = "CONFIG_INVALID"
PROJECT_FILE = ".loom/config.yml"

SET_BY_LOOM = frozenset(
    {
        "LOOM_CI",
        "LOOM_EVENT",
        "LOOM_RUN_ID",
        "LOOM_PIPELINE_ID",
        "LOOM_WORKFLOW_PATH",
        "LOOM_JOB_NAME",
        "LOOM_JOB_ID",
        "LOOM_JOB_STAGE",
        "LOOM_JOB_TARGET",
        "LOOM_JOB_IMAGE",
        "LOOM_JOB_STATUS",
        "LOOM_PROVIDER",
        "LOOM_PROJECT_DIR",
        "LOOM_ENV",
        "LOOM_STEP",
        "LOOM_ATTEMPT",
    }
)
"""Variables that loom sets inside jobs: a loom that runs in a loom job must not read them as configuration."""
_SET_BY_LOOM_PREFIXES = ("LOOM_MATRIX_", "LOOM_STEP_", "LOOM_SECRET_", "LOOM_TEST_", "LOOM_SERVICE_")

Layer = Literal["built-in", "user", "project", "environment", "flag"]


class Origin(Struct, frozen=True, kw_only=True):
    """Where a value came from: `place` is `file:line:column`, a variable's name, a flag, or empty for built-in."""

    layer: Layer
    place: str = ""

    def __str__(self) -> str:
        return f"{self.layer} ({self.place})" if self.place else self.layer


class KeepassDatabase(Struct, frozen=True, kw_only=True):
    """A database that `keepass://alias#...` names. `password` is a reference to another secret provider, or None to ask."""

    path: Path
    key_file: Path | None = None
    password: str | None = None


class _Context(Struct, frozen=True):
    """What a value's parser may need: where relative paths count from."""

    base: Path | None
    home: Path | None


_Parse = Callable[[Any, _Context], Any]


def _found(value: Any) -> str:
    if value is None:
        return "nothing"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, dict | list):
        return "a mapping" if isinstance(value, dict) else "a list"
    return repr(value)


def _text(value: Any, _: _Context) -> str:
    if not isinstance(value, str) or not value.strip() or "\n" in value:
        raise ValueError(f"expected one line of text, found {_found(value)}")
    return value.strip()


def _names(value: Any, context: _Context) -> tuple[str, ...]:
    items = value.split(",") if isinstance(value, str) else value
    if not isinstance(items, list):
        raise ValueError(f"expected a list of names, found {_found(value)}")
    return tuple(_text(item, context) for item in items if item != "")


def _choice(*allowed: str) -> _Parse:
    def parse(value: Any, _: _Context) -> str:
        if value not in allowed or not isinstance(value, str):
            close = nearest(value, allowed) if isinstance(value, str) else None
            meant = f"; did you mean {close}?" if close else ""
            raise ValueError(f"expected one of {', '.join(allowed)}, found {_found(value)}{meant}")
        return value

    return parse


def _flag(value: Any, _: _Context) -> bool:
    known = {"true": True, "1": True, "yes": True, "on": True, "false": False, "0": False, "no": False, "off": False}
    found = (
        value
        if isinstance(value, bool)
        else known.get(str(value).lower())
        if not isinstance(value, dict | list)
        else None
    )
    if found is None:
        raise ValueError(f"expected true or false, found {_found(value)}")
    return found


def _count(least: int) -> _Parse:
    def parse(value: Any, _: _Context) -> int:
        number = int(value) if isinstance(value, str) and value.strip().isdecimal() and len(value) < 10 else value
        if not isinstance(number, int) or isinstance(number, bool) or number < least:
            raise ValueError(f"expected a whole number from {least} up, found {_found(value)}")
        return number

    return parse


def _cpus(value: Any, _: _Context) -> float:
    try:
        number = float(value) if not isinstance(value, bool) else 0.0
    except (TypeError, ValueError):
        number = 0.0
    if not 0 < number < 100_000:
        raise ValueError(f"expected a number of processors such as 2 or 0.5, found {_found(value)}")
    return number


def _size(value: Any, _: _Context) -> int:
    if isinstance(value, bool) or not isinstance(value, int | str):
        raise ValueError(f"expected a size such as 512m, 2g or 1.5GiB, found {_found(value)}")
    return size(str(value).strip())


def _memory(value: Any, context: _Context) -> int:
    _size(value, context)
    return memory(str(value).strip())


def _platform(value: Any, context: _Context) -> str:
    return platform(_text(value, context))


def _duration(value: Any, _: _Context) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise ValueError(f"expected a duration such as 90s, 10m or 1h30m, found {_found(value)}")
    return duration(str(value).strip())


def _path(value: Any, context: _Context) -> Path:
    text = _text(value, context)
    if text == "~" or text.startswith("~/"):
        if context.home is None:
            raise ValueError(f"can't tell whose home ~ is: HOME is not set; write {text!r} as an absolute path")
        return context.home / text[2:]
    path = Path(text)
    # From the command line and the environment: as seen from where loom was started.
    return path.absolute() if context.base is None else context.base / path


def _keepass(value: Any, context: _Context) -> Mapping[str, KeepassDatabase]:
    if not isinstance(value, dict):
        raise ValueError(f"expected a mapping of an alias to a database's path, found {_found(value)}")
    found = {}
    for alias, entry in value.items():
        entry = {"path": entry} if isinstance(entry, str) else entry
        if not isinstance(entry, dict) or "path" not in entry or entry.keys() - {"path", "key_file", "password"}:
            raise ValueError(f"{alias}: expected a path, or a mapping with path and optionally key_file and password")
        key_file, password = entry.get("key_file"), entry.get("password")
        found[alias] = KeepassDatabase(
            path=_path(entry["path"], context),
            key_file=None if key_file is None else _path(key_file, context),
            password=None if password is None else _text(password, context),
        )
    return found


def _key(default: Any, parse: _Parse, about: str) -> Any:
    return field(default=default, metadata={"parse": parse, "about": about})


@dataclass(frozen=True, kw_only=True)
class Config:
    """Every setting, ready to use. `origins` says where each value came from; durations in seconds, sizes in bytes."""

    default_image: str = _key("debian:trixie-slim", _text, "The image of jobs that name none, with `--container`.")
    default_shell: str = _key(
        "auto",
        _text,
        "The shell of steps where the workflow names none: auto (bash where there is one, else sh), or a command line.",
    )
    mount_mode: Literal["bind_mount", "overlay", "ephemeral_volume"] = _key(
        "bind_mount", _choice("bind_mount", "overlay", "ephemeral_volume"), "How a job's container sees the workspace."
    )
    pull: Literal["always", "missing", "never"] = _key(
        "missing", _choice("always", "missing", "never"), "When images are pulled, where the workflow does not say."
    )
    frozen: bool = _key(False, _flag, "Run only images that `.loom/images.lock` names.")
    platform: str | None = _key(
        None, _platform, "The images' platform, such as linux/arm64; the engine's own if not set."
    )
    engine: str | None = _key(
        None, _text, "The engine's address; DOCKER_HOST or the current Docker context if not set."
    )
    log_driver: Literal["json-file", "none"] = _key(
        "json-file", _choice("json-file", "none"), "The containers' log; none is faster, and `docker logs` stays empty."
    )
    jobs: int | None = _key(None, _count(1), "How many jobs run at once; the number of processors if not set.")
    fail_fast: bool = _key(False, _flag, "Stop everything at the first job that fails.")
    grace: float = _key(10.0, _duration, "How long a canceled step may take to end itself before it is killed.")
    job_timeout: float | None = _key(3600.0, _duration, "The timeout of jobs that name none.")
    step_timeout: float | None = _key(None, _duration, "The timeout of each step, where the workflow names none.")
    cpus: float | None = _key(None, _cpus, "How many processors a job's container may use.")
    memory: int | None = _key(None, _memory, "How much memory a job's container may use.")
    pids: int | None = _key(None, _count(1), "How many processes a job's container may have.")
    network: str | None = _key(None, _text, "The network mode of jobs that name none: bridge, none or host.")
    keep: Literal["never", "on-failure", "always", "auto"] = _key(
        "auto",
        _choice("never", "on-failure", "always", "auto"),
        "When a job's container is kept to be looked at; auto: a failed one, on a terminal.",
    )
    keep_for: float = _key(86400.0, _duration, "How long a kept container may stay.")
    keep_runs: int = _key(10, _count(1), "How many of a checkout's runs `loom clean` leaves.")
    stream: bool = _key(False, _flag, "Show what steps print while they run.")
    color: Literal["auto", "always", "never"] = _key("auto", _choice("auto", "always", "never"), "When to use colours.")
    tmp_dir: Path = _key(Path("/tmp"), _path, "Where isolated workspaces are made.")
    state_dir: Path = _key(
        Path("~/.local/state/loom"), _path, "Where loom keeps what belongs to you and not to one repository."
    )
    cache_dir: Path = _key(Path("~/.cache/loom"), _path, "Where jobs' caches are kept.")
    cache_max_size: int = _key(10 * 1024**3, _size, "How large the cache may grow before old entries go.")
    protected_branches: tuple[str, ...] | None = _key(
        None,
        _names,
        "The branches (globs) that caches of other branches never reach; origin's default branch, main and master if not set.",
    )
    keepass: Mapping[str, KeepassDatabase] = field(
        default_factory=dict,
        metadata={"parse": _keepass, "about": "KeePass databases by the alias that secrets use."},
    )
    origins: Mapping[str, Origin] = field(default_factory=dict, compare=False, metadata={"internal": True})

    def text_of(self, name: str) -> str:
        """A value as one would write it in a configuration file (without quotes)."""
        return text_of(name, getattr(self, name))


_FIELDS = {item.name: item for item in fields(Config) if "internal" not in item.metadata}
KEYS = tuple(_FIELDS)
_PLACES = ("tmp_dir", "state_dir", "cache_dir")
_OF_THE_USER = ("protected_branches",)
"""Nothing in a repository decides these."""
_DURATIONS = frozenset(name for name, item in _FIELDS.items() if item.metadata["parse"] is _duration)
_SIZES = frozenset(name for name, item in _FIELDS.items() if item.metadata["parse"] in (_size, _memory))
_CLEARABLE = frozenset(name for name, item in _FIELDS.items() if "None" in str(item.type))


def about(name: str) -> str:
    return str(_FIELDS[name].metadata["about"])


def text_of(name: str, value: Any) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if name in _DURATIONS:
        return duration_text(value)
    if name in _SIZES:
        return size_text(value)
    if isinstance(value, tuple):
        return "[" + ", ".join(value) + "]"
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{alias}: {database.path}" for alias, database in value.items()) + "}"
    return str(value)


def load(*, root: Path | None, environ: Mapping[str, str], flags: Mapping[str, object]) -> Config:
    """The configuration for the repository at `root` (None: outside of one).

    `flags` uses the keys' names; a None there means "not given". WorkflowError with every problem of the files,
    RequestError for a variable or a flag; both name the place and the nearest key.
    """
    home = Path(environ["HOME"]) if environ.get("HOME") else None
    values, origins = _built_in(environ, home)
    problems: list[Problem] = []
    for layer, path, base in _files(root, environ, home):
        names_places = layer == "user" or _is_trusted(path)
        for name, value, place in _read(path, _Context(base, home), problems):
            if layer == "project" and name in _OF_THE_USER and value is not None:
                raise RequestError(
                    f"{place}: {name} is for the user to decide, not for a repository",
                    hint=f"put it into {user_file(environ) or 'your own configuration'}, or set LOOM_{name.upper()}",
                    code=CODE,
                )
            if names_places or name not in _PLACES:
                values[name], origins[name] = value, Origin(layer=layer, place=place)
    if problems:
        raise WorkflowError(
            problems,
            hint="put these right, or comment them out; then `loom config show --origin` tells which values hold and why",
        )
    for name, value, place in _environment(environ, _Context(None, home)):
        values[name], origins[name] = value, Origin(layer="environment", place=place)
    for name, value in flags.items():
        if value is None:
            continue
        if name not in _FIELDS:
            raise RequestError(f"there is no setting {name}{_meant(name)}", code=CODE)
        flag = "--" + name.replace("_", "-")
        values[name] = _parsed(name, value, _Context(None, home), flag)
        origins[name] = Origin(layer="flag", place=flag)
    return Config(**values, origins=origins)


def user_file(environ: Mapping[str, str]) -> Path | None:
    """Where the user's own configuration is read from; None without a home."""
    base = _xdg(environ, "XDG_CONFIG_HOME", ".config")
    return None if base is None else base / "loom" / "config.yml"


def template(*, commented: bool = True) -> str:
    """A configuration file that lists every key with its built-in value, all commented out."""
    lines = ["# Loom's runtime configuration; `loom config show --origin` says which value holds and why.", ""]
    defaults = Config()
    for name in KEYS:
        lines += [f"# {about(name)}", f"{'# ' if commented else ''}{name}: {defaults.text_of(name)}", ""]
    return "\n".join(lines)


def _xdg(environ: Mapping[str, str], variable: str, below_home: str) -> Path | None:
    configured = environ.get(variable, "")
    if configured.startswith("/"):  # the XDG specification: a relative path is to be ignored
        return Path(configured)
    home = environ.get("HOME")
    return Path(home) / below_home if home else None


def _built_in(environ: Mapping[str, str], home: Path | None) -> tuple[dict[str, Any], dict[str, Origin]]:
    values: dict[str, Any] = {name: getattr(Config(), name) for name in KEYS}
    origins = {name: Origin(layer="built-in") for name in KEYS}
    tmp = environ.get("TMPDIR") or "/tmp"
    # Made if it is not there; what can't be is an error, no other place's turn.
    values["tmp_dir"] = Path(tmp).absolute()
    if environ.get("TMPDIR") == tmp:
        origins["tmp_dir"] = Origin(layer="environment", place="TMPDIR")
    values["state_dir"] = (_xdg(environ, "XDG_STATE_HOME", ".local/state") or values["tmp_dir"]) / "loom"
    values["cache_dir"] = (_xdg(environ, "XDG_CACHE_HOME", ".cache") or values["tmp_dir"]) / "loom"
    if environ.get("NO_COLOR"):
        values["color"], origins["color"] = "never", Origin(layer="environment", place="NO_COLOR")
    return values, origins


def _files(
    root: Path | None, environ: Mapping[str, str], home: Path | None
) -> Iterator[tuple[Layer, Path, Path | None]]:
    user = user_file(environ)
    if user is not None:
        yield "user", user, home
    if root is not None:
        yield "project", root / PROJECT_FILE, root


def _is_trusted(project_file: Path) -> bool:
    """Whether what it says of places may count, where loom reads what it believes and deletes what is old.

    Not in a workspace, where a job may have written it, and not where another user did, as in a shared /tmp.
    """
    if any(run_of_workspace(folder.name) for folder in Path(os.path.realpath(project_file)).parents):
        return False
    try:
        return project_file.stat().st_uid == os.geteuid()
    except OSError:
        return True  # it is not there, or reading it will say why not


def _read(path: Path, context: _Context, problems: list[Problem]) -> Iterator[tuple[str, Any, str]]:
    """Each key of one file, parsed; adds to `problems`."""
    name = PROJECT_FILE if path.parts[-2:] == (".loom", "config.yml") else str(path)
    try:
        file = yamlfile.read(path, name, code=CODE)
    except FileNotFoundError:
        return
    except OSError as error:
        raise RequestError(f"{name}: can't be read: {(error.strerror or str(error)).lower()}", code=CODE) from error
    if file.root is not None and file.root.kind is not yamlfile.Kind.MAPPING:
        file.problems.append(file.problem(file.root, "/", "expected a mapping of settings", code=CODE))
    if file.root is None or file.root.kind is not yamlfile.Kind.MAPPING:
        problems += file.problems
        return
    for key, node in file.root.value.items():
        at = yamlfile.pointer(key)
        if key not in _FIELDS:
            message = f"there is no setting {key}{_meant(key)}"
            file.problems.append(file.problem(file.root.key_node(key), at, message, code=CODE))
            continue
        if node.kind is yamlfile.Kind.REFUSED:
            continue
        value = node.plain()
        if value is None and key in _CLEARABLE:
            yield key, None, node.place
            continue
        if isinstance(value, int | float) and not isinstance(value, bool) and key in _DURATIONS | _SIZES:
            value = node.text
        try:
            yield key, _FIELDS[key].metadata["parse"](value, context), node.place
        except ValueError as error:
            file.problems.append(file.problem(node, at, str(error), code=CODE))
    problems += sorted(file.problems, key=lambda problem: (problem.line, problem.column))


def _environment(environ: Mapping[str, str], context: _Context) -> Iterator[tuple[str, Any, str]]:
    known = {f"LOOM_{name.upper()}": name for name in KEYS if name != "keepass"}
    for variable, text in environ.items():
        if not variable.startswith("LOOM_") or variable in SET_BY_LOOM or variable.startswith(_SET_BY_LOOM_PREFIXES):
            continue
        name = known.get(variable)
        if name is None:
            # Other tools have LOOM_ variables too; only what is surely a misspelling is refused.
            close = nearest(variable.removeprefix("LOOM_"), KEYS)
            if close is not None and _close(variable.removeprefix("LOOM_").lower(), close):
                raise RequestError(
                    f"{variable}: there is no such setting; did you mean LOOM_{close.upper()}?",
                    hint=f"if it is another program's: env -u {variable} loom ...",
                    code=CODE,
                )
            continue
        if text == "":
            continue
        yield name, _parsed(name, text, context, variable), variable


def _close(name: str, key: str) -> bool:
    """The same letters but for separators, or one slip of the finger."""
    if name.replace("_", "").replace("-", "") == key.replace("_", ""):
        return True
    if abs(len(name) - len(key)) > 1 or len(key) < 5:
        return False
    head = next((i for i, (a, b) in enumerate(zip(name, key, strict=False)) if a != b), min(len(name), len(key)))
    tails = {(name[head + 1 :], key[head + 1 :]), (name[head + 1 :], key[head:]), (name[head:], key[head + 1 :])}
    return any(a == b for a, b in tails)


def _parsed(name: str, value: object, context: _Context, place: str) -> Any:
    if isinstance(value, str) and value == "null" and name in _CLEARABLE:
        return None
    try:
        return _FIELDS[name].metadata["parse"](str(value) if isinstance(value, Path) else value, context)
    except ValueError as error:
        raise RequestError(f"{place}: {error}", code=CODE) from error


def _meant(name: str) -> str:
    close = nearest(name, KEYS)
    return f"; did you mean {close}?" if close else f"; the settings are {', '.join(KEYS)}"
