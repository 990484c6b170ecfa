"""Build a job of the plan from an instance of GitLab's: expand every value, fill in every default."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from copy import copy
from typing import Any, Literal

from msgspec.structs import replace

from loom.config.pools import Pool
from loom.errors import Problem, RequestError
from loom.images.reference import parse_reference, service_aliases
from loom.plan import builder
from loom.plan import model as p
from loom.plan.candidates import index_by_name
from loom.plan.clone import Clone
from loom.plan.gitlab.candidates import Candidates, JobCandidate, deploys, system_of
from loom.plan.gitlab.scripts import joined
from loom.plan.placement import pool_for
from loom.plan.variables import is_known_at_start
from loom.util import globs
from loom.util.budget import spend
from loom.util.toposort import CycleError
from loom.util.yaml_file import Node, fields_of, node_at, one_or_more, text_of, truth
from loom.workflow.facts import Variable
from loom.workflow.gitlab import needs, yaml
from loom.workflow.gitlab.durations import seconds
from loom.workflow.gitlab.keywords import JOB
from loom.workflow.gitlab.paths import glob_of_runner, is_outside
from loom.workflow.gitlab.shapes import UNSUPPORTED
from loom.workflow.gitlab.variables import GIVE, expand, expand_all, names, never, read, referring
from loom.workflow.interpolation import ExpansionTooLong
from loom.workflow.messages import NO_EFFECT
from loom.workflow.words import shell_words

_PULL: Mapping[str, p.PullPolicy] = {"always": "always", "never": "never", "if-not-present": "missing"}
_KEPT: Mapping[str, p.When] = {"on_failure": "on_failure", "always": "always"}
"""The conditions under which artifacts and caches are kept; `on_success` for all others."""
_POLICIES: Mapping[str, Literal["pull", "push", "pull-push"]] = {
    "pull": "pull",
    "push": "push",
    "pull-push": "pull-push",
}
_RETRY: Mapping[str, p.RetryWhen] = {
    "always": "always",
    "script_failure": "script_failure",
    "job_execution_timeout": "timeout",
    "stuck_or_timeout_failure": "timeout",
    "runner_system_failure": "provider_failure",
    "unknown_failure": "provider_failure",
    "api_failure": "provider_failure",
    "data_integrity_failure": "provider_failure",
}
"""GitLab's reasons that can occur here."""
_PROJECT = {"CI_PROJECT_DIR": ".", "LOOM_PROJECT_DIR": "."}
_URL = "CI_ENVIRONMENT_URL"
_NO_UMASK = "FF_DISABLE_UMASK_FOR_DOCKER_EXECUTOR"
_SERVICE_WAIT_S = 30.0
"""The time that GitLab's runner waits for a service by default, before the job continues without it."""


