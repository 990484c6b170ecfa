"""tests/workflows/runs: workflows, and beside each exactly what the record of its run says.

`LOOM_TEST_ACCEPT=1 pytest tests/unit/runner/test_record.py` writes the present state; read it before you commit it.
"""

import json
import os
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from msgspec import Struct
from msgspec.structs import fields, replace

from loom.plan.model import Plan
from loom.providers.base import SessionRequest, SideProgram
from loom.record import past_run
from loom.record.event_files import read_events
from loom.record.events import OutputEvent, PhaseEvent
from loom.record.run import load_run
from loom.record.step_outputs import restored
from loom.status import Exit
from tests.support.plans import encoded, given

from .conftest import Make, Project, Ran, on
from .late.plans import WORKFLOW, job, step
from .test_resumed import resumed
from .test_session import Serving

ACCEPT = "LOOM_TEST_ACCEPT" in os.environ
CORPUS = Path(__file__).parents[2] / "workflows/runs"
OF_THE_MACHINE = {
    *("command", "invocation", "host", "user", "loom_version", "packed_bytes"),
    *("workspace", "view_of", "mount_mode", "seq", "offset", "duration_ms", "stdout_bytes", "stderr_bytes", "saved_ms"),
}
"""What another machine, user, version or moment has otherwise."""
USUAL: dict[str, tuple[object, ...]] = {
    "attempt": (1,),
    "output": ({"stdout_lines": 0, "stderr_lines": 0}, {"stdout_lines": 1, "stderr_lines": 0}),
    "highlights": ({"lines": [], "found": 0, "complete": True},),
    "literal": (False,),
    "allowed_failure": (False,),
    "phase": ("script", "before_script", "after_script"),
    "number": tuple(range(100)),
    "outcome": ("success",),
    "conclusion": ("success",),
    "shell": ("bash -e -o pipefail",),
    "network": ("host",),
}
"""Values of facts that say nothing, or nothing more than the step's name; for all other facts, empty ones."""
SIZE = re.compile(r"\b[\d.]+ ?(ms|s|B|bytes|KiB)\b")

OF_GITHUB = {
    ".github/workflows/called.yml": """on:
  workflow_call: {inputs: {word: {type: string}}, outputs: {o: {value: "${{ jobs.say.outputs.o }}"}}}
jobs:
  say:
    runs-on: ubuntu-latest
    outputs: {o: "${{ steps.s.outputs.o }}"}
    steps: [{id: s, run: 'echo "o=${{ inputs.word }}!" >>"$GITHUB_OUTPUT"'}]
""",
    "act/action.yml": """name: Act
inputs: {who: {default: nobody}, other: {default: "${{ github.ref_name }}"}}
outputs: {said: {value: "${{ steps.in.outputs.said }}"}}
runs:
  using: composite
  steps:
    - {id: in, shell: bash, run: 'echo "said=${{ inputs.who }} ${{ inputs.other }} $GIVEN" >>"$GITHUB_OUTPUT"'}
    - {shell: bash, if: "inputs.who == 'none'", run: echo never}
    - {shell: bash, run: 'echo "${{ github.action_path }} $GITHUB_ACTION_PATH ${{ github.action }} ${{ github.action_status }}"'}
    - {shell: bash, run: 'test -e "$GITHUB_ACTION_PATH/file"', continue-on-error: true}
""",
    "matcher.json": """{"problemMatcher": [{"owner": "mine", "severity": "error", "pattern": [
{"regexp": "^(.+):(\\\\d+):(\\\\d+): (.+)$", "file": 1, "line": 2, "column": 3, "message": 4}]}]}""",
}


@pytest.fixture(autouse=True)
def path(monkeypatch: pytest.MonkeyPatch) -> None:
    """Jobs on this machine print and hand on their PATH."""
    monkeypatch.setenv("PATH", "/usr/local/bin:/usr/bin:/bin")


@pytest.mark.parametrize(
    "file",
    [
        pytest.param(path, id=path.stem, marks=[pytest.mark.slow] if "edges" in path.stem else [])
        for path in sorted(CORPUS.glob("*.yml"))
    ],
)
def test_what_the_record_of_a_run_says(make: Make, file: Path) -> None:
    names = {"gitlab": ".gitlab-ci.yml", "github": ".github/workflows/ci.yml"}
    dialect = file.stem.partition("_")[0]
    more = OF_GITHUB if dialect == "github" else {}
    project = make("", **{names.get(dialect, ".loom/workflow.yml"): file.read_text(), **more})
    compare(recorded(project.run(code=None, jobs=1), project), file.with_suffix(".expected"))


