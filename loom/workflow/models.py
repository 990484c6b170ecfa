"""What users write, as models: every key, its forms, and what it is for.

The JSON Schema that editors use is generated from these models, and the loader's messages are made from their errors.
Validators raise ValueError with the words that a user reads.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable
from typing import Annotated, Any, Literal, get_args

from msgspec import Struct
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    GetCoreSchemaHandler,
    GetJsonSchemaHandler,
    field_validator,
    model_validator,
)
from pydantic_core import CoreSchema, core_schema

from loom.util.units import DURATION_PATTERN, PLATFORM_PATTERN, SIZE_PATTERN, duration, memory, nearest, platform, size
from loom.workflow import expressions
from loom.workflow.patterns import compile_pattern

STAGE = r"^[a-z][a-z0-9_-]{0,31}$"
JOB = r"^[a-z][a-z0-9_-]{0,63}$"
TEMPLATE = r"^\.[a-z][a-z0-9_-]{0,63}$"
VARIABLE = r"^[A-Za-z_][A-Za-z0-9_]*$"
HOST_NAME = r"^[A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?$"
EXTRA_HOST = r"^[A-Za-z0-9_]([A-Za-z0-9._-]{0,251}[A-Za-z0-9])?$"
ULIMITS = (
    *("as", "core", "cpu", "data", "fsize", "locks", "memlock", "msgqueue"),
    *("nice", "nofile", "nproc", "rss", "rtprio", "rttime", "sigpending", "stack"),
)
MAX_ID = 2**31 - 1
ROOT_KEYS = ("version", "stages", "variables", "default", "include", "workflow")
MAX_COMBINATIONS = 256


class Form(Struct, frozen=True, eq=False):
    """A second way to write a value: `expand` turns it into the full form (and leaves everything else alone)."""

    expand: Callable[[Any], Any]
    schema: dict[str, Any] | None
    """The short form's JSON Schema; None: one item of the list that the full form is."""

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_before_validator_function(self.expand, handler(source))

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        full = handler(schema)
        return {"anyOf": [full["items"] if self.schema is None else self.schema, full]}


class Parsed(Struct, frozen=True, eq=False):
    """A value that users write as text (or a number) and loom reads as something else."""

    parse: Callable[[Any], Any]
    schema: dict[str, Any]

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_plain_validator_function(self.parse)

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        return dict(self.schema)


class NotText(ValueError):
    """A value of another kind where text is wanted; the loader words it, since it knows what was written."""


class Unrepeated(ValueError):
    """What was written is not to be shown again: it may be a secret that does not belong there."""


class Incomplete(ValueError):
    """Something is not there (yet: in a template or in `default` it may come by a merge)."""


_DEVICE = r"/[^:\s]+(:/[^:\s]+)?(:[rwm]{1,3})?|[A-Za-z][\w.-]*/[A-Za-z][\w.-]*=[\w.:-]+"


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise NotText
    return value


def _seconds(value: Any) -> float:
    if isinstance(value, int | float) and not isinstance(value, bool):
        raise ValueError(f"expected a duration with its unit, such as {value}s or {value}m")
    return duration(_text(value))


def _limit(value: Any) -> float:
    seconds = _seconds(value)
    if seconds <= 0:
        raise ValueError(f"expected a duration longer than nothing, found {value!r}; remove the key for no limit")
    return seconds


def _host_name(value: Any) -> str:
    text = _line(value)
    if not re.fullmatch(HOST_NAME[1:-1], text):
        raise ValueError("expected a host name: letters, digits, . _ and -")
    return text


def _bytes(value: Any) -> int:
    return size(str(value)) if isinstance(value, int) and not isinstance(value, bool) else size(_text(value))


def _memory(value: Any) -> int:
    _bytes(value)
    return memory(str(value))


