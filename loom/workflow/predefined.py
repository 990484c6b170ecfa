"""The variables that loom sets for jobs, and GitLab's predefined ones that it can't set, with the reason.

From this table docs/reference/variables.md is made (`scripts/docs gitlab`). `loom.plan.variables` makes the values.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

from msgspec import Struct

Known = Literal["plan", "job", "start", "step", "after_script"]


class Predefined(Struct, frozen=True):
    """One of loom's variables: its name, the phase that first knows it, and its meaning."""

    name: str
    known: Known
    about: str


class NotSet(Struct, frozen=True):
    """One of GitLab's variables that loom does not set."""

    name: str
    why: str
    missing: str = ""
    """The `CI_PIPELINE_SOURCE` of the pipelines in which GitLab has a value for it, `*` for all, empty for none that a run
    stands for: a condition that reads it then decides otherwise here."""


PREDEFINED = (
    Predefined("CI", "plan", "`true`."),
    Predefined("CI_CONFIG_PATH", "plan", "The workflow file, relative to the project."),
    Predefined(
        "CI_CONFIG_REF_URI",
        "plan",
        "Server, project, path and ref of the workflow file in one; not set without a server.",
    ),
    Predefined("CI_PIPELINE_ID", "plan", "The run's id."),
    Predefined("CI_PIPELINE_IID", "plan", "The run's id."),
    Predefined("CI_PIPELINE_CREATED_AT", "plan", "When the run began, in ISO 8601; not set before (`loom compile`)."),
    Predefined("CI_PIPELINE_URL", "plan", "The address that a pipeline of this id would have in GitLab."),
    Predefined("CI_PIPELINE_TRIGGERED", "plan", "With `--event trigger`: `true`."),
    Predefined(
        "CI_PIPELINE_SOURCE", "plan", "What the run stands for, in GitLab's words: `push`, or that of `--event`."
    ),
    Predefined("CI_COMMIT_SHA", "plan", "The commit that is checked out."),
    Predefined("CI_COMMIT_SHORT_SHA", "plan", "Its first 8 characters."),
    Predefined(
        "CI_COMMIT_BEFORE_SHA",
        "plan",
        "For a push: the commit of the branch at `origin`, or the parent if that is the same; zeros for a branch that "
        "`origin` does not have, and for all other events.",
    ),
    Predefined("CI_COMMIT_REF_NAME", "plan", "The branch; without one a tag of the commit, else the commit."),
    Predefined(
        "CI_COMMIT_REF_SLUG", "plan", "The same in lower case, with `-` for all but letters and digits; 63 characters."
    ),
    Predefined("CI_COMMIT_REF_PROTECTED", "plan", "`true` for the default branch, else `false`."),
    Predefined("CI_COMMIT_BRANCH", "plan", "The branch; not set on a detached HEAD, for a tag or a merge request."),
    Predefined(
        "CI_COMMIT_DEFAULT_BRANCH_BASE_SHA",
        "plan",
        "On another branch than the default one: the commit at which it left that one.",
    ),
    Predefined("CI_COMMIT_TAG", "plan", "A tag of the commit, on a detached HEAD or with `--event tag`; else not set."),
    Predefined("CI_COMMIT_TAG_MESSAGE", "plan", "The message of that tag; not set for one without."),
    Predefined("CI_COMMIT_TITLE", "plan", "The first line of the commit's message."),
    Predefined(
        "CI_COMMIT_DESCRIPTION",
        "plan",
        "The message without its first line, maybe empty; all of it after a line of 100 characters.",
    ),
    Predefined("CI_COMMIT_MESSAGE", "plan", "The whole message."),
    Predefined("CI_COMMIT_MESSAGE_IS_TRUNCATED", "plan", "`false`: the message is whole."),
    Predefined("CI_COMMIT_AUTHOR", "plan", "The commit's author: `Name <address>`."),
    Predefined("CI_COMMIT_TIMESTAMP", "plan", "When it was committed, in ISO 8601."),
    Predefined(
        "CI_DEFAULT_BRANCH",
        "plan",
        "The branch that `origin/HEAD` leads to; else `main` or `master`, if only one is there.",
    ),
    Predefined("CI_DEFAULT_BRANCH_SLUG", "plan", "The same as a slug."),
    Predefined("CI_MERGE_REQUEST_ID", "plan", "With `--event merge_request`: `1`; git does not know the real one."),
    Predefined("CI_MERGE_REQUEST_IID", "plan", "With `--event merge_request`: `1`."),
    Predefined(
        "CI_OPEN_MERGE_REQUESTS",
        "plan",
        "With `--event merge_request`: the project and `!1`; for a push not set, as for a branch without a merge request.",
    ),
    Predefined("CI_MERGE_REQUEST_EVENT_TYPE", "plan", "With `--event merge_request`: `detached`."),
    Predefined("CI_MERGE_REQUEST_REF_PATH", "plan", "With `--event merge_request`: `refs/merge-requests/1/head`."),
    Predefined(
        "CI_MERGE_REQUEST_DIFF_BASE_SHA",
        "plan",
        "With `--event merge_request`: the commit at which the branch left the default one.",
    ),
    Predefined(
        "CI_MERGE_REQUEST_TITLE", "plan", "With `--event merge_request`: the first line of the commit's message."
    ),
    Predefined("CI_MERGE_REQUEST_PROJECT_PATH", "plan", "With `--event merge_request`: as `CI_PROJECT_PATH`."),
    Predefined("CI_MERGE_REQUEST_PROJECT_URL", "plan", "With `--event merge_request`: as `CI_PROJECT_URL`."),
    Predefined("CI_MERGE_REQUEST_SOURCE_PROJECT_PATH", "plan", "With `--event merge_request`: as `CI_PROJECT_PATH`."),
    Predefined("CI_MERGE_REQUEST_SOURCE_PROJECT_URL", "plan", "With `--event merge_request`: as `CI_PROJECT_URL`."),
    Predefined("CI_MERGE_REQUEST_SOURCE_BRANCH_NAME", "plan", "With `--event merge_request`: the branch."),
    Predefined("CI_MERGE_REQUEST_SOURCE_BRANCH_PROTECTED", "plan", "With `--event merge_request`: `false`."),
    Predefined("CI_MERGE_REQUEST_TARGET_BRANCH_NAME", "plan", "With `--event merge_request`: the default branch."),
    Predefined("CI_MERGE_REQUEST_TARGET_BRANCH_PROTECTED", "plan", "With `--event merge_request`: `true`."),
    Predefined(
        "CI_PROJECT_NAME", "plan", "The last part of the path in the URL of `origin`; without one, the folder's name."
    ),
    Predefined("CI_PROJECT_TITLE", "plan", "The same."),
    Predefined(
        "CI_PROJECT_PATH", "plan", "The path in the URL of `origin`: groups and name. Not set without a server there."
    ),
    Predefined("CI_PROJECT_PATH_SLUG", "plan", "The same as a slug (`CI_COMMIT_REF_SLUG`)."),
    Predefined("CI_PROJECT_NAMESPACE", "plan", "The groups in that path."),
    Predefined("CI_PROJECT_NAMESPACE_SLUG", "plan", "The same as a slug."),
    Predefined("CI_PROJECT_ROOT_NAMESPACE", "plan", "The first group."),
    Predefined("CI_PROJECT_ROOT_NAMESPACE_SLUG", "plan", "The same as a slug."),
    Predefined("CI_PROJECT_URL", "plan", "The address of the project on the server of `origin`."),
    Predefined("CI_REPOSITORY_URL", "plan", "The URL of `origin`, without a credential; not set without one."),
    Predefined("CI_SERVER", "plan", "`yes`."),
    Predefined("CI_SERVER_NAME", "plan", "`GitLab`."),
    Predefined("CI_SERVER_HOST", "plan", "The server in the URL of `origin`."),
    Predefined("CI_SERVER_PORT", "plan", "Its port for HTTP: from the URL, else `443`."),
    Predefined("CI_SERVER_PROTOCOL", "plan", "`https`, unless the URL of `origin` says `http`."),
    Predefined("CI_SERVER_FQDN", "plan", "The server, with its port if that is not the usual one."),
    Predefined("CI_SERVER_URL", "plan", "Its address."),
    Predefined("CI_SERVER_SHELL_SSH_HOST", "plan", "The server in the URL of `origin`."),
    Predefined("CI_SERVER_SHELL_SSH_PORT", "plan", "Its port for SSH: from the URL, else `22`."),
    Predefined("CI_API_V4_URL", "plan", "The address of its REST API."),
    Predefined("CI_API_GRAPHQL_URL", "plan", "The address of its GraphQL API."),
    Predefined("CI_REGISTRY", "plan", "`registry.gitlab.com` for a project of gitlab.com; else not set."),
    Predefined("CI_REGISTRY_IMAGE", "plan", "The project's place there."),
    Predefined("CI_TEMPLATE_REGISTRY_HOST", "plan", "`registry.gitlab.com`."),
    Predefined("CI_PAGES_DOMAIN", "plan", "`gitlab.io` for a project of gitlab.com; else not set."),
    Predefined("CI_PAGES_HOSTNAME", "plan", "The group's host there."),
    Predefined("CI_PAGES_URL", "plan", "The project's place there."),
    Predefined("CI_DEPENDENCY_PROXY_SERVER", "plan", "The server with its port."),
    Predefined("CI_DEPENDENCY_PROXY_GROUP_IMAGE_PREFIX", "plan", "The first group's dependency proxy there."),
    Predefined("CI_DEPENDENCY_PROXY_DIRECT_GROUP_IMAGE_PREFIX", "plan", "The last group's dependency proxy there."),
    Predefined("GITLAB_USER_NAME", "plan", "git's `user.name`; not set without one."),
    Predefined("GITLAB_USER_EMAIL", "plan", "git's `user.email`; not set without one."),
    Predefined("GITLAB_USER_LOGIN", "plan", "What stands before the `@` there."),
    Predefined("CI_PROJECT_DIR", "job", "Where the job sees the project: `/workspace` in a container."),
    Predefined("CI_BUILDS_DIR", "job", "The directory that has the project's."),
    Predefined("CI_JOB_ID", "job", "The job's id: its name, with the values of its matrix."),
    Predefined(
        "CI_JOB_NAME", "job", "The job's name in the workflow; in GitLab's dialect as GitLab prints it: `test 1/3`."
    ),
    Predefined("CI_JOB_NAME_SLUG", "job", "The same as a slug."),
    Predefined("CI_JOB_STAGE", "job", "The job's stage."),
    Predefined("CI_JOB_MANUAL", "start", "`true` for a manual job that was started."),
    Predefined(
        "CI_JOB_URL", "start", "The address that a job of this id would have in GitLab; not set without a server."
    ),
    Predefined("CI_JOB_STARTED_AT", "start", "When this attempt at the job began, in ISO 8601."),
    Predefined("CI_JOB_STARTED_AT_SLUG", "start", "The same as a slug."),
    Predefined("CI_JOB_RETRY_COUNT", "start", "How many attempts at the job there were before this one."),
    Predefined("CI_JOB_IMAGE", "start", "The image that the job runs in; empty on the host."),
    Predefined("CI_JOB_TIMEOUT", "start", "The job's time limit in seconds; not set without one."),
    Predefined("CI_CONCURRENT_ID", "job", "`0`."),
    Predefined("CI_CONCURRENT_PROJECT_ID", "job", "`0`."),
    Predefined("CI_DISPOSABLE_ENVIRONMENT", "start", "`true` in a container."),
    Predefined("CI_SHARED_ENVIRONMENT", "start", "`true` on this machine."),
    Predefined(
        "CI_RUNNER_EXECUTABLE_ARCH",
        "start",
        "System and architecture of the machine that loom runs on, such as `linux/amd64`.",
    ),
    Predefined("CI_NODE_INDEX", "job", "With `parallel`: which copy this is, from 1."),
    Predefined("CI_NODE_TOTAL", "job", "With `parallel`: how many copies there are."),
    Predefined(
        "CI_JOB_STATUS",
        "start",
        "`running`; in `after_script` how the job ended, in GitLab's words: `success`, `failed`, `canceled`.",
    ),
    Predefined("LOOM_CI", "plan", "`true`: this is a run of loom's, whatever it stands for, and not the CI system."),
    Predefined("LOOM_EVENT", "plan", "The event that the run stands for, as `--event` names it."),
    Predefined("LOOM_RUN_ID", "plan", "The run's id."),
    Predefined("LOOM_PIPELINE_ID", "plan", "The run's id."),
    Predefined("LOOM_WORKFLOW_PATH", "plan", "The workflow file, relative to the project."),
    Predefined("LOOM_PROJECT_DIR", "job", "As `CI_PROJECT_DIR`."),
    Predefined("LOOM_JOB_ID", "job", "As `CI_JOB_ID`."),
    Predefined("LOOM_JOB_NAME", "job", "As `CI_JOB_NAME`."),
    Predefined("LOOM_JOB_STAGE", "job", "As `CI_JOB_STAGE`."),
    Predefined("LOOM_JOB_IMAGE", "start", "As `CI_JOB_IMAGE`."),
    Predefined("LOOM_JOB_TARGET", "job", "The job's `target`: `linux`."),
    Predefined("LOOM_PROVIDER", "job", "`docker`, `kubernetes`, or `host` for a job on this machine."),
    Predefined("LOOM_ENV", "step", "A file: a line `NAME=value` in it is a variable of the job's later steps."),
    Predefined("LOOM_MASK", "step", "A file: each line in it is a value that no later output of the run shows."),
    Predefined("LOOM_STEP", "step", "The step's id, such as `script/01`."),
    Predefined("LOOM_ATTEMPT", "step", "Which attempt at the job this is, from 1."),
    Predefined(
        "LOOM_JOB_STATUS", "after_script", "How the job ended: `success`, `failure`, `timed_out`, `error`, `canceled`."
    ),
)
"""Those of jobs in every language of workflows."""

