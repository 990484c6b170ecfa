"""The variables that loom sets for a job: `LOOM_*`, and the `CI_*` names that scripts of other CI systems read.

Pure. The plan expands `$NAME` with `run_variables`; a job gets `job_variables` below the plan's own variables.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import PurePath
from types import MappingProxyType

from msgspec.structs import replace

from loom.errors import RequestError
from loom.images.reference import service_aliases
from loom.plan.model import PROJECT_DIR, Artifacts, Cache, Image, Job, Referring, Service
from loom.plan.origin import origin_of, variables_of
from loom.plan.reported import may_get
from loom.status import Status
from loom.util import controls, jsons
from loom.util.slugs import slug
from loom.util.units import machine
from loom.values import Environ, Immutable
from loom.workflow import interpolation
from loom.workflow.gitlab.paths import glob_of_runner, is_outside
from loom.workflow.predefined import KNOWN_AT_START

_DIRECTORIES = frozenset({"CI_PROJECT_DIR", "LOOM_PROJECT_DIR", "CI_BUILDS_DIR"})

SOURCES = {
    "push": "push",
    "merge_request": "merge_request_event",
    "schedule": "schedule",
    "tag": "push",
    "web": "web",
    "trigger": "trigger",
}
"""The events that a run can simulate (`--event`), with GitLab's `CI_PIPELINE_SOURCE` for each."""
OF_GITHUB_ALONE = (
    *("pull_request", "pull_request_target", "pull_request_review", "pull_request_review_comment"),
    *("workflow_dispatch", "release", "merge_group", "repository_dispatch"),
    *("workflow_run", "issues", "issue_comment", "create", "delete"),
)
EVENTS = (*SOURCES, *OF_GITHUB_ALONE)
DEFAULT_EVENT = "push"
_OF_GITHUB = {
    "pull_request": "merge_request",
    "pull_request_target": "merge_request",
    "pull_request_review": "merge_request",
    "pull_request_review_comment": "merge_request",
    "workflow_dispatch": "web",
    "repository_dispatch": "trigger",
    "release": "tag",
}


def gitlab_event(event: str) -> str:
    """Return GitLab's name of an event: `push` for one that it does not have."""
    event = _OF_GITHUB.get(event, event)
    return event if event in SOURCES else DEFAULT_EVENT


class Message(Immutable):
    """Facts from git about a commit, its tag and its branch."""

    author: str
    timestamp: str
    text: str
    parent: str = ""
    """The first parent; empty for a commit without one."""
    tag: str = ""
    fork: str = ""
    """The commit at which its branch left the default branch."""


class HeadCommit(Immutable):
    """The checked-out commit, as far as git knows it."""

    sha: str
    branch: str | None = None
    tags: Sequence[str] = ()
    default_branch: str | None = None
    remote_sha: str | None = None
    """The commit of the branch at `origin`: zeros if it is not there, None if there is no `origin`."""
    message: Message | None = None


class User(Immutable):
    name: str = ""
    email: str = ""


