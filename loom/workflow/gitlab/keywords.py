"""Every keyword of GitLab's CI/CD YAML reference, its values, and what loom makes of it.

`loom check` reads this table, and so does the page docs/reference/gitlab-keywords.md (`scripts/docs gitlab`).
"""

from __future__ import annotations

from loom.workflow.keywords import Keyword, Support, nested

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
_OWN = "`gitlab: secrets` in ~/.config/loom/config.yml gives one of your own, else the job is refused."
_NO_DEPLOYMENT = "A local run knows of no deployments."
_HELD = "A job that deploys or releases is left out, unless it is named or `--deploy` is given."

_OTHER_REPORTS = """
    accessibility annotations api_fuzzing browser_performance cluster_image_scanning container_scanning
    coverage_fuzzing cyclonedx dast dependency_scanning license_management license_scanning load_performance lsif
    metrics performance repository_xray requirements requirements_v2 sast secret_detection terraform
"""
_REPORTS = (
    Keyword("artifacts:reports", "map"),
    Keyword("artifacts:reports:junit", "text | [text]", "Failing tests are named by `loom diagnose`."),
    Keyword("artifacts:reports:dotenv", "text | [text]"),
    Keyword("artifacts:reports:coverage_report", "map", _NOT_SHOWN, _NONE),
    Keyword("artifacts:reports:coverage_report:coverage_format", "(cobertura jacoco)", required=True),
    Keyword("artifacts:reports:coverage_report:path", "text", required=True),
    Keyword("artifacts:reports:codequality", "text | [text]", _FOUND),
    Keyword("artifacts:reports:sarif", "text | [text]", _FOUND),
    *(Keyword(f"artifacts:reports:{name}", "text | [text]", _NOT_SHOWN, _NONE) for name in _OTHER_REPORTS.split()),
)

