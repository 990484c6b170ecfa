"""Every keyword of GitLab's CI/CD YAML reference, its values, and what loom makes of it.

`loom check` reads this table, and so does the page docs/reference/gitlab-keywords.md (`scripts/docs gitlab`).
"""

from __future__ import annotations

from loom.workflow.keywords import Keyword, Support, below

_SAME, _DIFFERS, _NONE, _REFUSED, _NO_JOB = Support
_WHEN = "(on_success on_failure always)"
_JOB_WHEN = "(on_success on_failure always manual delayed never)"
_OWN_WHEN = "(on_success on_failure always manual delayed)"
_PULL = "(always if-not-present never) | [(always if-not-present never)]"
_NOT_CANCELED = "No newer run cancels a local one: `loom watch`, too, waits for its end."
_PULL_ABOUT = "Those of a list are tried in turn; in a pod, the first counts."
_REASONS = (
    "always unknown_failure script_failure api_failure stuck_or_timeout_failure runner_system_failure "
    "runner_unsupported stale_schedule job_execution_timeout archived_failure unmet_prerequisites scheduler_failure "
    "data_integrity_failure stuck_pending_with_matching_runners stuck_pending_no_matching_runners no_updates_running "
    "no_updates_canceling runner_configuration_error runner_external_dependency_failure runner_interrupted "
    "server_timeout_running server_timeout_canceling"
)
_STEPS = "In the same shells as in GitLab, and each command is a step of its own in the record."
_FOUND = "`loom diagnose` names the findings of a job that failed."
_NOT_SHOWN = "GitLab shows this report; a local run keeps the file alone."
_OWN = "`gitlab: secrets` in your configuration gives one of your own, else the job is refused."
_NO_DEPLOYMENT = "A local run knows of no deployments."
_HELD = "A job that deploys or releases is left out, unless it is named or `--deploy` is given."

_OTHER_REPORTS = """
    accessibility annotations api_fuzzing browser_performance cluster_image_scanning container_scanning
    coverage_fuzzing cyclonedx dast dependency_scanning license_management license_scanning load_performance lsif
    metrics performance repository_xray requirements requirements_v2 sast secret_detection terraform
"""
_REPORTS = (
    Keyword("artifacts:reports", "map"),
    Keyword("artifacts:reports:junit", "text | [text]", _SAME, "Failing tests are named by `loom diagnose`."),
    Keyword("artifacts:reports:dotenv", "text | [text]"),
    Keyword("artifacts:reports:coverage_report", "map", _NONE, _NOT_SHOWN),
    Keyword("artifacts:reports:coverage_report:coverage_format", "(cobertura jacoco)"),
    Keyword("artifacts:reports:coverage_report:path", "text"),
    Keyword("artifacts:reports:codequality", "text | [text]", _SAME, _FOUND),
    Keyword("artifacts:reports:sarif", "text | [text]", _SAME, _FOUND),
    *(Keyword(f"artifacts:reports:{name}", "text | [text]", _NONE, _NOT_SHOWN) for name in _OTHER_REPORTS.split()),
)

_RULE = (
    Keyword("if", "text"),
    Keyword("changes", "[text] | map"),
    Keyword("changes:paths", "[text]"),
    Keyword("changes:compare_to", "text"),
    Keyword("changes:regexp", "text", _REFUSED, "Write `paths` with globs."),
    Keyword("exists", "text | [text] | map"),
    Keyword("exists:paths", "[text]"),
    Keyword("exists:project", "text", _DIFFERS, "Only the path of the project itself; another one is refused."),
    Keyword("exists:ref", "text", _REFUSED, "Files of another project are not looked at."),
    Keyword("exists:regexp", "text", _REFUSED, "Write `paths` with globs."),
)

_NEED = (
    Keyword("job", "text"),
    Keyword("artifacts", "boolean"),
    Keyword("optional", "boolean"),
    Keyword("parallel", "map"),
    Keyword("parallel:matrix", "[open]"),
    Keyword("parallel:matrix:NAME", "alphanumeric | [alphanumeric]"),
)


GLOBALS = ("image", "services", "cache", "before_script", "after_script")
"""Keywords of jobs that may stand at the root, instead of in `default`; GitLab calls this deprecated."""
DEFAULTS = (*GLOBALS, "artifacts", "hooks", "id_tokens", "identity", "interruptible", "retry", "tags", "timeout")
"""Keywords of jobs that `default` may have."""