class GitLabJobBuilder(builder.Refusals):
    """`problems` are errors in values, warnings of refused jobs, and notices of what is left out."""

    def __init__(self, candidates: Candidates, context: p.ResolveContext, known: Mapping[str, JobCandidate]) -> None:
        super().__init__(JOB, code=UNSUPPORTED)
        self.candidates = candidates
        self.context = context
        self.known = known
        self._named = index_by_name(known.values())
        self._position = {job_id: number for number, job_id in enumerate(known)}
        self._said: list[Problem] = []

    @property
    def errors(self) -> list[Problem]:
        return [problem for problem in self._said if problem.severity == "error"]

    @property
    def problems(self) -> list[Problem]:
        return [*self._said, *self.warnings()]

    def job(self, candidate: JobCandidate) -> p.Job:
        spend("jobs", candidate.entry.key, 0)
        config, merged, decided = self.context.config, candidate.entry.merged, candidate.decision
        texts = _Texts(self, candidate)
        self.refuse_keywords(candidate, merged)
        self._refuse_tags(candidate)
        pool = self.pool(merged)
        for_runner, referring = self._expand_for_runner(merged, texts, pool), None
        if texts.reported:
            later, said = texts.referring(), len(self._said)
            referring = p.Referring(variables=later.variables, **self._expand_for_runner(merged, later, pool))
            del self._said[said:]  # it is said of the texts already, or is for the run to say
        timeout_s, ends_at_timeout = self.timeout(candidate, texts)
        job = p.Job(
            id=candidate.id,
            name=candidate.name,
            stage=candidate.stage,
            steps=tuple(joined(builder.steps(merged))),
            provider=pool.target,
            shell=tuple(shell_words(config.default_shell)),
            shared_shell=True,
            variables=texts.variables,
            file_variables=texts.file_variables,
            needs=None if candidate.needs is None else tuple(candidate.needs),
            artifacts_from=self.artifacts_from(candidate),
            artifacts_above=dict(self.artifacts_above(candidate, texts)),
            when=builder.WHEN.get(candidate.decision.when, "on_success"),
            delay_s=decided.start_in if candidate.decision.when == "delayed" else None,
            resource_group=texts.maybe(merged, "resource_group"),
            trigger=self.trigger(merged.get("trigger"), texts),
            deploys=deploys(merged),
            no_checkout=texts.values.get("GIT_STRATEGY") in ("none", "empty"),
            clone=_clone(texts.values, self.context.config.gitlab.git_depth),
            # `umask 0000` of the runner's helper image: gitlab-org/gitlab-runner, docs/configuration/feature-flags.md
            open_files=texts.values.get(_NO_UMASK, "").lower() not in ("1", "t", "true"),
            trace=texts.values.get("CI_DEBUG_TRACE", "").lower() in ("true", "1", "yes", "on"),
            coverage=_coverage(merged.get("coverage")),
            allow_failure=builder.allow_failure(decided.allow_failure),
            retry=_retry(merged.get("retry")),
            timeout_s=timeout_s,
            ends_at_timeout=ends_at_timeout,
            after_script_timeout_s=self._limit("RUNNER_AFTER_SCRIPT_TIMEOUT", candidate, texts),
            step_timeout_s=config.step_timeout,
            resources=builder.limits(config),
            network=p.Network(mode=config.network),
            **for_runner,
            secrets=(*self.secrets(merged, texts), *texts.secrets),
            given_variables=(*self.candidates.own_in(texts.known), *self.candidates.selection.variables),
            referring=referring,
            matrix=candidate.matrix,
            pool=builder.settled(pool),
            sources=builder.sources(merged, config),
            rule=decided.rule,
        )
        return builder.finished(self.drop_demands(job), config, lambda _, why: self.say(candidate.entry.key, why))

    def _expand_for_runner(self, merged: Node, texts: _Texts, pool: Pool) -> dict[str, Any]:
        """Return the fields of a job, or of its `referring`, whose texts GitLab's runner expands."""
        image = self.image(merged.get("image"), texts) if pool.in_container else None
        if image is not None and image.name:
            texts.values["CI_JOB_IMAGE"] = image.name  # for the texts below, such as a cache's key
        return {
            "image": image,
            "services": tuple(self.service(node, texts) for node in one_or_more(merged, "services")),
            "artifacts": self.artifacts(merged, texts),
            "cache": tuple(
                self.cache(number, node, texts)
                for number, node in enumerate(one_or_more(merged, "cache"))
                if _keeps(node)
            ),
        }

    def say(self, node: Node, message: str, severity: str = "error", code: str = yaml.CODE) -> None:
        self._said.append(node.file.problem(node, message, code=code, severity=severity))

    def _refuse_tags(self, candidate: JobCandidate) -> None:
        """Refuse a job, which was named, for a system that no container has."""
        if (found := system_of(candidate.entry.merged, self.context.config.pools)) is not None:
            tag, system = found
            why = f"tags: {text_of(tag)} is of runners with {system}; jobs run on Linux here"
            self.refuse_at(candidate, tag, why)

    def pool(self, job: Node) -> Pool:
        """Choose the pool: a tag that is its name chooses it."""
        config, selection = self.context.config, self.candidates.selection
        tags = [text_of(tag) for tag in one_or_more(job, "tags")]
        pool = next((tag for tag in tags if tag in config.pools), None)
        return pool_for(pool, has_image=job.get("image") is not None, selection=selection, config=config)

    def image(self, node: Node | None, texts: _Texts) -> p.Image:
        config = self.context.config
        if node is None:
            return p.Image(name=config.default_image, pull=config.pull, platform=config.platform)
        pull, others = self.pull(node)
        return p.Image(
            name=texts.image_name(node, "image"),
            pull=pull,
            pull_else=others,
            entrypoint=_entrypoint(node.get("entrypoint")),
            user=texts.maybe(node, "docker", "user"),
            platform=texts.maybe(node, "docker", "platform") or config.platform,
        )

    def pull(self, node: Node) -> tuple[p.PullPolicy, tuple[p.PullPolicy, ...]]:
        written = [_PULL[policy.text] for policy in one_or_more(node, "pull_policy") if policy.text in _PULL]
        return (written[0], tuple(written[1:])) if written else (self.context.config.pull, ())

    def service(self, node: Node, texts: _Texts) -> p.Service:
        name = texts.image_name(node, "services")
        alias = texts.maybe(node, "alias")
        aliases = tuple((alias or "").replace(",", " ").split()) or service_aliases(name)
        own = read(node, "variables")
        values = texts.service_values(own)
        pull, others = self.pull(node)
        return p.Service(
            name=aliases[0],
            aliases=tuple(dict.fromkeys((*aliases, *service_aliases(name)))),
            image=p.Image(
                name=name,
                pull=pull,
                pull_else=others,
                platform=texts.maybe(node, "docker", "platform") or self.context.config.platform,
            ),
            position=f"{node.file.name}:{node.line}",
            variables=values,
            command=_words(node.get("command")),
            entrypoint=_words(node.get("entrypoint")),
            user=texts.maybe(node, "docker", "user"),
            ready=p.Ready(timeout_s=_SERVICE_WAIT_S),
            needed=False,
        )

    def timeout(self, candidate: JobCandidate, texts: _Texts) -> tuple[float | None, bool]:
        """Return the job's limit, and whether `after_script` is over with it: not if that of the script is shorter."""
        node = candidate.entry.merged.get("timeout")
        whole = seconds(node.text) if node is not None else self.context.config.job_timeout
        of_script = self._limit("RUNNER_SCRIPT_TIMEOUT", candidate, texts)
        if of_script is None or (whole is not None and of_script >= whole):
            return whole, True
        return of_script, False

    def _limit(self, name: str, candidate: JobCandidate, texts: _Texts) -> float | None:
        """Return the duration that a variable of GitLab's runner names."""
        written = texts.values.get(name, "")
        try:
            return seconds(written) if written else None
        except ValueError as error:
            self.say(candidate.entry.key, f"{name}: {error}")
            return None

    def artifacts_from(self, candidate: JobCandidate) -> tuple[str, ...] | None:
        """Return the ids of the jobs that `dependencies` names; with `needs`, of those that give it artifacts."""
        wanted = needs.dependencies(candidate.entry)
        if wanted is None:
            return None
        given = None if candidate.needs is None else {need.job for need in candidate.needs if need.artifacts}
        named = {one.id for name in wanted for one in self._named.get(name, ())}
        return tuple(sorted(named if given is None else named & given, key=self._position.__getitem__))

    def artifacts_above(self, candidate: JobCandidate, texts: _Texts) -> Iterator[tuple[str, str]]:
        """Yield the names and archives that a job gets from the pipelines above; refuse the job where one is missing."""
        artifacts_of = self.context.above
        if artifacts_of is None:
            return
        for item in needs.above(candidate.entry, candidate.decision.needs):
            pipeline, job = (
                texts.maybe(item, "pipeline") or text_of(item, "pipeline"),
                texts.maybe(item, "job") or "",
            )
            try:
                found = artifacts_of(pipeline, job)
            except RequestError as error:
                self.refuse_at(candidate, item, f"needs:pipeline: {error.message}")
                continue
            if found is not None:
                yield found[0], str(found[1])
            elif not truth(item, "optional"):
                self.refuse_at(candidate, item, f"needs:pipeline: run {pipeline} has no job {job}")

    def artifacts(self, job: Node, texts: _Texts) -> p.Artifacts | None:
        node = job.get("artifacts")
        public = self._public(job, texts)
        if node is None and not public:
            return None
        expire = node_at(node, "expire_in")
        return p.Artifacts(
            paths=tuple(dict.fromkeys((*texts.paths(node, "paths"), *public))),
            exclude=texts.paths(node, "exclude"),
            exclude_alone=True,
            untracked=truth(node, "untracked"),
            when=_KEPT.get(text_of(node, "when"), "on_success"),
            name=texts.maybe(node, "name"),
            expire_in_s=None if expire is None or expire.text.strip() == "never" else seconds(expire.text),
            reports=_reports(node_at(node, "reports"), texts),
        )

    def _public(self, job: Node, texts: _Texts) -> tuple[str, ...]:
        """Return the folder that a job with `pages`, or of that name, publishes: it is an artifact even if nobody says so."""
        pages = job.get("pages")
        if pages.value is False if pages is not None else texts.candidate.name != "pages":
            return ()
        return texts.paths(node_at(pages, "publish") or job.get("publish")) or ("public",)

    def cache(self, number: int, node: Node, texts: _Texts) -> p.Cache:
        policy = texts.maybe(node, "policy") or "pull-push"
        if policy not in _POLICIES:
            why = f"cache:policy: expected pull, push or pull-push, found {policy}"
            self.say(node.value["policy"], why)
        return p.Cache(
            paths=texts.paths(node, "paths"),
            key=_cache_key(node.get("key"), number, texts),
            by_key=True,
            fallback_keys=(
                *(texts(text_of(key)) for key in one_or_more(node, "fallback_keys")),
                *self._fallback_key(texts),
            ),
            policy=_POLICIES.get(policy, "pull-push"),
            when=_KEPT.get(text_of(node, "when"), "on_success"),
            untracked=truth(node, "untracked"),
        )

    def _fallback_key(self, texts: _Texts) -> Iterator[str]:
        """Yield the key of `CACHE_FALLBACK_KEY`, the last one that the runner tries; it takes none that ends in `-protected`."""
        key = texts("$CACHE_FALLBACK_KEY")
        if key and not key.endswith("-protected"):
            yield key

    def secrets(self, job: Node, texts: _Texts) -> tuple[p.Secret, ...]:
        """Return the job's `secrets` and `id_tokens`, with values that the user configured; refuse a job without one."""
        found = []
        for key, why in (
            ("secrets", "loom does not ask the store that"),
            ("id_tokens", "no GitLab server issues what"),
        ):
            for name, node in fields_of(job, key).items():
                as_file = key == "secrets" and truth(node, "file", default=True)
                reference = self.context.config.gitlab.secrets.get(name)
                if reference is None:
                    message = (
                        f"{key}: {why} {name} names; give it one of your own under the same name: "
                        f"`gitlab: {{secrets: {{{name}: keyring://SERVICE/NAME}}}}` in ~/.config/loom/config.yml"
                    )
                    self.refuse_at(texts.candidate, node, message)
                else:
                    found.append(p.Secret(name=name, ref=reference, file=as_file))
        return tuple(found)

    def trigger(self, node: Node | None, texts: _Texts) -> p.Trigger | None:
        if node is None or node.get("include") is None:
            return None
        given = self.candidates.selection.variables
        own = texts.file_values(given) if truth(node, "forward", "yaml_variables", default=True) else {}
        if not truth(node, "forward", "pipeline_variables"):
            given = {}
        return p.Trigger(
            files=tuple(
                replace(self._child(file, texts), inputs=_inputs(node, file)) for file in one_or_more(node, "include")
            ),
            depend=node.get("strategy") is not None,
            variables={**{name: value for name, value in own.items() if name not in given}, **given},
        )

    def _child(self, node: Node, texts: _Texts) -> p.ChildFile:
        if node.is_scalar:
            return p.ChildFile(path=texts(text_of(node)).lstrip("/"))
        path, job = node.get("local") or node.get("artifact"), node.get("job")
        if path is None and texts.candidate.id in self.refused:
            return p.ChildFile(path="")
        if path is None:
            self.say(node, "trigger:include: expected local, or artifact with job")
            return p.ChildFile(path="")
        if job is None:
            return p.ChildFile(path=texts(text_of(path)).lstrip("/"))
        named = texts(text_of(job))
        found = next((one.id for one in self.known.values() if named in one.names), None)
        if found is None:
            self.say(job, f"trigger:include:job: there is no job {named}")
        return p.ChildFile(path=texts(text_of(path)), job=found)


