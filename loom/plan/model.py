"""The plan: the resolved, frozen answer to "what will run".

`resolve` turns a checked workflow and a selection into a `Plan`; nothing below looks at the workflow file again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from enum import StrEnum
from typing import TYPE_CHECKING, Literal

from msgspec import Struct, field

from loom.config import AUTO_SHELL, Config
from loom.status import Status

if TYPE_CHECKING:
    from loom.workflow import Workflow

Phase = Literal["before_script", "script", "after_script"]
PullPolicy = Literal["always", "missing", "never"]


PROJECT_DIR = "/workspace"
"""Where jobs with an image see the project."""
HOST = "host"
"""The provider of jobs without an image: this machine itself."""
CONTAINERS = "docker"
"""The provider of jobs with an image, and of services, where nothing else is asked for."""


class WorkspaceMode(StrEnum):
    """How the jobs of a run get their files (docs/reference/mounts.md)."""

    AUTO = "auto"
    """A place of its own for each job, of the cheapest kind that works here."""
    SHARED = "bind_mount"
    OVERLAY = "overlay"
    COPY = "copy"
    VOLUME = "ephemeral_volume"


class MountMode(StrEnum):
    """How a provider shows one job a directory: itself, a copy-on-write view of it, or a volume filled from it."""

    BIND = "bind_mount"
    OVERLAY = "overlay"
    VOLUME = "ephemeral_volume"


class Step(Struct, frozen=True, kw_only=True):
    """One entry of `script` (or of `before_script`, `after_script`): a shell script of one or more lines."""

    phase: Phase
    number: int
    """From 1, within its phase."""
    script: str
    file: str = ""
    line: int = 0
    """Where its first line stands in the workflow."""
    literal: bool = False
    """Whether each further line of the script is a further line of the file."""

    @property
    def id(self) -> str:
        """Readable, unique in the job, and the step's place in the record below `user/`: `script/01`."""
        return f"{self.phase}/{self.number:02d}"

    @property
    def place(self) -> str:
        """`file:line`, or nothing for a plan of an earlier loom."""
        return f"{self.file}:{self.line}" if self.file else ""


class Secret(Struct, frozen=True, kw_only=True):
    name: str
    ref: str
    file: bool = True
    required: bool = True


class Build(Struct, frozen=True, kw_only=True):
    context: str = "."
    dockerfile: str = "Dockerfile"
    target: str | None = None
    args: Mapping[str, str] = field(default_factory=dict)
    secrets: tuple[Secret, ...] = ()
    """What the build may mount; they are among the job's own."""


class Image(Struct, frozen=True, kw_only=True):
    """`name` is a reference to pull, or the tag given to what `build` builds (None: a name is made from its inputs)."""

    name: str | None = None
    build: Build | None = None
    pull: PullPolicy = "missing"
    entrypoint: tuple[str, ...] | None = None
    """None keeps loom's way (the image's entrypoint is not run); a list is run before loom's driver."""
    user: str | None = None
    platform: str | None = None


class Need(Struct, frozen=True, kw_only=True):
    job: str
    """A job id of this plan."""
    optional: bool = False
    artifacts: bool = True


class AllowFailure(Struct, frozen=True, kw_only=True):
    always: bool = False
    exit_codes: frozenset[int] = frozenset()


RetryWhen = Literal["always", "script_failure", "provider_failure", "timeout"]


class Retry(Struct, frozen=True, kw_only=True):
    """Further attempts after the first one (0: none)."""

    max: int = 0
    when: frozenset[RetryWhen] = frozenset({"always"})
    exit_codes: frozenset[int] = frozenset()
    backoff_s: float = 0.0


class Ulimit(Struct, frozen=True, kw_only=True):
    name: str
    soft: int
    hard: int


