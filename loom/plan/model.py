"""The plan: the resolved, frozen list of jobs to run.

`resolve` turns a checked workflow and a selection into a `Plan`; nothing later reads the workflow file.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Callable, Mapping
from enum import StrEnum
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from loom.config import AUTO_SHELL
from loom.config.pools import Pool
from loom.plan.clone import Clone
from loom.plan.late import Action, LateJob, LateNeed
from loom.secrets.base import Secret as Secret
from loom.status import Status
from loom.values import Immutable
from loom.workflow.facts import Facts

Phase = Literal["before_script", "script", "after_script"]
PullPolicy = Literal["always", "missing", "never"]


_WORKSPACE = re.compile(r"\$\{\{\s*github\.workspace\s*\}\}", re.IGNORECASE)
PROJECT_DIR = "/workspace"
"""The project directory in containers."""
HOST = "host"
"""The provider of jobs without an image: this machine."""
CONTAINERS = "docker"
"""The default provider of services and of jobs with an image."""


class WorkspaceMode(StrEnum):
    """The ways in which jobs get their files (docs/reference/mounts.md)."""

    AUTO = "auto"
    """Separate files for each job, by the cheapest mechanism available."""
    SHARED = "bind_mount"
    OVERLAY = "overlay"
    COPY = "copy"
    VOLUME = "ephemeral_volume"


class MountMode(StrEnum):
    """The forms of a directory for a job: the directory itself, a copy-on-write view, or a volume filled from it."""

    BIND = "bind_mount"
    OVERLAY = "overlay"
    VOLUME = "ephemeral_volume"


class Step(Immutable, omit_defaults=True, forbid_unknown_fields=True):
    """One entry of `script` (or of `before_script`, `after_script`): a shell script of one or more lines, or an action.

    Texts may hold expressions of the job's language, which are evaluated when the step starts.
    """

    phase: Phase
    number: int
    """From 1, within its phase."""
    script: str
    file: str = ""
    line: int = 0
    literal: bool = False
    """Whether script lines and workflow lines correspond one to one."""
    key: str = ""
    """Its id in the workflow, as `steps.<key>` has it; unique in its scope."""
    name: str = ""
    scope: tuple[str, ...] = ()
    """The composite actions around it, outermost first, by names that are unique in the job.

    "enter" and "leave" are outside of their own.
    """
    kind: Literal["run", "node", "docker", "enter", "leave", "checkout", "written"] = "run"
    """"enter" and "leave" stand around the steps of a composite action, with the `if`, inputs and outputs of its step.

    "written": a step before has to write the action, whose file is read when the step begins. Except of "run", `script` is
    the `uses`.
    """
    condition: str = ""
    env: Mapping[str, str] = {}
    inputs: Mapping[str, str] = {}
    """`with`, completed by the defaults of the action."""
    outputs: Mapping[str, str] = {}
    """Of a composite action."""
    unexpected: str = ""
    """GitHub's warning of inputs that the action does not have."""
    shell: str = ""
    working_directory: str = ""
    continue_on_error: str = ""
    timeout_minutes: str = ""
    action: Action | None = None
    stage: Literal["pre", "main", "post"] = "main"
    main: str = ""
    """Of a pre or post step: `id` of its main step, with which it shares its state."""

    @property
    def id(self) -> str:
        """Readable id, unique in the job; also its directory in the record below `user/`: `script/01`."""
        return f"{self.phase}/{self.number:02d}"

    @property
    def position(self) -> str:
        """`file:line`, or empty in plans of earlier versions."""
        return f"{self.file}:{self.line}" if self.file else ""

    @property
    def is_program(self) -> bool:
        """Return whether it is the program of an action, or may become one."""
        return self.kind in ("node", "docker", "written")

    @property
    def checkout_path(self) -> str:
        """Return the directory of a checkout, from the workspace, as far as its texts say."""
        return posixpath.normpath(_WORKSPACE.sub(".", self._given("path")))

    @property
    def is_whole_checkout(self) -> bool:
        """Return whether it makes the whole workspace a checkout of the project, as far as its texts say."""
        others = self._given("repository") or self._given("sparse-checkout")
        return self.kind == "checkout" and self.checkout_path == "." and not others

    def _given(self, name: str) -> str:
        return next((text.strip() for one, text in self.inputs.items() if one.lower() == name), "")