def _inputs(trigger: Node, file: Node) -> dict[str, Any]:
    """Return the inputs of a child's file: its own, else those of the whole trigger."""
    fields = {**fields_of(trigger, "inputs"), **fields_of(file, "inputs")}
    return {name: value.plain() for name, value in fields.items()}


class _Texts:
    """The variables of one job, and texts that contain them. A name without a value is empty, as in GitLab."""

    def __init__(self, builder: GitLabJobBuilder, candidate: JobCandidate) -> None:
        self.builder = builder
        self.candidate = candidate
        candidates, rule = builder.candidates, candidate.decision.variables
        has_environment = candidate.entry.merged.get("environment") is not None
        scope = candidate.scope
        if rule or has_environment:
            scope = candidates.scope(candidate.entry, candidate.instance, rule)
        self.reported = candidates.gets_reported(candidate)
        self._refers = False
        self.known = {**scope.known, **candidates.text_values(candidate.entry, candidate.instance)}
        self._layered = layered = scope.layered
        self.secrets = tuple(
            p.Secret(name=name, ref=variable.ref, file=variable.file, required=False)
            for name, variable in layered.items()
            if variable.ref
        )
        self.file_variables = tuple(name for name, one in layered.items() if one.file and not one.ref)
        self._of_session = {*self.file_variables, *(secret.name for secret in self.secrets)}
        expanded = self._expanded(layered)
        self.values = {**self.known, **{name: text for name, text in expanded.items() if name not in self._of_session}}
        self.variables = {**self._own(), **{name: text for name, text in expanded.items() if not layered[name].ref}}

    def file_values(self, given: Mapping[str, str]) -> dict[str, str]:
        """Return the variables as they are without those that the run was given (`--var`)."""
        of, rule = self.candidate, self.candidate.decision.variables
        layered = self.builder.candidates.scope(of.entry, of.instance, rule, given={}).layered
        hidden = {name: one for name, one in layered.items() if name in given and not one.ref}
        own = {name: text for name, text in self.variables.items() if name not in given}
        return own | {name: self(one.value) if one.expand else one.value for name, one in hidden.items()}

    def referring(self) -> _Texts:
        """Return these texts for `p.Referring`, with the variables there: what a job before may report is a reference."""
        later = copy(self)
        later._refers = True
        own = {*self._layered, _URL} if _URL in self.known else {*self._layered}
        later.values = {name: text.replace("$", "$$") for name, text in self.known.items() if name not in own}
        later.variables = {name: later(text) for name, text in self._url().items()}
        values = {**self.known, **{name: f"${{{name}}}" for name in own}}
        later.variables |= {
            name: referring(variable, {**values, name: self.known.get(name, variable.value.replace("$", "$$"))})
            for name, variable in self._layered.items()
            if ("$" in variable.value or "%" in variable.value) and not variable.ref
            if name not in self.builder.candidates.selection.variables
        }
        return later

    def _url(self) -> dict[str, str]:
        """Return the predefined variable that refers to others, as it is in the file: the runner expands it."""
        url = self.candidate.entry.merged.find("environment", "url")
        return {} if url is None or _URL not in self.known else {_URL: text_of(url)}

    def _own(self) -> dict[str, str]:
        """Return the predefined variables that no other job of the run has, and that the plan's job does not say itself."""
        own = {"GITLAB_CI", "CI_NODE_TOTAL", "CI_JOB_GROUP_NAME", *self.builder.candidates.pipeline_values}
        if self.candidate.instance.index is not None:
            own |= {"CI_JOB_NAME", "CI_JOB_NAME_SLUG", "CI_NODE_INDEX"}
        found = {name: text for name, text in self.known.items() if name in own or name.startswith("CI_ENVIRONMENT_")}
        found |= {
            name: self(text) for name, text in self._url().items()
        }  # it may have what only the job's start can say
        tags = [self(text_of(tag)) for tag in one_or_more(self.candidate.entry.merged, "tags")]
        return {**found, "CI_JOB_TAGS": json.dumps(tags, ensure_ascii=False)} if tags else found

    def _late(self, name: str) -> bool:
        """Return whether a name gets its value when the job runs."""
        return self._refers or name in self._of_session or is_known_at_start(name)

    def _expanded(self, layered: Mapping[str, Variable]) -> dict[str, str]:
        entry = self.candidate.entry
        try:
            return expand_all(layered, self.known, late=self._late)
        except CycleError as error:
            cycle = " -> ".join(f"${name}" for name in error.cycle)
            node = layered[error.cycle[0]].node or entry.key
            self.builder.say(node, f"variables: they refer to each other in a cycle: {cycle}")
        except ExpansionTooLong as error:
            self.builder.say(entry.key, f"variables: {error}")
        return {name: variable.value for name, variable in layered.items()}

    def __call__(self, text: str) -> str:
        return expand(self._kept(text), self.values, late=self._late)

    def _kept(self, text: str) -> str:
        return text.replace("$$", "$$$$") if self._refers else text

    def _may_change(self, text: str) -> bool:
        """Return whether a job before may report a variable that a text refers to."""
        return self.reported and any(name not in self.known for name in names(text))

    def maybe(self, node: Node | None, *path: str) -> str | None:
        return None if (node := node_at(node, *path)) is None else self(text_of(node))

    def image_name(self, node: Node, key: str) -> str:
        """Return the reference of an image or a service, which is text or has a `name`."""
        written = node.get("name") or node
        if not written.is_scalar:
            return ""  # its shape is reported
        name = self(text_of(written))
        try:
            parse_reference(name)
        except RequestError as error:
            if self._refers:
                return name  # has references still
            if self._may_change(text_of(written)):
                return text_of(written)
            unset = [f"${one}" for one in self._unset(text_of(written))]
            if unset:
                lacks = f"{' and '.join(unset)} {'has' if len(unset) == 1 else 'have'} no value here"
                why = f"{key}: {error.message}. {lacks}: {GIVE}"
                self.builder.refuse_at(self.candidate, written, why)
            else:
                self.builder.say(written, f"{key}: {error.message}. {error.hint}")
        return name

    def _unset(self, text: str) -> list[str]:
        """Return the names without a value that a text refers to, also through other variables."""
        found: list[str] = []
        pending, seen = list(names(text)), set[str]()
        while pending:
            name = pending.pop(0)
            if name not in self.values and name not in found:
                found.append(name)
            if name not in seen and (variable := self._layered.get(name)) is not None and variable.expand:
                pending += names(variable.value)
            seen.add(name)
        return found

    def paths(self, node: Node | None, *key: str) -> tuple[str, ...]:
        """Return paths below the project; one outside is left out, as GitLab's runner does, with a notice."""
        found = []
        values = {**self.values, **_PROJECT}
        late = self._late if self._refers else never
        there = f"/builds/{self.values.get('CI_PROJECT_PATH', '')}/"  # where GitLab's runner has the project
        for item in one_or_more(node, *key):
            path = glob_of_runner(expand(self._kept(text_of(item)), values, late=late).removeprefix(there))
            if is_outside(path) and self._may_change(text_of(item)):
                continue
            if is_outside(path):
                message = f"{path} is outside the project, and left out; GitLab's runner leaves it out too"
                self.builder.say(item, message, severity="notice", code=NO_EFFECT)
            elif (wrong := globs.problem(path)) is not None:
                self.builder.say(item, wrong)
            else:
                found.append(path)
        return tuple(found)

    def service_values(self, own: Mapping[str, Variable]) -> dict[str, str]:
        """Return the variables of a service: those of the file and the job, and its own, which see all of the job's."""
        of_job = {} if self._refers else self.variables
        candidates, of = self.builder.candidates, self.candidate
        # Of a server's variables only those that the file names (gitlab-org/gitlab-runner, executors/docker: PublicOrInternal).
        named = {*candidates.root, *fields_of(of.entry.merged, "variables"), *of.decision.variables}
        hidden = {*candidates.own_in(self.known), *candidates.selection.variables} - named
        of_job = {name: value for name, value in of_job.items() if name not in hidden}
        return {**of_job, **{name: self(one.value) for name, one in own.items()}}