def _line(value: Any) -> str:
    text = _text(value)
    if not text.strip():
        raise ValueError("expected text, found an empty text")
    if "\n" in text.strip() or "\0" in text:
        raise ValueError("expected one line of text")
    return text.strip()


def _script(value: Any) -> str:
    text = _text(value)
    if not text.strip():
        raise ValueError("expected a command, found an empty text; remove it")
    return text


def _reference(value: Any) -> str:
    text = value.strip() if isinstance(value, str) else ""
    if not re.fullmatch(r"[a-z][a-z0-9+.-]*://\S[^\n]*", text):
        raise Unrepeated(
            "expected a reference such as env://NAME or keyring://service/name; a secret's value is never written here"
        )
    return text


def _relative(value: Any) -> str:
    text = _line(value)
    if text.startswith(("/", "~")):
        raise ValueError("expected a path inside the project, relative to its root")
    if ".." in text.split("/"):
        raise ValueError("expected a path inside the project, without ..")
    return text


def _condition(value: Any) -> expressions.Expression:
    return expressions.parse(_text(value))


def shell_words(value: Any) -> list[str]:
    if isinstance(value, list):
        words = [_text(word) for word in value]
    else:
        try:
            words = shlex.split(_line(value))
        except ValueError as error:
            if isinstance(error, NotText):
                raise
            raise ValueError(f"not a command line: {error}") from error
        name = words[0].rsplit("/", 1)[-1] if len(words) == 1 else ""
        if name in ("sh", "bash", "dash", "ash", "ksh", "zsh", "mksh"):
            words += ["-e", "-o", "pipefail"] if name == "bash" else ["-e"]
    if not words or not words[0]:
        raise ValueError("expected a shell such as bash, or its command line as a list")
    return words


def _cpus(value: Any) -> float:
    if isinstance(value, str) and re.fullmatch(r"[0-9]+(\.[0-9]+)?", value):
        value = float(value)
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0.01 <= value <= 4096:
        raise ValueError("expected a number of processors such as 2 or 0.5")
    return float(value)


def _gpus(value: Any) -> str:
    if isinstance(value, int) and not isinstance(value, bool) and value > 0:
        return str(value)
    text = value if isinstance(value, str) else ""
    if text != "all" and not re.fullmatch(r"[1-9][0-9]*|device=[\w,.:-]+", text):
        raise ValueError("expected a number of GPUs, all, or device=ID")
    return text


def _ulimit_name(value: Any) -> str:
    name = _text(value)
    if name not in ULIMITS:
        close = nearest(name, ULIMITS)
        meant = f"did you mean {close}?" if close else f"the limits are {', '.join(ULIMITS)}"
        raise ValueError(f"there is no limit {name}; {meant}")
    return name


def _tmpfs(value: Any) -> str:
    text = _line(value)
    path = text.partition(":")[0].rstrip("/")
    if not path.startswith("/"):
        raise ValueError("expected an absolute path below /, such as /cache or /cache:size=64m")
    return text


def _extra_host(value: Any) -> str:
    text = _line(value)
    if not re.fullmatch(EXTRA_HOST[1:-1], text):
        raise ValueError(f"{text!r} can't be a host name: letters, digits, . _ and -")
    return text


def _address(value: Any) -> str:
    import ipaddress

    text = _line(value)
    try:
        if text != "host-gateway":
            ipaddress.ip_address(text.replace("%", " "))  # no zone: it would be this machine's, not the container's
    except ValueError:
        raise ValueError("expected an address such as 10.0.0.1 or fd00::1, or host-gateway") from None
    return text


def user(text: str) -> str:
    """`text`, if it can be a container's user. ValueError says what to write."""
    for part in text.split(":", 1):
        if re.fullmatch(r"[+-]?[0-9]+", part) and not 0 <= int(part) <= MAX_ID:
            raise ValueError(
                f"expected a user's name or a number from 0 to {MAX_ID}, such as 1000 or 1000:1000, found {text!r}"
            )
    return text