class Build(Immutable):
    context: str = "."
    dockerfile: str = "Dockerfile"
    target: str | None = None
    args: Mapping[str, str] = {}
    secrets: tuple[Secret, ...] = ()
    """Secrets of the job that the build may mount."""
    pins: Mapping[str, str] = {}
    """The base images of a run that is run again: from the name to the one with its digest."""


class Image(Immutable):
    """`name` is a reference to pull, or the tag for the built image (None: derived from the build's inputs)."""

    name: str | None = None
    build: Build | None = None
    pull: PullPolicy = "missing"
    pull_else: tuple[PullPolicy, ...] = ()
    """Policies to try in order when `pull` finds no image."""
    entrypoint: tuple[str, ...] | None = None
    """None: the image's entrypoint is not run. A list is run before loom's driver."""
    user: str | None = None
    platform: str | None = None


class Resolved(Immutable):
    """A resolved image reference."""

    name: str
    image_id: str
    digest: str = ""
    """The registry's digest; empty without one."""
    bases: tuple[Resolved, ...] = ()
    """The inputs of its build, if this run built or found it."""


class Need(Immutable):
    job: str
    """A job id of this plan."""
    optional: bool = False
    artifacts: bool = True


class AllowFailure(Immutable):
    always: bool = False
    exit_codes: frozenset[int] = frozenset()


RetryWhen = Literal["always", "script_failure", "provider_failure", "timeout"]


class Retry(Immutable):
    """Number of further attempts after the first."""

    max: int = 0
    when: frozenset[RetryWhen] = frozenset({"always"})
    exit_codes: frozenset[int] = frozenset()
    """A reason or a code is enough. Where there are codes, `always` means nothing."""
    backoff_s: float = 0.0


class Ulimit(Immutable):
    name: str
    soft: int
    hard: int


class Resources(Immutable):
    """Limits of a job's container; None means no limit. Sizes in bytes."""

    cpus: float | None = None
    processors: int | None = None
    """The number of processors that its programs see, where the engine can hide others."""
    memory: int | None = None
    pids: int | None = None
    shm_size: int | None = None
    ulimits: tuple[Ulimit, ...] = ()
    tmpfs: tuple[str, ...] = ()
    volumes: tuple[str, ...] = ()
    """Paths at which the container has a volume of its own, which goes with it."""
    devices: tuple[str, ...] = ()
    gpus: str | None = None
    read_only: bool = False
    """The root file system is read-only; the workspace and tmpfs mounts are writable."""
    sources: Mapping[str, str] = {}
    """The origin of each value that an engine may refuse: a position in the workflow, or a setting."""


class Network(Immutable):
    """`mode` is the engine's network mode: `bridge`, `none`, `host`; None for the engine's default."""

    mode: str | None = None
    extra_hosts: Mapping[str, str] = {}
    hostname: str | None = None
    """The job's container's own; None for the engine's choice."""


class Ready(Immutable):
    """The readiness check of a service; at most one probe. Default: HEALTHCHECK, else the exposed port."""

    tcp: int | None = None
    command: tuple[str, ...] | None = None
    http: str | None = None
    log: str | None = None
    interval_s: float = 1.0
    timeout_s: float = 60.0


class Service(Immutable):
    name: str
    aliases: tuple[str, ...]
    image: Image
    variables: Mapping[str, str] = {}
    command: tuple[str, ...] | None = None
    entrypoint: tuple[str, ...] | None = None
    user: str | None = None
    ready: Ready = Ready()
    secrets: tuple[Secret, ...] = ()
    position: str = ""
    needed: bool = True
    """Whether the job fails when it ends, or is not ready in time. As in GitLab, False: its output says so."""
    ports: tuple[int, ...] = ()
    """The ports that the workflow names."""
    resources: Resources = Resources()


When = Literal["on_success", "on_failure", "always"]


def wanted(when: When, status: Status) -> bool:
    """Return whether artifacts or a cache with this `when` are kept after this outcome."""
    match when:
        case "always":
            return True
        case "on_success":
            return status is Status.SUCCESS
        case "on_failure":
            return status is not Status.SUCCESS


