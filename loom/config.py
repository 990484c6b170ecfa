"""Load the runtime configuration in layers; each value has an origin.

Lowest to highest: built-in, `~/.config/loom/config.yml`, `.loom/config.yml`, `LOOM_*` variables, flags. Only `load`
reads them; the caller passes environment and flags.

The project's file is part of the repository, and its author may be a stranger. It can make the user's own settings
stricter, never looser. Its requests (a path, an engine, another network) take effect only when the user trusts them
(`trust_store`). Each key of `Config` states which case applies.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import Field, dataclass, field, fields
from math import inf
from pathlib import Path
from types import NoneType
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_args, get_origin, get_type_hints

from msgspec import Struct
from msgspec import field as member
from msgspec.structs import replace

from loom.errors import Problem, RequestError, WorkflowError
from loom.pools import Misplaced, Pool
from loom.pools import parsed as _pools
from loom.util.file_systems import in_memory
from loom.util.paths import leads_out
from loom.util.units import duration, duration_text, memory, nearest, platform, size, size_text

if TYPE_CHECKING:
    from loom.util import yaml_file

CODE = "CONFIG_INVALID"
PROJECT_FILE = ".loom/config.yml"

AUTO_SHELL = ("auto",)
"""The shell of steps without a `shell`: bash if installed, as in CI systems, else sh (`providers.steps`)."""

Layer = Literal["built-in", "user", "project", "environment", "flag"]


class ValueOrigin(Struct, frozen=True, kw_only=True):
    """The origin of a value: `place` is `file:line:column`, a variable's name, a flag, or empty for built-in."""

    layer: Layer
    place: str = ""

    def __str__(self) -> str:
        return f"{self.layer} ({self.place})" if self.place else self.layer


class Overruled(Struct, frozen=True, kw_only=True):
    """A line of the project's file that is looser than the user's own setting and is therefore ignored."""

    name: str
    text: str
    place: str
    by: str
    """The effective value and its place."""

    def __str__(self) -> str:
        return f"{self.place}: `{self.name}: {self.text}` is ignored: your own configuration is stricter ({self.by})"


class Asked(Struct, frozen=True, kw_only=True):
    """A setting of the project's file that takes effect only when the user trusts it."""

    name: str
    text: str
    """The value for display; a relative path stays relative, so that it is the same in each checkout."""
    place: str
    allowed: bool = False


Allows = Callable[[Asked, Path], bool]
"""Whether the user trusts it; the path is the user's own state directory, never the project file's."""


class KeepassDatabase(Struct, frozen=True, kw_only=True):
    """A database for `keepass://alias#...`. `password` is a reference to another secret provider, or None to ask."""

    path: Path
    key_file: Path | None = None
    password: str | None = None


class GitLabSettings(Struct, frozen=True, kw_only=True):
    """What a `.gitlab-ci.yml` needs of this machine."""

    projects: Mapping[str, Path] = member(default_factory=dict)
    """Clones of projects that it includes files of, by their paths on the server."""
    templates: Path | None = None
    """The folder of the templates that `include:template` names."""
    secrets: Mapping[str, str] = member(default_factory=dict)
    """References to the secrets that it asks a store of its own for, by their names."""
    variables: Path | None = None
    """A file with the variables that the project has on the server."""


class _Context(Struct, frozen=True):
    """The context of a value's parser: the base of relative paths."""

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
        if not isinstance(value, str) or value not in allowed:
            close = nearest(value, allowed) if isinstance(value, str) else None
            meant = f"; did you mean {close}?" if close else ""
            raise ValueError(f"expected one of {', '.join(allowed)}, found {_found(value)}{meant}")
        return value

    return parse


_FLAGS = {"true": True, "1": True, "yes": True, "on": True, "false": False, "0": False, "no": False, "off": False}


def _flag(value: Any, _: _Context) -> bool:
    if (found := _FLAGS.get(str(value).lower())) is None:
        raise ValueError(f"expected true or false, found {_found(value)}")
    return found