JOB = (
    Keyword("after_script", "text | [text]", _DIFFERS, f"{_STEPS} Not after a job that took longer than `timeout`."),
    Keyword("allow_failure", "boolean | map"),
    Keyword("allow_failure:exit_codes", "integer | [integer]"),
    Keyword("artifacts", "map"),
    Keyword("artifacts:paths", "[text]"),
    Keyword("artifacts:exclude", "[text]"),
    Keyword("artifacts:expire_in", "duration | (never)", _DIFFERS, "The files stay with the run's record."),
    Keyword("artifacts:expose_as", "text", _NONE, "There is no merge request that could show it."),
    Keyword("artifacts:name", "text"),
    Keyword("artifacts:public", "boolean", _NONE, "Only you can read the files."),
    Keyword("artifacts:access", "(none developer maintainer all)", _NONE, "Only you can read the files."),
    *_REPORTS,
    Keyword("artifacts:untracked", "boolean"),
    Keyword("artifacts:when", _WHEN),
    Keyword("before_script", "text | [text]", _DIFFERS, _STEPS),
    Keyword("cache", "map | [map]"),
    Keyword("cache:key", "text | map"),
    Keyword("cache:key:files", "[text]"),
    Keyword("cache:key:files_commits", "[text]", _DIFFERS, "As `cache:key:files`: by the files' content."),
    Keyword("cache:key:prefix", "text"),
    Keyword("cache:fallback_keys", "[text]"),
    Keyword("cache:paths", "[text]"),
    Keyword("cache:policy", "text"),
    Keyword("cache:unprotect", "boolean", _NONE, "Each protected branch has a cache, and all others have one."),
    Keyword("cache:untracked", "boolean"),
    Keyword("cache:when", _WHEN),
    Keyword("coverage", "text"),
    Keyword("dast_configuration", "map", _NO_JOB, "It belongs to GitLab's DAST profiles."),
    Keyword("dast_configuration:site_profile", "text"),
    Keyword("dast_configuration:scanner_profile", "text"),
    Keyword("dependencies", "[text]"),
    Keyword("environment", "text | map", _DIFFERS, f"Sets the `CI_ENVIRONMENT_*` variables. {_HELD}"),
    Keyword("environment:name", "text"),
    Keyword("environment:url", "text"),
    Keyword("environment:on_stop", "text", _NONE, _NO_DEPLOYMENT),
    Keyword("environment:action", "(start prepare stop verify access)"),
    Keyword("environment:auto_stop_in", "text", _NONE, _NO_DEPLOYMENT),
    Keyword("environment:deployment_tier", "(production staging testing development other)"),
    Keyword("environment:kubernetes", "map", _NONE, _NO_DEPLOYMENT),
    Keyword("extends", "text | [text]"),
    Keyword("hooks", "map"),
    Keyword("hooks:pre_get_sources_script", "text | [text]", _NONE, "The project is there; nothing fetches it."),
    Keyword("id_tokens", "open", _DIFFERS, f"No server issues them: {_OWN}"),
    Keyword("id_tokens:NAME", "map"),
    Keyword("id_tokens:NAME:aud", "text | [text]"),
    Keyword("identity", "text", _NO_JOB, "Only a GitLab server can issue it."),
    Keyword("image", "text | map"),
    Keyword("image:name", "text"),
    Keyword("image:entrypoint", "[text]"),
    Keyword("image:docker", "map"),
    Keyword("image:docker:platform", "text"),
    Keyword("image:docker:user", "text"),
    Keyword("image:kubernetes", "map", _NONE, "Jobs run in an engine here."),
    Keyword("image:kubernetes:user", "scalar"),
    Keyword("image:pull_policy", _PULL, _SAME, _PULL_ABOUT),
    Keyword("inherit", "map"),
    Keyword("inherit:default", f"boolean | [({' '.join(DEFAULTS)})]"),
    Keyword("inherit:variables", "boolean | [text]"),
    Keyword("inputs", "any", _NO_JOB, "Job inputs are typed in on GitLab's page of a manual job; use variables."),
    Keyword("interruptible", "boolean", _NONE, _NOT_CANCELED),
    Keyword("manual_confirmation", "text", _NONE, "A manual job that is named runs without a question."),
    Keyword("needs", "[text | map] | map"),
    *below("needs", _NEED),
    Keyword("needs:pipeline", "text", _DIFFERS, "A pipeline that starts this one; for another, the job is refused."),
    Keyword("needs:project", "text", _NONE, "Artifacts of other projects are not fetched; the job runs without them."),
    Keyword("needs:ref", "text", _NONE, "See `needs:project`."),
    Keyword("only", "[text] | map"),
    Keyword("only:refs", "[text]"),
    Keyword("only:variables", "[text]"),
    Keyword("only:changes", "[text]"),
    Keyword("only:kubernetes", "(active)", _REFUSED, "There is no cluster of GitLab's."),
    Keyword("except", "[text] | map"),
    Keyword("except:refs", "[text]"),
    Keyword("except:variables", "[text]"),
    Keyword("except:changes", "[text]"),
    Keyword("except:kubernetes", "(active)", _REFUSED, "There is no cluster of GitLab's."),
    Keyword("pages", "boolean | map", _DIFFERS, "Nothing is published; the job runs and `public` is its artifact."),
    Keyword("pages:publish", "text"),
    Keyword("pages:path_prefix", "text", _NONE, "Nothing is published."),
    Keyword("pages:expire_in", "text", _NONE, "Nothing is published."),
    Keyword("publish", "text"),
    Keyword("parallel", "integer | map"),
    Keyword("parallel:matrix", "[open]"),
    Keyword("parallel:matrix:NAME", "alphanumeric | [alphanumeric]"),
    Keyword("release", "map", _DIFFERS, f"No release is made. {_HELD}"),
    Keyword("release:tag_name", "text"),
    Keyword("release:tag_message", "text"),
    Keyword("release:name", "text"),
    Keyword("release:description", "text"),
    Keyword("release:ref", "text"),
    Keyword("release:milestones", "text | [text]"),
    Keyword("release:released_at", "text"),
    Keyword("release:assets", "map"),
    Keyword("release:assets:links", "[map]"),
    Keyword("release:assets:links:name", "text"),
    Keyword("release:assets:links:url", "text"),
    Keyword("release:assets:links:filepath", "text"),
    Keyword("release:assets:links:link_type", "(runbook package image other)"),
    Keyword("resource_group", "text", _DIFFERS, "Holds for all runs on this machine."),
    Keyword("retry", "integer | map"),
    Keyword("retry:max", "integer"),
    Keyword("retry:when", f"({_REASONS}) | [({_REASONS})]", _DIFFERS, "Reasons that only a server has never occur."),
    Keyword("retry:exit_codes", "integer | [integer]"),
    Keyword("rules", "[map]"),
    *below("rules", _RULE),
    Keyword("rules:when", _JOB_WHEN),
    Keyword("rules:start_in", "duration"),
    Keyword("rules:allow_failure", "boolean"),
    Keyword("rules:variables", "open"),
    Keyword("rules:variables:NAME", "scalar"),
    Keyword("rules:needs", "[text | map] | map"),
    *below("rules:needs", _NEED),
    Keyword("rules:interruptible", "boolean", _NONE, _NOT_CANCELED),
    Keyword("run", "any", _NO_JOB, "CI/CD steps need GitLab's step runner; write `script`."),
    Keyword("script", "text | [text]", _DIFFERS, _STEPS),
    Keyword("secrets", "open", _DIFFERS, f"The store is not asked: {_OWN}"),
    Keyword("secrets:NAME", "map"),
    Keyword("secrets:NAME:vault", "any"),
    Keyword("secrets:NAME:gcp_secret_manager", "any"),
    Keyword("secrets:NAME:azure_key_vault", "any"),
    Keyword("secrets:NAME:aws_secrets_manager", "any"),
    Keyword("secrets:NAME:gitlab_secrets_manager", "any"),
    Keyword("secrets:NAME:file", "boolean"),
    Keyword("secrets:NAME:token", "text", _NONE, "No store is asked."),
    Keyword("services", "[text | map]"),
    Keyword("services:name", "text"),
    Keyword("services:alias", "text"),
    Keyword("services:command", "[text]"),
    Keyword("services:docker", "map"),
    Keyword("services:docker:platform", "text"),
    Keyword("services:docker:user", "text"),
    Keyword("services:entrypoint", "[text]"),
    Keyword("services:kubernetes", "map", _NONE, "Services run in an engine here."),
    Keyword("services:kubernetes:user", "scalar"),
    Keyword("services:pull_policy", _PULL, _SAME, _PULL_ABOUT),
    Keyword("services:variables", "open"),
    Keyword("services:variables:NAME", "scalar"),
    Keyword("stage", "text"),
    Keyword("start_in", "duration", _SAME, "`--no-delay` leaves the wait out."),
    Keyword(
        "tags",
        "[text]",
        _NONE,
        "Jobs run on this machine, or in the pool of yours that a tag names; those for another system are left out.",
    ),
    Keyword("timeout", "duration"),
    Keyword(
        "trigger", "text | map", _DIFFERS, "A child pipeline is a run within the run; another project's is left out."
    ),
    Keyword("trigger:project", "text", _DIFFERS, "The job is left out of the plan, with the reason."),
    Keyword("trigger:branch", "text"),
    Keyword("trigger:include", "text | [text | map] | map"),
    Keyword("trigger:include:local", "text"),
    Keyword("trigger:include:artifact", "text"),
    Keyword("trigger:include:job", "text"),
    Keyword("trigger:include:template", "text", _NO_JOB, "Include the template in a file of the project."),
    Keyword("trigger:include:project", "text", _NO_JOB, "Include the file in one of the project's own."),
    Keyword("trigger:include:ref", "text"),
    Keyword("trigger:include:file", "text"),
    Keyword("trigger:include:component", "text", _NO_JOB, "Include the component in a file of the project."),
    Keyword("trigger:include:remote", "text", _NO_JOB, "Include the file in one of the project's own."),
    Keyword("trigger:include:inputs", "any"),
    Keyword("trigger:inputs", "any"),
    Keyword("trigger:strategy", "(depend mirror)"),
    Keyword("trigger:forward", "map"),
    Keyword("trigger:forward:yaml_variables", "boolean"),
    Keyword("trigger:forward:pipeline_variables", "boolean"),
    Keyword("type", "text", _REFUSED, "GitLab has removed it; write `stage`."),
    Keyword("variables", "open"),
    Keyword("variables:NAME", "scalar | map"),
    Keyword("variables:NAME:value", "scalar"),
    Keyword("variables:NAME:expand", "boolean"),
    Keyword("when", _OWN_WHEN),
)