ReportKind = Literal["junit", "dotenv", "codequality", "sarif"]


class Artifacts(Immutable):
    paths: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    exclude_alone: bool = False
    """As in GitLab: a pattern of `exclude` that matches a directory does not concern what is below."""
    untracked: bool = False
    """Keep also every file that git does not track, ignored ones included."""
    when: When = "on_success"
    name: str | None = None
    expire_in_s: float | None = None
    reports: Mapping[ReportKind, tuple[str, ...]] = {}
    """Files that loom reads after the job, whatever its result: paths or globs by kind."""


class CacheKeyFiles(Immutable):
    """A cache key made of a prefix and the content of workspace files."""

    files: tuple[str, ...]
    prefix: str = ""


class Cache(Immutable):
    paths: tuple[str, ...]
    key: str | CacheKeyFiles = "default"
    fallback_keys: tuple[str, ...] = ()
    policy: Literal["pull", "push", "pull-push"] = "pull-push"
    when: When = "on_success"
    name: str | None = None
    untracked: bool = False
    """Keep also every file that git does not track, ignored ones included."""
    by_key: bool = False
    """As in GitLab: the key alone names an entry, whatever its paths, and a fallback key is a whole key."""

    @property
    def content(self) -> tuple[str, ...]:
        """Return the paths that tell entries of one key apart, unless `by_key`."""
        return (*self.paths, "(untracked files)") if self.untracked else self.paths


class ChildFile(Immutable):
    """A file of a child pipeline: of the project, or among the artifacts of `job` (a job id of this plan)."""

    path: str
    job: str | None = None
    inputs: Mapping[str, Any] = {}
    """Inputs by name, with the types that they have in the file."""


class Trigger(Immutable):
    """The child pipeline that a job without steps starts: a run within the run."""

    files: tuple[ChildFile, ...]
    """Merged in order."""
    depend: bool = False
    """The job ends with the child and has its result; otherwise it succeeds when the child starts."""
    variables: Mapping[str, str] = {}
    """Forwarded to the child, above its file's own."""


class Referring(Immutable):
    """Those texts of a job that variables of jobs before it may change, with their references; `$$` is a dollar sign.

    The job has them as they are if nothing is reported.
    """

    variables: Mapping[str, str]
    image: Image | None
    services: tuple[Service, ...]
    """Each with the variables that it alone has."""
    artifacts: Artifacts | None
    cache: tuple[Cache, ...]