_RULE = (
    Keyword("if", "text"),
    Keyword("changes", "[text] | map"),
    Keyword("changes:paths", "[text]"),
    Keyword("changes:compare_to", "text"),
    Keyword("changes:regexp", "text", "Write `paths` with globs.", _REFUSED),
    Keyword("exists", "text | [text] | map"),
    Keyword("exists:paths", "[text]"),
    Keyword("exists:project", "text", "Only the path of the project itself; another one is refused.", _DIFFERS),
    Keyword("exists:ref", "text", "Files of another project are not looked at.", _REFUSED),
    Keyword("exists:regexp", "text", "Write `paths` with globs.", _REFUSED),
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
    Keyword("after_script", "text | [text]", f"{_STEPS} Not after a job that took longer than `timeout`.", _DIFFERS),
    Keyword("allow_failure", "boolean | map"),
    Keyword("allow_failure:exit_codes", "integer | [integer]"),
    Keyword("artifacts", "map"),
    Keyword("artifacts:paths", "[text]"),
    Keyword("artifacts:exclude", "[text]"),
    Keyword("artifacts:expire_in", "duration | (never)", "The files stay with the run's record.", _DIFFERS),
    Keyword("artifacts:expose_as", "text", "There is no merge request that could show it.", _NONE),
    Keyword("artifacts:name", "text"),
    Keyword("artifacts:public", "boolean", "Only you can read the files.", _NONE),
    Keyword("artifacts:access", "(none developer maintainer all)", "Only you can read the files.", _NONE),
    *_REPORTS,
    Keyword("artifacts:untracked", "boolean"),
    Keyword("artifacts:when", _WHEN),
    Keyword("before_script", "text | [text]", _STEPS, _DIFFERS),
    Keyword("cache", "map | [map]"),
    Keyword("cache:key", "text | map"),
    Keyword("cache:key:files", "[text]"),
    Keyword("cache:key:files_commits", "[text]", "As `cache:key:files`: by the files' content.", _DIFFERS),
    Keyword("cache:key:prefix", "text"),
    Keyword("cache:fallback_keys", "[text]"),
    Keyword("cache:paths", "[text]"),
    Keyword("cache:policy", "text"),
    Keyword("cache:unprotect", "boolean", "Each protected branch has a cache, and all others have one.", _NONE),
    Keyword("cache:untracked", "boolean"),
    Keyword("cache:when", _WHEN),
    Keyword("coverage", "text"),
    Keyword("dast_configuration", "map", "It belongs to GitLab's DAST profiles.", _NO_JOB),
    Keyword("dast_configuration:site_profile", "text"),
    Keyword("dast_configuration:scanner_profile", "text"),
    Keyword("dependencies", "[text]"),
    Keyword("environment", "text | map", f"Sets the `CI_ENVIRONMENT_*` variables. {_HELD}", _DIFFERS),
    Keyword("environment:name", "text", required=True),
    Keyword("environment:url", "text"),
    Keyword("environment:on_stop", "text", _NO_DEPLOYMENT, _NONE),
    Keyword("environment:action", "(start prepare stop verify access)"),
    Keyword("environment:auto_stop_in", "text", _NO_DEPLOYMENT, _NONE),
    Keyword("environment:deployment_tier", "(production staging testing development other)"),
    Keyword("environment:kubernetes", "open", _NO_DEPLOYMENT, _NONE),
    Keyword("environment:kubernetes:NAME", "any"),
    Keyword("extends", "text | [text]"),
    Keyword("hooks", "map"),
    Keyword("hooks:pre_get_sources_script", "text | [text]", "The project is there; nothing fetches it.", _NONE),
    Keyword("id_tokens", "open", f"No server issues them: {_OWN}", _DIFFERS),
    Keyword("id_tokens:NAME", "map"),
    Keyword("id_tokens:NAME:aud", "text | [text]", required=True),
    Keyword("identity", "text", "Only a GitLab server can issue it.", _NO_JOB),
    Keyword("image", "text | map"),
    Keyword("image:name", "text", required=True),
    Keyword("image:entrypoint", "[text]"),
    Keyword("image:docker", "map"),
    Keyword("image:docker:platform", "text"),
    Keyword("image:docker:user", "text"),
    Keyword("image:kubernetes", "map", "Jobs run in an engine here.", _NONE),
    Keyword("image:kubernetes:user", "scalar"),
    Keyword("image:pull_policy", _PULL, _PULL_ABOUT),
    Keyword("inherit", "map"),
    Keyword("inherit:default", f"boolean | [({' '.join(DEFAULTS)})]"),
    Keyword("inherit:variables", "boolean | [text]"),
    Keyword("inputs", "any", "Job inputs are typed in on GitLab's page of a manual job; use variables.", _NO_JOB),
    Keyword("interruptible", "boolean", _NOT_CANCELED, _NONE),
    Keyword("manual_confirmation", "text", "A manual job that is named runs without a question.", _NONE),
    Keyword("needs", "[text | map] | map"),
    *nested("needs", _NEED),
    Keyword("needs:pipeline", "text", "A pipeline that starts this one; for another, the job is refused.", _DIFFERS),
    Keyword("needs:project", "text", "Artifacts of other projects are not fetched; the job runs without them.", _NONE),
    Keyword("needs:ref", "text", "See `needs:project`.", _NONE),
    Keyword("only", "[text] | map"),
    Keyword("only:refs", "[text]"),
    Keyword("only:variables", "[text]"),
    Keyword("only:changes", "[text]"),
    Keyword("only:kubernetes", "(active)", "There is no cluster of GitLab's.", _REFUSED),
    Keyword("except", "[text] | map"),
    Keyword("except:refs", "[text]"),
    Keyword("except:variables", "[text]"),
    Keyword("except:changes", "[text]"),
    Keyword("except:kubernetes", "(active)", "There is no cluster of GitLab's.", _REFUSED),
    Keyword("pages", "boolean | map", "Nothing is published; the job runs and `public` is its artifact.", _DIFFERS),
    Keyword("pages:publish", "text"),
    Keyword("pages:path_prefix", "text", "Nothing is published.", _NONE),
    Keyword("pages:expire_in", "text", "Nothing is published.", _NONE),
    Keyword("publish", "text"),
    Keyword("parallel", "integer | map"),
    Keyword("parallel:matrix", "[open]"),
    Keyword("parallel:matrix:NAME", "alphanumeric | [alphanumeric]"),
    Keyword("release", "map", f"No release is made. {_HELD}", _DIFFERS),
    Keyword("release:tag_name", "text", required=True),
    Keyword("release:tag_message", "text"),
    Keyword("release:name", "text"),
    Keyword("release:description", "text", required=True),
    Keyword("release:ref", "text"),
    Keyword("release:milestones", "text | [text]"),
    Keyword("release:released_at", "text"),
    Keyword("release:assets", "map"),
    Keyword("release:assets:links", "[map]"),
    Keyword("release:assets:links:name", "text", required=True),
    Keyword("release:assets:links:url", "text", required=True),
    Keyword("release:assets:links:filepath", "text"),
    Keyword("release:assets:links:link_type", "(runbook package image other)"),
    Keyword("resource_group", "text", "Holds for all runs on this machine.", _DIFFERS),
    Keyword("retry", "integer | map"),
    Keyword("retry:max", "integer"),
    Keyword("retry:when", f"({_REASONS}) | [({_REASONS})]", "Reasons that only a server has never occur.", _DIFFERS),
    Keyword("retry:exit_codes", "integer | [integer]"),
    Keyword("rules", "[map]"),
    *nested("rules", _RULE),
    Keyword("rules:when", _JOB_WHEN),
    Keyword("rules:start_in", "duration"),
    Keyword("rules:allow_failure", "boolean"),
    Keyword("rules:variables", "open"),
    Keyword("rules:variables:NAME", "scalar"),
    Keyword("rules:needs", "[text | map] | map"),
    *nested("rules:needs", _NEED),
    Keyword("rules:interruptible", "boolean", _NOT_CANCELED, _NONE),
    Keyword("run", "any", "CI/CD steps need GitLab's step runner; write `script`.", _NO_JOB),
    Keyword("script", "text | [text]", _STEPS, _DIFFERS),
    Keyword("secrets", "open", f"The store is not asked: {_OWN}", _DIFFERS),
    Keyword("secrets:NAME", "map"),
    Keyword("secrets:NAME:vault", "any"),
    Keyword("secrets:NAME:gcp_secret_manager", "any"),
    Keyword("secrets:NAME:azure_key_vault", "any"),
    Keyword("secrets:NAME:aws_secrets_manager", "any"),
    Keyword("secrets:NAME:gitlab_secrets_manager", "any"),
    Keyword("secrets:NAME:file", "boolean"),
    Keyword("secrets:NAME:token", "text", "No store is asked.", _NONE),
    Keyword("services", "[text | map]"),
    Keyword("services:name", "text", required=True),
    Keyword("services:alias", "text"),
    Keyword("services:command", "[text]"),
    Keyword("services:docker", "map"),
    Keyword("services:docker:platform", "text"),
    Keyword("services:docker:user", "text"),
    Keyword("services:entrypoint", "[text]"),
    Keyword("services:kubernetes", "map", "Services run in an engine here.", _NONE),
    Keyword("services:kubernetes:user", "scalar"),
    Keyword("services:pull_policy", _PULL, _PULL_ABOUT),
    Keyword("services:variables", "open"),
    Keyword("services:variables:NAME", "scalar"),
    Keyword("stage", "text"),
    Keyword("start_in", "duration", "`--no-delay` leaves the wait out."),
    Keyword(
        "tags",
        "[text]",
        "Jobs run on this machine, or in the pool of yours that a tag names; those for another system are left out.",
        _NONE,
    ),
    Keyword("timeout", "duration"),
    Keyword(
        "trigger", "text | map", "A child pipeline is a run within the run; another project's is left out.", _DIFFERS
    ),
    Keyword("trigger:project", "text", "The job is left out of the plan, with the reason.", _DIFFERS),
    Keyword("trigger:branch", "text"),
    Keyword("trigger:include", "text | [text | map] | map"),
    Keyword("trigger:include:local", "text"),
    Keyword("trigger:include:artifact", "text"),
    Keyword("trigger:include:job", "text"),
    Keyword("trigger:include:template", "text", "Include the template in a file of the project.", _NO_JOB),
    Keyword("trigger:include:project", "text", "Include the file in one of the project's own.", _NO_JOB),
    Keyword("trigger:include:ref", "text"),
    Keyword("trigger:include:file", "text"),
    Keyword("trigger:include:component", "text", "Include the component in a file of the project.", _NO_JOB),
    Keyword("trigger:include:remote", "text", "Include the file in one of the project's own.", _NO_JOB),
    Keyword("trigger:include:inputs", "any"),
    Keyword("trigger:inputs", "any"),
    Keyword("trigger:strategy", "(depend mirror)"),
    Keyword("trigger:forward", "map"),
    Keyword("trigger:forward:yaml_variables", "boolean"),
    Keyword("trigger:forward:pipeline_variables", "boolean"),
    Keyword("type", "text", "GitLab has removed it; write `stage`.", _REFUSED),
    Keyword("variables", "open"),
    Keyword("variables:NAME", "scalar | map"),
    Keyword("variables:NAME:value", "scalar"),
    Keyword("variables:NAME:expand", "boolean"),
    Keyword("when", _OWN_WHEN),
)