_AUTO_CANCEL = (
    Keyword("auto_cancel", "map"),
    Keyword("auto_cancel:on_new_commit", "(conservative interruptible none)", _NONE, _NOT_CANCELED),
    Keyword("auto_cancel:on_job_failure", "(all none)"),
)

ROOT_KEYWORDS = (
    Keyword("default", "map"),
    Keyword("include", "text | [text | map] | map"),
    Keyword("include:component", "text", _DIFFERS, "From a clone, or by git (see the guide)."),
    Keyword("include:file", "text | [text]"),
    Keyword("include:inputs", "any"),
    Keyword("include:integrity", "text"),
    Keyword("include:local", "text"),
    Keyword(
        "include:project", "text", _DIFFERS, "From a clone in `gitlab: projects`, or by git with your credentials."
    ),
    Keyword("include:ref", "text"),
    Keyword("include:remote", "text"),
    *below("include", (Keyword("rules", "[map]"), *below("rules", _RULE), Keyword("rules:when", "(always never)"))),
    Keyword("include:template", "text", _DIFFERS, "From the folder that `gitlab: templates` names."),
    Keyword("spec", "map", _SAME, "In the header of a file, before a line `---`."),
    Keyword("spec:description", "text"),
    Keyword("spec:component", "[text]"),
    Keyword("spec:include", "any", _REFUSED, "Write the inputs in the file itself."),
    Keyword("spec:inputs", "open", _SAME, "`--input NAME=value` gives those of the main file."),
    Keyword("spec:inputs:NAME", "map"),
    Keyword("spec:inputs:NAME:default", "any"),
    Keyword("spec:inputs:NAME:description", "text"),
    Keyword("spec:inputs:NAME:options", "[scalar]"),
    Keyword("spec:inputs:NAME:regex", "text"),
    Keyword("spec:inputs:NAME:rules", "[map]"),
    Keyword("spec:inputs:NAME:rules:if", "text"),
    Keyword("spec:inputs:NAME:rules:options", "[scalar]"),
    Keyword("spec:inputs:NAME:rules:default", "any"),
    Keyword("spec:inputs:NAME:type", "(string number boolean array)"),
    Keyword("stages", "[text]"),
    Keyword("types", "any", _REFUSED, "GitLab has removed it; write `stages`."),
    Keyword("variables", "open"),
    Keyword("variables:NAME", "scalar | map"),
    Keyword("variables:NAME:value", "scalar"),
    Keyword("variables:NAME:description", "text"),
    Keyword("variables:NAME:expand", "boolean"),
    Keyword("variables:NAME:options", "[text]"),
    Keyword("workflow", "map"),
    Keyword("workflow:name", "text"),
    *below("workflow", _AUTO_CANCEL),
    Keyword("workflow:rules", "[map]"),
    *below("workflow:rules", _RULE),
    Keyword("workflow:rules:variables", "open"),
    Keyword("workflow:rules:variables:NAME", "scalar"),
    Keyword("workflow:rules:when", "(always never)"),
    *below("workflow:rules", _AUTO_CANCEL),
)