def _words(node: Node | None) -> tuple[str, ...] | None:
    return None if node is None else tuple(text_of(word) for word in one_or_more(node))


def _entrypoint(node: Node | None) -> tuple[str, ...] | None:
    """`[""]` means that there are no commands."""
    words = tuple(word for word in _words(node) or () if word)
    return words or None


def _reports(node: Node | None, texts: _Texts) -> dict[p.ReportKind, tuple[str, ...]]:
    fields = fields_of(node)
    kinds: Iterable[p.ReportKind] = ("junit", "dotenv", "codequality", "sarif")
    return {kind: texts.paths(fields[kind]) for kind in kinds if kind in fields}


def _keeps(cache: Node) -> bool:
    """Return whether a cache has something to keep; `cache: []` and one without paths have nothing."""
    return bool(one_or_more(cache, "paths")) or truth(cache, "untracked")


def _cache_key(node: Node | None, number: int, texts: _Texts) -> str | p.CacheKeyFiles:
    """`number`: of the cache among those of the job. It tells keys of files apart, as GitLab does where there is no prefix."""
    if node is None:
        return "default"
    if node.is_scalar:
        return texts(text_of(node)) or "default"
    files = texts.paths(node.get("files") or node.get("files_commits"))
    prefix = texts.maybe(node, "prefix") or ""
    return p.CacheKeyFiles(files=files, prefix=prefix or str(number)) if files else prefix or "default"


