"""The possible jobs of a pipeline: instances of `parallel`, what their rules decide, what they need."""

from __future__ import annotations

import re
from collections.abc import Container, Mapping
from functools import partial

from msgspec.structs import replace

from loom.plan import model as p
from loom.plan.candidates import DEPLOYS, Candidate, Withheld, index_by_name, sort_by_plan
from loom.plan.variables import plan_variables, rule_variables
from loom.util.budget import spend
from loom.util.yaml_file import Node, fields_of, node_at, one_or_more, text_of
from loom.workflow.facts import Variable
from loom.workflow.gitlab import needs, rules, yaml
from loom.workflow.gitlab.pipeline import Entry, Pipeline
from loom.workflow.gitlab.predefined import environment_variables, instance_variables, url_of_environment
from loom.workflow.gitlab.variables import Scope, environment_scoped, expand, layers, read
from loom.workflow.instances import Instance, instances
from loom.workflow.messages import Problems
from loom.workflow.rules import RuleDecision

_OTHER_SYSTEM = re.compile(
    r"(?:^|[^a-z])(?:(?P<Windows>windows|win(?:32|64|10|11)?)|(?P<macOS>mac|macos|osx|darwin|ios)|(?P<FreeBSD>freebsd))(?:[^a-z]|$)"
)
"""In the tags of runners with another system than Linux."""
_NO_STAGE = "GitLab makes no pipeline of jobs in .pre and .post alone"
_OUTSIDE = Withheld(
    "it would start a pipeline of another project, which is not done here",
    "pipelines of other projects",
    even_if_named=True,
)


class JobCandidate(Candidate, kw_only=True):
    entry: Entry
    instance: Instance
    scope: Scope
    """Its variables, without those of the matching rule."""