ROOT = frozenset({"default", "include", "spec", "stages", "types", "variables", "workflow", "$schema", *GLOBALS})
"""The root keys that are no jobs."""


_HISTORY = "The workspace has the whole history of your checkout."
_SUBMODULES = "Submodules are in the snapshot as they are in your checkout."
_FETCH = "Nothing is fetched: the files are those of the snapshot."
_RUNNER = "It belongs to GitLab's runner."

_OF_RUNNER = """
    ARTIFACT_COMPRESSION_LEVEL ARTIFACT_DOWNLOAD_ATTEMPTS CACHE_COMPRESSION_FORMAT CACHE_COMPRESSION_LEVEL
    CACHE_REQUEST_TIMEOUT EXECUTOR_JOB_SECTION_ATTEMPTS KUBERNETES_* RESTORE_CACHE_ATTEMPTS
    TRANSFER_METER_FREQUENCY
"""
RUNNER_VARIABLES = (
    Keyword(
        "GIT_STRATEGY",
        "(clone fetch none empty)",
        _DIFFERS,
        "`none` and `empty`: the job starts in an empty directory; else with the snapshot.",
    ),
    Keyword(
        "CI_DEBUG_TRACE", "boolean", _DIFFERS, "Commands are printed; a job with secrets is refused: they could show."
    ),
    Keyword("GIT_DEPTH", "integer", _NONE, _HISTORY),
    Keyword("GIT_CHECKOUT", "boolean", _NONE, _FETCH),
    Keyword("GIT_SUBMODULE_*", "text", _NONE, _SUBMODULES),
    *(
        Keyword(name, "text", _NONE, _FETCH)
        for name in ("GIT_CLEAN_FLAGS", "GIT_FETCH_EXTRA_FLAGS", "GIT_CLONE_EXTRA_FLAGS", "GET_SOURCES_ATTEMPTS")
    ),
    Keyword("GIT_CLONE_PATH", "text", _NONE, "`$CI_PROJECT_DIR` has the directory."),
    Keyword("CI_DEBUG_SERVICES", "boolean", _NONE, "`loom logs JOB --system` prints what services print."),
    Keyword("FF_*", "boolean", _NONE, "A feature flag of GitLab's runner."),
    *(Keyword(name, "text", _NONE, _RUNNER) for name in _OF_RUNNER.split()),
    Keyword("RUNNER_SCRIPT_TIMEOUT", "duration", _SAME, "`after_script` runs when this time is over."),
    Keyword("RUNNER_AFTER_SCRIPT_TIMEOUT", "duration"),
)
"""Variables by which a file tells GitLab's runner how to run a job; `*` is any ending."""


def runner_variable(name: str) -> Keyword | None:
    for one in RUNNER_VARIABLES:
        if name == one.name or (one.name.endswith("*") and name.startswith(one.name[:-1])):
            return one
    return None
