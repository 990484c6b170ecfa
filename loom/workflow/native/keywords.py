"""Every key of loom's own language: what its value may be, and its purpose. Checks and the JSON Schema are made from this table.

A shape is as in `loom.workflow.keywords`, with the types of `values` besides. A key below `variables` is a name of any
kind; what each may be stands at `NAME`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from msgspec import Struct
from msgspec.structs import replace


class Key(Struct, frozen=True):
    name: str
    """With the keys that it is below: `image:build:context`."""
    shape: str
    about: str = ""
    required: bool = False
    """In a mapping that is whole: one of a template or of `default` may lack it."""
    filled: bool = False
    """A list or mapping has at least one entry."""
    short: str = ""
    form: str = ""


Table = Mapping[str, Mapping[str, Key]]
"""The keys of each mapping, by the name that it has; empty for the whole."""


def _below(prefix: str, *keys: Key) -> tuple[Key, ...]:
    return tuple(replace(one, name=f"{prefix}:{one.name}") for one in keys)


SHORT = {
    "image": ("name", "an image's name, or a mapping with name or build"),
    "secrets:NAME": ("ref", "a reference such as env://NAME, or a mapping with ref"),
    "services": ("name", "an image's name, or a mapping with name"),
    "cache": ("", "a mapping with paths"),
    "cache:key": ("prefix", "text, or a mapping with files and prefix"),
    "artifacts": ("", "a mapping with paths"),
    "allow_failure": ("", "true, false, or a mapping with exit_codes"),
    "retry": ("max", "a number, or a mapping with max"),
    "resources:ulimits:NAME": ("soft", "a number, or a mapping with soft and hard"),
    "network": ("mode", "bridge, none or host, or a mapping with mode"),
    "needs": ("job", "a job's name, or a mapping with job"),
    "rules": ("", "a mapping with if, changes, exists or when"),
    "rules:changes": ("paths", "a list of globs, or a mapping with paths"),
    "parallel": ("count", "a number, or a mapping with matrix"),
    "include": ("", "a mapping with local"),
}
"""The short forms of mappings: the key that a value stands for which is no mapping, and what a message calls the two."""


def tabled(keys: Iterable[Key]) -> Table:
    table: dict[str, dict[str, Key]] = {}
    for one in keys:
        above, _, key = one.name.rpartition(":")
        short, form = SHORT.get(one.name.removeprefix("services:").removeprefix("workflow:"), ("", "a mapping"))
        table.setdefault(above, {})[key] = replace(one, short=short, form=form)
    return table


_LINES, _PATHS, _GLOBS = "line | [line]", "path | [path]", "glob | [glob]"
_SCRIPTS, _TEXTS, _CODES = "script | [script]", "text | [text]", "exit_code | [exit_code]"
_OUTCOMES = "(on_success on_failure always)"
_JOB_WHEN = "(on_success on_failure always manual never)"
_REASONS = "(always script_failure provider_failure timeout)"
_USER = "The user that steps run as: name or uid, optionally :group."

_SECRET = (
    Key("NAME", "reference | map"),
    Key(
        "NAME:ref", "reference", "Where the value is: env://, file://, keyring://, keepass:// or op://.", required=True
    ),
    Key("NAME:file", "boolean", "As a file, with its path in the variable; false: as the variable itself."),
    Key("NAME:required", "boolean", "Fail when the secret is not there."),
)
_BUILD = (
    Key("build", "map", "Build the image from the project instead of pulling it."),
    Key("build:context", "path", "The build context: a folder of the project."),
    Key("build:dockerfile", "path", "The Dockerfile, relative to the context."),
    Key("build:target", "line", "The stage of the Dockerfile to build."),
    Key("build:args", "open", "Build arguments."),
    Key("build:args:NAME", "text"),
    Key("build:secrets", "variable | [variable]", "Secrets of the job to mount: RUN --mount=type=secret,id=NAME."),
)
_IMAGE = (
    Key("name", "line", "The image's name, or the name given to what `build` builds."),
    *_BUILD,
    Key("pull", "(always missing never)", "When to pull: always, missing or never."),
    Key("entrypoint", _TEXTS, "Run this before the steps' shell; the image's own is not run."),
    Key("user", "user", _USER),
    Key("platform", "platform", "The image's platform, such as linux/arm64."),
)
_READY = (
    Key("tcp", "port", "Ready when this port accepts connections."),
    Key("command", "probe", "Ready when this command succeeds; text is run by sh -c."),
    Key("http", "line", "Ready when this URL or :PORT/PATH answers with 2xx or 3xx."),
    Key("log", "pattern", "Ready when a log line matches this pattern."),
    Key("interval", "limit", "The time between two tries."),
    Key("timeout", "limit", "How long to wait before the job fails."),
)
_SERVICE = (
    Key("name", "line", "The service's name; it is the image too if `image` is not given.", required=True),
    Key("image", "line | map", "The service's image."),
    *_below("image", *_IMAGE),
    Key("alias", "host_name | [host_name]", "The host names under which steps reach the service."),
    Key("variables", "open", "Environment variables of the service."),
    Key("variables:NAME", "text"),
    Key("secrets", "open", "Secrets: a file with its path in NAME_FILE; with file: false, the variable NAME."),
    *_below("secrets", *_SECRET),
    Key("command", _TEXTS, "Replaces the image's command."),
    Key("entrypoint", _TEXTS, "Replaces the image's entrypoint."),
    Key("user", "user", "The user that the service runs as."),
    Key("ready", "map", "How to know that the service is ready."),
    *_below("ready", *_READY),
)
_CACHE = (
    Key("paths", _PATHS, "What to keep: paths or globs inside the project.", required=True, filled=True),
    Key("key", "filled | map", "The cache's key: text (variables allowed), or {files, prefix}."),
    Key("key:files", _PATHS, "The key changes when one of these files does.", required=True, filled=True),
    Key("key:prefix", "text", "What the key begins with."),
    Key("fallback_keys", _LINES, "Keys to try when there is no entry under `key`."),
    Key("policy", "(pull push pull-push)", "Restore, save, or both."),
    Key("when", _OUTCOMES, "When to save."),
    Key("name", "line", "A name for the record."),
    Key("disabled", "boolean", "Leave this cache out."),
)
_ARTIFACTS = (
    Key("paths", _PATHS, "What to keep: paths or globs inside the project."),
    Key("exclude", _PATHS, "What not to keep."),
    Key("untracked", "boolean", "Keep also all files that git does not track."),
    Key("when", _OUTCOMES, "When to keep it."),
    Key("name", "line", "The archive's name."),
    Key("expire_in", "seconds", "How long CI keeps it; a local run keeps it with the record."),
    Key("reports", "map", "Reports that loom reads."),
    Key("reports:junit", _PATHS, "JUnit XML reports; failing tests are named in the record."),
    Key("reports:dotenv", _PATHS, "Lines NAME=value: variables of jobs that get artifacts."),
    Key("reports:sarif", _PATHS, "SARIF 2.1.0; findings are named in the record."),
    Key("reports:codequality", _PATHS, "Code Climate JSON; findings are named in the record."),
)
_RESOURCES = (
    Key("cpus", "cpus", "How many processors the job may use."),
    Key("memory", "memory", "How much memory the job may use."),
    Key("pids", "count", "How many processes the job may have."),
    Key("shm_size", "bytes", "The size of /dev/shm."),
    Key("ulimits", "open", "Limits such as nofile."),
    Key("ulimits:NAME", "integer | map"),
    Key("ulimits:NAME:soft", "integer", "The soft limit.", required=True),
    Key("ulimits:NAME:hard", "integer", "The hard limit.", required=True),
    Key("tmpfs", "tmpfs | [tmpfs]", "Paths to mount a tmpfs at, optionally with :options."),
    Key("devices", "device | [device]", "/dev/X, /dev/X:rw, /dev/X:/dev/Y:rw, or a vendor's CDI name."),
    Key("gpus", "gpus", "GPUs to hand in: a number, all, or device=ID."),
    Key("read_only", "boolean", "The container's root file system can't be written to."),
)
_CHANGES = (
    Key("changes", f"{_GLOBS} | map", "True when a changed file matches.", filled=True),
    Key("changes:paths", _GLOBS, "Globs, from the project's root; ** crosses folders.", required=True, filled=True),
    Key("changes:compare_to", "line", "The branch, tag or commit to compare with; HEAD if not given."),
)
_RULE = (
    Key("if", "condition", "A condition on variables."),
    *_CHANGES,
    Key("exists", _GLOBS, "True when a file matches one of these globs."),
    Key("variables", "open", "Variables that hold when this rule matches."),
    Key("variables:NAME", "text"),
)

COMMON = (
    Key("target", "(linux)", "The kind of machine; linux."),
    Key("before_script", _SCRIPTS, "Steps before `script`."),
    Key("after_script", _SCRIPTS, "Steps after `script`, also when it failed or timed out."),
    Key("image", "line | map", "The image that the job runs in."),
    *_below("image", *_IMAGE),
    Key("user", "user", "The user that steps run as; the image's own if not given."),
    Key("shell", "shell", "The shell that runs each step: auto, a name, or its command line."),
    Key("shared_shell", "boolean", "One shell for all steps before `after_script`, and another for those of it."),
    Key("merge_output", "boolean", "Record stdout and stderr of each step as one stream, in exact order."),
    Key("variables", "open", "Environment variables; values are text."),
    Key("variables:NAME", "text"),
    Key("secrets", "open", "Secrets, by the variable that hands them over."),
    *_below("secrets", *_SECRET),
    Key("services", "[line | map]", "Containers that run beside the job."),
    *_below("services", *_SERVICE),
    Key("cache", "map | [map]", "Folders kept between runs."),
    *_below("cache", *_CACHE),
    Key("artifacts", "map", "Files to keep and to hand to later jobs."),
    *_below("artifacts", *_ARTIFACTS),
    Key("allow_failure", "boolean | map", "Whether the pipeline goes on when the job fails."),
    Key("allow_failure:exit_codes", _CODES, "Exit codes that do not fail the pipeline.", required=True, filled=True),
    Key("retry", "retries | map", "Try again after a failure."),
    Key("retry:max", "retries", "How often to try again."),
    Key("retry:when", f"{_REASONS} | [{_REASONS}]", "What to try again after.", filled=True),
    Key("retry:exit_codes", _CODES, "Try again after these exit codes, besides the reasons of `when`."),
    Key("retry:backoff", "seconds", "How long to wait before the first further attempt; doubles each time."),
    Key("timeout", "limit", "How long the job may take."),
    Key("step_timeout", "limit", "How long each step may take."),
    Key("resources", "map", "Limits of the job's container."),
    *_below("resources", *_RESOURCES),
    Key("network", "network | map", "The network of the job's container."),
    Key("network:mode", "network", "bridge, none, host, or the name of a network."),
    Key("network:extra_hosts", "open", "Further host names and their addresses."),
    Key("network:extra_hosts:NAME", "address"),
    Key("privileged", "boolean", "Give the container all privileges."),
    Key("docker_socket", "boolean", "Hand the engine's socket to the job."),
    Key("resource_group", "line", "At most one job of a group runs at a time, over all runs on this machine."),
    Key("runner_pool", "line", "The pool of the user's configuration in which the job runs."),
)
"""Keys of jobs that `default` can set for every job."""

JOB = (
    *COMMON,
    Key("extends", _LINES, "Templates or jobs to start from; later ones win."),
    Key("stage", "stage", "The job's stage; one of `stages`."),
    Key("script", _SCRIPTS, "The job's steps, each a shell script.", filled=True),
    Key("needs", "line | map | [line | map]", "Jobs to wait for, instead of the stages before."),
    Key("needs:job", "line", "The job to wait for.", required=True),
    Key("needs:optional", "boolean", "No error when that job is not part of the run."),
    Key("needs:artifacts", "boolean", "Whether its artifacts are restored here."),
    Key("needs:matrix", "open", "Only the combinations with these values."),
    Key("needs:matrix:NAME", "text"),
    Key("rules", "[map]", "Whether and how the job runs; the first rule that matches counts."),
    *_below("rules", *_RULE),
    Key("rules:when", _JOB_WHEN, "When the job runs if this rule matches."),
    Key("rules:allow_failure", "boolean", "Whether the job may fail if this rule matches."),
    Key("when", _JOB_WHEN, "When the job runs: on_success, on_failure, always, manual or never."),
    Key("parallel", "copies | map", "Run the job several times: a number, or a matrix."),
    Key("parallel:count", "copies", "How many copies of the job."),
    Key("parallel:matrix", "[open]", "Each combination of the values becomes a job of its own.", filled=True),
    Key("parallel:matrix:NAME", _TEXTS, filled=True),
)

INCLUDED = (
    Key("version", "(v1)", "The language's version."),
    Key("variables", "open", "Environment variables of every job; values are text. The main file wins."),
    Key("variables:NAME", "text"),
    Key("include", "map | [map]", "Files with templates and jobs."),
    Key("include:local", "path", "A file (or glob) below .loom/templates, from the root.", required=True),
)

ROOT = (
    Key("version", "(v1)", "The language's version.", required=True),
    Key("stages", "[stage]", "The stages, in order.", required=True, filled=True),
    *INCLUDED[1:],
    Key("workflow", "map", "Rules for the workflow as a whole."),
    Key("workflow:rules", "[map]", "Whether anything runs; the first rule that matches counts.", required=True),
    *_below("workflow:rules", *_RULE),
    Key("workflow:rules:when", "(always never)", "Whether anything runs when this rule matches."),
)
"""Root keys of the main file, beside `default`."""
DEFAULT = "Keys for every job; a job's own value wins."
ROOT_KEYS = ("version", "stages", "variables", "default", "include", "workflow")


TABLES = {"job": tabled(JOB), "default": tabled(COMMON), "root": tabled(ROOT), "included": tabled(INCLUDED)}
JOB_KEYS = tuple(TABLES["job"][""])
DEFAULT_KEYS = tuple(TABLES["default"][""])