class Resources(Struct, frozen=True, kw_only=True):
    """Limits of a job's container; None means none. Sizes in bytes."""

    cpus: float | None = None
    memory: int | None = None
    pids: int | None = None
    shm_size: int | None = None
    ulimits: tuple[Ulimit, ...] = ()
    tmpfs: tuple[str, ...] = ()
    devices: tuple[str, ...] = ()
    gpus: str | None = None
    read_only: bool = False
    """The container's root file system can't be written to; the workspace and tmpfs mounts can."""
    places: Mapping[str, str] = field(default_factory=dict)
    """Where each key of these is written that an engine may refuse: a place in the workflow, or a setting's."""


class Network(Struct, frozen=True, kw_only=True):
    """`mode` is the engine's: `bridge`, `none`, `host`; None is the engine's default."""

    mode: str | None = None
    extra_hosts: Mapping[str, str] = field(default_factory=dict)


class Ready(Struct, frozen=True, kw_only=True):
    """How to know that a service is ready; at most one probe, none: HEALTHCHECK, else the exposed port."""

    tcp: int | None = None
    command: tuple[str, ...] | None = None
    http: str | None = None
    log: str | None = None
    interval_s: float = 1.0
    timeout_s: float = 60.0


class Service(Struct, frozen=True, kw_only=True):
    name: str
    aliases: tuple[str, ...]
    image: Image
    variables: Mapping[str, str] = field(default_factory=dict)
    command: tuple[str, ...] | None = None
    entrypoint: tuple[str, ...] | None = None
    user: str | None = None
    ready: Ready = field(default_factory=Ready)
    secrets: tuple[Secret, ...] = ()
    place: str = ""
    """Where the workflow names its image."""
    once: bool = False
    """It does something and ends: ready when it ended with 0. Services that are listed later start then."""


When = Literal["on_success", "on_failure", "always"]


def wanted(when: When, status: Status) -> bool:
    """Whether artifacts or a cache with this `when` are kept from a job that ended like this."""
    match when:
        case "always":
            return True
        case "on_success":
            return status is Status.SUCCESS
        case "on_failure":
            return status is not Status.SUCCESS


class Artifacts(Struct, frozen=True, kw_only=True):
    paths: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    when: When = "on_success"
    name: str | None = None
    expire_in_s: float | None = None
    junit: tuple[str, ...] = ()


class CacheKeyFiles(Struct, frozen=True, kw_only=True):
    """A key made of a prefix and the content of files of the workspace."""

    files: tuple[str, ...]
    prefix: str = ""


class Cache(Struct, frozen=True, kw_only=True):
    paths: tuple[str, ...]
    key: str | CacheKeyFiles = "default"
    fallback_keys: tuple[str, ...] = ()
    policy: Literal["pull", "push", "pull-push"] = "pull-push"
    when: When = "on_success"
    name: str | None = None


class Job(Struct, frozen=True, kw_only=True):
    """One job, ready to run. `id` names it everywhere (record, `needs`, command line); `name` is what users wrote."""

    id: str
    name: str
    stage: str
    steps: tuple[Step, ...]
    provider: str
    """A name of `providers.MODULES`."""
    image: Image | None = None
    target: str = "linux"
    shell: tuple[str, ...] = AUTO_SHELL
    variables: Mapping[str, str] = field(default_factory=dict)
    needs: tuple[Need, ...] | None = None
    """None: gated by the stages before; a tuple (also empty): only by these."""
    when: Literal["on_success", "on_failure", "always", "manual"] = "on_success"
    allow_failure: AllowFailure = field(default_factory=AllowFailure)
    retry: Retry = field(default_factory=Retry)
    timeout_s: float | None = None
    step_timeout_s: float | None = None
    resources: Resources = field(default_factory=Resources)
    network: Network = field(default_factory=Network)
    privileged: bool = False
    docker_socket: bool = False
    hardened: bool = False
    """Whether it is held to the hardened profile (`resolve.hardening`)."""
    services: tuple[Service, ...] = ()
    artifacts: Artifacts | None = None
    cache: tuple[Cache, ...] = ()
    secrets: tuple[Secret, ...] = ()
    matrix: Mapping[str, str] = field(default_factory=dict)
    runner_pool: str | None = None
    places: Mapping[str, str] = field(default_factory=dict)
    """Where its `image`, `timeout` and `step_timeout` are written: a place in the workflow, or a setting and its origin."""
    rule: int | None = None
    """Which of the job's rules let it run, from 0; None when it has none (or was named)."""

    @property
    def all_secrets(self) -> tuple[Secret, ...]:
        """Every secret that is looked up for this job: its own (builds use these) and those of its services."""
        return (*self.secrets, *(secret for service in self.services for secret in service.secrets))