def _count(value: Any, _: _Context) -> int:
    number = int(value) if isinstance(value, str) and value.strip().isdecimal() and len(value) < 10 else value
    if not isinstance(number, int) or isinstance(number, bool) or number < 1:
        raise ValueError(f"expected a whole number from 1 up, found {_found(value)}")
    return number


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
            raise ValueError(f"can't resolve ~: HOME is not set; write {text!r} as an absolute path")
        return context.home / text[2:]
    path = Path(text)
    # Paths from the command line and environment are relative to the working directory.
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


def _gitlab(value: Any, context: _Context) -> GitLabSettings:
    known = GitLabSettings.__struct_fields__
    if not isinstance(value, dict) or value.keys() - set(known):
        raise ValueError(f"expected a mapping with {', '.join(known)}, found {_found(value)}")
    tables = {}
    for key in ("projects", "secrets"):
        tables[key] = value.get(key) or {}
        if not isinstance(tables[key], dict):
            raise ValueError(f"{key}: expected a mapping, found {_found(tables[key])}")
    paths = {key: _path(value[key], context) for key in ("templates", "variables") if value.get(key) is not None}
    return GitLabSettings(
        projects={name: _path(path, context) for name, path in tables["projects"].items()},
        secrets={name: _text(reference, context) for name, reference in tables["secrets"].items()},
        **paths,
    )


class Rule(Struct, frozen=True):
    """The effect of a key in the project's file. `rank`: a higher value is looser and can't override the user's own file."""

    refused: bool = False
    """The project's file may not set it, even if trusted."""
    asks: Callable[[Any], bool] | None = None
    """Whether a value needs the user's trust."""
    gives: str = ""
    """What such a value exposes, for people."""
    rank: Callable[[Any], float] = lambda _: 0


FREE = Rule()
"""Neither looser nor stricter."""
THE_USERS = Rule(refused=True)
LESS_IS_STRICTER = Rule(rank=lambda value: inf if value is None else float(value))
TRUE_IS_STRICTER = Rule(rank=lambda value: 0 if value else 1)
_CONTAINER = Rule(
    asks=lambda value: not value,
    gives="jobs without an image run on this machine, as you",
    rank=TRUE_IS_STRICTER.rank,
)
PLAIN_NETWORKS = (None, "none", "bridge", "default")
"""Network modes with no more access than a private container network; others join the host or other containers."""
_NETWORK = Rule(
    asks=lambda mode: mode not in PLAIN_NETWORKS,
    gives="jobs reach what listens on this machine, or in that network",
    rank=lambda mode: 0 if mode == "none" else 1 if mode in PLAIN_NETWORKS else 2,
)


def _asked(gives: str) -> Rule:
    return Rule(asks=lambda _: True, gives=gives)


def _from_strict_to_loose(*values: str) -> Rule:
    return Rule(rank=values.index)


# The type of a key selects its parser.
Duration = Annotated[float, _duration]
Size = Annotated[int, _size]
Memory = Annotated[int, _memory]
Count = Annotated[int, _count]
Cpus = Annotated[float, _cpus]
Platform = Annotated[str, _platform]
Names = Annotated[tuple[str, ...], _names]
Databases = Annotated[Mapping[str, KeepassDatabase], _keepass]
OfGitLab = Annotated[GitLabSettings, _gitlab]
Pools = Annotated[Mapping[str, Pool], _pools]


def _key(default: Any, project: Rule, about: str) -> Any:
    return field(default=default, metadata={"about": about, "project": project})