_AUTO_CANCEL = (
    Keyword("auto_cancel", "map"),
    Keyword("auto_cancel:on_new_commit", "(conservative interruptible none)", _NOT_CANCELED, _NONE),
    Keyword("auto_cancel:on_job_failure", "(all none)"),
)

ROOT_KEYWORDS = (
    Keyword("default", "map"),
    Keyword("include", "text | [text | map] | map"),
    Keyword("include:component", "text", "From a clone, or by git (see the guide).", _DIFFERS),
    Keyword("include:file", "text | [text]"),
    Keyword("include:inputs", "any"),
    Keyword("include:integrity", "text"),
    Keyword("include:local", "text"),
    Keyword(
        "include:project", "text", "From a clone in `gitlab: projects`, or by git with your credentials.", _DIFFERS
    ),
    Keyword("include:ref", "text"),
    Keyword("include:remote", "text"),
    *nested("include", (Keyword("rules", "[map]"), *nested("rules", _RULE), Keyword("rules:when", "(always never)"))),
    Keyword("include:template", "text", "From the folder that `gitlab: templates` names.", _DIFFERS),
    Keyword("spec", "map", "In the header of a file, before a line `---`."),
    Keyword("spec:description", "text"),
    Keyword("spec:component", "[text]"),
    Keyword("spec:include", "any", "Write the inputs in the file itself.", _REFUSED),
    Keyword("spec:inputs", "open", "`--input NAME=value` gives those of the main file."),
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
    Keyword("types", "any", "GitLab has removed it; write `stages`.", _REFUSED),
    Keyword("variables", "open"),
    Keyword("variables:NAME", "scalar | map"),
    Keyword("variables:NAME:value", "scalar"),
    Keyword("variables:NAME:description", "text"),
    Keyword("variables:NAME:expand", "boolean"),
    Keyword("variables:NAME:options", "[text]"),
    Keyword("workflow", "map"),
    Keyword("workflow:name", "text"),
    *nested("workflow", _AUTO_CANCEL),
    Keyword("workflow:rules", "[map]"),
    *nested("workflow:rules", _RULE),
    Keyword("workflow:rules:variables", "open"),
    Keyword("workflow:rules:variables:NAME", "scalar"),
    Keyword("workflow:rules:when", "(always never)"),
    *nested("workflow:rules", _AUTO_CANCEL),
)

