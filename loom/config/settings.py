"""The settings: each key of `Config` with its type, its meaning, and its effect in a project's file."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import Field, dataclass, field, fields
from math import inf
from pathlib import Path
from types import NoneType
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

from msgspec import Struct

from loom.addresses import hide_credentials
from loom.config.gate import parse_unlike
from loom.config.pools import Pool
from loom.config.pools import parsed as _pools
from loom.config.values import (
    GitHubSettings,
    GitLabSettings,
    KeepassDatabase,
    Parse,
    parse_choice,
    parse_count,
    parse_cpus,
    parse_duration,
    parse_flag,
    parse_github,
    parse_gitlab,
    parse_images,
    parse_inputs,
    parse_keepass,
    parse_memory,
    parse_names,
    parse_path,
    parse_platform,
    parse_size,
    parse_text,
)
from loom.util.units import duration_text, size_text
from loom.values import Immutable

CODE = "CONFIG_INVALID"
PROJECT_FILE = ".loom/config.yml"
AUTO_SHELL = ("auto",)
"""The shell of steps without a `shell`: bash if installed, as in CI systems, else sh (`providers.steps`)."""
Layer = Literal["built-in", "user", "project", "environment", "flag"]


class ValueOrigin(Immutable):
    """The origin of a value: `source` is `file:line:column`, a variable's name, a flag, or empty for built-in."""

    layer: Layer
    source: str = ""

    def __str__(self) -> str:
        return f"{self.layer} ({self.source})" if self.source else self.layer


class Overruled(Immutable):
    """A line of the project's file that does not count."""

    name: str
    text: str
    position: str
    why: str

    def __str__(self) -> str:
        return f"{self.position}: `{self.name}: {self.text}` is ignored: {self.why}"


class Rule(Struct, frozen=True):
    """The effect of a key in the project's file."""

    refuses: Callable[[Any], bool] = lambda _: False
    """Whether no project's file may have the value."""
    rank: Callable[[Any], float] = lambda _: 0
    """A higher value is looser, and can't override the user's own file."""


FREE = Rule()
"""Neither looser nor stricter."""
THE_USERS = Rule(refuses=lambda _: True)
LESS_IS_STRICTER = Rule(rank=lambda value: inf if value is None else float(value))
TRUE_IS_STRICTER = Rule(rank=lambda value: 0 if value else 1)
PLAIN_NETWORKS = (None, "none", "bridge", "default")
"""Network modes with no more access than a private container network; others join the host or other containers."""
_NETWORK = Rule(refuses=lambda mode: mode not in PLAIN_NETWORKS, rank=lambda mode: 0 if mode == "none" else 1)


def _order_of_strictness(*values: str) -> Rule:
    return Rule(rank=values.index)


# The type of a key selects its parser.
Duration = Annotated[float, parse_duration]
Size = Annotated[int, parse_size]
Memory = Annotated[int, parse_memory]
Count = Annotated[int, parse_count]
Cpus = Annotated[float, parse_cpus]
Platform = Annotated[str, parse_platform]
Names = Annotated[tuple[str, ...], parse_names]
Unlike = Annotated[tuple[str, ...], parse_unlike]
Databases = Annotated[Mapping[str, KeepassDatabase], parse_keepass]
OfGitHub = Annotated[GitHubSettings, parse_github]
OfGitLab = Annotated[GitLabSettings, parse_gitlab]
Images = Annotated[Mapping[str, str], parse_images]
Inputs = Annotated[Mapping[str, tuple[str, ...]], parse_inputs]
Pools = Annotated[Mapping[str, Pool], _pools]


def _key(default: Any, project: Rule, about: str) -> Any:
    """`default`: the value, or what makes it."""
    how = "default_factory" if callable(default) else "default"
    return field(**{how: default}, metadata={"about": about, "project": project})