def services_provider(job: Job) -> str:
    """The provider of a job's services: its own, unless it runs on this machine itself."""
    return job.provider if job.image is not None else CONTAINERS


class NotSelected(Struct, frozen=True, kw_only=True):
    """A job of the workflow that is not in the plan, and why (`rules`, `when: never`, the selection)."""

    id: str
    reason: str


class Plan(Struct, frozen=True, kw_only=True):
    """Jobs in a stable topological order: by stage, then needs, then as written."""

    workflow_path: str
    """Relative to the repository root."""
    stages: tuple[str, ...]
    jobs: tuple[Job, ...]
    left_out: tuple[NotSelected, ...] = ()

    def job(self, job_id: str) -> Job:
        """KeyError for an id that is not in the plan."""
        for job in self.jobs:
            if job.id == job_id:
                return job
        raise KeyError(job_id)


class Selection(Struct, frozen=True, kw_only=True):
    """What of the workflow the user asked for; the default is everything that its rules let run."""

    jobs: tuple[str, ...] = ()
    """Names (`test`), ids (`test.3.12`) or globs (`test*`). A job that is named runs whatever its rules or `when` say."""
    stages: tuple[str, ...] = ()
    from_job: str | None = None
    """This job and everything that comes after it."""
    only_failed: tuple[str, ...] | None = None
    """Ids of the jobs that failed in an earlier run; those that are still in the workflow are selected."""
    with_needs: bool | None = None
    """Whether what a selected job needs, or gets artifacts from, runs too; None: yes, but not with `from_job`."""
    variables: Mapping[str, str] = field(default_factory=dict)
    """Win over everything in the workflow, and are taken literally."""
    matrix: Mapping[str, str] = field(default_factory=dict)
    """Of the jobs that have these matrix variables, only the combinations with these values."""
    container: bool = False
    """Every job in a container: one without an image gets the configured default image."""
    on: str = CONTAINERS
    """The provider of jobs with an image."""

    @property
    def everything(self) -> bool:
        return not self.jobs and not self.stages and self.from_job is None and self.only_failed is None


class ResolveContext(Struct, frozen=True, kw_only=True):
    """What `resolve` has to know about the outside world."""

    config: Config = field(default_factory=Config)
    predefined: Mapping[str, str] = field(default_factory=dict)
    """Loom's own variables (`CI_COMMIT_BRANCH`, ...) as far as the caller knows them; one without a value is left out."""
    changed: Callable[[str | None], Iterable[str] | None] = lambda _: None
    """The files that differ from a commit (None: from HEAD), relative to the root; None when nobody can tell."""
    files: Callable[[], Iterable[str]] = tuple
    """Every file of the snapshot, relative to the root."""
    host_project_dir: str | None = None
    """Where jobs on the host see the project; `$CI_PROJECT_DIR` stays as written in their values when it is not known yet."""


def resolve(workflow: Workflow, selection: Selection, context: ResolveContext) -> Plan:
    """The plan for a checked workflow: matrix, rules, variables, needs, selection.

    RequestError when the selection asks for what is not there, WorkflowError for what only shows now. Pure but for the
    context's callables, which are asked at most once per question.
    """
    from loom.plan.resolve import plan_of

    return plan_of(workflow, selection, context)