ROOT = frozenset({"default", "include", "spec", "stages", "types", "variables", "workflow", "$schema", *GLOBALS})
"""The root keys that are no jobs."""


_HISTORY = "Of the commits that your checkout has; an older one is there by its id alone, which no ref leads to."
_SUBMODULES = "Submodules are as in your checkout, at the commits that it has."
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
        "`none` and `empty`: the job starts in an empty directory; else with the snapshot.",
        _DIFFERS,
    ),
    Keyword(
        "CI_DEBUG_TRACE", "boolean", "Commands are printed; a job with secrets is refused: they could show.", _DIFFERS
    ),
    Keyword("GIT_DEPTH", "integer", _HISTORY),
    Keyword("GIT_CHECKOUT", "boolean", "`false`: the directory has a `.git` and no files."),
    Keyword("GIT_SUBMODULE_STRATEGY", "(none normal recursive)", _SUBMODULES),
    Keyword("GIT_SUBMODULE_DEPTH", "integer"),
    Keyword("GIT_SUBMODULE_PATHS", "text"),
    *(Keyword(f"GIT_SUBMODULE_{name}", "text", _SUBMODULES, _NONE) for name in ("UPDATE_FLAGS", "FORCE_HTTPS")),
    *(
        Keyword(name, "text", _FETCH, _NONE)
        for name in ("GIT_CLEAN_FLAGS", "GIT_FETCH_EXTRA_FLAGS", "GIT_CLONE_EXTRA_FLAGS", "GET_SOURCES_ATTEMPTS")
    ),
    Keyword(
        "GIT_LFS_SKIP_SMUDGE", "boolean", "Files of LFS are as in your checkout, with their content or without.", _NONE
    ),
    Keyword("GIT_CLONE_PATH", "text", "`$CI_PROJECT_DIR` has the directory.", _NONE),
    Keyword("CI_DEBUG_SERVICES", "boolean", "`loom logs JOB --system` prints what services print.", _NONE),
    Keyword("FF_DISABLE_UMASK_FOR_DOCKER_EXECUTOR", "boolean"),
    Keyword("FF_*", "boolean", "A feature flag of GitLab's runner.", _NONE),
    *(Keyword(name, "text", _RUNNER, _NONE) for name in _OF_RUNNER.split()),
    Keyword("RUNNER_SCRIPT_TIMEOUT", "duration", "`after_script` runs when this time is over."),
    Keyword("RUNNER_AFTER_SCRIPT_TIMEOUT", "duration"),
)
"""Variables by which a file tells GitLab's runner how to run a job; `*` is any ending."""


def runner_variable(name: str) -> Keyword | None:
    for one in RUNNER_VARIABLES:
        if name == one.name or (one.name.endswith("*") and name.startswith(one.name[:-1])):
            return one
    return None
