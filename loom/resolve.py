"""How a workflow becomes a plan: matrix, rules, selection, variables, needs, defaults. `plan.resolve` is the way in."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import product

from loom import expansion, expressions, globs
from loom import plan as p
from loom.config import Config
from loom.errors import Problem, RequestError, WorkflowError
from loom.graph import closure, order
from loom.units import nearest
from loom.workflow import Entry, Workflow, models
from loom.yamlfile import Node, pointer

CONTAINER_PROJECT_DIR = "/workspace"

PREDEFINED = (
    "CI",
    "CI_COMMIT_AUTHOR",
    "CI_COMMIT_BEFORE_SHA",
    "CI_COMMIT_BRANCH",
    "CI_COMMIT_DESCRIPTION",
    "CI_COMMIT_MESSAGE",
    "CI_COMMIT_REF_NAME",
    "CI_COMMIT_REF_SLUG",
    "CI_COMMIT_SHA",
    "CI_COMMIT_SHORT_SHA",
    "CI_COMMIT_TAG",
    "CI_COMMIT_TIMESTAMP",
    "CI_COMMIT_TITLE",
    "CI_DEFAULT_BRANCH",
    "CI_JOB_ID",
    "CI_JOB_IMAGE",
    "CI_JOB_NAME",
    "CI_JOB_STAGE",
    "CI_NODE_INDEX",
    "CI_NODE_TOTAL",
    "CI_PIPELINE_ID",
    "CI_PIPELINE_SOURCE",
    "CI_PROJECT_DIR",
    "CI_PROJECT_NAME",
    "CI_REPOSITORY_URL",
    "LOOM_CI",
    "LOOM_JOB_ID",
    "LOOM_JOB_IMAGE",
    "LOOM_JOB_NAME",
    "LOOM_JOB_STAGE",
    "LOOM_JOB_TARGET",
    "LOOM_PIPELINE_ID",
    "LOOM_PROJECT_DIR",
    "LOOM_PROVIDER",
    "LOOM_RUN_ID",
    "LOOM_WORKFLOW_PATH",
)
"""Names that loom gives a value to, sooner or later."""
_EMPTY_WHEN_UNSET = frozenset({"CI_COMMIT_BRANCH", "CI_COMMIT_TAG", "CI_COMMIT_DESCRIPTION", "CI_COMMIT_BEFORE_SHA"})


@dataclass(frozen=True, kw_only=True)
class Decision:
    """What a job's rules say. `reason` is for people, where it does not run."""

    runs: bool
    when: str
    variables: Mapping[str, str] = field(default_factory=dict)
    allow_failure: bool | None = None
    reason: str = ""
    rule: int | None = None


@dataclass(kw_only=True)
class Candidate:
    """One job of the plan to be: a job of the workflow, or one combination of its matrix."""

    id: str
    entry: Entry
    matrix: Mapping[str, str]
    node_index: int | None
    node_total: int | None
    decision: Decision
    needs: list[p.Need] | None = None

    @property
    def stage(self) -> str:
        return str(self.entry.fields.stage)


def combinations(parallel: models.ParallelFields | None) -> list[Mapping[str, str]]:
    """The matrix's combinations as written: rows in order, the last variable turning fastest."""
    found: list[Mapping[str, str]] = []
    for row in (parallel.matrix if parallel is not None else None) or ():
        for values in product(*row.values()):
            combination = dict(zip(row, values, strict=True))
            if combination not in found:
                found.append(combination)
    return found


def job_ids(name: str, parallel: models.ParallelFields | None) -> list[tuple[str, Mapping[str, str]]]:
    """The ids of a job: its name, or `name.<values>` per combination, or `name.1` ... per copy.

    A dot can't be in a job's name, so ids never meet another job's; values are cut down to what is safe in a file name
    and on a command line, and told apart by a number where two look the same.
    """
    if parallel is None:
        return [(name, {})]
    if parallel.count is not None:
        return [(f"{name}.{number}", {}) for number in range(1, parallel.count + 1)]
    taken: set[str] = set()
    result: list[tuple[str, Mapping[str, str]]] = []
    for combination in combinations(parallel):
        slug = "-".join(_slug(value) for value in combination.values())[:80].rstrip(".-")
        unique, number = slug, 2
        while unique.lower() in taken:
            unique, number = f"{slug}-{number}", number + 1
        taken.add(unique.lower())
        result.append((f"{name}.{unique}", combination))
    return result