def run_variables(
    *,
    run_id: str,
    workflow_path: str,
    commit: HeadCommit,
    project_name: str,
    origin_url: str | None,
    event: str = DEFAULT_EVENT,
    user: User | None = None,
) -> dict[str, str]:
    """Return the variables that all jobs of a run share, as CI would set them for `event`. RequestError if the tag is
    missing.

    `CI_COMMIT_BRANCH` is absent on a detached HEAD, for a tag and for a merge request, as in GitLab.
    """
    given, event = event, gitlab_event(event)
    if event == "tag" and not commit.tags:
        raise RequestError(
            f"--event {given}: no tag points at the commit that is checked out",
            hint="make one (`git tag NAME`), or check one out (`git checkout NAME`)",
        )
    of_tag = tag_of(commit, event)
    origin, user = origin_of(origin_url), user or User()
    variables = {
        "CI": "true",
        "CI_SERVER": "yes",
        "CI_SERVER_NAME": "GitLab",
        "CI_TEMPLATE_REGISTRY_HOST": "registry.gitlab.com",
        "CI_CONFIG_PATH": workflow_path,
        "CI_PROJECT_NAME": project_name,
        "CI_PROJECT_TITLE": project_name,
        "CI_REPOSITORY_URL": origin_url,
        **({} if origin is None else variables_of(origin)),
        "GITLAB_USER_NAME": user.name,
        "GITLAB_USER_EMAIL": user.email,
        "GITLAB_USER_LOGIN": user.email.partition("@")[0],
        "LOOM_CI": "true",
        "LOOM_EVENT": given,
        "LOOM_RUN_ID": run_id,
        "LOOM_PIPELINE_ID": run_id,
        "LOOM_WORKFLOW_PATH": workflow_path,
    }
    variables |= _commit_variables(commit, event, of_tag)
    url, path = variables.get("CI_PROJECT_URL"), variables.get("CI_PROJECT_PATH")
    variables |= {
        "CI_PIPELINE_ID": run_id,
        "CI_PIPELINE_IID": run_id,
        "CI_PIPELINE_SOURCE": SOURCES[event],
        "CI_PIPELINE_URL": f"{url}/-/pipelines/{run_id}" if url and run_id else None,
        "CI_PIPELINE_CREATED_AT": _began(run_id),
        "CI_PIPELINE_TRIGGERED": "true" if event == "trigger" else None,
    }
    ref = f"refs/tags/{of_tag}" if of_tag else f"refs/heads/{commit.branch}" if commit.branch else None
    if event == "merge_request":
        variables |= _merge_request_variables(commit, variables)
        ref = variables["CI_MERGE_REQUEST_REF_PATH"]
    elif of_tag is None:
        variables["CI_COMMIT_BRANCH"] = commit.branch
        if commit.branch != commit.default_branch and commit.message is not None:
            variables["CI_COMMIT_DEFAULT_BRANCH_BASE_SHA"] = commit.message.fork
    if path and ref:
        variables["CI_CONFIG_REF_URI"] = f"{variables['CI_SERVER_FQDN']}/{path}//{workflow_path}@{ref}"
    # Most commits have no description: it is set all the same.
    return {"CI_COMMIT_DESCRIPTION": "", **{name: value for name, value in variables.items() if value}}


def tag_of(commit: HeadCommit, event: str) -> str | None:
    """Return the tag that a run for `event` stands for."""
    of_tag = event == "tag" or (commit.branch is None and event != "merge_request")
    return commit.tags[0] if of_tag and commit.tags else None


def rerun_variables(variables: Mapping[str, str], run_id: str) -> dict[str, str]:
    """Return the variables of a run for one that does it again, and has this id."""
    before = variables.get("LOOM_RUN_ID") or "\0"
    return {name: value.replace(before, run_id) for name, value in variables.items()}


def _began(run_id: str) -> str | None:
    """Return the time at which a run began: its id is a number of nanoseconds."""
    return _iso(int(run_id)) if run_id.isdigit() else None