AROUND = (
    "plan",
    "variables",
    "run_id",
    "command",
    "request",
    "repo_root",
    "workspace",
    "starts",
    "notices",
    "assisted",
    "parent_run_id",
)

ALWAYS = {"CACHEDIR.TAG", "README", "plan.json", "run.json", "snapshot.json", "phase-report.json"}
TOLD_ELSEWHERE = {"events.jsonl", "manifest.json", "diagnosis.json"}


def test_what_the_record_of_late_steps_says(make: Make) -> None:
    project = make(WORKFLOW)
    first = job(
        "first",
        step(
            'echo "A=b" >>"$GITHUB_ENV"; echo "$PWD/bin" >>"$GITHUB_PATH"; echo "x=1" >>"$GITHUB_OUTPUT"',
            key="one",
            name="Set ${{ github.ref_name }}",
        ),
        step('echo "::group::Build"; echo "::error file=a.c,line=3,title=Bad::no ${{ env.A }}"; echo "::endgroup::"'),
        step(
            "echo '## Done' >>\"$GITHUB_STEP_SUMMARY\"; echo '::notice::n'; echo '::warning file=b::w'; exit 3",
            key="bad",
            continue_on_error="true",
        ),
        step("echo never", condition="env.A == 'c'"),
        step("echo ${{ steps.bad.outcome }}; exit 4", env={"E": "${{ steps.one.outputs.x }}"}),
        step("echo last", condition="always()"),
        outputs={"x": "${{ steps.one.outputs.x }}"},
        contexts={"github": {"ref_name": "main"}},
    )
    after = job("second", step("echo ${{ needs.first.outputs.x }}"), needs={"first": ["first"]})
    always = job("third", step("echo ${{ needs.first.result }}"), needs={"first": ["first"]}, condition="always()")
    plan = Plan(workflow_path=".github/workflows/ci.yml", stages=("jobs",), jobs=(first, after, always))
    run, tools = project.planned()
    ran = project.execute(replace(run, plan=plan), tools, code=None)
    compare(recorded(ran, project), CORPUS / "late.expected")
    past = past_run.PastRun(ran.reading.entry).job("first")
    texts = [past.script_of(one) for one in past.job.steps]
    assert texts[3:5] == ["echo never", "echo failure; exit 4"]


ENGINE = """stages: [a, b]
variables: {OF_ALL: "1"}
served:
  stage: a
  image: {name: debian, user: "1:2"}
  script: ['echo $DB; cat "$A"; echo; echo "$B ${C-none}"']
  services: [{name: db, secrets: {P: env://TOKEN}}, {name: other, image: other}]
  secrets: {A: env://TOKEN, B: {ref: env://TOKEN, file: false}, C: {ref: env://NONE, required: false}}
  resources: {memory: 64m, read_only: true}
  network: {mode: none, extra_hosts: {h: 10.0.0.1}}
built:
  stage: a
  needs: []
  image: {name: own, build: {context: ., secrets: [A]}}
  script: ['cat file; echo x >file']
  secrets: {A: env://TOKEN}
  privileged: true
  docker_socket: true
  shell: bash
  variables: {BAD: "\\x01"}
after: {stage: b, image: debian, script: [cat file]}
"""