def _slug(value: str) -> str:
    text = re.sub(r"[^A-Za-z0-9._]+", "-", value).strip("-.")
    return text[:32].rstrip("-.") or "x"


class Resolver:
    """One call of `resolve`: the steps in order, each a method."""

    def __init__(self, workflow: Workflow, selection: p.Selection, context: p.ResolveContext) -> None:
        self.workflow = workflow
        self.selection = selection
        self.context = context
        self.problems: list[Problem] = []
        self.left_out: dict[str, str] = {}
        self._changed: dict[str | None, list[str] | None] = {}
        self._files: list[str] | None = None
        self._workflow_variables: Mapping[str, str] = {}
        self._index: dict[str, list[Candidate]] = {}
        self._index_of: Iterable[Candidate] | None = None
        self._rule_predefined = {name: value for name, value in context.predefined.items() if value != ""}

    def plan(self) -> p.Plan:
        self.check_variables()
        candidates = self.candidates()
        chosen = self.select(candidates)
        jobs = self.connect(candidates, chosen)
        built = tuple(self.job(candidate) for candidate in jobs)
        if self.problems:
            raise WorkflowError(list(dict.fromkeys(self.problems)))
        return p.Plan(
            workflow_path=self.workflow.path,
            stages=self.workflow.stages,
            jobs=built,
            left_out=tuple(p.NotSelected(id=name, reason=reason) for name, reason in self.left_out.items()),
        )

    # -- what there is -----------------------------------------------------------------------------------------------

    def check_variables(self) -> None:
        for name in self.selection.variables:
            if not re.fullmatch(models.VARIABLE, name) or name.startswith("LOOM_"):
                raise RequestError(
                    f"--var {name}: a variable's name has capital letters, digits and _, and no LOOM_ in front"
                )

    def candidates(self) -> list[Candidate]:
        """Every job and combination, in the plan's order: by stage, then needs, then as written."""
        verdict = self.workflow_rules()
        position = {stage: number for number, stage in enumerate(self.workflow.stages)}
        jobs = self.workflow.jobs
        by_stage: dict[str, list[str]] = {stage: [] for stage in self.workflow.stages}
        for name, entry in jobs.items():
            by_stage[str(entry.fields.stage)].append(name)
        needs = {name: [need.job for need in entry.fields.needs or ()] for name, entry in jobs.items()}
        found: list[Candidate] = []
        for stage in sorted(by_stage, key=lambda stage: position[stage]):
            for name in order(by_stage[stage], needs):
                entry = jobs[name]
                ids = job_ids(name, entry.fields.parallel)
                several = entry.fields.parallel is not None
                for number, (job_id, matrix) in enumerate(ids, start=1):
                    found.append(
                        Candidate(
                            id=job_id,
                            entry=entry,
                            matrix=matrix,
                            node_index=number if several else None,
                            node_total=len(ids) if several else None,
                            decision=verdict or self.decide(entry, job_id, matrix),
                        )
                    )
        return found

    def workflow_rules(self) -> Decision | None:
        """None when the workflow runs; otherwise the decision that stands for each of its jobs."""
        if self.workflow.rules is None:
            return None
        values = self.rule_values({}, {}, {})
        for number, rule in enumerate(self.workflow.rules):
            if self.applies(rule, values):
                if rule.when == "never":
                    return Decision(runs=False, when="never", reason=f"workflow: rules[{number}] says never")
                self._workflow_variables = rule.variables
                return None
        return Decision(runs=False, when="never", reason="no rule of workflow: rules applies")

    def decide(self, entry: Entry, job_id: str, matrix: Mapping[str, str]) -> Decision:
        fields = entry.fields
        base = fields.when or "on_success"
        if fields.rules:
            values: dict[str, str] | None = None
            for number, rule in enumerate(fields.rules):
                if values is None:
                    values = self.rule_values(fields.variables or {}, matrix, self.job_values(entry, job_id))
                if self.applies(rule, values):
                    when = rule.when or base
                    return Decision(
                        runs=when not in ("never", "manual"),
                        when=when,
                        variables=rule.variables,
                        allow_failure=rule.allow_failure,
                        reason={"never": f"rules[{number}] says never", "manual": "manual: name it to run it"}.get(
                            when, ""
                        ),
                        rule=number,
                    )
            return Decision(runs=False, when="never", reason="none of its rules applies")
        reason = {"never": "when: never", "manual": "manual: name it to run it"}.get(base, "")
        return Decision(runs=not reason, when=base, reason=reason)

    # -- conditions --------------------------------------------------------------------------------------------------

    def rule_values(self, own: Mapping[str, str], matrix: Mapping[str, str], job: Mapping[str, str]) -> dict[str, str]:
        """What conditions see: everything that has a value before the rule itself."""
        layered = {**self.workflow.variables, **self._workflow_variables, **own, **matrix, **self.selection.variables}
        known = {**self._rule_predefined, **job}
        try:
            return {**known, **expansion.expand_all(layered, known, literal=self.selection.variables.keys())}
        except ValueError:
            return {**known, **layered}  # reported with its place when the job is built

    def applies(self, rule: models.RuleFields, values: Mapping[str, str]) -> bool:
        if rule.if_ is not None and not expressions.holds(rule.if_, values):
            return False
        if rule.changes is not None and not self.any_changed(rule.changes, values):
            return False
        return rule.exists is None or self.any_exists([expansion.expand(glob, values) for glob in rule.exists])

    def any_changed(self, changes: models.ChangesFields, values: Mapping[str, str]) -> bool:
        base = None if changes.compare_to is None else expansion.expand(changes.compare_to, values)
        if base not in self._changed:
            answer = self.context.changed(base)
            self._changed[base] = None if answer is None else list(answer)
        changed = self._changed[base]
        if changed is None:
            return True  # nobody can tell: better one job too many
        patterns = [globs.compile(expansion.expand(glob, values)) for glob in changes.paths]
        return any(pattern.fullmatch(path) for pattern in patterns for path in changed)

    def any_exists(self, wanted: list[str]) -> bool:
        if self._files is None:
            self._files = list(self.context.files())
        patterns = [globs.compile(glob) for glob in wanted]
        return any(pattern.fullmatch(path) for pattern in patterns for path in self._files)

    # -- the selection -----------------------------------------------------------------------------------------------

    def select(self, candidates: list[Candidate]) -> dict[str, Candidate]:
        """The candidates that the user asked for, by id; what their rules leave out is noted."""
        pool = self.by_matrix(candidates)
        exact = self.named(pool)
        chosen = self.asked_for(pool, exact)
        wants_needs = (
            self.selection.with_needs if self.selection.with_needs is not None else self.selection.from_job is None
        )
        if not self.selection.everything and wants_needs:
            edges = {c.id: [target.id for _, target in self.need_targets(c, pool)] for c in pool}
            chosen = closure(chosen, edges)
        for candidate in pool:
            if candidate.id in exact and not candidate.decision.runs:
                decision = candidate.decision
                base = candidate.entry.fields.when
                when = base if base in ("on_success", "on_failure", "always") else "on_success"
                candidate.decision = Decision(
                    runs=True,
                    when=when,
                    variables=decision.variables,
                    allow_failure=decision.allow_failure,
                    rule=decision.rule,
                )
        result: dict[str, Candidate] = {}
        for candidate in candidates:
            if candidate.id not in chosen:
                self.left_out[candidate.id] = "not selected"
            elif not candidate.decision.runs:
                self.left_out[candidate.id] = candidate.decision.reason
            else:
                result[candidate.id] = candidate
        return result

    def by_matrix(self, candidates: list[Candidate]) -> list[Candidate]:
        for key, value in self.selection.matrix.items():
            values = dict.fromkeys(c.matrix[key] for c in candidates if key in c.matrix)
            if not values:
                keys = list(dict.fromkeys(name for c in candidates for name in c.matrix))
                close = nearest(key.upper(), [name.lower() for name in keys])
                meant = (
                    f"; did you mean {close.upper()}?" if close else f"; there are {', '.join(keys)}" if keys else ""
                )
                raise RequestError(f"--matrix {key}={value}: no job has a matrix variable {key}{meant}")
            if value not in values:
                raise RequestError(
                    f"--matrix {key}={value}: no combination has this value; there are {', '.join(values)}"
                )
        wanted = self.selection.matrix.items()
        return [c for c in candidates if all(c.matrix.get(key, value) == value for key, value in wanted)]

    def named(self, pool: list[Candidate]) -> set[str]:
        """The ids of jobs that were asked for by name or id (and not just by a pattern)."""
        asked = (*self.selection.jobs, *((self.selection.from_job,) if self.selection.from_job else ()))
        return {c.id for c in pool if c.id in asked or c.entry.name in asked}

    def asked_for(self, pool: list[Candidate], exact: set[str]) -> set[str]:
        selection = self.selection
        chosen = {c.id for c in pool}
        if selection.jobs:
            chosen = set()
            for wanted in selection.jobs:
                matched = {c.id for c in pool if wanted in (c.id, c.entry.name)}
                if not matched and re.search(r"[*?\[]", wanted):
                    matched = {
                        c.id
                        for c in pool
                        if fnmatch.fnmatchcase(c.id, wanted) or fnmatch.fnmatchcase(c.entry.name, wanted)
                    }
                if not matched:
                    raise self.no_such_job(wanted, pool)
                chosen |= matched
        if selection.from_job is not None:
            chosen &= self.after(selection.from_job, pool)
        if selection.stages:
            chosen &= self.in_stages(pool)
        if selection.only_failed is not None:
            chosen &= set(selection.only_failed)
            if selection.only_failed and not chosen:
                names = ", ".join(selection.only_failed)
                raise RequestError(f"none of the jobs that failed is in the workflow (any more): {names}")
        if selection.jobs and not chosen:
            raise RequestError("no job is in everything that was asked for; ask for less at once")
        return chosen

    def in_stages(self, pool: list[Candidate]) -> set[str]:
        for stage in self.selection.stages:
            if stage not in self.workflow.stages:
                close = nearest(stage, self.workflow.stages)
                meant = f"did you mean {close}?" if close else f"there are {', '.join(self.workflow.stages)}"
                raise RequestError(f"there is no stage {stage}; {meant}")
        return {c.id for c in pool if c.stage in self.selection.stages}

    def after(self, start: str, pool: list[Candidate]) -> set[str]:
        """`start` and what comes after it, by needs or by the stages' gates."""
        position = {stage: number for number, stage in enumerate(self.workflow.stages)}
        found = {c.id for c in pool if start in (c.id, c.entry.name)}
        if not found:
            raise self.no_such_job(start, pool)
        earliest = min(position[c.stage] for c in pool if c.id in found)
        for candidate in pool:  # in plan order, so one pass is enough
            if candidate.entry.fields.needs is None:
                if position[candidate.stage] > earliest:
                    found.add(candidate.id)
            elif any(target.id in found for _, target in self.need_targets(candidate, pool)):
                found.add(candidate.id)
        return found

    def no_such_job(self, wanted: str, pool: list[Candidate]) -> RequestError:
        known = list(dict.fromkeys(name for c in pool for name in (c.entry.name, c.id)))
        if re.search(r"[*?\[]", wanted):
            return RequestError(f"no job matches {wanted}", hint=f"The jobs are {_some(known)}.")
        close = nearest(wanted, known)
        if wanted in self.workflow.stages:
            return RequestError(f"there is no job {wanted}, but a stage", hint=f"Select it with --stage {wanted}.")
        meant = f"; did you mean {close}?" if close else ""
        return RequestError(f"there is no job {wanted}{meant}", hint=f"The jobs are {_some(known)}.")

    # -- needs -------------------------------------------------------------------------------------------------------

    def need_targets(
        self, candidate: Candidate, pool: Iterable[Candidate]
    ) -> Iterator[tuple[models.NeedFields, Candidate]]:
        fields = candidate.entry.fields
        if not fields.needs:
            return
        by_name = self._by_name(pool)
        for need in fields.needs:
            for target in by_name.get(need.job, ()):
                if all(target.matrix.get(key) == value for key, value in need.matrix.items()):
                    yield need, target

    def _by_name(self, pool: Iterable[Candidate]) -> dict[str, list[Candidate]]:
        if self._index_of is not pool:
            self._index, self._index_of = {}, pool
            for candidate in pool:
                self._index.setdefault(candidate.entry.name, []).append(candidate)
        return self._index

    def connect(self, candidates: list[Candidate], chosen: dict[str, Candidate]) -> list[Candidate]:
        """The chosen jobs with their needs as ids; a job whose need is not part of the run is left out or an error."""
        asked = self.named(candidates)
        jobs: list[Candidate] = []
        for candidate in chosen.values():
            if candidate.entry.fields.needs is None:
                jobs.append(candidate)
                continue
            needs: dict[str, p.Need] = {}
            blocked: str | None = None
            for need, target in self.need_targets(candidate, candidates):
                reason = self.left_out.get(target.id)
                if reason is None:
                    earlier = needs.get(target.id)
                    needs[target.id] = p.Need(
                        job=target.id,
                        optional=need.optional and (earlier is None or earlier.optional),
                        artifacts=need.artifacts or (earlier is not None and earlier.artifacts),
                    )
                elif reason == "not selected" or need.optional:
                    continue
                elif target.decision.when == "manual" or not target.decision.reason:
                    blocked = blocked or f"needs {target.id}, which is left out ({reason})"
                else:
                    self.missing_need(candidate, need, target, reason)
            if blocked is None:
                candidate.needs = list(needs.values())
                jobs.append(candidate)
                continue
            if candidate.id in asked:
                raise RequestError(f"{candidate.id} {blocked}", hint="Name that job too, or add --no-needs.")
            self.left_out[candidate.id] = blocked
        return jobs

    def missing_need(self, candidate: Candidate, need: models.NeedFields, target: Candidate, reason: str) -> None:
        entry = candidate.entry
        listed = entry.merged.get("needs")
        numbers = [n for n, other in enumerate(entry.fields.needs or ()) if other is need]
        node = (listed.get(numbers[0]) if listed is not None and numbers else None) or entry.key
        message = (
            f"{target.id} is not part of this run ({reason}); write {{job: {need.job}, optional: true}} if that is fine"
        )
        self.say(node, pointer(entry.name, "needs", *numbers), message)

    # -- one job -----------------------------------------------------------------------------------------------------

    def say(self, node: Node | None, at: str, message: str) -> None:
        if node is not None:
            self.problems.append(node.file.problem(node, at, message))

    def job_values(self, entry: Entry, job_id: str) -> dict[str, str]:
        """Loom's own variables of one job, as far as a plan can know them."""
        fields = entry.fields
        in_container = fields.image is not None or self.selection.container
        project_dir = CONTAINER_PROJECT_DIR if in_container else self.context.host_project_dir
        values = {
            "CI_JOB_NAME": entry.name,
            "CI_JOB_STAGE": str(fields.stage),
            "LOOM_JOB_NAME": entry.name,
            "LOOM_JOB_ID": job_id,
            "LOOM_JOB_STAGE": str(fields.stage),
            "LOOM_JOB_TARGET": "linux",
            "LOOM_PROVIDER": "docker" if in_container else "host",
            "LOOM_WORKFLOW_PATH": self.workflow.path,
        }
        if project_dir is not None:
            values["CI_PROJECT_DIR"] = values["LOOM_PROJECT_DIR"] = project_dir
        return values

    def job(self, candidate: Candidate) -> p.Job:
        entry, fields, config = candidate.entry, candidate.entry.fields, self.context.config
        known = {
            **dict.fromkeys(_EMPTY_WHEN_UNSET, ""),
            **self.context.predefined,
            **self.job_values(entry, candidate.id),
        }
        variables = self.variables(candidate, known)
        text = _Texts(self, entry, {**known, **variables}, frozenset(fields.secrets or ()))
        image = self.image(entry, text)
        return p.Job(
            id=candidate.id,
            name=entry.name,
            stage=candidate.stage,
            steps=(
                *_steps("before_script", fields.before_script),
                *_steps("script", fields.script),
                *_steps("after_script", fields.after_script),
            ),
            provider=p.ProviderName.HOST if image is None else p.ProviderName.DOCKER,
            image=image,
            shell=tuple(fields.shell or models.shell_words(config.default_shell)),
            variables=variables,
            needs=None if candidate.needs is None else tuple(candidate.needs),
            when=_WHEN.get(candidate.decision.when, "on_success"),
            allow_failure=_allow_failure(fields.allow_failure, candidate.decision.allow_failure),
            retry=_retry(fields.retry),
            timeout_s=fields.timeout if fields.timeout is not None else config.job_timeout,
            step_timeout_s=fields.step_timeout if fields.step_timeout is not None else config.step_timeout,
            resources=self.resources(fields.resources),
            network=p.Network(
                mode=(fields.network.mode if fields.network else None) or config.network,
                extra_hosts=dict(fields.network.extra_hosts) if fields.network else {},
            ),
            privileged=bool(fields.privileged),
            docker_socket=bool(fields.docker_socket),
            services=tuple(self.service(service, number, text) for number, service in enumerate(fields.services or ())),
            artifacts=self.artifacts(fields.artifacts, text),
            cache=tuple(
                self.cache(cache, number, text) for number, cache in enumerate(fields.cache or ()) if not cache.disabled
            ),
            secrets=tuple(
                p.Secret(name=name, ref=secret.ref, file=secret.file, required=secret.required)
                for name, secret in (fields.secrets or {}).items()
            ),
            matrix=candidate.matrix,
            runner_pool=fields.runner_pool,
            rule=candidate.decision.rule,
        )

    def variables(self, candidate: Candidate, known: Mapping[str, str]) -> dict[str, str]:
        entry = candidate.entry
        layered = {
            **self.workflow.variables,
            **self._workflow_variables,
            **(entry.fields.variables or {}),
            **candidate.matrix,
            **candidate.decision.variables,
        }
        if candidate.node_index is not None:
            layered = {
                "CI_NODE_INDEX": str(candidate.node_index),
                "CI_NODE_TOTAL": str(candidate.node_total),
                **layered,
            }
        layered |= self.selection.variables
        for secret in entry.fields.secrets or ():
            layered.pop(secret, None)
        try:
            return expansion.expand_all(layered, known, literal=self.selection.variables.keys())
        except expansion.ExpansionCycle as error:
            cycle = " -> ".join(f"${name}" for name in error.names)
            node, at = self.variable_node(entry, error.names[0])
            self.say(
                node,
                at,
                f"the variables of {candidate.id} refer to each other in a circle: {cycle}; write $$ for a plain $",
            )
        except expansion.ExpansionTooLong as error:
            self.say(entry.key, pointer(entry.name, "variables"), f"a variable of {candidate.id}: {error}")
        return layered

    def variable_node(self, entry: Entry, name: str) -> tuple[Node, str]:
        """Where a variable of a job is written, and the pointer to it."""
        own = entry.merged.get("variables")
        node = own.get(name) if own is not None else None
        if node is None and name in self.workflow.variable_nodes:
            return self.workflow.variable_nodes[name], pointer("variables", name)
        return node or entry.key, pointer(entry.name, "variables", name)

    def image(self, entry: Entry, text: _Texts) -> p.Image | None:
        fields, config = entry.fields, self.context.config
        image = fields.image
        if image is None:
            if not self.selection.container:
                return None
            return p.Image(name=config.default_image, pull=config.pull, user=fields.user, platform=config.platform)
        build = None
        if image.build is not None:
            build = p.Build(
                context=text.path(image.build.context, "image", "build", "context"),
                dockerfile=text.path(image.build.dockerfile, "image", "build", "dockerfile"),
                target=text.maybe(image.build.target, "image", "build", "target"),
                args={name: text(value, "image", "build", "args", name) for name, value in image.build.args.items()},
            )
        return p.Image(
            name=text.maybe(image.name, "image", "name"),
            build=build,
            pull=image.pull or config.pull,
            entrypoint=None if image.entrypoint is None else tuple(image.entrypoint),
            user=text.maybe(fields.user or image.user, "image", "user"),
            platform=text.maybe(image.platform, "image", "platform") or config.platform,
        )

    def resources(self, fields: models.Resources | None) -> p.Resources:
        config = self.context.config
        if fields is None:
            return p.Resources(cpus=config.cpus, memory=config.memory, pids=config.pids)
        return p.Resources(
            cpus=fields.cpus if fields.cpus is not None else config.cpus,
            memory=fields.memory if fields.memory is not None else config.memory,
            pids=fields.pids if fields.pids is not None else config.pids,
            shm_size=fields.shm_size,
            ulimits=tuple(
                p.Ulimit(name=name, soft=limit.soft, hard=limit.hard) for name, limit in fields.ulimits.items()
            ),
            tmpfs=tuple(fields.tmpfs),
            devices=tuple(fields.devices),
            gpus=fields.gpus,
        )

    def service(self, service: models.Service, number: int, text: _Texts) -> p.Service:
        config = self.context.config
        at = ("services", number)
        written = service.image
        reference = text((written.name if written is not None else None) or service.name, *at, "name")
        build = None
        if written is not None and written.build is not None:
            build = p.Build(
                context=written.build.context,
                dockerfile=written.build.dockerfile,
                target=written.build.target,
                args=dict(written.build.args),
            )
        aliases = tuple(service.alias or (_aliases(reference) if written is None else (service.name,)))
        return p.Service(
            name=aliases[0] if written is None else service.name,
            aliases=aliases,
            image=p.Image(
                name=reference if build is None or (written is not None and written.name) else None,
                build=build,
                pull=(written.pull if written is not None else None) or config.pull,
                platform=(written.platform if written is not None else None) or config.platform,
            ),
            variables={name: text(value, *at, "variables", name) for name, value in service.variables.items()},
            command=None if service.command is None else tuple(service.command),
            entrypoint=None if service.entrypoint is None else tuple(service.entrypoint),
            user=service.user or (written.user if written is not None else None),
            ready=p.Ready(
                tcp=service.ready.tcp,
                command=None if service.ready.command is None else tuple(service.ready.command),
                http=service.ready.http,
                log=service.ready.log,
                interval_s=service.ready.interval,
                timeout_s=service.ready.timeout,
            ),
        )

    def artifacts(self, fields: models.ArtifactsFields | None, text: _Texts) -> p.Artifacts | None:
        if fields is None:
            return None
        return p.Artifacts(
            paths=tuple(text.path(path, "artifacts", "paths", n) for n, path in enumerate(fields.paths)),
            exclude=tuple(text.path(path, "artifacts", "exclude", n) for n, path in enumerate(fields.exclude)),
            when=fields.when,
            name=text.maybe(fields.name, "artifacts", "name"),
            expire_in_s=fields.expire_in,
            junit=tuple(
                text.path(path, "artifacts", "reports", "junit", n) for n, path in enumerate(fields.reports.junit)
            ),
        )

    def cache(self, fields: models.CacheFields, number: int, text: _Texts) -> p.Cache:
        at = ("cache", number)
        key: str | p.CacheKeyFiles = text(fields.key.prefix, *at, "key")
        if fields.key.files:
            files = tuple(text.path(path, *at, "key", "files", n) for n, path in enumerate(fields.key.files))
            key = p.CacheKeyFiles(files=files, prefix=str(key))
        return p.Cache(
            paths=tuple(text.path(path, *at, "paths", n) for n, path in enumerate(fields.paths)),
            key=key,
            fallback_keys=tuple(text(other, *at, "fallback_keys", n) for n, other in enumerate(fields.fallback_keys)),
            policy=fields.policy,
            when=fields.when,
            name=fields.name,
        )