@dataclass(frozen=True, kw_only=True)
class Config:
    """Every setting, parsed. `origins` maps each key to its source; durations in seconds, sizes in bytes."""

    container: bool = _key(
        True,
        Rule(refuses=lambda value: not value),
        "Run jobs without an image in a container too; false: on this machine, without isolation.",
    )
    default_image: str = _key("debian:trixie-slim", FREE, "The image of jobs without one.")
    images: Images = _key(
        dict, FREE, "Images to run instead, by the names that workflows have: of images, or labels of GitHub's runners."
    )
    job_inputs: Inputs = _key(
        dict,
        FREE,
        "The files that jobs get of the project, as globs by the jobs' names (guides/gate.md tells what it saves).",
    )
    default_shell: str = _key(
        "auto", FREE, "The shell of steps without one: auto (bash if installed, else sh), or a command line."
    )
    mount_mode: Literal["auto", "bind_mount", "overlay", "copy", "ephemeral_volume"] = _key(
        "auto",
        _order_of_strictness("ephemeral_volume", "copy", "overlay", "auto", "bind_mount"),
        "How each job gets its files; with bind_mount all jobs share one directory.",
    )
    pull: Literal["always", "missing", "never"] = _key(
        "missing",
        _order_of_strictness("never", "missing", "always"),
        "When images are pulled, unless the workflow sets it.",
    )
    frozen: bool = _key(
        False, TRUE_IS_STRICTER, "Run only images listed in `.loom/images.lock`, and actions in `.loom/actions.lock`."
    )
    platform: Platform | None = _key(
        None, FREE, "The images' platform, such as linux/arm64; default: the engine's platform."
    )
    engine: str | None = _key(
        None,
        THE_USERS,
        "The engine's address; default: DOCKER_HOST or the current Docker context.",
    )
    on: str = _key(
        "docker",
        THE_USERS,
        "Where jobs in containers run: a pool, or a provider with an optional context, such as kubernetes:CONTEXT.",
    )
    pools: Pools = _key(
        dict, THE_USERS, "Providers with their settings, by the name that `runner_pool` and `--on` use."
    )
    jobs: Count | None = _key(None, LESS_IS_STRICTER, "How many jobs run at once; default: the number of processors.")
    deploy: bool = _key(False, THE_USERS, "Run also the jobs that deploy or release, of GitHub's and GitLab's files.")
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
        _order_of_strictness("never", "auto", "on-failure", "always"),
        "When to keep a job's container for inspection; auto: after a failure, on a terminal.",
    )
    keep_for: Duration = _key(86400.0, LESS_IS_STRICTER, "How long a kept container stays.")
    keep_max_size: Size = _key(
        10 * 1024**3,
        THE_USERS,
        "The size limit of all workspaces and kept containers; the oldest are removed first.",
    )
    keep_runs: Count = _key(100, LESS_IS_STRICTER, "How many run records to keep per checkout.")
    keep_workspaces: Count = _key(
        3, LESS_IS_STRICTER, "How many workspaces to keep per checkout; large ones: at most 1."
    )
    auto_clean: bool = _key(True, THE_USERS, "Run `loom clean` in the background after a run, when it is due.")
    stream: bool = _key(False, FREE, "Show what steps print while they run.")
    color: Literal["auto", "always", "never"] = _key("auto", FREE, "When to use colours.")
    tmp_dir: Path = _key(Path("/tmp"), THE_USERS, "The directory for isolated workspaces.")
    state_dir: Path = _key(
        Path("~/.local/state/loom"),
        THE_USERS,
        "The directory for per-user state.",
    )
    cache_dir: Path = _key(
        Path("~/.cache/loom"),
        THE_USERS,
        "The directory for jobs' caches.",
    )
    cache_max_size: Size = _key(
        10 * 1024**3,
        THE_USERS,
        "The size limit of the cache; the oldest entries are removed first.",
    )
    bucket: str | None = _key(
        None,
        THE_USERS,
        "A bucket that shares caches between machines, such as s3://NAME/PREFIX.",
    )
    protected_branches: Names | None = _key(
        None,
        THE_USERS,
        "Branches (globs) that don't read caches of other branches; default: origin's default branch, main and master.",
    )
    reported: Names = _key(
        (),
        THE_USERS,
        "Names (globs) of variables that other jobs may report (dotenv) to a job on this machine which does not declare them.",
    )
    gate_accept: Unlike = _key(
        ("other-commit",),
        Rule(rank=len),
        "What `loom gate` accepts of a run that is unlike CI's (guides/gate.md has the list).",
    )
    keepass: Databases = _key(dict, THE_USERS, "KeePass databases by the alias that secrets use.")
    gitlab: OfGitLab = _key(GitLabSettings, THE_USERS, "What a `.gitlab-ci.yml` needs of this machine.")
    github: OfGitHub = _key(GitHubSettings, THE_USERS, "What `.github/workflows` need of this machine.")
    origins: Mapping[str, ValueOrigin] = field(default_factory=dict, compare=False, metadata={"internal": True})
    overruled: tuple[Overruled, ...] = field(default=(), compare=False, metadata={"internal": True})

    def text_of(self, name: str) -> str:
        """Format a value for a configuration file (without quotes)."""
        return text_of(name, getattr(self, name))


class ConfigKey(Struct, frozen=True):
    parse: Parse
    about: str
    project: Rule
    choices: tuple[str, ...]
    """The allowed values, if they can be enumerated."""
    clearable: bool
    """Whether it accepts null."""


def _key_of(item: Field[Any], hint: Any) -> ConfigKey:
    kinds = [kind for kind in (hint, *get_args(hint)) if kind is not NoneType]
    clearable = NoneType in get_args(hint)
    kind = kinds[1] if clearable else kinds[0]
    choices = get_args(kind) if get_origin(kind) is Literal else ()
    plain: Mapping[Any, Parse] = {bool: parse_flag, str: parse_text, Path: parse_path}
    parse = (
        kind.__metadata__[0] if get_origin(kind) is Annotated else parse_choice(*choices) if choices else plain[kind]
    )
    return ConfigKey(parse, item.metadata["about"], item.metadata["project"], choices, clearable)


_HINTS = get_type_hints(Config, include_extras=True)
SETTINGS = {item.name: _key_of(item, _HINTS[item.name]) for item in fields(Config) if "internal" not in item.metadata}
KEYS = tuple(SETTINGS)
MAPPINGS = frozenset({"github", "gitlab", "images", "job_inputs", "keepass", "pools"})
"""The settings that no variable can give."""
MEASURES: Mapping[Parse, Callable[[Any], str]] = {
    parse_duration: duration_text,
    parse_size: size_text,
    parse_memory: size_text,
}


def text_of(name: str, value: Any) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if (measure := MEASURES.get(SETTINGS[name].parse)) is not None:
        return measure(value)
    if isinstance(value, tuple):
        return "[" + ", ".join(value) + "]"
    if isinstance(value, Mapping):
        shown = {key: getattr(item, "target", None) or getattr(item, "path", item) for key, item in value.items()}
        shown = {key: f"[{', '.join(item)}]" if isinstance(item, tuple) else item for key, item in shown.items()}
        return "{" + ", ".join(f"{key}: {text}" for key, text in shown.items()) + "}"
    if isinstance(value, GitHubSettings | GitLabSettings):
        given = (key for key in value.__struct_fields__ if getattr(value, key) != getattr(type(value)(), key))
        return "{" + ", ".join(given) + "}"
    return hide_credentials(str(value))