OF_GITLAB = (
    Predefined("GITLAB_CI", "plan", "`true`."),
    Predefined("CI_PIPELINE_NAME", "plan", "`workflow:name`, with its variables; not set without."),
    Predefined("CI_UPSTREAM_PIPELINE_ID", "plan", "In a child pipeline: the id of the run that started it."),
    Predefined("CI_UPSTREAM_JOB_ID", "plan", "In a child pipeline: the id of the job that started it."),
    Predefined("CI_NODE_TOTAL", "plan", "`1` without `parallel` too."),
    Predefined("CI_JOB_GROUP_NAME", "plan", "The job's name without the numbers or values of one of several."),
    Predefined("CI_JOB_TAGS", "job", "The job's `tags`, as a JSON list."),
    Predefined("CI_ENVIRONMENT_NAME", "job", "From `environment`; not set without, as the others."),
    Predefined("CI_ENVIRONMENT_SLUG", "job", "The name as GitLab writes it for DNS, with the same digest."),
    Predefined("CI_ENVIRONMENT_URL", "job", "`environment:url`, with its variables."),
    Predefined("CI_ENVIRONMENT_ACTION", "job", "`environment:action`, else `start`."),
    Predefined(
        "CI_ENVIRONMENT_TIER", "job", "`environment:deployment_tier`, else what GitLab would guess from the name."
    ),
    Predefined("CI_DEBUG_TRACE", "job", "As your file or `--var` sets it."),
    Predefined("CI_DEBUG_SERVICES", "job", "As your file or `--var` sets it."),
)
"""What the jobs of a `.gitlab-ci.yml` have besides."""