class Candidates:
    """Evaluate every rule once. `problems` are those of conditions and needs."""

    def __init__(self, pipeline: Pipeline, selection: p.JobSelection, context: p.ResolveContext) -> None:
        self.pipeline = pipeline
        self.selection = selection
        self.context = context
        self.problems = Problems(code=yaml.CODE)
        self.root = read(pipeline.root, "variables")
        self.instances = instances({name: entry.merged.get("parallel") for name, entry in pipeline.jobs.items()})
        self._own = context.own_variables()
        self.own = environment_scoped(self._own)
        reporting = [name for name, entry in pipeline.jobs.items() if _reports_variables(entry.merged)]
        position = {stage: number for number, stage in enumerate(pipeline.stages)}
        stages = [position.get(pipeline.jobs[name].stage, 0) for name in reporting]  # unknown: the loader reports it
        self._reported_to = pipeline.stages[min(stages) + 1 :] if stages else ()
        self._reporting = {
            title for name in reporting for title in (name, *(one.title for one in self.instances[name]))
        }
        rule = rules.GitLabRules(self.scope(), context, self.problems).workflow(pipeline)
        self.verdict = rule if not rule.runs else None
        self.ends_at_failure = rules.ends_at_failure(pipeline, rule)
        self.workflow_variables: Mapping[str, Variable] = rule.variables
        self.pipeline_values = self._pipeline_values()
        self._global_rules = pipeline.root.find("workflow", "rules") is not None

    def scope(
        self,
        entry: Entry | None = None,
        instance: Instance | None = None,
        rule: Mapping[str, Variable] | None = None,
        given: Mapping[str, str] | None = None,
    ) -> Scope:
        """Return the variables of a job, or of `workflow:rules`.

        `rule`: those of the job's matching rule; None: for its rules, which see no variables of environments.
        `given`: those of the run (`--var`), if others than the selection's.
        """
        if entry is None or instance is None:
            layered = layers(root=self.root, project=self.own, given=self.selection.variables)
            return Scope(layered=layered, known=self.context.predefined)
        merged = entry.merged
        with_project = partial(
            layers,
            root=self.root,
            workflow=self.workflow_variables,
            inherit=merged.get("inherit"),
            job=read(merged, "variables"),
            matrix=instance.matrix,
            rule=rule or {},
            given=self.selection.variables if given is None else given,
        )
        layered = with_project(project=self.own)
        known = {**self.context.predefined, **self.pipeline_values, **self.job_values(entry, instance)}
        scope = Scope(layered=layered, known=known)
        environment = merged.get("environment")
        if environment is None:
            return scope
        known |= environment_variables(environment, scope.expanded)
        if rule is not None:
            layered = with_project(project=self.own_in(known))
        scope = Scope(layered=layered, known=known)
        return Scope(layered=layered, known={**known, **url_of_environment(environment, scope.expanded)})

    def own_in(self, known: Mapping[str, str]) -> Mapping[str, Variable]:
        """Return the variables of the user's file for a job with these predefined ones."""
        return environment_scoped(self._own, known.get("CI_ENVIRONMENT_NAME", ""))

    def _pipeline_values(self) -> dict[str, str]:
        """Return the name that `workflow:name` gives the pipeline."""
        name = self.pipeline.root.find("workflow", "name")
        layered = layers(
            root=self.root, workflow=self.workflow_variables, project=self.own, given=self.selection.variables
        )
        text = expand(text_of(name), Scope(layered=layered, known=self.context.predefined).expanded).strip()
        return {"CI_PIPELINE_NAME": text} if text else {}

    def job_values(self, entry: Entry, instance: Instance) -> dict[str, str]:
        """Return the predefined variables of one job that its rules see."""
        return {
            **rule_variables(entry.name, instance.id, entry.stage, instance.title),
            **instance_variables(instance),
            "LOOM_WORKFLOW_PATH": self.pipeline.path,
        }

    def text_values(self, entry: Entry, instance: Instance) -> dict[str, str]:
        """Return the variables for the job's texts only: in GitLab, they exist once a runner has taken the job."""
        in_container = entry.merged.get("image") is not None or self.selection.container
        project_dir = p.PROJECT_DIR if in_container else self.context.host_project_dir
        return plan_variables(job_id=instance.id, project_dir=project_dir)

    def gets_reported(self, candidate: JobCandidate) -> bool:
        """Return whether jobs before this one may report variables to it."""
        if candidate.wanted is None:
            return candidate.stage in self._reported_to
        if any(needs.above(candidate.entry, candidate.decision.needs)):
            return True
        return any(want.job in self._reporting for want in candidate.wanted)

    def all(self) -> list[JobCandidate]:
        """Return every instance in plan order: by stage, then needs, then file order."""
        jobs = self.pipeline.jobs
        needed = {name: needs.names(entry.merged) for name, entry in jobs.items()}
        stage_of = {name: entry.stage for name, entry in jobs.items()}
        found = [
            self.candidate(jobs[name], instance)
            for name in sort_by_plan(self.pipeline.stages, stage_of, needed)
            for instance in self.instances[name]
        ]
        if all(one.stage in (".pre", ".post") for one in found if one.decision.runs):
            for one in found:
                if one.decision.runs:
                    one.decision = replace(one.decision, runs=False, when="never", reason=_NO_STAGE)
        return found

    def check_needs(self, candidates: list[JobCandidate]) -> None:
        """Report a need whose matrix no instance has; one of an unknown job is reported already."""
        there = index_by_name(candidates)
        for candidate in candidates:
            for need in candidate.wanted or ():
                named = there.get(need.job, ())
                if named and not need.optional and not any(need.means(one.matrix) for one in named):
                    why = f"needs:parallel:matrix: no instance of {need.job} has these values"
                    self.problems.say(need.node, f"{why}; its matrix is {self._matrix(need.job)}")

    def _matrix(self, name: str) -> str:
        found = [", ".join(one.matrix.values()) for one in self.instances.get(name, ()) if one.matrix]
        return "; ".join(f"[{values}]" for values in found) or "none"

    def _held(self, job: Node) -> Withheld | None:
        if _is_outside(job):
            return _OUTSIDE
        config = self.context.config
        if (found := system_of(job, config.pools)) is not None:
            tag, system = found
            one = f"its tag {text_of(tag)} is of runners with {system}; jobs run on Linux here"
            return Withheld(one, system, even_if_named=self.selection.if_possible)
        return DEPLOYS if deploys(job) and not config.deploy else None

    def _unknown(self, entry: Entry, scope: Scope) -> tuple[str, ...]:
        """Return the variables of the project that let a job run, which has no place in the pipeline without them."""

        def runs(given: Mapping[str, str]) -> bool:
            of_job, of_workflow = (replace(one, known={**one.known, **given}) for one in (scope, self.scope()))
            own, above = (
                rules.GitLabRules(one, self.context, Problems(code=yaml.CODE)) for one in (of_job, of_workflow)
            )
            return above.workflow(self.pipeline).runs and own.decide(entry, global_rules=self._global_rules).runs

        asking = [node for node, _ in rules.conditions_of(self.pipeline.root, [entry])]
        for owner in (self.pipeline.root.get("workflow"), entry.merged):
            asking += rules.read_by(node_at(owner, "rules"))
        return rules.missing(asking, self.context, scope.written, runs)

    def candidate(self, entry: Entry, instance: Instance, decided: RuleDecision | None = None) -> JobCandidate:
        """`decided`: instead of what the rules say."""
        spend("jobs", entry.key, 0)
        scope = self.scope(entry, instance)
        if decided is None:
            own = rules.GitLabRules(scope, self.context, self.problems)
            decided = self.verdict or own.decide(entry, global_rules=self._global_rules)
        unknown = () if decided.when != "never" else self._unknown(entry, scope)
        wanted = needs.wanted(entry, instance, decided.needs, self.problems)
        when = entry.merged.get("when")
        return JobCandidate(
            id=instance.id,
            name=entry.name,
            title=instance.title,
            stage=entry.stage,
            matrix=instance.matrix,
            decision=replace(decided, runs=True, reason="") if decided.when == "manual" else decided,
            wanted=None if wanted is None else tuple(wanted),
            leaves_artifacts=_leaves(entry.merged),
            artifacts=tuple(map(text_of, one_or_more(entry.merged, "artifacts", "paths"))),
            base_when=when.text if when is not None else None,
            held=self._held(entry.merged),
            unknown_values=unknown,
            entry=entry,
            instance=instance,
            scope=scope,
        )


def deploys(job: Node) -> bool:
    """Return whether a job starts or stops an environment, or makes a release."""
    environment = job.get("environment")
    action = text_of(environment, "action") if environment is not None else ""
    return (environment is not None and action in ("", "start", "stop")) or job.get("release") is not None


def system_of(job: Node, pools: Container[str]) -> tuple[Node, str] | None:
    """Return the tag that asks for a runner with another system, and the system; None if a tag names a pool."""
    tags = one_or_more(job, "tags")
    if any(text_of(tag) in pools for tag in tags):
        return None
    for tag in tags:
        if found := _OTHER_SYSTEM.search(text_of(tag).lower()):
            return tag, found.lastgroup or ""
    return None


def _is_outside(job: Node) -> bool:
    trigger = job.get("trigger")
    return trigger is not None and (trigger.get("project") is not None or isinstance(trigger.value, str))


def _leaves(job: Node) -> bool:
    artifacts = fields_of(job, "artifacts")
    return any(key in artifacts for key in ("paths", "untracked")) or _reports_variables(job)


def _reports_variables(job: Node) -> bool:
    return job.find("artifacts", "reports", "dotenv") is not None