@dataclass(frozen=True, kw_only=True)
class Config:
    """Every setting, parsed. `origins` maps each key to its source; durations in seconds, sizes in bytes."""

    container: bool = _key(
        True, _CONTAINER, "Run jobs without an image in a container too; false: on this machine, without isolation."
    )
    default_image: str = _key("debian:trixie-slim", FREE, "The image of jobs without one.")
    default_shell: str = _key(
        "auto",
        FREE,
        "The shell of steps without one: auto (bash if installed, else sh), or a command line.",
    )
    mount_mode: Literal["auto", "bind_mount", "overlay", "copy", "ephemeral_volume"] = _key(
        "auto",
        _from_strict_to_loose("ephemeral_volume", "copy", "overlay", "auto", "bind_mount"),
        "How each job gets its files; with bind_mount all jobs share one directory.",
    )
    pull: Literal["always", "missing", "never"] = _key(
        "missing",
        _from_strict_to_loose("never", "missing", "always"),
        "When images are pulled, unless the workflow sets it.",
    )
    frozen: bool = _key(False, TRUE_IS_STRICTER, "Run only images listed in `.loom/images.lock`.")
    platform: Platform | None = _key(
        None, FREE, "The images' platform, such as linux/arm64; default: the engine's platform."
    )
    engine: str | None = _key(
        None,
        _asked("jobs, with the workspace and their secrets, go to this engine"),
        "The engine's address; default: DOCKER_HOST or the current Docker context.",
    )
    on: str = _key(
        "docker",
        _asked("jobs, with the workspace and their secrets, go there"),
        "Where jobs in containers run: a pool, or a provider with an optional context, such as kubernetes:CONTEXT.",
    )
    pools: Pools = field(
        default_factory=dict,
        metadata={"about": "Places for jobs by the name that `runner_pool` and `--on` use.", "project": THE_USERS},
    )
    log_driver: Literal["json-file", "none"] = _key(
        "json-file", FREE, "The containers' log driver; none is faster but leaves `docker logs` empty."
    )
    jobs: Count | None = _key(None, LESS_IS_STRICTER, "How many jobs run at once; default: the number of processors.")
    fail_fast: bool = _key(False, FREE, "Stop the run at the first failed job.")
    grace: Duration = _key(10.0, LESS_IS_STRICTER, "How long a canceled step may take to exit before it is killed.")
    job_timeout: Duration | None = _key(3600.0, LESS_IS_STRICTER, "The timeout of jobs without one.")
    step_timeout: Duration | None = _key(None, LESS_IS_STRICTER, "The timeout of steps without one.")
    cpus: Cpus | None = _key(None, LESS_IS_STRICTER, "The processor limit of a job's container.")
    memory: Memory | None = _key(None, LESS_IS_STRICTER, "The memory limit of a job's container.")
    pids: Count | None = _key(None, LESS_IS_STRICTER, "The process limit of a job's container.")
    hardened: bool = _key(
        False,
        TRUE_IS_STRICTER,
        "Restrict job containers: no capabilities, no network unless the job names one, a read-only root file system.",
    )
    network: str | None = _key(None, _NETWORK, "The network mode of jobs without one: bridge, none or host.")
    keep: Literal["never", "on-failure", "always", "auto"] = _key(
        "auto",
        _from_strict_to_loose("never", "auto", "on-failure", "always"),
        "When to keep a job's container for inspection; auto: after a failure, on a terminal.",
    )
    keep_for: Duration = _key(86400.0, LESS_IS_STRICTER, "How long a kept container stays.")
    keep_max_size: Size = _key(
        10 * 1024**3, LESS_IS_STRICTER, "The size limit of all kept containers; the oldest are removed first."
    )
    keep_runs: Count = _key(100, LESS_IS_STRICTER, "How many run records to keep per checkout.")
    keep_workspaces: Count = _key(3, LESS_IS_STRICTER, "How many workspaces to keep per checkout.")
    workspaces_max_size: Size = _key(
        10 * 1024**3,
        _asked("workspaces of all your repositories are removed above this size"),
        "The size limit of all workspaces; the oldest are removed first.",
    )
    auto_clean: bool = _key(
        True,
        _asked("your old runs are removed"),
        "Run `loom clean` in the background after each run.",
    )
    stream: bool = _key(False, FREE, "Show what steps print while they run.")
    color: Literal["auto", "always", "never"] = _key("auto", FREE, "When to use colours.")
    tmp_dir: Path = _key(
        Path("/tmp"), _asked("loom creates and removes workspaces there"), "The directory for isolated workspaces."
    )
    state_dir: Path = _key(
        Path("~/.local/state/loom"),
        _asked("loom keeps its state there and trusts its content"),
        "The directory for per-user state.",
    )
    cache_dir: Path = _key(
        Path("~/.cache/loom"),
        _asked("loom keeps caches there and restores its content"),
        "The directory for jobs' caches.",
    )
    cache_max_size: Size = _key(
        10 * 1024**3,
        _asked("caches of all your repositories are removed above this size"),
        "The size limit of the cache; the oldest entries are removed first.",
    )
    bucket: str | None = _key(
        None,
        _asked("caches go there, and come from there, with your credentials"),
        "A bucket that shares caches between machines, such as s3://NAME/PREFIX.",
    )
    protected_branches: Names | None = _key(
        None,
        THE_USERS,
        "Branches (globs) that don't read caches of other branches; default: origin's default branch, main and master.",
    )
    keepass: Databases = field(
        default_factory=dict,
        metadata={
            "about": "KeePass databases by the alias that secrets use.",
            "project": _asked("loom opens these databases for secrets"),
        },
    )
    gitlab: OfGitLab = field(
        default_factory=GitLabSettings,
        metadata={"about": "What a `.gitlab-ci.yml` needs of this machine.", "project": THE_USERS},
    )
    origins: Mapping[str, ValueOrigin] = field(default_factory=dict, compare=False, metadata={"internal": True})
    overruled: tuple[Overruled, ...] = field(default=(), compare=False, metadata={"internal": True})
    asked: tuple[Asked, ...] = field(default=(), compare=False, metadata={"internal": True})
    """Settings of the project's file that need trust, trusted or not."""
    own_state_dir: Path = field(default=Path(), compare=False, metadata={"internal": True})
    """The user's own `state_dir`, which holds the trust decisions; the project can't change it."""

    def text_of(self, name: str) -> str:
        """Format a value for a configuration file (without quotes)."""
        return text_of(name, getattr(self, name))


