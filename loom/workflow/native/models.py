"""The models of what users write: every key, its forms and its purpose.

The JSON Schema for editors is generated from these models; the loader's messages derive from their errors. Validators
raise ValueError with text for users.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from loom.workflow.native.values import (
    FILLED,
    LINE,
    NETWORK,
    REFERENCE,
    STAGE,
    Address,
    Arguments,
    Bytes,
    Condition,
    Cpus,
    Devices,
    ExitCodes,
    ExtraHost,
    Globs,
    Gpus,
    HostName,
    Incomplete,
    JobWhen,
    Limit,
    Line,
    Lines,
    Memory,
    Outcome,
    Paths,
    Platform,
    PullPolicy,
    Reference,
    RegularExpression,
    RelativePath,
    Scripts,
    Seconds,
    Shell,
    ShortForm,
    Text,
    TmpfsMounts,
    UlimitName,
    User,
    VariableName,
    Variables,
    listed,
    named,
)

ROOT_KEYS = ("version", "stages", "variables", "default", "include", "workflow")
MAX_COMBINATIONS = 256


def optional(description: str) -> Any:
    return Field(default=None, description=description)


class Model(BaseModel):
    model_config = ConfigDict(defer_build=True, extra="forbid", strict=True, frozen=True)


class SecretFields(Model):
    ref: Reference = Field(description="Where the value is: env://, file://, keyring://, keepass:// or op://.")
    file: bool = Field(
        default=True,
        description="Hand it over as a file, with its path in the variable; false: as the variable itself.",
    )
    required: bool = Field(default=True, description="Fail when the secret is not there.")


Secret = Annotated[SecretFields, ShortForm(named("ref"), REFERENCE)]


class Build(Model):
    context: RelativePath = Field(default=".", description="The build context: a folder of the project.")
    dockerfile: RelativePath = Field(default="Dockerfile", description="The Dockerfile, relative to the context.")
    target: Line | None = optional("The stage of the Dockerfile to build.")
    args: dict[Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")], Text] = Field(
        default_factory=dict, description="Build arguments."
    )
    secrets: Annotated[list[VariableName], ShortForm(listed, None)] = Field(
        default_factory=list,
        description="Secrets of the job that the build may mount: RUN --mount=type=secret,id=NAME.",
    )


class ImageFields(Model):
    name: Line | None = optional("The image's name, or the name given to what `build` builds.")
    build: Build | None = optional("Build the image from the project instead of pulling it.")
    pull: PullPolicy | None = optional("When to pull: always, missing or never.")
    entrypoint: Arguments | None = optional("Run this before the steps' shell; the image's own is not run.")
    user: User | None = optional("The user that steps run as: name or uid, optionally :group.")
    platform: Platform | None = optional("The image's platform, such as linux/arm64.")


Image = Annotated[ImageFields, ShortForm(named("name"), LINE)]


class Ready(Model):
    tcp: Annotated[int, Field(ge=1, le=65535)] | None = optional("Ready when this port accepts connections.")
    command: Arguments | None = optional("Ready when this command succeeds; text is run by sh -c.")
    http: Line | None = optional("Ready when this URL or :PORT/PATH answers with 2xx or 3xx.")
    log: RegularExpression | None = optional("Ready when a log line matches this pattern.")
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
    image: Image | None = optional("The service's image.")
    alias: Annotated[list[HostName], ShortForm(listed, None)] | None = optional(
        "The host names under which steps reach the service."
    )
    variables: Variables = Field(default_factory=dict, description="Environment variables of the service.")
    secrets: dict[VariableName, Secret] = Field(
        default_factory=dict,
        description="Secrets of the service: a file with its path in NAME_FILE; with file: false, the variable NAME.",
    )
    run: Literal["once"] | None = optional("once: the service does something and ends, a migration for example.")
    command: Arguments | None = optional("Replaces the image's command.")
    entrypoint: Arguments | None = optional("Replaces the image's entrypoint.")
    user: User | None = optional("The user that the service runs as.")
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
    """Accept text as a prefix without files."""
    if isinstance(value, str) and value.strip():
        return CacheKeyFields.model_construct(files=[], prefix=value.strip())
    return value


class CacheFields(Model):
    paths: Paths = Field(description="What to keep: paths or globs inside the project.", min_length=1)
    key: Annotated[CacheKeyFields, ShortForm(_cache_key, FILLED)] = Field(
        default_factory=lambda: _cache_key("default"),
        description="The cache's key: text (variables allowed), or {files, prefix}.",
    )
    fallback_keys: Lines = Field(default_factory=list, description="Keys to try when there is no entry under `key`.")
    policy: Literal["pull", "push", "pull-push"] = Field(default="pull-push", description="Restore, save, or both.")
    when: Outcome = Field(default="on_success", description="When to save.")
    name: Line | None = optional("A name for the record.")
    disabled: bool = Field(default=False, description="Leave this cache out.")


ReportKind = Literal["junit", "dotenv", "sarif", "codequality"]


class Reports(Model):
    junit: Paths = Field(default_factory=list, description="JUnit XML reports; failing tests are named in the record.")
    dotenv: Paths = Field(default_factory=list, description="Lines NAME=value: variables of jobs that get artifacts.")
    sarif: Paths = Field(default_factory=list, description="SARIF 2.1.0; findings are named in the record.")
    codequality: Paths = Field(default_factory=list, description="Code Climate JSON; findings are named in the record.")

    def by_kind(self) -> dict[ReportKind, list[str]]:
        kinds: tuple[ReportKind, ...] = get_args(ReportKind)
        return {kind: paths for kind in kinds if (paths := getattr(self, kind))}


class ArtifactsFields(Model):
    paths: Paths = Field(default_factory=list, description="What to keep: paths or globs inside the project.")
    exclude: Paths = Field(default_factory=list, description="What not to keep.")
    untracked: bool = Field(default=False, description="Keep also all files that git does not track.")
    when: Outcome = Field(default="on_success", description="When to keep it.")
    name: Line | None = optional("The archive's name.")
    expire_in: Seconds | None = optional("How long CI keeps it; a local run keeps it with the record.")
    reports: Reports = Field(default_factory=lambda: Reports(), description="Reports that loom reads.")

    @model_validator(mode="after")
    def _something(self) -> ArtifactsFields:
        if not self.paths and not self.untracked and not self.reports.by_kind():
            raise Incomplete("expected paths, untracked or reports; there is nothing to keep")
        return self


class ChangesFields(Model):
    paths: Globs = Field(description="Globs, relative to the project's root; ** crosses folders.", min_length=1)
    compare_to: Line | None = optional("The branch, tag or commit to compare with; HEAD if not given.")


def _paths(value: Any) -> Any:
    return {"paths": value} if isinstance(value, list | str) else value


_GLOBS: dict[str, Any] = {"anyOf": [LINE, {"type": "array", "items": LINE, "minItems": 1}]}


class RuleFields(Model):
    if_: Condition | None = Field(default=None, alias="if", description="A condition on variables.")
    changes: Annotated[ChangesFields, ShortForm(_paths, _GLOBS)] | None = optional("True when a changed file matches.")
    exists: Globs | None = optional("True when a file matches one of these globs.")
    variables: Variables = Field(default_factory=dict, description="Variables that hold when this rule matches.")


class WorkflowRule(RuleFields):
    when: Literal["always", "never"] = Field(
        default="always", description="Whether anything runs when this rule matches."
    )


class AllowFailureFields(Model):
    exit_codes: ExitCodes = Field(description="Exit codes that do not fail the pipeline.", min_length=1)


def _allow_failure(value: Any) -> Any:
    """Normalise False to no exit codes, True to None (all)."""
    return AllowFailureFields.model_construct(exit_codes=None if value else []) if isinstance(value, bool) else value


AllowFailure = Annotated[AllowFailureFields, ShortForm(_allow_failure, {"type": "boolean"})]


class Rule(RuleFields):
    when: JobWhen | None = optional("When the job runs if this rule matches.")
    allow_failure: bool | None = optional("Whether the job may fail if this rule matches.")


class NeedFields(Model):
    job: Line = Field(description="The job to wait for.")
    optional: bool = Field(default=False, description="No error when that job is not part of the run.")
    artifacts: bool = Field(default=True, description="Whether its artifacts are restored here.")
    matrix: dict[VariableName, Text] = Field(
        default_factory=dict, description="Only the combinations with these values."
    )


Need = Annotated[NeedFields, ShortForm(named("job"), LINE)]
RetryReason = Literal["always", "script_failure", "provider_failure", "timeout"]


class RetryFields(Model):
    max: Annotated[int, Field(ge=0, le=10)] = Field(default=1, description="How often to try again.")
    when: Annotated[list[RetryReason], ShortForm(listed, None)] = Field(
        default_factory=lambda: list[RetryReason](["always"]), description="What to try again after.", min_length=1
    )
    exit_codes: ExitCodes = Field(
        default_factory=list, description="Try again after these exit codes, and else only after the reasons of `when`."
    )
    backoff: Seconds = Field(
        default=0.0, description="How long to wait before the first further attempt; doubles each time."
    )


def _retry(value: Any) -> Any:
    return {"max": value} if isinstance(value, int) and not isinstance(value, bool) else value


Retry = Annotated[RetryFields, ShortForm(_retry, {"type": "integer", "minimum": 0, "maximum": 10})]
MatrixValues = Annotated[list[Text], ShortForm(listed, None), Field(min_length=1)]


class ParallelFields(Model):
    count: Annotated[int, Field(ge=1, le=MAX_COMBINATIONS)] | None = optional("How many copies of the job.")
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


Parallel = Annotated[
    ParallelFields, ShortForm(_parallel, {"type": "integer", "minimum": 1, "maximum": MAX_COMBINATIONS})
]


class UlimitFields(Model):
    soft: int = Field(description="The soft limit.")
    hard: int = Field(description="The hard limit.")

    @model_validator(mode="after")
    def _in_order(self) -> UlimitFields:
        if self.soft % 2**64 > self.hard % 2**64:  # the kernel treats -1 as the largest number: no limit
            raise ValueError(f"the soft limit {self.soft} is above the hard limit {self.hard}")
        return self


def _ulimit(value: Any) -> Any:
    return {"soft": value, "hard": value} if isinstance(value, int) and not isinstance(value, bool) else value


Ulimit = Annotated[UlimitFields, ShortForm(_ulimit, {"type": "integer"})]


class Resources(Model):
    cpus: Cpus | None = optional("How many processors the job may use.")
    memory: Memory | None = optional("How much memory the job may use.")
    pids: Annotated[int, Field(ge=1)] | None = optional("How many processes the job may have.")
    shm_size: Bytes | None = optional("The size of /dev/shm.")
    ulimits: dict[UlimitName, Ulimit] = Field(default_factory=dict, description="Limits such as nofile.")
    tmpfs: TmpfsMounts = Field(default_factory=list, description="Paths to mount a tmpfs at, optionally with :options.")
    devices: Devices = Field(
        default_factory=list,
        description="Devices to hand in: /dev/X, /dev/X:rw, /dev/X:/dev/Y:rw, or a vendor's CDI name.",
    )
    gpus: Gpus | None = optional("GPUs to hand in: a number, all, or device=ID.")
    read_only: bool = Field(default=False, description="The container's root file system can't be written to.")


class NetworkFields(Model):
    mode: Annotated[str, Field(pattern=NETWORK)] | None = optional("bridge, none, host, or the name of a network.")
    extra_hosts: dict[ExtraHost, Address] = Field(
        default_factory=dict, description="Further host names and their addresses."
    )


Network = Annotated[NetworkFields, ShortForm(named("mode"), {"type": "string", "pattern": NETWORK})]


class Common(Model):
    """Keys that `default` can set for every job."""

    target: Literal["linux"] | None = optional("The kind of machine; linux.")
    before_script: Scripts | None = optional("Steps before `script`.")
    after_script: Scripts | None = optional("Steps after `script`, also when it failed or timed out.")
    image: Image | None = optional("The image that the job runs in.")
    user: User | None = optional("The user that steps run as; the image's own if not given.")
    shell: Shell | None = optional("The shell that runs each step: auto, a name, or its command line.")
    shared_shell: bool | None = optional("One shell for all steps before `after_script`, and another for those of it.")
    merge_output: bool | None = optional("Record stdout and stderr of each step as one stream, in exact order.")
    variables: Variables | None = optional("Environment variables; values are text.")
    secrets: dict[VariableName, Secret] | None = optional("Secrets, by the variable that hands them over.")
    services: list[Annotated[Service, ShortForm(named("name"), LINE)]] | None = optional(
        "Containers that run beside the job."
    )
    cache: Annotated[list[CacheFields], ShortForm(listed, None)] | None = optional("Folders kept between runs.")
    artifacts: ArtifactsFields | None = optional("Files to keep and to hand to later jobs.")
    allow_failure: AllowFailure | None = optional("Whether the pipeline goes on when the job fails.")
    retry: Retry | None = optional("Try again after a failure.")
    timeout: Limit | None = optional("How long the job may take.")
    step_timeout: Limit | None = optional("How long each step may take.")
    resources: Resources | None = optional("Limits of the job's container.")
    network: Network | None = optional("The network of the job's container.")
    privileged: bool | None = optional("Give the container all privileges.")
    docker_socket: bool | None = optional("Hand the engine's socket to the job.")
    resource_group: Line | None = optional("At most one job of a group runs at a time, over all runs on this machine.")
    runner_pool: Line | None = optional(
        "A pool of the user's configuration, where the job runs; no effect without `pools` there."
    )


class Job(Common):
    """A job, or a template if its name starts with a dot. Required keys are checked after `extends` and `default`."""

    extends: Lines | None = optional("Templates or jobs to start from; later ones win.")
    stage: Annotated[str, Field(pattern=STAGE)] | None = optional("The job's stage; one of `stages`.")
    script: Scripts | None = Field(default=None, description="The job's steps, each a shell script.", min_length=1)
    needs: Annotated[list[Need], ShortForm(listed, None)] | None = optional(
        "Jobs to wait for, instead of the stages before."
    )
    rules: list[Rule] | None = optional("Whether and how the job runs; the first rule that matches counts.")
    when: JobWhen | None = optional("When the job runs: on_success, on_failure, always, manual or never.")
    parallel: Parallel | None = optional("Run the job several times: a number, or a matrix.")


class Include(Model):
    local: RelativePath = Field(description="A file (or glob) below .loom/templates, relative to the project's root.")


class WorkflowSettings(Model):
    rules: list[WorkflowRule] = Field(description="Whether anything runs; the first rule that matches counts.")


class Root(Model):
    """The root keys; jobs and templates are checked individually."""

    version: Literal["v1"] = Field(description="The language's version.")
    stages: Annotated[list[Annotated[str, Field(pattern=STAGE)]], Field(min_length=1)] = Field(
        description="The stages, in order."
    )
    variables: Variables = Field(
        default_factory=dict, description="Environment variables of every job; values are text."
    )
    default: Common | None = optional("Keys for every job; a job's own value wins.")
    include: Annotated[list[Include], ShortForm(listed, None)] = Field(
        default_factory=list, description="Files with templates and jobs."
    )
    workflow: WorkflowSettings | None = optional("Rules for the workflow as a whole.")


class Included(Model):
    """The root keys of an included file."""

    version: Literal["v1"] | None = optional("The language's version.")
    variables: Variables = Field(
        default_factory=dict, description="Environment variables of every job; the main file wins."
    )
    default: Common | None = optional("Keys for every job; the main file wins.")
    include: Annotated[list[Include], ShortForm(listed, None)] = Field(
        default_factory=list, description="Further files."
    )


JOB_KEYS = tuple(Job.model_fields)
DEFAULT_KEYS = tuple(Common.model_fields)


def models_in(annotation: Any) -> list[type[BaseModel]]:
    """Return the models in an annotation, also nested ones."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for argument in get_args(annotation) for model in models_in(argument)]