_NUMBER = "A number that only the server knows."
_SETTING = "A setting of the project on the server."
_VERSION = "Only the server knows its version."
_TOKEN = "A token that only the server issues."
_REQUEST = "What the merge request has on the server."
_RUNNER = "No GitLab runner runs the job."
_CHAT = "Pipelines that a chat command starts have it."
_WEBHOOK = "Pipelines that a webhook or a trigger token starts have it."
_EXTERNAL = "Pipelines for a pull request on GitHub have it."
_FEATURE = "Pipelines have it where the server has this feature on."
_EMPTY = "GitLab sets it in pipelines for merged results alone."
_MR = "merge_request_event"


def _not_set(why: str, *names: str, missing: str = "") -> Iterator[NotSet]:
    return (NotSet(name, why, missing) for name in names)


NOT_SET = (
    *_not_set(_NUMBER, "CI_PROJECT_ID", "CI_PROJECT_NAMESPACE_ID", "GITLAB_USER_ID", missing="*"),
    *_not_set(_NUMBER, "CI_ENVIRONMENT_ID", "CI_UPSTREAM_PROJECT_ID"),
    *_not_set(_NUMBER, "CI_MERGE_REQUEST_PROJECT_ID", "CI_MERGE_REQUEST_SOURCE_PROJECT_ID", missing=_MR),
    *_not_set(_NUMBER, "CI_MERGE_REQUEST_DIFF_ID", missing=_MR),
    *_not_set(_SETTING, "CI_PROJECT_VISIBILITY", "CI_PROJECT_DESCRIPTION", "CI_PROJECT_TOPICS", missing="*"),
    *_not_set(_SETTING, "CI_PROJECT_CLASSIFICATION_LABEL", missing="*"),
    NotSet("CI_PROJECT_REPOSITORY_LANGUAGES", "The server counts the lines of each language.", "*"),
    NotSet("CI_COMMIT_USER_LOGIN", "Only the server knows the account of the commit's author.", "*"),
    NotSet("GITLAB_FEATURES", "The features of the server's licence.", "*"),
    *_not_set(_VERSION, "CI_SERVER_VERSION", "CI_SERVER_VERSION_MAJOR", "CI_SERVER_VERSION_MINOR", missing="*"),
    *_not_set(_VERSION, "CI_SERVER_VERSION_PATCH", "CI_SERVER_REVISION", missing="*"),
    *_not_set(_TOKEN, "CI_JOB_TOKEN", "CI_REGISTRY_PASSWORD", "CI_DEPENDENCY_PROXY_PASSWORD", "CI_DEPLOY_PASSWORD"),
    *_not_set("The name that goes with a token.", "CI_REGISTRY_USER", "CI_DEPENDENCY_PROXY_USER", "CI_DEPLOY_USER"),
    NotSet("KUBECONFIG", "GitLab's agents are not asked for."),
    NotSet("CI_PIPELINE_SCHEDULE_DESCRIPTION", "The text of the schedule on the server.", "schedule"),
    NotSet("CI_RELEASE_DESCRIPTION", "The text of the release on the server."),
    *_not_set(_REQUEST, "CI_MERGE_REQUEST_APPROVED", "CI_MERGE_REQUEST_ASSIGNEES", missing=_MR),
    *_not_set(_REQUEST, "CI_MERGE_REQUEST_DESCRIPTION", "CI_MERGE_REQUEST_DESCRIPTION_IS_TRUNCATED", missing=_MR),
    *_not_set(_REQUEST, "CI_MERGE_REQUEST_DRAFT", "CI_MERGE_REQUEST_LABELS", missing=_MR),
    *_not_set(_REQUEST, "CI_MERGE_REQUEST_MILESTONE", "CI_MERGE_REQUEST_SQUASH_ON_MERGE", missing=_MR),
    *_not_set(_EMPTY, "CI_MERGE_REQUEST_SOURCE_BRANCH_SHA", "CI_MERGE_REQUEST_TARGET_BRANCH_SHA"),
    *_not_set(_RUNNER, "CI_RUNNER_ID", "CI_RUNNER_DESCRIPTION", "CI_RUNNER_TAGS", "CI_RUNNER_SHORT_TOKEN"),
    *_not_set(_RUNNER, "CI_RUNNER_VERSION", "CI_RUNNER_REVISION", "CI_BUILD_NETWORK_NAME"),
    *_not_set(_RUNNER, "CI_SERVER_TLS_CA_FILE", "CI_SERVER_TLS_CERT_FILE", "CI_SERVER_TLS_KEY_FILE"),
    *_not_set("The server's own trace of the pipeline.", "CI_TRACEPARENT", "CI_TRACESTATE"),
    *_not_set(_FEATURE, "CI_DEPLOY_FREEZE", "CI_GITLAB_FIPS_MODE", "CI_HAS_OPEN_REQUIREMENTS"),
    *_not_set(_FEATURE, "CI_KUBERNETES_ACTIVE"),
    *_not_set(_CHAT, "CHAT_CHANNEL", "CHAT_INPUT", "CHAT_USER_ID"),
    *_not_set(_WEBHOOK, "TRIGGER_PAYLOAD", "CI_TRIGGER_SHORT_TOKEN"),
    *_not_set(_EXTERNAL, "CI_EXTERNAL_PULL_REQUEST_IID"),
    *_not_set(
        _EXTERNAL,
        *(
            f"CI_EXTERNAL_PULL_REQUEST_{side}_{what}"
            for side in ("SOURCE", "TARGET")
            for what in ("REPOSITORY", "BRANCH_NAME", "BRANCH_SHA")
        ),
    ),
)
"""A value that you give counts: by `--var`, or in the file that `gitlab: {variables: FILE}` names."""

KNOWN_TO_PLANS = tuple(each.name for each in PREDEFINED if each.known in ("plan", "job"))
KNOWN_AT_START = frozenset(each.name for each in PREDEFINED if each.known == "start")
"""References to these stay in the plan's `variables`, and get their values when the job starts."""
