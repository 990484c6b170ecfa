"""What people who know another program type, and the words of loom for it."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from loom.cli.help import WORD
from loom.util.units import nearest

MOST_NAMED = 8
"""A command with so few options has them all named at one that it does not have."""

OPTIONS: Mapping[str, str] = {
    # of act
    "-P --platform": "the image of a runner's label is `loom run --image ubuntu-latest=IMAGE`",
    "-l --list --list-all --list-csv --list-csv-all --list-json": "the jobs are listed by `loom jobs` (--json for programs)",
    "-j --job": "-j is the number of jobs at once; a job is an argument: `loom run JOB`",
    "-s --secret": "secrets come from a file, `loom run --secret-file FILE`, so that no list of processes shows them",
    "--env --variable --define": "a variable is `loom run --var NAME=value`",
    "--env-file --var-file --variables-file --variable-file --file-variables-file --remote-variables": "each variable is one "
    "`--var NAME=value`; "
    "those of every run are `variables` of the workflow, or of GitLab's project in a file: the setting "
    "`gitlab: {variables: FILE}`; secrets are in a file, `--secret-file FILE`",
    "-W --workflows": "the file, or the folder of several, is `loom run --workflow PATH` (-f)",
    "--eventpath --event-path -e": "the event's payload is `loom run --event-file PATH`",
    "--dryrun --dry": "the plan without a run is `loom run --dry-run` (-n)",
    "--container-architecture --architecture": "the processor is the setting `platform`: LOOM_PLATFORM=linux/arm64 loom run",
    "--bind -b": "jobs never get the checkout itself; one copy for all jobs is `loom run --mount-mode bind_mount`",
    "--reuse -r --no-cleanup": "containers stay after a run with `loom run --keep always`",
    "--rm --cleanup": "containers are removed with `loom run --keep never`",
    "-g --graph --needs-graph": "the jobs and what they need are listed by `loom jobs`",
    "-w --watch": "running again at each change is `loom watch`",
    "-C --directory --cwd": "loom runs the project that you are in: `cd` there first",
    "--validate --lint --validate-dependency-chain": "mistakes are found by `loom check`",
    "--action-offline-mode --offline": "without a registry: `loom run --pull never`",
    "--container-daemon-socket --container-executable --docker-host": "the engine is DOCKER_HOST, or the setting `engine`",
    "--container-options --container-cap-add --container-cap-drop --privileged --network --volume --extra-host --cpus --ulimit "
    "--device --gpus --shm-size --userns --container-mac-address": "the workflow says what a container gets, and `loom trust` "
    "allows it",
    "--bug-report --info": "`loom doctor` looks at what loom needs on this machine",
    "--artifact-server-path --artifact-server-addr --artifact-server-port": "artifacts stay in the run: `loom artifacts`",
    "--no-artifacts-to-source --artifacts-to-source": "nothing is written to the checkout; the files are in `loom artifacts`",
    "--cache-server-path --cache-server-addr --cache-server-port --cache-server-external-url --mount-cache": "caches stay in "
    "the setting `cache_dir` (LOOM_CACHE_DIR), and `loom cache ls` lists them",
    "--no-cache-server": "without caches: `loom run --no-cache`",
    "--action-cache-path --use-new-action-cache": "fetched actions stay in the setting `cache_dir` (LOOM_CACHE_DIR)",
    "-a --actor": "the user is that of git's `user.email`; without a name, all jobs are meant",
    "--defaultbranch": "the default branch is that of origin: `git remote set-head origin BRANCH`",
    "--remote-name": "the remote is `origin`: `git remote rename OTHER origin`",
    "--detect-event": "the event is a push, or named: `loom run --event EVENT`",
    "--github-instance --local-repository --replace-ghe-action-with-github-com --replace-ghe-action-token-with-github-com": "the "
    "server of the actions is the setting `github: {server: URL}`; one of the checkout is `uses: ./PATH`",
    "--input-file --inputs-file": "each input is one `loom run --input NAME=value`",
    "--insecure-secrets": "loom has none: it masks the values of secrets in all that is printed",
    "--list-options --man-page": "`loom COMMAND --help` lists the options of a command",
    "--log-prefix-job-id --max-job-name-padding": "`loom run --stream` puts the job's name before each line",
    "--no-recurse": "one file alone is `loom run --workflow FILE` (-f)",
    "--no-skip-checkout --use-gitignore --ignores-file": "jobs get what CI would check out, with your changes to it, and no "
    "ignored file",
    "--rebuild": "loom builds an image again when what it is built from has changed",
    # of gitlab-ci-local
    "--ca-file": "certificates are part of the job's image: loom's images take EXTRA_CA",
    "--container-emulate": "the limits of a machine are settings: LOOM_CPUS=2 LOOM_MEMORY=8g loom run",
    "--evaluate-rule-changes": "what `changes` compares with is `loom run --changes-base REF`; a named job needs no rule",
    "--fetch-includes": "loom has none: what is included is fetched for each run, unless a full commit names it",
    "--helper-image --wait-image --wait-for-services-timeout": "loom has none: it needs no image beside a job's, and a "
    "service of GitLab's file has 30 s to be ready",
    "--home": "your own settings are ~/.config/loom/config.yml: `loom config show` prints them",
    "--ignore-predefined-vars --ignore-schema-paths --json-schema-validation": "loom has none: `loom check` says what is wrong, "
    "and a run refuses what GitLab refuses",
    "--maximum-includes": "loom has none: 150 files may be included, as at GitLab",
    "--registry": "loom has none: a registry is a service of the job",
    "--state-dir": "what loom keeps is in the setting `state_dir`: LOOM_STATE_DIR=DIR loom run",
    "--timestamps": "the time of each line: `loom logs --timestamps`",
    "--umask": "the variable FF_DISABLE_UMASK_FOR_DOCKER_EXECUTOR of the file decides, as for GitLab's runner",
    "--unset-variable": "loom has none: `loom run --var NAME=` makes a variable empty",
    "--file": "the workflow's file is `loom run --workflow PATH` (-f)",
    "--only-needs": "a job with those that it needs is `loom run --needs JOB`",
    "--preview": "the plan, with all that is included, is `loom compile`",
    "--manual": "a manual job runs when it is named: `loom run JOB`",
    "--shell-isolation --force-shell-executor --shell-executor-no-image": "jobs on this machine: `loom run --no-container`",
    "--concurrency --concurrent-jobs --parallel": "jobs at once: `loom run --jobs N` (-j)",
    "--default-image": "the image of jobs without one is the setting `default_image`: LOOM_DEFAULT_IMAGE=NAME loom run",
    "-p --pull-policy": "when images are pulled: `loom run --pull always|missing|never`",
    "--completion": "completion is set up by `loom --install-completion`",
    # of programs in general
    "-v --verbose": "`loom --version` prints the version; `loom run --verbose` (-v) prints more of a run",
    "-V": "the version is `loom --version`",
    "--debug --trace": "`loom run --verbose` prints more of a run, `loom run --stop-at failure` opens a shell where it fails",
    "-i --interactive": "a shell where a job fails: `loom run --stop-at failure`, or `loom shell` afterwards",
    "-t --tag --target --only": "one job is `loom run JOB`, a stage `loom run --stage STAGE`",
    "-k": "some jobs are named by a glob: `loom run 'test*'`",
    "-x --exitfirst --maxfail": "stop everything at the first failure: `loom run --fail-fast`",
    "--lf --last-failed --ff --failed-first": "`loom resume` goes on where the last run failed, `loom run JOB` runs one job",
    "--timeout --job-timeout --step-timeout": "a job's time is `timeout` of the workflow, or the setting `job_timeout`: "
    "LOOM_JOB_TIMEOUT=5m loom run",
    "-d": "only a cluster's jobs go on without you: `loom run --detach`",
    "--skip --exclude --except --ignore": "the jobs that shall run are named: `loom run JOB JOB`",
    "-o --output": "the output of a run: `loom logs`; as a page: `loom report -o FILE`; "
    "artifacts: `loom artifacts --to FOLDER`; what a command prints: `loom compile > FILE`",
    "--all": "all are meant where none is named: `loom jobs`, `loom run`",
    "--interval --debounce": "the kernel tells `loom watch` of each change; `loom watch --poll` looks each second",
}
"""Options of other programs, and what is said where a command has none of that name."""

COMMANDS: Mapping[str, str] = {
    "list ls job plan graph stages tasks targets": "`loom jobs` lists the jobs, `loom runs` what ran",
    "ps status history top containers": "`loom runs` lists the runs, `loom show` prints one",
    "start up execute test build make ci pipeline workflow trigger push": "`loom run` runs the workflow, `loom run JOB` one job",
    "new create generate setup bootstrap scaffold": "`loom init` drafts a first workflow, `loom doctor` looks at this machine",
    "lint validate verify-config syntax": "`loom check` finds the mistakes of the workflow",
    "help man usage commands": "`loom --help` lists the commands, `loom COMMAND --help` tells one",
    "log output tail cat": "`loom logs` prints the output of the last run",
    "why explain failures errors": "`loom diagnose` tells why the last run failed",
    "debug ssh bash sh enter connect": "`loom shell` opens a shell where a job failed, `loom run --stop-at failure` at once",
    "rm remove delete prune gc purge cleanup": "`loom clean` removes old runs, `loom cache rm` caches",
    "retry redo again": "`loom rerun` runs a run's jobs again, `loom resume` goes on where it failed",
    "continue go": "`loom resume` goes on where the last run failed",
    "open view html browse": "`loom report` writes a run as a page",
    "info env": "`loom doctor` looks at what loom needs on this machine, `loom config show` prints the settings",
    "secret secrets login variables": "secrets are in the workflow, or in a file for one run: `loom run --secret-file FILE`",
    "stop kill cancel down": "a run ends with ^C where it was started; `loom clean` removes what it left",
    "pull-images image": "`loom images pull` pulls the images of the workflow",
    "pull_request pull_request_target workflow_dispatch merge_request schedule release": "an event is `loom run --event EVENT`",
    "import convert migrate": "a .gitlab-ci.yml and .github/workflows run as they are: `loom run`",
}
"""Words for a command that loom does not have."""


def hint(error: Any, commands: Mapping[str, Sequence[str]]) -> str | None:
    """Return the next move for a usage error of typer. `commands`: loom's commands, with the options of each."""
    context: Any = getattr(error, "ctx", None)
    at = context.info_name if context is not None and context.parent is not None else ""
    if type(error).__name__ == "MissingParameter" and context.command.params:
        return f"`{context.command_path} {re.sub('[{}]', '', _arguments(context))}`"
    if type(error).__name__ == "BadOptionUsage":
        named = (param for param in context.command.params if error.option_name in param.opts)
        return next((": ".join(record) for param in named if (record := param.get_help_record(context))), None)
    if type(error).__name__ == "NoSuchOption":
        if at and (known := getattr(context.command, "commands", None)):
            return f"`loom {at}` has {', '.join(known)}"
        arguments = [param.name for param in context.command.params if param.param_type_name == "argument"]
        if (name := error.option_name.lstrip("-")) in arguments:
            return f"{name.upper()} is written without {error.option_name}: `{context.command_path} {name.upper()}`"
        return for_option(error.option_name, at, commands)
    if (param := getattr(error, "param", None)) is not None:
        written = str(error).partition("'")[2].partition("'")[0]
        choices = getattr(param.type, "choices", ())
        initials = (each for each in choices if "".join(word[0] for word in each.split("_")) == written)
        close = next(initials, None) or nearest(written, choices)
        return f"did you mean {close}?" if close else for_value(param.opts)
    if "unexpected extra argument" in str(error):
        if "--workflow" in commands.get(at, ()):
            return f"the file, or the folder of several, is `loom {at} --workflow PATH` (-f)"
        taken = _arguments(context)
        return f"`{context.command_path}` takes {f'{taken} and no more' if taken else 'options alone'}"
    known = getattr(context and context.command, "commands", None)
    word = context.meta.get(WORD) if context is not None else None
    return for_command(word, list(known), at) if known and word and word not in known else None