def _clone(values: Mapping[str, str], depth: int) -> Clone:
    """Return what GitLab's runner fetches, by the variables of a job and its project's `depth`."""
    strategy = values.get("GIT_SUBMODULE_STRATEGY")
    depth = _number(values.get("GIT_DEPTH", str(depth)))
    return Clone(
        depth=depth,
        submodules="recursive" if strategy == "recursive" else "normal" if strategy == "normal" else "none",
        submodule_depth=_number(values.get("GIT_SUBMODULE_DEPTH", str(depth))),
        submodule_paths=tuple(values.get("GIT_SUBMODULE_PATHS", "").split()),
        files=values.get("GIT_CHECKOUT", "").lower() not in ("false", "0", "f"),
    )


def _number(text: str) -> int:
    """Return the number that a text begins with, as Ruby's `to_i`."""
    found = re.match(r"\s*\+?(\d+)", text)
    return int(found[1]) if found else 0


def _coverage(node: Node | None) -> str | None:
    text = text_of(node)
    return None if node is None else text[1:-1] if len(text) > 1 and text[0] == text[-1] == "/" else text


def _retry(node: Node | None) -> p.Retry:
    if node is None:
        return p.Retry()
    if node.is_scalar:
        return p.Retry(max=int(node.value))
    most = node.get("max")
    reasons = [text_of(reason) for reason in one_or_more(node, "when")]
    codes = [] if "always" in reasons else one_or_more(node, "exit_codes")
    return p.Retry(
        max=int(most.value) if most is not None else 0,  # nil in GitLab (lib/gitlab/ci/build/auto_retry.rb): none
        when=frozenset(_RETRY[reason] for reason in reasons or ["always"] if reason in _RETRY),
        exit_codes=frozenset(int(code.value) for code in codes),
    )
