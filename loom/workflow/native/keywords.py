"""Every key of loom's own language: what its value may be, and its purpose. Checks and the JSON Schema are made from this table.

A shape is as in `loom.workflow.keywords`, with the types of `values` besides. A key below `variables` is a name of any
kind; what each may be stands at `NAME`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from msgspec.structs import replace

from loom.workflow.keywords import Keyword, nested, tabled

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


def _shortened(keys: Iterable[Keyword]) -> Iterator[Keyword]:
    for one in keys:
        short = SHORT.get(one.name.removeprefix("services:").removeprefix("workflow:"))
        yield one if short is None else replace(one, short=short[0], form=short[1])


_LINES, _PATHS, _GLOBS = "line | [line]", "path | [path]", "glob | [glob]"
_SCRIPTS, _TEXTS, _CODES = "script | [script]", "text | [text]", "exit_code | [exit_code]"
_OUTCOMES = "(on_success on_failure always)"
_JOB_WHEN = "(on_success on_failure always manual never)"
_REASONS = "(always script_failure provider_failure timeout)"
_USER = "The user that steps run as: name or uid, optionally :group."

_SECRET = (
    Keyword("NAME", "reference | map"),
    Keyword(
        "NAME:ref", "reference", "Where the value is: env://, file://, keyring://, keepass:// or op://.", required=True
    ),
    Keyword("NAME:file", "boolean", "As a file, with its path in the variable; false: as the variable itself."),
    Keyword("NAME:required", "boolean", "Fail when the secret is not there."),
)
_BUILD = (
    Keyword("build", "map", "Build the image from the project instead of pulling it."),
    Keyword("build:context", "path", "The build context: a folder of the project."),
    Keyword("build:dockerfile", "path", "The Dockerfile, relative to the context."),
    Keyword("build:target", "line", "The stage of the Dockerfile to build."),
    Keyword("build:args", "open", "Build arguments."),
    Keyword("build:args:NAME", "text"),
    Keyword("build:secrets", "variable | [variable]", "Secrets of the job to mount: RUN --mount=type=secret,id=NAME."),
)
_IMAGE = (
    Keyword("name", "line", "The image's name, or the name given to what `build` builds."),
    *_BUILD,
    Keyword("pull", "(always missing never)", "When to pull: always, missing or never."),
    Keyword("entrypoint", _TEXTS, "Run this before the steps' shell; the image's own is not run."),
    Keyword("user", "user", _USER),
    Keyword("platform", "platform", "The image's platform, such as linux/arm64."),
)
_READY = (
    Keyword("tcp", "port", "Ready when this port accepts connections."),
    Keyword("command", "probe", "Ready when this command succeeds; text is run by sh -c."),
    Keyword("http", "line", "Ready when this URL or :PORT/PATH answers with 2xx or 3xx."),
    Keyword("log", "pattern", "Ready when a log line matches this pattern."),
    Keyword("interval", "limit", "The time between two tries."),
    Keyword("timeout", "limit", "How long to wait before the job fails."),
)
_SERVICE = (
    Keyword("name", "line", "The service's name; it is the image too if `image` is not given.", required=True),
    Keyword("image", "line | map", "The service's image."),
    *nested("image", _IMAGE),
    Keyword("alias", "host_name | [host_name]", "The host names under which steps reach the service."),
    Keyword("variables", "open", "Environment variables of the service."),
    Keyword("variables:NAME", "text"),
    Keyword("secrets", "open", "Secrets: a file with its path in NAME_FILE; with file: false, the variable NAME."),
    *nested("secrets", _SECRET),
    Keyword("command", _TEXTS, "Replaces the image's command."),
    Keyword("entrypoint", _TEXTS, "Replaces the image's entrypoint."),
    Keyword("user", "user", "The user that the service runs as."),
    Keyword("ready", "map", "How to know that the service is ready."),
    *nested("ready", _READY),
)
_CACHE = (
    Keyword("paths", _PATHS, "What to keep: paths or globs inside the project.", required=True, filled=True),
    Keyword("key", "filled | map", "The cache's key: text (variables allowed), or {files, prefix}."),
    Keyword("key:files", _PATHS, "The key changes when one of these files does.", required=True, filled=True),
    Keyword("key:prefix", "text", "What the key begins with."),
    Keyword("fallback_keys", _LINES, "Keys to try when there is no entry under `key`."),
    Keyword("policy", "(pull push pull-push)", "Restore, save, or both."),
    Keyword("when", _OUTCOMES, "When to save."),
    Keyword("name", "line", "A name for the record."),
    Keyword("disabled", "boolean", "Leave this cache out."),
)
_ARTIFACTS = (
    Keyword("paths", _PATHS, "What to keep: paths or globs inside the project."),
    Keyword("exclude", _PATHS, "What not to keep."),
    Keyword("untracked", "boolean", "Keep also all files that git does not track."),
    Keyword("when", _OUTCOMES, "When to keep it."),
    Keyword("name", "line", "The archive's name."),
    Keyword("expire_in", "seconds", "How long CI keeps it; a local run keeps it with the record."),
    Keyword("reports", "map", "Reports that loom reads."),
    Keyword("reports:junit", _PATHS, "JUnit XML reports; failing tests are named in the record."),
    Keyword("reports:dotenv", _PATHS, "Lines NAME=value: variables of jobs that get artifacts."),
    Keyword("reports:sarif", _PATHS, "SARIF 2.1.0; findings are named in the record."),
    Keyword("reports:codequality", _PATHS, "Code Climate JSON; findings are named in the record."),
)
_RESOURCES = (
    Keyword("cpus", "cpus", "How many processors the job may use."),
    Keyword("memory", "memory", "How much memory the job may use."),
    Keyword("pids", "count", "How many processes the job may have."),
    Keyword("shm_size", "bytes", "The size of /dev/shm."),
    Keyword("ulimits", "open", "Limits such as nofile."),
    Keyword("ulimits:NAME", "integer | map"),
    Keyword("ulimits:NAME:soft", "integer", "The soft limit.", required=True),
    Keyword("ulimits:NAME:hard", "integer", "The hard limit.", required=True),
    Keyword("tmpfs", "tmpfs | [tmpfs]", "Paths to mount a tmpfs at, optionally with :options."),
    Keyword("devices", "device | [device]", "/dev/X, /dev/X:rw, /dev/X:/dev/Y:rw, or a vendor's CDI name."),
    Keyword("gpus", "gpus", "GPUs to hand in: a number, all, or device=ID."),
    Keyword("read_only", "boolean", "The container's root file system can't be written to."),
)
_CHANGES = (
    Keyword("changes", f"{_GLOBS} | map", "True when a changed file matches.", filled=True),
    Keyword("changes:paths", _GLOBS, "Globs, from the project's root; ** crosses folders.", required=True, filled=True),
    Keyword("changes:compare_to", "line", "The branch, tag or commit to compare with; HEAD if not given."),
)
_RULE = (
    Keyword("if", "condition", "A condition on variables."),
    *_CHANGES,
    Keyword("exists", _GLOBS, "True when a file matches one of these globs."),
    Keyword("variables", "open", "Variables that hold when this rule matches."),
    Keyword("variables:NAME", "text"),
)

COMMON = (
    Keyword("target", "(linux)", "The kind of machine; linux."),
    Keyword("before_script", _SCRIPTS, "Steps before `script`."),
    Keyword("after_script", _SCRIPTS, "Steps after `script`, also when it failed or timed out."),
    Keyword("image", "line | map", "The image that the job runs in."),
    *nested("image", _IMAGE),
    Keyword("user", "user", "The user that steps run as; the image's own if not given."),
    Keyword("shell", "shell", "The shell that runs each step: auto, a name, or its command line."),
    Keyword("shared_shell", "boolean", "One shell for all steps before `after_script`, and another for those of it."),
    Keyword("merge_output", "boolean", "Record stdout and stderr of each step as one stream, in exact order."),
    Keyword("git_depth", "count", "How many commits the job's git has, with its branch alone; all if not given."),
    Keyword("variables", "open", "Environment variables; values are text."),
    Keyword("variables:NAME", "text"),
    Keyword("secrets", "open", "Secrets, by the variable that hands them over."),
    *nested("secrets", _SECRET),
    Keyword("services", "[line | map]", "Containers that run beside the job."),
    *nested("services", _SERVICE),
    Keyword("cache", "map | [map]", "Folders kept between runs."),
    *nested("cache", _CACHE),
    Keyword("artifacts", "map", "Files to keep and to hand to later jobs."),
    *nested("artifacts", _ARTIFACTS),
    Keyword("allow_failure", "boolean | map", "Whether the pipeline goes on when the job fails."),
    Keyword(
        "allow_failure:exit_codes", _CODES, "Exit codes that do not fail the pipeline.", required=True, filled=True
    ),
    Keyword("retry", "retries | map", "Try again after a failure."),
    Keyword("retry:max", "retries", "How often to try again."),
    Keyword("retry:when", f"{_REASONS} | [{_REASONS}]", "What to try again after.", filled=True),
    Keyword("retry:exit_codes", _CODES, "Try again after these exit codes, besides the reasons of `when`."),
    Keyword("retry:backoff", "seconds", "How long to wait before the first further attempt; doubles each time."),
    Keyword("timeout", "limit", "How long the job may take."),
    Keyword("step_timeout", "limit", "How long each step may take."),
    Keyword("resources", "map", "Limits of the job's container."),
    *nested("resources", _RESOURCES),
    Keyword("network", "network | map", "The network of the job's container."),
    Keyword("network:mode", "network", "bridge, none, host, or the name of a network."),
    Keyword("network:extra_hosts", "open", "Further host names and their addresses."),
    Keyword("network:extra_hosts:NAME", "address"),
    Keyword("privileged", "boolean", "Give the container all privileges."),
    Keyword("docker_socket", "boolean", "Hand the engine's socket to the job."),
    Keyword("resource_group", "line", "At most one job of a group runs at a time, over all runs on this machine."),
    Keyword("runner_pool", "line", "The pool of the user's configuration in which the job runs."),
)
"""Keys of jobs that `default` can set for every job."""

JOB = (
    *COMMON,
    Keyword("extends", _LINES, "Templates or jobs to start from; later ones win."),
    Keyword("stage", "stage", "The job's stage; one of `stages`."),
    Keyword("script", _SCRIPTS, "The job's steps, each a shell script.", filled=True),
    Keyword("inputs", _GLOBS, "The files that the job gets of the project, and no others; .git too, if it is named."),
    Keyword("needs", "line | map | [line | map]", "Jobs to wait for, instead of the stages before."),
    Keyword("needs:job", "line", "The job to wait for.", required=True),
    Keyword("needs:optional", "boolean", "No error when that job is not part of the run."),
    Keyword("needs:artifacts", "boolean", "Whether its artifacts are restored here."),
    Keyword("needs:matrix", "open", "Only the combinations with these values."),
    Keyword("needs:matrix:NAME", "text"),
    Keyword("rules", "[map]", "Whether and how the job runs; the first rule that matches counts."),
    *nested("rules", _RULE),
    Keyword("rules:when", _JOB_WHEN, "When the job runs if this rule matches."),
    Keyword("rules:allow_failure", "boolean", "Whether the job may fail if this rule matches."),
    Keyword("when", _JOB_WHEN, "When the job runs: on_success, on_failure, always, manual or never."),
    Keyword("parallel", "copies | map", "Run the job several times: a number, or a matrix."),
    Keyword("parallel:count", "copies", "How many copies of the job."),
    Keyword("parallel:matrix", "[open]", "Each combination of the values becomes a job of its own.", filled=True),
    Keyword("parallel:matrix:NAME", _TEXTS, filled=True),
)

INCLUDED = (
    Keyword("version", "(v1)", "The language's version."),
    Keyword("variables", "open", "Environment variables of every job; values are text. The main file wins."),
    Keyword("variables:NAME", "text"),
    Keyword("include", "map | [map]", "Files with templates and jobs."),
    Keyword("include:local", "path", "A file (or glob) below .loom/templates, from the root.", required=True),
)

ROOT = (
    Keyword("version", "(v1)", "The language's version.", required=True, example="v1"),
    Keyword("stages", "[stage]", "The stages, in order.", required=True, filled=True, example="[build, test]"),
    *INCLUDED[1:],
    Keyword("workflow", "map", "Rules for the workflow as a whole."),
    Keyword("workflow:rules", "[map]", "Whether anything runs; the first rule that matches counts.", required=True),
    *nested("workflow:rules", _RULE),
    Keyword("workflow:rules:when", "(always never)", "Whether anything runs when this rule matches."),
)
"""Root keys of the main file, beside `default`."""
DEFAULT = "Keys for every job; a job's own value wins."
ROOT_KEYS = ("version", "stages", "variables", "default", "include", "workflow")


_ALL = {"job": JOB, "default": COMMON, "root": ROOT, "included": INCLUDED}
TABLES = {name: tabled(_shortened(keywords)) for name, keywords in _ALL.items()}
JOB_KEYS = tuple(TABLES["job"][""])
DEFAULT_KEYS = tuple(TABLES["default"][""])