class _Key(Struct, frozen=True):
    parse: _Parse
    about: str
    project: Rule
    choices: tuple[str, ...]
    clearable: bool
    """Whether it accepts null."""


def _key_of(item: Field[Any], hint: Any) -> _Key:
    kinds = [kind for kind in (hint, *get_args(hint)) if kind is not NoneType]
    clearable = NoneType in get_args(hint)
    kind = kinds[1] if clearable else kinds[0]
    choices = get_args(kind) if get_origin(kind) is Literal else ()
    plain: Mapping[Any, _Parse] = {bool: _flag, str: _text, Path: _path}
    parse = kind.__metadata__[0] if get_origin(kind) is Annotated else _choice(*choices) if choices else plain[kind]
    return _Key(parse, item.metadata["about"], item.metadata["project"], choices, clearable)


_HINTS = get_type_hints(Config, include_extras=True)
_KEYS = {item.name: _key_of(item, _HINTS[item.name]) for item in fields(Config) if "internal" not in item.metadata}
KEYS = tuple(_KEYS)
MAPPINGS = frozenset({"gitlab", "keepass", "pools"})
"""The settings that only a file can give."""
_MEASURES: Mapping[_Parse, Callable[[Any], str]] = {_duration: duration_text, _size: size_text, _memory: size_text}


def choices(name: str) -> tuple[str, ...]:
    """Return the allowed values of a setting, if they can be enumerated."""
    return _KEYS[name].choices


def about(name: str) -> str:
    return _KEYS[name].about


def gives(name: str) -> str:
    """What a value exposes that the user has to trust."""
    return _KEYS[name].project.gives