class Job(Immutable):
    """One job, ready to run. `id` names it everywhere (record, `needs`, command line); `name` is the workflow's."""

    id: str
    name: str
    stage: str
    steps: tuple[Step, ...]
    provider: str
    """A name of `providers.MODULES`, with the context that its pool names: `kubernetes:CONTEXT` (`providers.make`)."""
    image: Image | None = None
    target: str = "linux"
    shell: tuple[str, ...] = AUTO_SHELL
    shared_shell: bool = False
    """One shell runs the steps of `before_script` and `script`, another those of `after_script`; else each has its own."""
    merge_output: bool = False
    variables: Mapping[str, str] = {}
    file_variables: tuple[str, ...] = ()
    """The names among `variables` whose value the job gets as a file; the variable is its path."""
    given_variables: tuple[str, ...] = ()
    """The names among `variables` that the user gave: no job before this one can replace them."""
    referring: Referring | None = None
    """None for a job that gets no variables from jobs before it, and in a language that has only one text of each."""
    needs: tuple[Need, ...] | None = None
    """None: waits for all earlier stages; a tuple (also empty): waits only for these."""
    artifacts_from: tuple[str, ...] | None = None
    """The jobs with artifacts and dotenv variables for this one; None: its needs, or all jobs of earlier stages."""
    artifacts_above: Mapping[str, str] = {}
    """The archives of jobs of the pipelines that start this one, by the names that the output gives them; it gets these too."""
    when: Literal["on_success", "on_failure", "always", "manual"] = "on_success"
    """`manual`: runs when a person says so; not run, it is skipped, and holds up later jobs unless it may fail."""
    delay_s: float | None = None
    """The time to wait once it could start."""
    resource_group: str | None = None
    """At most one job of a group runs at a time, over all runs on this machine."""
    trigger: Trigger | None = None
    deploys: bool = False
    """Whether it changes an environment or publishes a release, as its file says."""
    no_checkout: bool = False
    """It starts in an empty directory; caches and artifacts are restored into it, and a step may bring the project's files."""
    inputs: tuple[str, ...] | None = None
    """Globs of the files that it gets of the project, no others; None: all. It gets no `.git` unless that is one of them."""
    clone: Clone | None = None
    """The part of the repository that its `.git` has; None: what the checkout has, or what a step takes of it."""
    open_files: bool = False
    """CI lays out the project's files so that every user may write them."""
    trace: bool = False
    """Whether the shell that its steps share prints each command before it runs it (`set -x`)."""
    refused: tuple[str, ...] = ()
    """The requests of the job that can't be fulfilled here, each with its position: the job ends as an error without a start."""
    coverage: str | None = None
    """A regular expression: the number in the last line of output that matches is the job's coverage."""
    allow_failure: AllowFailure = AllowFailure()
    retry: Retry = Retry()
    timeout_s: float | None = None
    step_timeout_s: float | None = None
    ends_at_timeout: bool = False
    """When its time is over, `after_script` does not run."""
    after_script_timeout_s: float | None = None
    """The total time of `after_script`; None: five minutes."""
    resources: Resources = Resources()
    network: Network = Network()
    privileged: bool = False
    docker_socket: bool = False
    hardened: bool = False
    """Whether the hardened profile applies (`resolve.hardening`)."""
    services: tuple[Service, ...] = ()
    services_at_localhost: bool = False
    """The job and its services share one network stack, so that their ports are at `localhost`, as in a pod."""
    artifacts: Artifacts | None = None
    cache: tuple[Cache, ...] = ()
    secrets: tuple[Secret, ...] = ()
    matrix: Mapping[str, str] = {}
    runner_pool: str | None = None
    pool: Pool | None = None
    """The pool that the job runs in; None for a provider without settings of its own."""
    sources: Mapping[str, str] = {}
    """Origin of `image`, `timeout` and `step_timeout`: a position in the workflow, or a setting and its origin."""
    rule: int | None = None
    """Index of the matching rule; None without rules or when the job was named."""
    late: LateJob | None = None
    """The texts of the job that are evaluated when it starts; None for a language without expressions."""

    @property
    def has_git(self) -> bool:
        """Return whether its files may have a `.git`."""
        return self.inputs is None or ".git" in self.inputs

    @property
    def has_expressions(self) -> bool:
        """Return whether its texts, and those of its steps, are evaluated when they start."""
        return self.late is not None

    @property
    def is_certain(self) -> bool:
        """Return whether it starts, with this image, whatever the results of other jobs."""
        return self.late is None or not (self.late.condition or self.late.image)

    @property
    def becomes_several(self) -> bool:
        """Return whether other jobs take its place when it starts (`LateJob.strategy`)."""
        return self.late is not None and bool(self.late.strategy)

    @property
    def lanes(self) -> Mapping[str, int]:
        """Return the groups of jobs that it is in, each with the most that run at a time."""
        late = self.late
        return {f"matrix {late.group}": late.max_parallel} if late is not None and late.max_parallel else {}

    @property
    def uses_actions(self) -> bool:
        return any(step.action is not None for step in self.steps)

    @property
    def title(self) -> str:
        """Return its name on the server's pages: with GitLab's `3/5` or `: [a, b]`, or as GitHub shows it."""
        return self.late.shown if self.late is not None else self.variables.get("CI_JOB_NAME", self.name)

    @property
    def env(self) -> Mapping[str, str]:
        """Return the variables of the workflow and the job that may hold expressions."""
        return {} if self.late is None else self.late.env

    @property
    def github(self) -> Mapping[str, Any] | None:
        """Return the context `github`; None for another language."""
        return None if self.late is None else self.late.contexts.get("github") or {}

    @property
    def debug(self) -> bool:
        """Return whether people see what steps print by `::debug::`."""
        known = {} if self.late is None else self.late.contexts.get("vars", {})
        return str(known.get("ACTIONS_STEP_DEBUG", "")).lower() == "true"

    @property
    def expected_results(self) -> tuple[LateNeed, ...]:
        """Return its needs by the names that its expressions use."""
        return () if self.late is None else self.late.needs

    @property
    def umask(self) -> int:
        """Return the umask with which CI lays out the project's files."""
        return 0 if self.open_files else 0o022

    @property
    def all_secrets(self) -> tuple[Secret, ...]:
        """Every secret to look up for this job: its own (also used by builds) and those of its services."""
        return (*self.secrets, *(secret for service in self.services for secret in service.secrets))