def _user(value: Any) -> str:
    return user(_line(value))


def _platform(value: Any) -> str:
    text = _line(value)
    return text if "$" in text else platform(text)  # its variables are known later


def _device(value: Any) -> str:
    text = _line(value)
    if not re.fullmatch(_DEVICE, text):
        raise ValueError("expected a device such as /dev/fuse, /dev/fuse:/dev/fuse:rw or vendor.com/class=name")
    return text


def _pattern(value: Any) -> str:
    text = _text(value)
    compile_pattern(f"/{text}/")  # PatternError is a ValueError
    return text


def _listed(value: Any) -> Any:
    return value if isinstance(value, list) else [value]


def _numbers(value: Any) -> Any:
    return [value] if isinstance(value, int) and not isinstance(value, bool) else value


def _named(key: str) -> Callable[[Any], Any]:
    return lambda value: {key: value} if isinstance(value, str) else value


_TEXT: dict[str, Any] = {"type": "string"}
_FILLED: dict[str, Any] = {"type": "string", "pattern": r"\S"}
_LINE: dict[str, Any] = {"type": "string", "pattern": r"^\s*\S[^\n]*\s*$"}
_REFERENCE: dict[str, Any] = {"type": "string", "pattern": r"^\s*[a-z][a-z0-9+.-]*://\S[^\n]*\s*$"}
_NETWORK = r"^[A-Za-z0-9][A-Za-z0-9_.:-]*$"
Text = Annotated[str, Parsed(_text, _TEXT)]
Line = Annotated[str, Parsed(_line, _LINE)]
Script = Annotated[str, Parsed(_script, _FILLED)]
Seconds = Annotated[
    float, Parsed(_seconds, {"type": "string", "pattern": DURATION_PATTERN, "examples": ["90s", "10m", "1h30m"]})
]
Limit = Annotated[
    float,
    Parsed(
        _limit,
        # What is all zeros and units is no time at all.
        {
            "type": "string",
            "pattern": DURATION_PATTERN,
            "not": {"pattern": "^[0.wdhms]*$"},
            "examples": ["10m", "1h30m"],
        },
    ),
]
HostName = Annotated[str, Parsed(_host_name, {"type": "string", "pattern": HOST_NAME})]
Bytes = Annotated[
    int,
    Parsed(
        _bytes,
        {
            "anyOf": [{"type": "string", "pattern": SIZE_PATTERN}, {"type": "integer", "minimum": 0}],
            "examples": ["512m", "2g"],
        },
    ),
]
RelativePath = Annotated[
    str, Parsed(_relative, {"type": "string", "pattern": r"^\s*(?![/~\s])(?!(.*/)?\.\.(/|\s*$))[^\n]+$"})
]
Condition = Annotated[Any, Parsed(_condition, _FILLED | {"examples": ['$CI_COMMIT_BRANCH == "main"']})]
Shell = Annotated[
    list[str],
    Parsed(shell_words, {"anyOf": [_FILLED, {"type": "array", "items": _TEXT, "minItems": 1}], "examples": ["bash"]}),
]
Cpus = Annotated[
    float,
    Parsed(
        _cpus,
        {
            "anyOf": [
                {"type": "number", "minimum": 0.01, "maximum": 4096},
                {"type": "string", "pattern": r"^[0-9]+(\.[0-9]+)?$"},
            ]
        },
    ),
]
Gpus = Annotated[
    str,
    Parsed(
        _gpus,
        {
            "anyOf": [
                {"type": "integer", "minimum": 1},
                {"type": "string", "pattern": r"^(all|[1-9][0-9]*|device=[A-Za-z0-9_,.:-]+)$"},
            ]
        },
    ),
]
Memory = Annotated[
    int,
    Parsed(
        _memory,
        {
            "anyOf": [
                {"type": "string", "pattern": SIZE_PATTERN},
                {"const": 0},
                {"type": "integer", "minimum": 6291456},
            ],
            "examples": ["512m", "2g"],
        },
    ),
]
UlimitName = Annotated[str, Parsed(_ulimit_name, {"type": "string", "pattern": f"^({'|'.join(ULIMITS)})$"})]
Tmpfs = Annotated[str, Parsed(_tmpfs, {"type": "string", "pattern": r"^\s*/+[^/:\s][^\n]*$"})]
ExtraHost = Annotated[str, Parsed(_extra_host, {"type": "string", "pattern": EXTRA_HOST})]
Address = Annotated[
    str,
    Parsed(_address, {"type": "string", "pattern": r"^\s*(host-gateway|[0-9.]+|[0-9A-Fa-f:.]*:[0-9A-Fa-f:.]*)\s*$"}),
]
User = Annotated[str, Parsed(_user, {"type": "string", "pattern": r"^\s*(?!-[0-9])(?![^:]*:-[0-9])\S[^\n]*\s*$"})]
Platform = Annotated[
    str,
    Parsed(_platform, {"type": "string", "pattern": rf"^\s*({PLATFORM_PATTERN}|[A-Za-z0-9_-]+|[^\n]*\$[^\n]*)\s*$"}),
]
RegularExpression = Annotated[str, Parsed(_pattern, _TEXT)]
Device = Annotated[str, Parsed(_device, {"type": "string", "pattern": f"^({_DEVICE})$"})]
Lines = Annotated[list[Line], Form(_listed, None)]
TmpfsMounts = Annotated[list[Tmpfs], Form(_listed, None)]
Devices = Annotated[list[Device], Form(_listed, None)]
Paths = Annotated[list[RelativePath], Form(_listed, None)]
Scripts = Annotated[list[Script], Form(_listed, None)]
Arguments = Annotated[list[Text], Form(_listed, None)]
ExitCode = Annotated[int, Field(ge=0, le=255)]
ExitCodes = Annotated[list[ExitCode], Form(_numbers, None)]
VariableName = Annotated[str, Field(pattern=VARIABLE)]
Variables = dict[VariableName, Text]
PullPolicy = Literal["always", "missing", "never"]
Outcome = Literal["on_success", "on_failure", "always"]
JobWhen = Literal["on_success", "on_failure", "always", "manual", "never"]