def text_of(name: str, value: Any) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if (measure := _MEASURES.get(_KEYS[name].parse)) is not None:
        return measure(value)
    if isinstance(value, tuple):
        return "[" + ", ".join(value) + "]"
    if isinstance(value, Mapping):
        shown = {key: item.place if isinstance(item, Pool) else item.path for key, item in value.items()}
        return "{" + ", ".join(f"{key}: {text}" for key, text in shown.items()) + "}"
    if isinstance(value, GitLabSettings):
        return "{" + ", ".join(key for key in value.__struct_fields__ if getattr(value, key)) + "}"
    return str(value)


def load(
    *,
    root: Path | None,
    environ: Mapping[str, str],
    flags: Mapping[str, object],
    allows: Allows = lambda asked, state_dir: False,
) -> Config:
    """Load the configuration of the repository at `root` (None: outside a repository).

    `flags` uses the keys' names; None means "not given". `allows` decides on values of the project's file that need
    trust; without it they are ignored. WorkflowError lists every problem of the files; RequestError reports a variable
    or flag. Both name the place and the nearest key.
    """
    home = Path(environ["HOME"]) if environ.get("HOME") else None
    layers = _Layers(*_built_in(environ, home), root or Path())
    problems: list[Problem] = []
    if (user := user_file(environ)) is not None:
        for name, value, node in _read(user, _Context(home, home), problems):
            layers.set(name, value, ValueOrigin(layer="user", place=node.place))
    given = list(_given(environ, flags, home))
    own_places = {name: value for name, value, _ in given if name == "state_dir"}
    own_state_dir = own_places.get("state_dir", layers.values["state_dir"])
    if root is not None:
        if (elsewhere := leads_out(root / PROJECT_FILE, root)) is not None:
            raise RequestError(
                f"{PROJECT_FILE} is a link that points outside the repository, to {elsewhere}",
                hint="replace it by a file, or remove it",
                code="LEADS_OUT",
            )
        for name, value, node in _read(root / PROJECT_FILE, _Context(root, home), problems):
            layers.propose(name, value, node, lambda asked: allows(asked, own_state_dir))
    if problems:
        raise WorkflowError(
            problems,
            hint="correct these or comment them out; `loom config show --origin` then shows the effective values",
        )
    for name, value, origin in given:
        layers.set(name, value, origin)
    layers.agree()
    return layers.config(own_state_dir)


class _Layers:
    """Values with their origins; layers are applied in order."""

    def __init__(self, values: dict[str, Any], origins: dict[str, ValueOrigin], root: Path) -> None:
        self.values = values
        self._root = root
        self._origins = origins
        self._overruled: dict[str, Overruled] = {}
        self._asked: dict[str, Asked] = {}

    def set(self, name: str, value: Any, origin: ValueOrigin) -> None:
        self.values[name], self._origins[name] = value, origin
        if origin.layer != "project":  # the project's file can't change it any more
            self._overruled.pop(name, None)
            self._asked.pop(name, None)

    def propose(self, name: str, value: Any, node: yaml_file.Node, allows: Callable[[Asked], bool]) -> None:
        """Apply a line of the project's file."""
        rule = _KEYS[name].project
        if rule.refused and value not in (None, {}, GitLabSettings()):
            variable = "" if name in MAPPINGS else f", or set LOOM_{name.upper()}"
            raise RequestError(
                f"{node.place}: {name} can't be set by a repository",
                hint=f"set it in your own configuration (`loom config init --user`){variable}",
                code=CODE,
            )
        before, origin, text = self.values[name], self._origins[name], _as_written(node, value, self._root)
        if origin.layer == "user" and rule.rank(value) > rule.rank(before):
            by = f"{text_of(name, before)}, {origin.place}"
            self._overruled[name] = Overruled(name=name, text=text, place=node.place, by=by)
            return
        if rule.asks is not None and rule.asks(value):
            asked = Asked(name=name, text=text, place=node.place)
            self._asked[name] = replace(asked, allowed=allows(asked))
            if not self._asked[name].allowed:
                return
        self.set(name, value, ValueOrigin(layer="project", place=node.place))

    def agree(self) -> None:
        """RequestError for contradictory settings, and for a named network as the network of every job."""
        by = self._origins["hardened"]
        network = self._origins["network"]
        if self.values["hardened"] and network.layer == "project" and self.values["network"] != "none":
            text, self.values["network"] = str(self.values["network"]), None
            self._overruled["network"] = Overruled(name="network", text=text, place=network.place, by=f"hardened, {by}")
            self._origins["network"] = ValueOrigin(layer="built-in")
        if self.values["hardened"] and not self.values["container"]:
            raise RequestError(
                f"{self._origins['container']}: a job on this machine can't use the hardened profile "
                f"({self._origins['hardened']})",
                hint="remove one of them; LOOM_HARDENED=0 disables the profile once",
                code=CODE,
            )

    def config(self, own_state_dir: Path) -> Config:
        return Config(
            **self.values,
            origins=self._origins,
            overruled=tuple(self._overruled.values()),
            asked=tuple(self._asked.values()),
            own_state_dir=own_state_dir,
        )