def test_what_the_record_of_a_run_with_an_engine_says(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOKEN", "correct horse battery")
    engine = Serving()
    project = make(ENGINE, file="snapshot\n")
    ran = project.run(container=True, tools=on(engine, "docker"), grace="7s", keep="never", jobs=1)
    asked = dict.fromkeys(line for one in engine.opened for line in said_of(one))
    compare(recorded(ran, project, "".join(f"asked {line}\n" for line in asked)), CORPUS / "engine.expected")


OF_IMAGES = {
    ".github/workflows/ci.yml": """on: push
env: {TOP: top}
jobs:
  give: {runs-on: ubuntu-latest, outputs: {o: "${{ steps.s.outputs.o }}"}, steps: [{id: s, run: 'echo o=ubuntu-22.04 >>"$GITHUB_OUTPUT"'}]}
  boxed:
    runs-on: ubuntu-latest
    container: {image: "docker://node:20", env: {IN: in}, options: --user 1:2 --cpus 2}
    services: {db: {image: postgres, env: {P: "${{ secrets.TOKEN }}"}, ports: [5432]}}
    steps:
      - uses: actions/checkout@v4
      - {run: 'echo "${{ job.container.network }} ${{ job.services.db.ports[''5432''] }} $IN $TOP"'}
      - {uses: ./dock, id: dock, with: {level: "${{ env.TOP }}"}, env: {OWN: "${{ github.job }} ${{ inputs.level }}"}}
      - {run: 'echo "${{ steps.dock.outputs.out }} $FROM"'}
      - {uses: ./around, id: around, with: {level: up}}
      - {uses: "docker://alpine:3", with: {args: "a '${{ env.TOP }} b'", entrypoint: /bin/sh}}
      - {uses: ./dock, continue-on-error: true}
  late: {needs: give, runs-on: "${{ needs.give.outputs.o }}", steps: [{run: echo}]}
  listed: {needs: give, runs-on: "${{ fromJSON(format('[\\"{0}\\", \\"x64\\"]', needs.give.outputs.o)) }}", steps: [{run: echo}]}
  other: {needs: give, runs-on: "windows-${{ needs.give.outputs.o }}", steps: [{run: echo}]}
  image: {needs: give, runs-on: ubuntu-latest, container: "docker://${{ needs.give.outputs.o }}", steps: [{run: echo}]}
""",
    "dock/action.yml": """inputs: {level: {default: none}}
runs: {using: docker, image: Dockerfile, args: [x, "${{ inputs.level }}"], env: {OF: "${{ inputs.level }}"}, entrypoint: /e, post-entrypoint: /post}
""",
    "around/action.yml": """inputs: {level: {required: true}, more: {default: m}}
runs:
  using: composite
  steps: [{uses: ./dock, with: {level: "${{ inputs.level }}${{ inputs.more }}"}, env: {E: "${{ inputs.more }}"}}]
""",
}


class Acting(Serving):
    """An engine in which the containers of actions only seem to run."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[SideProgram] = []

    def run_beside(self, _: Any, __: Any, asked: SideProgram, on_output: Any, ___: Any) -> Any:
        self.asked.append(asked)
        on_output("stdout", b"beside\n")
        return Exit(code=len(self.asked) // 4), {"output": [b"out=o"], "env": [b"FROM=it"]}


def test_what_the_record_of_actions_of_images_says(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOKEN", "correct horse battery")
    project = configured(make("", **OF_IMAGES))
    engine = Acting()
    ran = project.run(container=True, tools=on(engine, "docker"), keep="never", jobs=1, code=None)
    asked = dict.fromkeys(line for one in (*engine.opened, *engine.asked) for line in said_of(one))
    compare(recorded(ran, project, "".join(f"asked {line}\n" for line in asked)), CORPUS / "images.expected")


RESUMED = {
    "native": {
        ".loom/workflow.yml": """version: v1
stages: [a, b, c]
first: {stage: a, script: ['echo made >made; echo V=1 >r.env'], artifacts: {paths: [made], reports: {dotenv: r.env}}}
soft: {stage: a, script: exit 3, allow_failure: true}
middle:
  stage: b
  cache: {key: k, paths: [store]}
  before_script: echo before
  script:
    - echo "HANDED=on $SECRET" >>"$LOOM_ENV"; echo "OTHER=$V" >>"$LOOM_ENV"; mkdir -p store; echo x >store/x
    - echo "$HANDED $V $(cat made)"; test -e repaired
    - echo "$OTHER step three"; touch changed
  after_script: echo after
  artifacts: {paths: [repaired, changed]}
  secrets: {SECRET: {ref: env://TOKEN, file: false}}
beside: {stage: b, script: exit 4}
last: {stage: c, needs: [first, middle], script: ['cat made repaired; echo $V']}
never: {stage: c, needs: [beside], script: 'true'}
"""
    },
    "github": {
        ".github/workflows/ci.yml": """on: push
jobs:
  give: {runs-on: ubuntu-latest, outputs: {o: "${{ steps.s.outputs.o }}"}, steps: [{id: s, run: 'echo o=given >>"$GITHUB_OUTPUT"'}]}
  middle:
    needs: give
    runs-on: ubuntu-latest
    outputs: {all: "${{ steps.s.outputs.o }} ${{ steps.act.outputs.said }} ${{ steps.bad.outcome }}"}
    steps:
      - uses: actions/checkout@v4
      - {id: s, run: 'echo o=out >>"$GITHUB_OUTPUT"; echo A=added >>"$GITHUB_ENV"; echo "$PWD/bin" >>"$GITHUB_PATH"; echo "S=$TOKEN" >>"$GITHUB_ENV"', env: {TOKEN: "${{ secrets.TOKEN }}"}}
      - {id: soft, run: exit 3, continue-on-error: true}
      - {id: off, run: echo, if: "false"}
      - {id: act, uses: ./act, with: {who: me}}
      - {id: bad, run: 'test -e repaired'}
      - {run: 'echo "$A $S ${PATH%%:*} ${{ steps.s.outputs.o }} ${{ steps.soft.outcome }} ${{ steps.off.conclusion }} ${{ steps.act.outputs.said }} ${{ job.status }} ${{ needs.give.outputs.o }}"'}
      - {run: echo failed, if: failure()}
  last: {needs: middle, runs-on: ubuntu-latest, steps: [{run: 'echo "${{ needs.middle.outputs.all }}"'}]}
""",
        **OF_GITHUB,
    },
}


@pytest.mark.parametrize("dialect", RESUMED)
def test_what_the_record_of_a_resumed_run_says(make: Make, monkeypatch: pytest.MonkeyPatch, dialect: str) -> None:
    monkeypatch.setenv("TOKEN", "correct horse battery")
    project = configured(make("", **RESUMED[dialect]))
    before = recorded(project.run(on="far", keep="on-failure", jobs=1, code=1), project)
    for directory in (project.home / "far").iterdir():
        repaired = directory / "files/repaired"
        repaired.write_text("by hand\n")
        os.utime(repaired, (4e9, 4e9))  # later than the moment at which it was kept, on any clock
    after = recorded(resumed(project, "middle", jobs=1), project)
    compare(f"{before}\n{after}", CORPUS / f"resumed_{dialect}.expected")


def configured(project: Project) -> Project:
    settings = project.home / ".config/loom/config.yml"
    settings.parent.mkdir(parents=True)
    settings.write_text("github: {secrets: {TOKEN: env://TOKEN}}\n")
    return project


SERVERS, OWN = ("CI_", "GITHUB_", "LOOM_", "RUNNER_"), ("GITHUB_ACTION", "GITHUB_ACTION_PATH", "LOOM_STEP")
"""Variables that the tests of variables list, and those of them that tell one request from another."""


def said_of(request: SessionRequest | SideProgram) -> Iterator[str]:
    """Yield what an engine is asked for, but for the variables that another moment or machine has otherwise."""
    other = {"ACTIONS_CACHE_URL", "ACTIONS_RESULTS_URL", "ACTIONS_RUNTIME_TOKEN", "ACTIONS_RUNTIME_URL"}
    other |= {"RUNNER_ARCH", "event.json"}
    for one in fields(request):
        if one.name == "timeout_s":  # what is left of it
            continue
        value = getattr(request, one.name)
        if isinstance(value, Mapping):
            shown = [key for key in sorted(value) if key not in other and (key in OWN or not key.startswith(SERVERS))]
            yield from (f"{one.name}: {key}={value[key]!r}" for key in shown)
        elif value != one.default:
            said = f"{one.name}: {encoded(value) if isinstance(value, Struct) else value}"
            yield said.replace(f"/{request.job_id}", "/JOB") if isinstance(request, SessionRequest) else said


def compare(said: str, expected: Path) -> None:
    if ACCEPT:
        expected.write_text(said)
    assert said == expected.read_bytes().decode()


def recorded(ran: Ran, project: Project, more: str = "") -> str:
    """Return the events of a run, those of each job together."""
    jobs: dict[str, list[str]] = {}
    counts = Counter((event.kind, event.phase_code, event.job_id, event.step, event.section) for event in ran.events)
    saved = load_run(ran.reading.entry.paths.plan)
    usual: dict[tuple[str | None, Any], dict[str, Any]] = {
        (job.id, step.id): {
            "command": step.script,
            "file": step.file,
            "line": step.line,
            "literal": step.literal,
            "name": step.name or step.script,
        }
        for job in saved.plan.jobs
        for step in job.steps
    }
    for event in ran.events:
        place = (event.phase_code, event.job_id, event.step, event.section)
        assert counts["phase_started", *place] == counts["phase_finished", *place]
        step = event.step or event.data.get("step")
        of_step = usual.setdefault((event.job_id, step), {}) if step else {}
        jobs.setdefault(event.job_id or "", []).extend(told(event, of_step))
        of_step |= {"outcome": event.status, "name": event.data.get("name", of_step.get("name"))}
    for job_id in jobs:
        for unit in ran.reading.units(job_id) if job_id else ():
            if unit.events.exists():
                said = [event.text for event in read_events(unit.events) if isinstance(event, OutputEvent)]
                said[2:-1] = [f"… {len(said)} lines"] if len(said) > 4 else said[2:-1]
                jobs[job_id] += [
                    f"{unit.section or unit.step} {unit.attempt}| {SIZE.sub('SIZE', line)}" for line in said
                ]
    # Of the run, what its jobs get; the rest is the machine's and the moment's.
    kept = [f"saved {name}: {value}" for name, value in given(saved).items() if name not in AROUND]
    root = ran.reading.entry.paths.root
    files = [path for path in root.rglob("*") if path.is_file()]
    assert {path.name for path in files} >= ALWAYS
    kept += sorted(f"file {path.relative_to(root)}" for path in files if path.name not in ALWAYS | TOLD_ELSEWHERE)
    for path in sorted(root.rglob("diagnosis.json")):
        found = json.loads(path.read_text())
        kept.append(f"{path.relative_to(root)}: {found['job_id']} {found['telling_line']!r}")
    if ran.result is not None:
        kept.append(f"result: {ran.result.diagnosis and ran.result.diagnosis.telling_line!r} {ran.result.kept}")
    lines = [*(line for job in sorted(jobs) for line in jobs[job]), *kept, *past_of(ran)]
    text = "\n".join(lines) + f"\n{more}"
    text = re.sub(rf"{re.escape(str(project.home))}/workspaces/loom-[0-9]+/[^/'\"]+", "WORKSPACE", text)
    text = re.sub(r"\b[0-9]{19}\b", "RUN", text)
    text = re.sub(r"(\bRUN\.[\w.]+)\.[a-z0-9_]{8}\b", r"\1.ID", text)
    text = re.sub(r"\b[0-9-]{10}T[0-9:.]+Z", "TIME", text)
    text = re.sub(r'("(?:before_|after_)?script/[0-9]+": )[0-9.]+', r"\1MS", text)
    text = text.replace(str(project.root), "ROOT").replace(str(project.home), "HOME")
    return re.sub(r"\b[0-9a-f]{40}(?:[0-9a-f]{24})?\b", "HASH", text)


def past_of(ran: Ran) -> Iterator[str]:
    """Yield what the run is for a later one: of each job, if something is kept of one."""
    past = past_run.PastRun(ran.reading.entry)
    yield f"past: failed {past.failed()}"
    if ran.result is not None and not ran.result.kept:
        return
    properties = [name for name, one in vars(past_run.PastJob).items() if isinstance(one, property)]
    for each in past.planned.plan.jobs:
        one = past.job(each.id)
        found = {name: getattr(one, name) for name in properties if name not in ("id", "state", "view", "ran_as_root")}
        found |= {"archive": past.archive_of(each.id), "run": past.run_of(each.id), "result": past.result_of(each.id)}
        last = each.steps[-1]
        states = [str(fact["step"]) for fact in one.step_states(last)]
        found |= {"step": one.step(None).id, "states": states, "handed": restored(one.handed_on(last), {})}
        times = {name for name, value in found.items() if isinstance(value, datetime)}
        told = {name: "TIME" if name in times else str(value) for name, value in found.items() if value}
        yield f"past {each.id}: {told}"


def told(event: PhaseEvent, of_step: Mapping[str, Any]) -> Iterator[str]:
    """Yield what an event says that others of its kind, its step and the step's end do not: its place and end, and values."""
    at = " ".join(filter(None, (event.phase_code, event.job_id, event.step, event.section)))
    ended = " ".join(str(one) for one in (event.status, event.exit_code, event.error) if one is not None)
    assert event.duration_ms is None or 0 <= event.duration_ms < 600_000
    kind = event.message or event.kind
    data = {key: value for key, value in steady(event.data).items() if value not in USUAL.get(key, (None, "", [], {}))}
    if kind == "plan_resolved" or (kind == "phase_started" and not event.step) or data.get("outcome") == "skipped":
        return
    if event.phase_code == "job.execution" and kind == "phase_finished" and event.status == "failure":
        return  # with the error of its step, and the job's end says it again
    data = {key: value for key, value in data.items() if key not in of_step or value != of_step[key]}
    if data.keys() - {"step", "provider", "path"} or ended not in ("success", "success 0", "skipped", ""):
        said = json.dumps(data, ensure_ascii=False) if data else ""
        yield " ".join(filter(None, (f"{at}:", kind.removeprefix("phase_"), ended, said)))


def steady(data: Any) -> Any:
    if isinstance(data, Mapping):
        return {
            key: steady(value)
            for key, value in data.items()
            if key not in OF_THE_MACHINE or (key == "command" and isinstance(value, str))
        }
    return [steady(one) for one in data] if isinstance(data, list) else data