class Model(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class SecretFields(Model):
    ref: Annotated[str, Parsed(_reference, _REFERENCE)] = Field(
        description="Where the value is: env://, file://, keyring://, keepass:// or op://."
    )
    file: bool = Field(
        default=True,
        description="Hand it over as a file, with its path in the variable; false: as the variable itself.",
    )
    required: bool = Field(default=True, description="Fail when the secret is not there.")


Secret = Annotated[SecretFields, Form(_named("ref"), _REFERENCE)]


class Build(Model):
    context: RelativePath = Field(default=".", description="The build context: a folder of the project.")
    dockerfile: RelativePath = Field(default="Dockerfile", description="The Dockerfile, relative to the context.")
    target: Line | None = Field(default=None, description="The stage of the Dockerfile to build.")
    args: dict[Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")], Text] = Field(
        default_factory=dict, description="Build arguments."
    )
    secrets: Annotated[list[VariableName], Form(_listed, None)] = Field(
        default_factory=list,
        description="Secrets of the job that the build may mount: RUN --mount=type=secret,id=NAME.",
    )


class ImageFields(Model):
    name: Line | None = Field(default=None, description="The image's name, or the name given to what `build` builds.")
    build: Build | None = Field(default=None, description="Build the image from the project instead of pulling it.")
    pull: PullPolicy | None = Field(default=None, description="When to pull: always, missing or never.")
    entrypoint: Arguments | None = Field(
        default=None, description="Run this before the steps' shell; the image's own is not run."
    )
    user: User | None = Field(default=None, description="The user that steps run as: name or uid, optionally :group.")
    platform: Platform | None = Field(default=None, description="The image's platform, such as linux/arm64.")


Image = Annotated[ImageFields, Form(_named("name"), _LINE)]


class Ready(Model):
    tcp: Annotated[int, Field(ge=1, le=65535)] | None = Field(
        default=None, description="Ready when this port accepts connections."
    )
    command: Arguments | None = Field(
        default=None, description="Ready when this command succeeds; text is run by sh -c."
    )
    http: Line | None = Field(default=None, description="Ready when this URL or :PORT/PATH answers with 2xx or 3xx.")
    log: RegularExpression | None = Field(default=None, description="Ready when a log line matches this pattern.")
    interval: Limit = Field(default=1.0, description="The time between two tries.")
    timeout: Limit = Field(default=60.0, description="How long to wait before the job fails.")

    @field_validator("command", mode="before")
    @classmethod
    def _shell_command(cls, value: Any) -> Any:
        return ["sh", "-c", value] if isinstance(value, str) else value

    @model_validator(mode="after")
    def _one_probe(self) -> Ready:
        given = [name for name in ("tcp", "command", "http", "log") if getattr(self, name) is not None]
        if len(given) > 1:
            raise ValueError(f"expected one probe, found {' and '.join(given)}; keep one")
        return self


class Service(Model):
    name: Line = Field(description="The service's name; it is the image too if `image` is not given.")
    image: Image | None = Field(default=None, description="The service's image.")
    alias: Annotated[list[HostName], Form(_listed, None)] | None = Field(
        default=None, description="The host names under which steps reach the service."
    )
    variables: Variables = Field(default_factory=dict, description="Environment variables of the service.")
    secrets: dict[VariableName, Secret] = Field(
        default_factory=dict,
        description="Secrets of the service: a file with its path in NAME_FILE; with file: false, the variable NAME.",
    )
    run: Literal["once"] | None = Field(
        default=None, description="once: the service does something and ends, a migration for example."
    )
    command: Arguments | None = Field(default=None, description="Replaces the image's command.")
    entrypoint: Arguments | None = Field(default=None, description="Replaces the image's entrypoint.")
    user: User | None = Field(default=None, description="The user that the service runs as.")
    ready: Ready = Field(default_factory=lambda: Ready(), description="How to know that the service is ready.")

    @model_validator(mode="after")
    def _ready_when_it_ended(self) -> Service:
        probes = [name for name in ("tcp", "command", "http", "log") if getattr(self.ready, name) is not None]
        if self.run == "once" and probes:
            raise ValueError(f"a service with `run: once` is ready when it ended with 0; remove ready: {probes[0]}")
        return self


class CacheKeyFields(Model):
    files: Paths = Field(description="The key changes when one of these files does.", min_length=1)
    prefix: Text = Field(default="", description="What the key begins with.")


def _cache_key(value: Any) -> Any:
    """Text becomes a prefix with no files."""
    if isinstance(value, str) and value.strip():
        return CacheKeyFields.model_construct(files=[], prefix=value.strip())
    return value


class CacheFields(Model):
    paths: Paths = Field(description="What to keep: paths or globs inside the project.", min_length=1)
    key: Annotated[CacheKeyFields, Form(_cache_key, _FILLED)] = Field(
        default_factory=lambda: _cache_key("default"),
        description="The cache's key: text (variables allowed), or {files, prefix}.",
    )
    fallback_keys: Lines = Field(default_factory=list, description="Keys to try when there is no entry under `key`.")
    policy: Literal["pull", "push", "pull-push"] = Field(default="pull-push", description="Restore, save, or both.")
    when: Outcome = Field(default="on_success", description="When to save.")
    name: Line | None = Field(default=None, description="A name for the record.")
    disabled: bool = Field(default=False, description="Leave this cache out.")


class Reports(Model):
    junit: Paths = Field(default_factory=list, description="JUnit XML reports; failing tests are named in the record.")


class ArtifactsFields(Model):
    paths: Paths = Field(default_factory=list, description="What to keep: paths or globs inside the project.")
    exclude: Paths = Field(default_factory=list, description="What not to keep.")
    when: Outcome = Field(default="on_success", description="When to keep it.")
    name: Line | None = Field(default=None, description="The archive's name.")
    expire_in: Seconds | None = Field(
        default=None, description="How long CI keeps it; a local run keeps it with the record."
    )
    reports: Reports = Field(default_factory=lambda: Reports(), description="Reports that loom reads.")

    @model_validator(mode="after")
    def _something(self) -> ArtifactsFields:
        if not self.paths and not self.reports.junit:
            raise Incomplete("expected paths or reports; there is nothing to keep")
        return self


class ChangesFields(Model):
    paths: Lines = Field(description="Globs, relative to the project's root; ** crosses folders.", min_length=1)
    compare_to: Line | None = Field(
        default=None, description="The branch, tag or commit to compare with; HEAD if not given."
    )


def _paths(value: Any) -> Any:
    return {"paths": value} if isinstance(value, list | str) else value


_GLOBS: dict[str, Any] = {"anyOf": [_LINE, {"type": "array", "items": _LINE, "minItems": 1}]}


class RuleFields(Model):
    if_: Condition | None = Field(default=None, alias="if", description="A condition on variables.")
    changes: Annotated[ChangesFields, Form(_paths, _GLOBS)] | None = Field(
        default=None, description="True when a changed file matches."
    )
    exists: Lines | None = Field(default=None, description="True when a file matches one of these globs.")
    variables: Variables = Field(default_factory=dict, description="Variables that hold when this rule matches.")


class WorkflowRule(RuleFields):
    when: Literal["always", "never"] = Field(
        default="always", description="Whether anything runs when this rule matches."
    )


class AllowFailureFields(Model):
    exit_codes: ExitCodes = Field(description="Exit codes that do not fail the pipeline.", min_length=1)


def _allow_failure(value: Any) -> Any:
    """False becomes no exit codes, True None: every one."""
    return AllowFailureFields.model_construct(exit_codes=None if value else []) if isinstance(value, bool) else value


AllowFailure = Annotated[AllowFailureFields, Form(_allow_failure, {"type": "boolean"})]


class Rule(RuleFields):
    when: JobWhen | None = Field(default=None, description="When the job runs if this rule matches.")
    allow_failure: bool | None = Field(default=None, description="Whether the job may fail if this rule matches.")


class NeedFields(Model):
    job: Line = Field(description="The job to wait for.")
    optional: bool = Field(default=False, description="No error when that job is not part of the run.")
    artifacts: bool = Field(default=True, description="Whether its artifacts are restored here.")
    matrix: dict[VariableName, Text] = Field(
        default_factory=dict, description="Only the combinations with these values."
    )


Need = Annotated[NeedFields, Form(_named("job"), _LINE)]
RetryReason = Literal["always", "script_failure", "provider_failure", "timeout"]


class RetryFields(Model):
    max: Annotated[int, Field(ge=0, le=10)] = Field(default=1, description="How often to try again.")
    when: Annotated[list[RetryReason], Form(_listed, None)] = Field(
        default_factory=lambda: list[RetryReason](["always"]), description="What to try again after.", min_length=1
    )
    exit_codes: ExitCodes = Field(default_factory=list, description="Try again only after these exit codes.")
    backoff: Seconds = Field(
        default=0.0, description="How long to wait before the first further attempt; doubles each time."
    )


def _retry(value: Any) -> Any:
    return {"max": value} if isinstance(value, int) and not isinstance(value, bool) else value


Retry = Annotated[RetryFields, Form(_retry, {"type": "integer", "minimum": 0, "maximum": 10})]
MatrixValues = Annotated[list[Text], Form(_listed, None), Field(min_length=1)]


class ParallelFields(Model):
    count: Annotated[int, Field(ge=1, le=MAX_COMBINATIONS)] | None = Field(
        default=None, description="How many copies of the job."
    )
    matrix: list[Annotated[dict[VariableName, MatrixValues], Field(min_length=1)]] | None = Field(
        default=None, description="Each combination of the values becomes a job of its own.", min_length=1
    )

    @model_validator(mode="after")
    def _one(self) -> ParallelFields:
        if (self.count is None) == (self.matrix is None):
            raise Incomplete("expected a number of copies, or matrix with the values to combine")
        total = 0
        for row in self.matrix or ():
            combinations = 1
            for values in row.values():
                combinations *= len(values)
            total += combinations
        if total > MAX_COMBINATIONS:
            raise ValueError(f"the matrix has {total} combinations; at most {MAX_COMBINATIONS} are allowed")
        return self


def _parallel(value: Any) -> Any:
    return {"count": value} if isinstance(value, int) and not isinstance(value, bool) else value


Parallel = Annotated[ParallelFields, Form(_parallel, {"type": "integer", "minimum": 1, "maximum": MAX_COMBINATIONS})]


class UlimitFields(Model):
    soft: int = Field(description="The soft limit.")
    hard: int = Field(description="The hard limit.")

    @model_validator(mode="after")
    def _in_order(self) -> UlimitFields:
        if self.soft % 2**64 > self.hard % 2**64:  # to the kernel -1 is the largest number: no limit
            raise ValueError(f"the soft limit {self.soft} is above the hard limit {self.hard}")
        return self


def _ulimit(value: Any) -> Any:
    return {"soft": value, "hard": value} if isinstance(value, int) and not isinstance(value, bool) else value


Ulimit = Annotated[UlimitFields, Form(_ulimit, {"type": "integer"})]


class Resources(Model):
    cpus: Cpus | None = Field(default=None, description="How many processors the job may use.")
    memory: Memory | None = Field(default=None, description="How much memory the job may use.")
    pids: Annotated[int, Field(ge=1)] | None = Field(default=None, description="How many processes the job may have.")
    shm_size: Bytes | None = Field(default=None, description="The size of /dev/shm.")
    ulimits: dict[UlimitName, Ulimit] = Field(default_factory=dict, description="Limits such as nofile.")
    tmpfs: TmpfsMounts = Field(default_factory=list, description="Paths to mount a tmpfs at, optionally with :options.")
    devices: Devices = Field(
        default_factory=list,
        description="Devices to hand in: /dev/X, /dev/X:rw, /dev/X:/dev/Y:rw, or a vendor's CDI name.",
    )
    gpus: Gpus | None = Field(default=None, description="GPUs to hand in: a number, all, or device=ID.")
    read_only: bool = Field(default=False, description="The container's root file system can't be written to.")


class NetworkFields(Model):
    mode: Annotated[str, Field(pattern=_NETWORK)] | None = Field(
        default=None, description="bridge, none, host, or the name of a network."
    )
    extra_hosts: dict[ExtraHost, Address] = Field(
        default_factory=dict, description="Further host names and their addresses."
    )


Network = Annotated[NetworkFields, Form(_named("mode"), {"type": "string", "pattern": _NETWORK})]


class Common(Model):
    """Keys that `default` may give to every job."""

    target: Literal["linux"] | None = Field(default=None, description="The kind of machine; linux.")
    before_script: Scripts | None = Field(default=None, description="Steps before `script`.")
    after_script: Scripts | None = Field(
        default=None, description="Steps after `script`, also when it failed or timed out."
    )
    image: Image | None = Field(default=None, description="The image that the job runs in.")
    user: User | None = Field(default=None, description="The user that steps run as; the image's own if not given.")
    shell: Shell | None = Field(
        default=None, description="The shell that runs each step: auto, a name, or its command line."
    )
    variables: Variables | None = Field(default=None, description="Environment variables; values are text.")
    secrets: dict[VariableName, Secret] | None = Field(
        default=None, description="Secrets, by the variable that hands them over."
    )
    services: list[Annotated[Service, Form(_named("name"), _LINE)]] | None = Field(
        default=None, description="Containers that run beside the job."
    )
    cache: Annotated[list[CacheFields], Form(_listed, None)] | None = Field(
        default=None, description="Folders kept between runs."
    )
    artifacts: ArtifactsFields | None = Field(default=None, description="Files to keep and to hand to later jobs.")
    allow_failure: AllowFailure | None = Field(
        default=None, description="Whether the pipeline goes on when the job fails."
    )
    retry: Retry | None = Field(default=None, description="Try again after a failure.")
    timeout: Limit | None = Field(default=None, description="How long the job may take.")
    step_timeout: Limit | None = Field(default=None, description="How long each step may take.")
    resources: Resources | None = Field(default=None, description="Limits of the job's container.")
    network: Network | None = Field(default=None, description="The network of the job's container.")
    privileged: bool | None = Field(default=None, description="Give the container all privileges.")
    docker_socket: bool | None = Field(default=None, description="Hand the engine's socket to the job.")
    runner_pool: Line | None = Field(
        default=None, description="Where the job would run remotely; no effect on a local run."
    )


class Job(Common):
    """A job, or a template if its name starts with a dot. What is required is checked after `extends` and `default`."""

    extends: Lines | None = Field(default=None, description="Templates or jobs to start from; later ones win.")
    stage: Annotated[str, Field(pattern=STAGE)] | None = Field(
        default=None, description="The job's stage; one of `stages`."
    )
    script: Scripts | None = Field(default=None, description="The job's steps, each a shell script.", min_length=1)
    needs: Annotated[list[Need], Form(_listed, None)] | None = Field(
        default=None, description="Jobs to wait for, instead of the stages before."
    )
    rules: list[Rule] | None = Field(
        default=None, description="Whether and how the job runs; the first rule that matches counts."
    )
    when: JobWhen | None = Field(
        default=None, description="When the job runs: on_success, on_failure, always, manual or never."
    )
    parallel: Parallel | None = Field(default=None, description="Run the job several times: a number, or a matrix.")


class Include(Model):
    local: RelativePath = Field(description="A file (or glob) below .loom/templates, relative to the project's root.")


class WorkflowSettings(Model):
    rules: list[WorkflowRule] = Field(description="Whether anything runs; the first rule that matches counts.")


class Root(Model):
    """The root keys; jobs and templates are checked one by one."""

    version: Literal["v1"] = Field(description="The language's version.")
    stages: Annotated[list[Annotated[str, Field(pattern=STAGE)]], Field(min_length=1)] = Field(
        description="The stages, in order."
    )
    variables: Variables = Field(
        default_factory=dict, description="Environment variables of every job; values are text."
    )
    default: Common | None = Field(default=None, description="Keys for every job; a job's own value wins.")
    include: Annotated[list[Include], Form(_listed, None)] = Field(
        default_factory=list, description="Files with templates and jobs."
    )
    workflow: WorkflowSettings | None = Field(default=None, description="Rules for the workflow as a whole.")


class Included(Model):
    """The root keys of an included file."""

    version: Literal["v1"] | None = Field(default=None, description="The language's version.")
    variables: Variables = Field(
        default_factory=dict, description="Environment variables of every job; the main file wins."
    )
    default: Common | None = Field(default=None, description="Keys for every job; the main file wins.")
    include: Annotated[list[Include], Form(_listed, None)] = Field(default_factory=list, description="Further files.")


JOB_KEYS = tuple(Job.model_fields)
DEFAULT_KEYS = tuple(Common.model_fields)


def models_in(annotation: Any) -> list[type[BaseModel]]:
    """The models that an annotation names, whatever it wraps them in."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for argument in get_args(annotation) for model in models_in(argument)]