def _as_written(node: yaml_file.Node, value: Any, root: Path) -> str:
    """Format the file's value; add the real path if it differs or is outside the repository."""
    import json

    written = node.plain()
    text = written if isinstance(written, str) else json.dumps(written, ensure_ascii=False, sort_keys=True)
    paths = [value] if isinstance(value, Path) else []
    if isinstance(value, Mapping):
        paths = [path for database in value.values() for path in (database.path, database.key_file) if path is not None]
    real = [leads for path in paths if (leads := _elsewhere(path, root)) is not None and leads != text]
    return f"{text} (resolves to {', '.join(real)})" if real else text


def _elsewhere(path: Path, root: Path) -> str | None:
    """Resolve a path; None for one in the repository without a link on its way."""
    real, plain = os.path.realpath(path), Path(os.path.normpath(path))
    stays = plain.is_relative_to(root) and real == os.path.normpath(os.path.realpath(root) / plain.relative_to(root))
    return None if stays else real


def user_file(environ: Mapping[str, str]) -> Path | None:
    """Return the path of the user's own configuration; None without a home directory."""
    base = _xdg(environ, "XDG_CONFIG_HOME", ".config")
    return None if base is None else base / "loom" / "config.yml"


def template(*, commented: bool = True) -> str:
    """Generate a configuration file with every key at its built-in value, commented out."""
    lines = [
        "# Loom's runtime configuration; `loom config show --origin` shows effective values and their origins.",
        "",
    ]
    defaults = Config()
    for name in KEYS:
        lines += [f"# {about(name)}", f"{'# ' if commented else ''}{name}: {defaults.text_of(name)}", ""]
    return "\n".join(lines)


def _xdg(environ: Mapping[str, str], variable: str, below_home: str) -> Path | None:
    configured = environ.get(variable, "")
    if configured.startswith("/"):  # per the XDG specification, ignore relative paths
        return Path(configured)
    home = environ.get("HOME")
    return Path(home) / below_home if home else None


def _built_in(environ: Mapping[str, str], home: Path | None) -> tuple[dict[str, Any], dict[str, ValueOrigin]]:
    values: dict[str, Any] = {name: getattr(Config(), name) for name in KEYS}
    origins = {name: ValueOrigin(layer="built-in") for name in KEYS}
    tmp = environ.get("TMPDIR") or ("/var/tmp" if _tmp_is_memory() else "/tmp")
    # Create it if missing; failure is an error, never a reason to try another directory.
    values["tmp_dir"] = Path(tmp).absolute()
    if environ.get("TMPDIR") == tmp:
        origins["tmp_dir"] = ValueOrigin(layer="environment", place="TMPDIR")
    values["state_dir"] = (_xdg(environ, "XDG_STATE_HOME", ".local/state") or values["tmp_dir"]) / "loom"
    values["cache_dir"] = (_xdg(environ, "XDG_CACHE_HOME", ".cache") or values["tmp_dir"]) / "loom"
    if environ.get("NO_COLOR"):
        values["color"], origins["color"] = "never", ValueOrigin(layer="environment", place="NO_COLOR")
    return values, origins