class _Texts:
    """Expands one job's texts; a name without a value is a problem here, since nothing can fill it in later."""

    def __init__(self, resolver: Resolver, entry: Entry, values: Mapping[str, str], secrets: frozenset[str]) -> None:
        self.resolver = resolver
        self.entry = entry
        self.values = values
        self.secrets = secrets

    def __call__(self, text: str, *at: str | int) -> str:
        if "$" not in text:
            return text
        for name in expansion.names(text):
            if name not in self.values:
                why = (
                    "is a secret, and secrets are known to steps alone" if name in self.secrets else "has no value here"
                )
                self.resolver.say(
                    self.node(at), pointer(self.entry.name, *at), f"${name} {why}; define it, or write $$ for a plain $"
                )
        try:
            return expansion.expand(text, self.values)
        except expansion.ExpansionTooLong as error:
            self.resolver.say(self.node(at), pointer(self.entry.name, *at), str(error))
            return text

    def path(self, text: str, *at: str | int) -> str:
        """A path below the project. `$CI_PROJECT_DIR` is the project itself, wherever the job will see it."""
        if "$" not in text:
            return text
        here = _Texts(
            self.resolver, self.entry, {**self.values, "CI_PROJECT_DIR": ".", "LOOM_PROJECT_DIR": "."}, self.secrets
        )
        expanded = here(text, *at)
        expanded = expanded.removeprefix("./") or "."
        if expanded.startswith(("/", "~")) or ".." in expanded.split("/"):
            self.resolver.say(
                self.node(at), pointer(self.entry.name, *at), f"{expanded} leads out of the project; stay inside it"
            )
        return expanded

    def maybe(self, text: str | None, *at: str | int) -> str | None:
        return None if text is None else self(text, *at)

    def node(self, at: tuple[str | int, ...]) -> Node:
        node = self.entry.merged
        for part in at:
            child = node.get(part)
            if child is not None:
                node = child
        return self.entry.key if node is self.entry.merged else node