def _iso(epoch_ns: int) -> str:
    return datetime.fromtimestamp(epoch_ns // 10**9, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _commit_variables(commit: HeadCommit, event: str, tag: str | None) -> dict[str, str | None]:
    ref = tag or commit.branch or commit.sha
    message = commit.message or Message(author="", timestamp="", text="")
    title, _, rest = message.text.partition("\n")
    before = None
    if event == "push" and tag is None:
        before = message.parent if commit.remote_sha in (commit.sha, None) else commit.remote_sha
    return {
        "CI_COMMIT_SHA": commit.sha,
        "CI_COMMIT_SHORT_SHA": commit.sha[:8],
        "CI_COMMIT_BEFORE_SHA": before or "0" * (len(commit.sha) or 40),
        "CI_COMMIT_REF_NAME": ref,
        "CI_COMMIT_REF_SLUG": slug(ref),
        "CI_COMMIT_REF_PROTECTED": "true" if tag is None and ref == commit.default_branch else "false",
        "CI_COMMIT_TITLE": title,
        "CI_COMMIT_DESCRIPTION": rest.strip("\n") if len(title) < 100 else message.text,
        "CI_COMMIT_MESSAGE": message.text,
        "CI_COMMIT_AUTHOR": message.author,
        "CI_COMMIT_TIMESTAMP": message.timestamp,
        "CI_COMMIT_MESSAGE_IS_TRUNCATED": "false" if message.text else None,
        "CI_COMMIT_TAG": tag,
        "CI_COMMIT_TAG_MESSAGE": message.tag if tag else None,
        "CI_DEFAULT_BRANCH": commit.default_branch,
        "CI_DEFAULT_BRANCH_SLUG": slug(commit.default_branch or ""),
    }


def _merge_request_variables(commit: HeadCommit, variables: Mapping[str, str | None]) -> dict[str, str | None]:
    path, url = variables.get("CI_PROJECT_PATH"), variables.get("CI_PROJECT_URL")
    return {
        "CI_MERGE_REQUEST_ID": "1",
        "CI_MERGE_REQUEST_IID": "1",
        "CI_MERGE_REQUEST_EVENT_TYPE": "detached",
        "CI_MERGE_REQUEST_REF_PATH": "refs/merge-requests/1/head",
        "CI_MERGE_REQUEST_DIFF_BASE_SHA": commit.message.fork if commit.message is not None else None,
        "CI_MERGE_REQUEST_TITLE": variables["CI_COMMIT_TITLE"],
        "CI_OPEN_MERGE_REQUESTS": f"{path}!1" if path else None,
        "CI_MERGE_REQUEST_PROJECT_PATH": path,
        "CI_MERGE_REQUEST_PROJECT_URL": url,
        "CI_MERGE_REQUEST_SOURCE_PROJECT_PATH": path,
        "CI_MERGE_REQUEST_SOURCE_PROJECT_URL": url,
        "CI_MERGE_REQUEST_SOURCE_BRANCH_NAME": commit.branch,
        "CI_MERGE_REQUEST_SOURCE_BRANCH_PROTECTED": "false",
        "CI_MERGE_REQUEST_TARGET_BRANCH_NAME": commit.default_branch,
        "CI_MERGE_REQUEST_TARGET_BRANCH_PROTECTED": "true",
    }


def rule_variables(name: str, job_id: str, stage: str, title: str = "") -> dict[str, str]:
    """Return the variables of a job that its rules see. `title`: GitLab's name of one instance."""
    return {
        "LOOM_JOB_NAME": name,
        "LOOM_JOB_ID": job_id,
        "LOOM_JOB_STAGE": stage,
        "LOOM_JOB_TARGET": "linux",
        "CI_JOB_NAME": title or name,
        "CI_JOB_NAME_SLUG": slug(title or name),
        "CI_JOB_STAGE": stage,
    }


def plan_variables(*, job_id: str, project_dir: str | None) -> dict[str, str]:
    """Return the variables of `job_variables` that are known while planning, to expand the plan's texts."""
    values = {"CI_JOB_ID": job_id, "CI_CONCURRENT_ID": "0", "CI_CONCURRENT_PROJECT_ID": "0"}
    if project_dir is None:
        return values
    return {
        **values,
        "LOOM_PROJECT_DIR": project_dir,
        "CI_PROJECT_DIR": project_dir,
        "CI_BUILDS_DIR": project_dir.rstrip("/").rpartition("/")[0] or "/",
    }


def job_variables(job: Job, *, project_dir: str, image_name: str, project_url: str = "") -> dict[str, str]:
    sometimes = {
        "CI_JOB_TIMEOUT": None if job.timeout_s is None else str(round(job.timeout_s)),
        "CI_JOB_URL": f"{project_url}/-/jobs/{job.id}" if project_url else None,
        "CI_JOB_MANUAL": "true" if job.when == "manual" else None,
        "CI_SHARED_ENVIRONMENT" if job.image is None else "CI_DISPOSABLE_ENVIRONMENT": "true",
    }
    return {
        **rule_variables(job.name, job.id, job.stage),
        "LOOM_JOB_IMAGE": image_name,
        "LOOM_PROVIDER": job.provider.partition(":")[0],
        **plan_variables(job_id=job.id, project_dir=project_dir),
        "CI_JOB_STATUS": "running",
        "CI_JOB_IMAGE": image_name,
        "CI_RUNNER_EXECUTABLE_ARCH": machine(),
        **{name: value for name, value in sometimes.items() if value is not None},
    }


ATTEMPT = frozenset({"CI_JOB_STARTED_AT", "CI_JOB_STARTED_AT_SLUG", "CI_JOB_RETRY_COUNT"})


def attempt_variables(number: int, began_ns: int) -> dict[str, str]:
    at = _iso(began_ns)
    return {"CI_JOB_STARTED_AT": at, "CI_JOB_STARTED_AT_SLUG": slug(at), "CI_JOB_RETRY_COUNT": str(number - 1)}


def status_variables(status: Status) -> dict[str, str]:
    """Return the variables that tell `after_script` how the job ended."""
    ended = status.value if status in (Status.SUCCESS, Status.CANCELED) else "failed"
    return {"LOOM_JOB_STATUS": status.value, "CI_JOB_STATUS": ended}


def job_environment(
    job: Job,
    run: Mapping[str, str],
    *,
    project_dir: str,
    image_name: str,
    services: Mapping[str, str] = MappingProxyType({}),
) -> dict[str, str]:
    """Merge loom's variables and the plan's; later ones win. `services` locate the job's services.

    The plan's values may still refer to what it does not know: the directory of a host job, the addresses of services, and
    the variables that only a job that starts has, of which those of its attempt come later (`session_variables`).
    """
    own = job_variables(job, project_dir=project_dir, image_name=image_name, project_url=run.get("CI_PROJECT_URL", ""))
    late = {name: own.get(name, "") for name in KNOWN_AT_START - ATTEMPT} | dict(services)
    if job.image is None:
        late |= {name: own[name] for name in _DIRECTORIES}
    given = {name: _replaced(value, late) for name, value in job.variables.items()}
    return {**_drop_other_language(job, {**run, **own}), **services, **given}


def give_predefined_to_services(job: Job, run: Mapping[str, str]) -> Job:
    """Return a job of GitLab's whose services have the predefined variables too, below their own, as its runner gives them."""
    if not job.services or "GITLAB_CI" not in job.variables:
        return job
    image = (job.image and job.image.name) or ""
    known = {
        **run,
        **job_variables(job, project_dir=PROJECT_DIR, image_name=image, project_url=run.get("CI_PROJECT_URL", "")),
    }
    # The engine has them among its settings, where no secret may be, and which are text.
    public = {
        name: value.encode(errors="replace").decode()
        for name, value in _harmless(known, known).items()
        if name.startswith(("CI", "GITLAB_"))
    }

    def given(service: Service) -> Service:
        return replace(service, variables={**public, **{n: _replaced(v, public) for n, v in service.variables.items()}})

    return replace(job, services=tuple(map(given, job.services)))


def _drop_other_language(job: Job, values: Mapping[str, str]) -> Mapping[str, str]:
    """Return loom's variables for a job: one of GitHub's has none of GitLab's, by which tools tell one from the other."""
    if job.github is None:
        return values
    return {name: value for name, value in values.items() if not name.startswith(("CI_", "GITLAB_"))}


def default_branch(remote_head: str, refs: Collection[str], configured: str = "") -> str | None:
    """Return the branch that `origin/HEAD` leads to (a ref's name, or empty); else a usual name, or the only branch.

    `configured`: git's `init.defaultBranch`, where several branches are there.
    """
    remote, local = (
        {name.removeprefix(above) for name in refs if name.startswith(above)}
        for above in ("refs/remotes/origin/", "refs/heads/")
    )
    if remote_head:
        return remote_head.removeprefix("refs/remotes/origin/")
    for found in ({"main", "master"} & (remote | local), {configured} & (remote or local), remote or local):
        if len(found) == 1:
            return found.pop()
    return None


def remote_sha(sha: str | None, origin_url: str | None) -> str | None:
    """Return the commit of a branch at `origin`: zeros, as in git, if the remote has no such branch; None without a remote."""
    return sha or ("0" * 40 if origin_url else None)


def add_reported(
    job: Job,
    reported: Mapping[str, str],
    run: Mapping[str, str] = MappingProxyType({}),
    allowed: Sequence[str] = (),
) -> Job:
    """Return the job with variables that jobs before it reported: above its own, below the user's. `run`: the run's own.

    What the plan left unexpanded in its other values, because only those jobs could know it, is expanded; for GitLab's
    jobs, reported values too. A job that may not get one of them is refused; `allowed`: see `may_get`.
    """
    refused = sorted(name for name in reported if name not in job.given_variables and not may_get(job, name, allowed))
    if refused:
        job = replace(job, refused=(*job.refused, _refusal(job, refused)))
    found = {name: value for name, value in reported.items() if name not in (*job.given_variables, *refused)}
    if job.referring is None:
        variables = {name: _replaced(value, found) for name, value in job.variables.items()}
        made = _set_texts(job, job, lambda text: text, lambda text: _replaced(text, found))
        return replace(made, variables={**variables, **found})
    return _expand_referring(job, job.referring, found, run)


def _expand_referring(job: Job, referring: Referring, found: Mapping[str, str], run: Mapping[str, str]) -> Job:
    """Return a job of GitLab's with reported variables, and with all that refers to them."""
    kept = {*job.file_variables, *(secret.name for secret in job.secrets)}
    before = {name: value for name, value in job.variables.items() if name not in kept}
    # GitLab keeps a reported value as one to expand (`raw: false` in ci/parse_dotenv_artifact_service.rb).
    texts = {**referring.variables, **{name: _reported(name, value) for name, value in found.items()}}
    fixed = {name: value for name, value in {**run, **before}.items() if name not in texts}

    def unknown(name: str, written: str) -> str:
        return written if name in kept or is_known_at_start(name) else ""

    def expander(values: Mapping[str, str]) -> Callable[[str], str]:
        return lambda text: interpolation.expand(text, values, unknown=unknown)

    own = interpolation.expand_all(
        {name: text for name, text in texts.items() if name not in kept}, fixed, unknown=unknown
    )
    expanded = expander({**fixed, **own})
    own |= {name: expanded(text) for name, text in texts.items() if name in kept}
    trigger = job.trigger
    if trigger is not None:  # a child's plan is in its record, where no secret may be
        passed = _harmless(own, trigger.variables.keys() - found.keys())
        trigger = replace(trigger, variables={**trigger.variables, **passed})
    made = _set_texts(job, referring, expander(before), expanded, own)
    return replace(made, variables={**job.variables, **own}, trigger=trigger)


def _reported(name: str, value: str) -> str:
    """Return a reported value as a text of `Referring`; one that names itself has no value to expand to."""
    from loom.workflow.gitlab.variables import names, references  # with the reader of YAML, for one language

    return value.replace("$", "$$") if name in names(value) else references(value)


def _set_texts(
    job: Job,
    late: Job | Referring,
    before: Callable[[str], str],
    after: Callable[[str], str],
    of_services: Mapping[str, str] = MappingProxyType({}),
) -> Job:
    """Return the job with the texts of `late`, expanded; an image whose name stays is the job's, perhaps with a digest.

    `of_services`: variables that its services get beside their own.
    """

    def maybe(text: str | None) -> str | None:
        return None if text is None else after(text)

    def paths(written: Iterable[str]) -> tuple[str, ...]:
        found = tuple(after(path).removeprefix(f"{PROJECT_DIR}/") for path in written)
        return found if late is job else tuple(glob_of_runner(path) for path in found if not is_outside(path))

    def image(one: Image, late: Image) -> Image:
        name = maybe(late.name)
        stays = one.name is None or late.name is None or name == before(late.name)
        platform = maybe(late.platform) or one.platform
        return replace(one, name=one.name if stays else name, user=maybe(late.user), platform=platform)

    def service(one: Service, late: Service) -> Service:
        new = {**of_services, **{name: after(value) for name, value in late.variables.items()}}
        # The engine has the variables of a service among its settings, where no secret may be.
        variables = {**one.variables, **_harmless(new, new)}
        got = replace(one, image=image(one.image, late.image), user=maybe(late.user), variables=variables)
        if not any("$" in alias for alias in late.aliases):
            return got
        derived = service_aliases(late.image.name or "")
        given = [
            part for alias in late.aliases if alias not in derived for part in after(alias).replace(",", " ").split()
        ]
        aliases = tuple(dict.fromkeys((*given, *service_aliases(after(late.image.name or "")))))
        return replace(got, name=aliases[0], aliases=aliases)

    def artifacts(one: Artifacts, late: Artifacts) -> Artifacts:
        return replace(
            one,
            paths=paths(late.paths),
            exclude=paths(late.exclude),
            name=maybe(late.name),
            reports={kind: paths(each) for kind, each in late.reports.items()},
        )

    def cache(one: Cache, late: Cache) -> Cache:
        key = late.key
        return replace(
            one,
            paths=paths(late.paths),
            key=after(key) or "default"
            if isinstance(key, str)
            else replace(key, files=paths(key.files), prefix=after(key.prefix)),
            fallback_keys=tuple(filter(None, map(after, late.fallback_keys))),
        )

    return replace(
        job,
        image=job.image and late.image and image(job.image, late.image),
        services=tuple(map(service, job.services, late.services)),
        artifacts=job.artifacts and late.artifacts and artifacts(job.artifacts, late.artifacts),
        cache=tuple(map(cache, job.cache, late.cache)),
    )


def _harmless(values: Mapping[str, str], wanted: Collection[str]) -> dict[str, str]:
    """Return the wanted values that hold no known secret."""
    return {name: value for name, value in values.items() if name in wanted and controls.hide(value) == value}


def is_known_at_start(name: str) -> bool:
    """Return whether only the start of a job gives a variable its value."""
    return name.startswith("LOOM_SERVICE_") or name in _DIRECTORIES or name in KNOWN_AT_START


def _refusal(job: Job, names: Sequence[str]) -> str:
    return (
        f"a job before {job.id} reports {', '.join(names)} in its dotenv file; {job.id} runs on this machine, where a variable "
        "may decide which programs run, and gets those alone that it declares without a value "
        f'(`variables: {{{names[0]}: ""}}`), or that ~/.config/loom/config.yml allows (`reported: [{names[0]}]`)'
    )


def files_of(job: Job, secrets: Mapping[str, bytes]) -> dict[str, bytes]:
    """Return the content of the files that the job's session gets: secrets, and variables of type file."""
    if job.github is not None:
        return {"GITHUB_EVENT_PATH": jsons.encode_file(job.github.get("event") or {})}
    as_file = {secret.name for secret in job.secrets if secret.file}
    given = {name: job.variables[name] for name in job.file_variables if name in job.variables}
    return {
        **{name: value.encode("utf-8", "surrogateescape") for name, value in given.items()},
        **{name: value for name, value in secrets.items() if name in as_file},
    }


def session_variables(
    job: Job,
    environment: Environ,
    concealed: Mapping[str, str],
    secrets: Mapping[str, bytes],
    paths: Mapping[str, str],
    attempt: Mapping[str, str],
) -> dict[str, str]:
    """Return the variables that only the job's session adds to its `environment`: those `concealed` from the engine, paths of
    files, secrets with `file: false`, variables of the `attempt`, and variables of the job that refer to any of these.
    """
    if job.has_expressions:
        secrets = {}  # its steps get them by name
    own = {
        **_drop_other_language(job, attempt),
        **{name: value.decode(errors="surrogateescape") for name, value in secrets.items()},
        **paths,
    }
    whole = {**environment, **concealed}
    given = {name: _replaced(whole.get(name, value), own) for name, value in job.variables.items()}
    added = {name: value for name, value in own.items() if name not in attempt or name not in given}
    return {**concealed, **{name: value for name, value in given.items() if value != environment.get(name)}, **added}


def _replaced(text: str, values: Mapping[str, str]) -> str:
    """Replace the references to these variables alone."""
    return interpolation.expand(text, values, interpolation.WITHOUT_ESCAPES)


def project_name_of(root: PurePath) -> str:
    return root.name or "project"