def _tmp_is_memory() -> bool:
    """Use /var/tmp for large files if /tmp is in memory."""
    return in_memory(Path("/tmp")) and os.access("/var/tmp", os.W_OK | os.X_OK) and not in_memory(Path("/var/tmp"))


def _read(path: Path, context: _Context, problems: list[Problem]) -> Iterator[tuple[str, Any, yaml_file.Node]]:
    """Parse each key of one file; add to `problems`."""
    if not os.path.lexists(path):
        return
    from loom.util import yaml_file  # YAML takes 10 ms, and most projects have no such file

    name = PROJECT_FILE if path.parts[-2:] == (".loom", "config.yml") else str(path)
    try:
        file = yaml_file.read(path, name, code=CODE)
    except FileNotFoundError:
        return
    except OSError as error:
        raise RequestError(f"{name}: can't be read: {(error.strerror or str(error)).lower()}", code=CODE) from error
    if file.root is not None and file.root.kind is not yaml_file.Kind.MAPPING:
        file.problems.append(file.problem(file.root, "/", "expected a mapping of settings", code=CODE))
    if file.root is None or file.root.kind is not yaml_file.Kind.MAPPING:
        problems += file.problems
        return
    for key, node in file.root.value.items():
        at = yaml_file.pointer(key)
        if key not in _KEYS:
            message = f"unknown setting {key}{_meant(key)}"
            file.problems.append(file.problem(file.root.key_node(key), at, message, code=CODE))
            continue
        if node.kind is yaml_file.Kind.REFUSED:
            continue
        value = node.plain()
        if isinstance(value, int | float) and not isinstance(value, bool) and _KEYS[key].parse in _MEASURES:
            value = node.text
        try:
            yield key, _value(key, value, context), node
        except ValueError as error:
            keys = error.keys if isinstance(error, Misplaced) else ()
            at = yaml_file.pointer(key, *keys)
            file.problems.append(file.problem(node.find(*keys) or node, at, str(error), code=CODE))
    problems += sorted(file.problems, key=lambda problem: (problem.line, problem.column))


def _given(
    environ: Mapping[str, str], flags: Mapping[str, object], home: Path | None
) -> Iterator[tuple[str, Any, ValueOrigin]]:
    """Apply settings from variables, then flags. Unknown LOOM_ variables are ignored: other programs use the prefix too."""
    variables = {name: f"LOOM_{name.upper()}" for name in KEYS if name not in MAPPINGS}
    given: list[tuple[str, object, ValueOrigin]] = [
        (name, environ[variable], ValueOrigin(layer="environment", place=variable))
        for name, variable in variables.items()
        if environ.get(variable)
    ]
    for name, value in flags.items():
        if value is not None:
            flag = ("--no-" if value is False else "--") + name.replace("_", "-")
            given.append(
                (name, str(value) if isinstance(value, Path) else value, ValueOrigin(layer="flag", place=flag))
            )
    for name, value, origin in given:
        if name not in _KEYS:
            raise RequestError(f"unknown setting {name}{_meant(name)}", code=CODE)
        cleared = value == "null" and _KEYS[name].clearable
        try:
            yield name, _value(name, None if cleared else value, _Context(None, home)), origin
        except ValueError as error:
            raise RequestError(f"{origin.place}: {error}", code=CODE) from error


def _value(name: str, value: Any, context: _Context) -> Any:
    """Parse one value. ValueError names a valid alternative."""
    key = _KEYS[name]
    return None if value is None and key.clearable else key.parse(value, context)


def _meant(name: str) -> str:
    close = nearest(name, KEYS)
    return f"; did you mean {close}?" if close else f"; the settings are {', '.join(KEYS)}"