def _arguments(context: Any) -> str:
    return " ".join(context.command.collect_usage_pieces(context)[1:])


def for_option(option: str, at: str, commands: Mapping[str, Sequence[str]]) -> str | None:
    """Return what to type instead of an option that the command `at` (nothing: none) does not have."""
    name = option.partition("=")[0]
    elsewhere = [command for command, options in commands.items() if name in options and command != at]
    if said := _found(OPTIONS, name):
        return said
    if not at and "run" in elsewhere:
        return f"{name} is an option of a command: `loom run {name}`"
    if not at and name.lstrip("-") in commands:
        return f"a command is written without dashes: `loom {name.lstrip('-')}`"
    if close := nearest(name, commands.get(at, ())):
        return f"did you mean {close}?"
    own = [each for each in commands.get(at, ()) if each.startswith("--")]
    of_another = f"{name} is an option of `loom {elsewhere[0]}`" if elsewhere else ""
    few = f"`loom {at}` has {', '.join(own)}" if at and 0 < len(own) <= MOST_NAMED else ""
    return "; ".join(filter(None, (few, of_another))) or None


def for_value(options: Sequence[str]) -> str | None:
    """Return what to type instead of a value that these names of an option don't take."""
    return OPTIONS["-j --job"] if "-j" in options else None


def for_command(name: str, known: Sequence[str], group: str) -> str | None:
    """Return what to type instead of a command that loom, or a group of its commands, does not have."""
    if not group and (said := _found(COMMANDS, name.lower())):
        return said
    of_a_job = "" if group else f"a job of that name is run by `loom run {name}`"
    if close := nearest(name, known):
        return f"did you mean `{' '.join(filter(None, ('loom', group, close)))}`? {of_a_job}".rstrip()
    if group == "config":
        return "settings are lines of ~/.config/loom/config.yml: `loom config show --origin` prints them"
    return f"`loom {group}` has {', '.join(known)}" if group else f"{of_a_job}; `loom --help` lists the commands"


def _found(table: Mapping[str, str], name: str) -> str | None:
    return next((said for names, said in table.items() if name in names.split()), None)