_WHEN: Mapping[str, p.When] = {"on_failure": "on_failure", "always": "always"}


def _steps(phase: p.Phase, scripts: list[str] | None) -> Iterator[p.Step]:
    for number, script in enumerate(scripts or (), start=1):
        yield p.Step(phase=phase, number=number, script=script)


def _allow_failure(fields: models.AllowFailureFields | None, by_rule: bool | None) -> p.AllowFailure:
    if by_rule is not None:
        return p.AllowFailure(always=by_rule)
    if fields is None:
        return p.AllowFailure()
    codes: list[int] | None = fields.exit_codes
    return p.AllowFailure(always=codes is None, exit_codes=frozenset(codes or ()))


def _retry(fields: models.RetryFields | None) -> p.Retry:
    if fields is None:
        return p.Retry()
    return p.Retry(
        max=fields.max, when=frozenset(fields.when), exit_codes=frozenset(fields.exit_codes), backoff_s=fields.backoff
    )


def _aliases(reference: str) -> tuple[str, ...]:
    """The host names of a service from its image: `postgres:16` is postgres, `a/b:1` is a-b and a__b."""
    path = re.sub(r"(@[^/]*)?$", "", reference)
    path = re.sub(r":[^/:]*$", "", path)
    parts = [part.split(":")[0] for part in path.split("/")]
    names = ("-".join(parts), "__".join(parts)) if len(parts) > 1 else (parts[0],)
    return tuple(dict.fromkeys(name.lower() for name in names))