NOT_SELECTED = "not selected"
"""The reason of a job that the command line leaves out; all other reasons come from the workflow."""


class NotSelected(Immutable):
    """A job of the workflow that is not in the plan, with the reason (`rules`, `when: never`, the selection)."""

    id: str
    reason: str
    held: str = ""
    """Of a job that a run leaves out though CI would run it: what such jobs are."""
    artifacts: tuple[str, ...] = ()
    """The paths of its artifacts, as the workflow has them."""
    unknown: tuple[str, ...] = ()
    """The values that only the server knows, with which its rules may let it run there."""


class Plan(Immutable, dict=True):
    """Jobs in stable topological order: by stage, then needs, then file order."""

    workflow_path: str
    """Relative to the repository root."""
    stages: tuple[str, ...]
    jobs: tuple[Job, ...]
    left_out: tuple[NotSelected, ...] = ()
    ends_at_failure: bool = False
    """The first failed job stops the run, as the workflow says."""
    undecided: Mapping[str, tuple[str, ...]] = {}
    """The variables whose value is not known here, with the ids of the jobs whose rules ask for it."""
    behind: str = ""
    """Why CI would run another commit for this event; empty: it would not."""
    replaced: Mapping[str, str] = {}
    """The images that run, by the names of those that the workflow has instead (`Config.images`)."""

    def job(self, job_id: str) -> Job:
        """Return the job with this id. KeyError if the plan does not contain it."""
        return self._by_id[job_id]

    def has(self, job_id: str) -> bool:
        return job_id in self._by_id

    @property
    def umask(self) -> int:
        """Return the umask of the files that all jobs get: the one that leaves most."""
        return min((job.umask for job in self.jobs), default=0o022)

    @cached_property
    def _by_id(self) -> Mapping[str, Job]:
        return {job.id: job for job in self.jobs}


class JobSelection(Immutable):
    """The user's selection of jobs; the default is every job that its rules let run."""

    jobs: tuple[str, ...] = ()
    """Names (`test`), ids (`test.3.12`) or globs (`test*`). A named job runs regardless of its rules and `when`."""
    stages: tuple[str, ...] = ()
    from_job: str | None = None
    if_possible: bool = False
    """Leave out named jobs that can't run here, instead of refusing the request."""
    with_needs: bool | None = None
    """Whether to run also the jobs that selected jobs need or get artifacts from; None: yes, except with `from_job`."""
    variables: Mapping[str, str] = {}
    """Override every variable of the workflow; the values are literal."""
    matrix: Mapping[str, str] = {}
    """Restrict jobs with these matrix variables to these values."""
    container: bool = False
    """Run every job in a container: jobs without an image get the configured default image."""
    on: str = CONTAINERS
    """The default for jobs in containers that name no pool: a pool, or a provider with an optional context."""

    no_delay: bool = False
    """Whether delayed jobs start at once when they may."""

    @property
    def everything(self) -> bool:
        return not self.jobs and not self.stages and self.from_job is None


class ResolveContext(Facts):
    host_project_dir: str | None = None
    """The project directory of host jobs; `$CI_PROJECT_DIR` stays unexpanded in their values while it is unknown."""
    above: Callable[[str, str], tuple[str, Path] | None] | None = None
    """Return a name for a job's artifacts, and their archive: of a pipeline above this one, by its id and the job's name.

    None if it has no such job; RequestError for another pipeline, or a job that has not succeeded. Unset: not asked.
    """
