"""What holds for every plan, whatever the workflow and the selection."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loom.errors import RequestError, WorkflowError
from loom.plan.model import JobSelection, Plan, ResolveContext
from loom.plan.resolve import resolve
from tests.support import native as workflow
from tests.support.effort import fuzzed

STAGES = ["one", "two", "three"]
WHENS = ["on_success", "on_failure", "always", "manual", "never"]
RULES = [None, "[{if: $YES}]", "[{if: $NO}]", "[{if: $NO}, {when: manual}]", "[{when: always, variables: {V: x}}]"]


@st.composite
def workflows(draw: st.DrawFn) -> str:
    lines = ["version: v1", f"stages: {STAGES}".replace("'", ""), "variables: {YES: '1', NO: ''}"]
    earlier: list[tuple[int, str]] = []
    for number in range(draw(st.integers(1, 8))):
        name, stage = f"job-{number}", draw(st.integers(0, 2))
        lines += [
            f"{name}:",
            f"  stage: {STAGES[stage]}",
            f"  script: echo {number}",
            f"  when: {draw(st.sampled_from(WHENS))}",
        ]
        rules = draw(st.sampled_from(RULES))
        if rules:
            lines.append(f"  rules: {rules}")
        if draw(st.booleans()):
            known = [other for other_stage, other in earlier if other_stage <= stage]
            needed = draw(st.lists(st.sampled_from(known), unique=True, max_size=3)) if known else []
            optional = draw(st.booleans())
            lines.append(
                "  needs: ["
                + ", ".join(f"{{job: {other}, optional: {str(optional).lower()}}}" for other in needed)
                + "]"
            )
        parallel = draw(st.sampled_from([None, "2", "{matrix: [{M: [a, 'b c', b-c], N: x}]}"]))
        if parallel:
            lines.append(f"  parallel: {parallel}")
        earlier.append((stage, name))
    return "\n".join(lines) + "\n"


SELECTIONS = st.builds(
    JobSelection,
    jobs=st.lists(st.sampled_from(["job-0", "job-1", "job-2", "job-*", "job-1.1", "*b-c*"]), max_size=2).map(tuple),
    stages=st.lists(st.sampled_from(STAGES), max_size=1).map(tuple),
    from_job=st.sampled_from([None, None, "job-0", "job-3"]),
    with_needs=st.sampled_from([None, True, False]),
    matrix=st.sampled_from([{}, {}, {"M": "a"}]),
    container=st.booleans(),
)


def check(plan: Plan, all_ids: set[str]) -> None:
    ids = [job.id for job in plan.jobs]
    left_out = [item.id for item in plan.left_out]
    assert len(set(ids + left_out)) == len(ids) + len(left_out)
    assert set(ids + left_out) == all_ids
    assert all(item.reason for item in plan.left_out)
    stages = [plan.stages.index(job.stage) for job in plan.jobs]
    assert stages == sorted(stages)
    seen: set[str] = set()
    for job in plan.jobs:
        assert {need.job for need in job.needs or ()} <= seen
        assert job.when != "manual"
        seen.add(job.id)


@fuzzed(150)
@given(text=workflows(), selection=SELECTIONS)
@pytest.mark.slow
def test_every_plan_is_sound(tmp_path_factory: pytest.TempPathFactory, text: str, selection: JobSelection) -> None:
    path: Path = tmp_path_factory.mktemp("any") / "workflow.yml"
    path.write_text(text)
    loaded = workflow.load(path, path.parent)
    everything = JobSelection(variables=selection.variables)
    try:
        whole = resolve(loaded, everything, ResolveContext())
    except WorkflowError:
        return  # a need that the rules leave out
    all_ids = {job.id for job in whole.jobs} | {item.id for item in whole.left_out}
    check(whole, all_ids)
    try:
        plan = resolve(loaded, selection, ResolveContext())
    except (RequestError, WorkflowError):
        return  # the selection asks for what is not there
    check(plan, all_ids)
    assert plan == resolve(loaded, selection, ResolveContext())
