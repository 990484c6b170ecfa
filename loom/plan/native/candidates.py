"""The possible jobs and the decisions of their rules: matrix, ids, order, conditions."""

from __future__ import annotations

from collections.abc import Mapping

from loom.errors import WorkflowError
from loom.plan import model as p
from loom.plan.candidates import Candidate, sort_by_plan
from loom.plan.placement import pool_for
from loom.plan.variables import plan_variables, rule_variables
from loom.util import globs
from loom.util.toposort import CycleError
from loom.util.yaml_file import Node, node_at
from loom.workflow import expressions, interpolation
from loom.workflow.instances import Instance, instances
from loom.workflow.native.inheritance import Entry
from loom.workflow.native.loader import Workflow
from loom.workflow.native.references import needs_of
from loom.workflow.native.shapes import Fields
from loom.workflow.patterns import SearchError
from loom.workflow.rules import NO_PIPELINE, RuleDecision, decision, no_match, unchanged, values_of


class EntryCandidate(Candidate, kw_only=True):
    entry: Entry
    instance: Instance


def job_values(
    workflow: Workflow, selection: p.JobSelection, context: p.ResolveContext, entry: Entry, job_id: str
) -> dict[str, str]:
    """Return loom's own variables of one job that are known at planning time."""
    fields = entry.fields
    pool = pool_for(fields.get("runner_pool"), has_image="image" in fields, selection=selection, config=context.config)
    project_dir = p.PROJECT_DIR if pool.in_container else context.host_project_dir
    return {
        **rule_variables(entry.name, job_id, fields.get("stage", "")),
        **plan_variables(job_id=job_id, project_dir=project_dir),
        "LOOM_PROVIDER": pool.provider,
        "LOOM_WORKFLOW_PATH": workflow.path,
    }


def candidate_of(entry: Entry, instance: Instance, decided: RuleDecision) -> EntryCandidate:
    fields = entry.fields
    artifacts = tuple(fields.get("artifacts", {}).get("paths", ()))
    return EntryCandidate(
        id=instance.id,
        name=entry.name,
        stage=fields.get("stage", ""),
        matrix=instance.matrix,
        decision=decided,
        wanted=None if "needs" not in fields else tuple(needs_of(entry.merged)),
        leaves_artifacts=bool(artifacts),
        artifacts=artifacts,
        base_when=fields.get("when"),
        entry=entry,
        instance=instance,
    )


def instances_of(workflow: Workflow) -> dict[str, list[Instance]]:
    return instances({name: entry.merged.get("parallel") for name, entry in workflow.jobs.items()})


class RuleEvaluator:
    """Evaluate every rule once. `workflow_variables` come from the workflow's own matching rule; set by `candidates`."""

    def __init__(self, workflow: Workflow, selection: p.JobSelection, context: p.ResolveContext) -> None:
        self.workflow = workflow
        self.selection = selection
        self.context = context
        self.workflow_variables: Mapping[str, str] = {}
        self._predefined = {name: value for name, value in context.predefined.items() if value != ""}

    def candidates(self) -> list[EntryCandidate]:
        """Return every job and combination in plan order: by stage, then needs, then file order."""
        verdict = self.workflow_rules()
        jobs = self.workflow.jobs
        needs = {name: [need["job"] for need in entry.fields.get("needs", ())] for name, entry in jobs.items()}
        stage_of = {name: entry.fields.get("stage", "") for name, entry in jobs.items()}
        there = instances_of(self.workflow)
        return [
            candidate_of(jobs[name], one, verdict or self.decide(jobs[name], one))
            for name in sort_by_plan(self.workflow.stages, stage_of, needs)
            for one in there[name]
        ]

    def workflow_rules(self) -> RuleDecision | None:
        """Evaluate `workflow: rules`: None when the workflow runs, else the decision for each of its jobs."""
        if self.workflow.rules is None:
            return None
        values = self.rule_values({}, {}, {})
        passed: list[str] = []
        for number, rule in enumerate(self.workflow.rules):
            if (why := self.mismatch(rule, values, self.workflow.rules_node, number)) is not None:
                passed.append(why)
                continue
            if rule.get("when") == "never":
                return decision(
                    "never", number, f"workflow: rules[{number}] says never{self.quoted_values(rule, values)}"
                )
            self.workflow_variables = rule.get("variables", {})
            return None
        return decision("never", reason=no_match(passed, NO_PIPELINE))

    def decide(self, entry: Entry, instance: Instance) -> RuleDecision:
        fields = entry.fields
        base = fields.get("when", "on_success")
        if not fields.get("rules"):
            return decision(base)
        known = job_values(self.workflow, self.selection, self.context, entry, instance.id)
        values = self.rule_values(fields.get("variables", {}), instance.matrix, known)
        passed: list[str] = []
        for number, rule in enumerate(fields["rules"]):
            if (why := self.mismatch(rule, values, entry.merged.get("rules"), number)) is not None:
                passed.append(why)
                continue
            when, may_fail = rule.get("when", base), rule.get("allow_failure")
            reason = f"rules[{number}] says never{self.quoted_values(rule, values)}" if when == "never" else ""
            return decision(when, number, reason, variables=rule.get("variables", {}), allow_failure=may_fail)
        return decision("never", reason=no_match(passed))

    def rule_values(self, own: Mapping[str, str], matrix: Mapping[str, str], job: Mapping[str, str]) -> dict[str, str]:
        """Return the variables that conditions see: all that have a value before the rule itself."""
        layered = {**self.workflow.variables, **self.workflow_variables, **own, **matrix, **self.selection.variables}
        known = {**self._predefined, **job}
        try:
            return {**known, **interpolation.expand_all(layered, known, literal=self.selection.variables.keys())}
        except (CycleError, interpolation.ExpansionTooLong):
            return {**known, **layered}  # reported when the job is built

    def quoted_values(self, rule: Fields, values: Mapping[str, str]) -> str:
        """Return the values that the condition of a rule reads, in parentheses."""
        return f" ({values_of(rule['if'], values, self.selection.variables)})" if "if" in rule else ""

    def mismatch(self, rule: Fields, values: Mapping[str, str], rules: Node | None, number: int) -> str | None:
        """Return why the rule with this number in the list does not apply; None if it does.

        WorkflowError for a condition that takes too long.
        """
        try:
            if "if" in rule and not expressions.holds(rule["if"], values):
                return values_of(rule["if"], values, self.selection.variables)
        except SearchError as error:
            node = node_at(rules, number, "if") or rules
            assert node is not None  # a rule was read from somewhere
            raise WorkflowError([node.file.problem(node, str(error))]) from error
        if "changes" in rule and (why := self.unchanged(rule["changes"], values)) is not None:
            return why
        wanted = [interpolation.expand(glob, values) for glob in rule.get("exists", ())]
        if "exists" not in rule or globs.any_of(wanted, self.context.files()):
            return None
        return f"no file matches {', '.join(wanted)}"

    def unchanged(self, changes: Fields, values: Mapping[str, str]) -> str | None:
        """Return why `changes` does not hold; None if it does."""
        base = interpolation.expand(changes["compare_to"], values) if "compare_to" in changes else None
        changed = self.context.changed(base)
        if changed is None:
            return None  # unknown: rather run one job too many
        changed, wanted = set(changed), [interpolation.expand(glob, values) for glob in changes["paths"]]
        return None if globs.any_of(wanted, changed) else unchanged(changed, wanted)