def _some(names: list[str]) -> str:
    return ", ".join(names[:20]) + (f" and {len(names) - 20} more" if len(names) > 20 else "")


def rehearse(workflow: Workflow, config: Config | None = None) -> tuple[list[Problem], list[tuple[Entry, p.Job]]]:
    """Every job built, whatever its rules say, and what would be wrong with any plan of this workflow."""
    placeholders = dict.fromkeys(PREDEFINED, "x")
    context = p.ResolveContext(config=config or Config(), predefined=placeholders, host_project_dir="/x")
    resolver = Resolver(workflow, p.Selection(), context)
    jobs: list[tuple[Entry, p.Job]] = []
    for entry in workflow.jobs.values():
        given: dict[str, str] = {}
        for rule in (*(workflow.rules or ()), *(entry.fields.rules or ())):
            given |= rule.variables
        for number, (job_id, matrix) in enumerate(job_ids(entry.name, entry.fields.parallel), start=1):
            decision = Decision(runs=True, when="on_success", variables=given)
            candidate = Candidate(
                id=job_id, entry=entry, matrix=matrix, node_index=number, node_total=1, decision=decision
            )
            jobs.append((entry, resolver.job(candidate)))
    return list(dict.fromkeys(resolver.problems)), jobs


def problems_of(workflow: Workflow, config: Config | None = None) -> list[Problem]:
    """What would be wrong with any plan of this workflow."""
    return rehearse(workflow, config)[0]
