"""Input that means harm or is just broken: a clear error or the right answer, never a traceback, never minutes."""

import os
import re
import time
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loom.errors import RequestError, WorkflowError
from loom.plan.model import JobSelection, ResolveContext
from loom.plan.resolve import rehearse, resolve
from loom.util import yaml_file
from loom.workflow.native.lint import warnings
from loom.workflow.predefined import KNOWN_TO_PLANS
from tests.support import native as workflow
from tests.support.effort import effort, fuzzed

HEAD = "version: v1\nstages: [build, test]\n"


def said(tmp_path: Path, data: bytes | str) -> list[str]:
    path = tmp_path / "workflow.yml"
    path.write_bytes(data.encode() if isinstance(data, str) else data)
    try:
        workflow.load(path, tmp_path)
    except WorkflowError as error:
        return [str(problem) for problem in error.problems]
    return []


def within(seconds: float, start: float) -> None:
    assert time.thread_time() - start < seconds


def test_ten_megabytes_are_refused_at_once(tmp_path: Path) -> None:
    start = time.thread_time()
    found = said(tmp_path, HEAD + "# x\n" * 2_600_000)
    assert found == ["workflow.yml:1:1: WF_SCHEMA_V1 /: the file is larger than 4 MiB; split it with include"]
    within(1, start)


@pytest.mark.parametrize(
    "data",
    [
        "a: " + "[" * 100_000,
        "a: " + "{a: " * 100_000,
        "- " * 200_000,
        "? " * 200_000,
        "a: " + '"' + "x" * 3_000_000,
        "&a " * 100_000,
        "a: *" + "b" * 1_000_000,
        "%TAG ! " * 10_000,
        "a: |\n" + " x\n" * 300_000,
        "\n" * 3_000_000,
        "a" * 3_000_000,
        "? " + "a" * 2000 + "\n: x",
    ],
    ids=lambda data: data[:8],
)
def test_structures_that_explode_elsewhere(tmp_path: Path, data: str) -> None:
    start = time.thread_time()
    assert said(tmp_path, data)
    within(5, start)


@pytest.mark.slow
def test_thousands_of_mistakes_are_told_in_part(tmp_path: Path) -> None:
    path = tmp_path / "workflow.yml"
    path.write_text(HEAD + "".join(f"job-{n}: {{stage: tset, scirpt: x}}\n" for n in range(3000)))
    start = time.thread_time()
    with pytest.raises(WorkflowError) as caught:
        workflow.load(path, tmp_path)
    assert len(caught.value.problems) == 200
    assert caught.value.hint == "5800 more problems are not shown."
    within(10, start)


@pytest.mark.slow
def test_thousands_of_misspelt_names_are_told_soon(tmp_path: Path) -> None:
    path = tmp_path / "workflow.yml"
    jobs = (f"job-{n}: {{stage: test, script: x, extends: .tpl-{n}x, needs: [jbo-{n}]}}\n" for n in range(2500))
    path.write_text(HEAD + "".join(jobs) + "".join(f".tpl-{n}: {{script: x}}\n" for n in range(2500)))
    start = time.thread_time()
    with pytest.raises(WorkflowError) as caught:
        workflow.load(path, tmp_path)
    assert len(caught.value.problems) == 200
    within(15, start)


def test_numbers_that_no_machine_holds(tmp_path: Path) -> None:
    digits = "9" * 5000
    assert "expected text or a list, found" in said(tmp_path, HEAD + f"a: {{stage: test, script: {'9' * 300}}}\n")[0]
    (found,) = said(tmp_path, HEAD + f"a: {{stage: test, script: x, variables: {{A: {digits}}}}}\n")
    assert found.endswith(
        "expected text, found the number 9999999999999999999999999999999999999...; write it in quotes"
    )
    assert said(tmp_path, HEAD + f"a: {{stage: test, script: x, timeout: {digits}s}}\n")
    assert said(tmp_path, HEAD + "a: {stage: test, script: x, resources: {cpus: .inf, pids: 1e400}}\n")
    assert said(tmp_path, HEAD + "a: {stage: test, script: x, resources: {cpus: .nan}}\n")


def test_variables_that_double_each_other(tmp_path: Path) -> None:
    names = [f"V{n}" for n in range(60)]
    doubled = "".join(f'  {a}: "${b}${b}"\n' for a, b in pairwise(names))
    path = tmp_path / "workflow.yml"
    path.write_text(f'{HEAD}variables:\n{doubled}  V59: "xxxxxxxxxxxxxxxx"\na: {{stage: test, script: x}}\n')
    start = time.thread_time()
    with pytest.raises(WorkflowError, match="exceeds 1024 KiB"):
        resolve(workflow.load(path, tmp_path), JobSelection(), ResolveContext())
    within(2, start)


@pytest.mark.slow
def test_a_long_chain_of_needs_and_of_variables(tmp_path: Path) -> None:
    path = tmp_path / "workflow.yml"
    jobs = "".join(f"j{n}: {{stage: test, script: x, needs: [j{n + 1}]}}\n" for n in range(3000))
    chain = "".join(f'  V{n}: "$V{n + 1}"\n' for n in range(3000))
    path.write_text(
        f"{HEAD}{jobs}j3000: {{stage: test, script: x, variables: {{A: $V0}}}}\nvariables:\n{chain}  V3000: end\n"
    )
    loaded = workflow.load(path, tmp_path)
    found = resolve(loaded, JobSelection(jobs=("j2999",), with_needs=True), ResolveContext())
    assert [job.id for job in found.jobs] == ["j3000", "j2999"]
    assert found.job("j3000").variables["A"] == "end"


def test_places_that_are_no_files(tmp_path: Path) -> None:
    fifo = tmp_path / "fifo.yml"
    os.mkfifo(fifo)
    for path, reason in (
        (fifo, "not a regular file"),
        (tmp_path, "directory"),
        (tmp_path / "gone.yml", "not found"),
        (Path("/dev/zero"), "regular"),
    ):
        with pytest.raises(RequestError, match=reason):
            workflow.load(path, tmp_path)


def test_a_link_out_of_the_templates_folder(tmp_path: Path) -> None:
    (tmp_path / "secret.yml").write_text(".x: {script: x}\n")
    templates = tmp_path / "project/.loom/templates"
    templates.mkdir(parents=True)
    (templates / "link.yml").symlink_to(tmp_path / "secret.yml")
    (templates.parent / "workflow.yml").write_text(
        HEAD + "include: [{local: .loom/templates/link.yml}]\na: {stage: test, script: x}\n"
    )
    with pytest.raises(WorkflowError, match=r"is a link to a file outside \.loom/templates/"):
        workflow.load(templates.parent / "workflow.yml", tmp_path / "project")


def many_jobs(number: int) -> str:
    lines = [
        HEAD,
        "default: {image: 'alpine:3.20', timeout: 10m}\n.t: {variables: {LEVEL: '1'}, before_script: [echo start]}\n",
    ]
    for n in range(number):
        needs = f"[job-{n - 2}]" if n > 1 else "[]"
        lines.append(
            f'job-{n}:\n  stage: {"build" if n % 2 == 0 else "test"}\n  extends: .t\n  needs: {needs}\n  variables:\n    NUMBER: "{n}"\n'
            f'  script:\n    - echo $NUMBER $LEVEL\n    - make -j2\n  rules:\n    - if: $CI_COMMIT_BRANCH != "x"\n'
        )
    return "".join(lines)


@pytest.mark.slow
def test_thousands_of_jobs(tmp_path: Path) -> None:
    path, number = tmp_path / "workflow.yml", effort(1500, 5000)
    path.write_text(many_jobs(number))
    loaded = workflow.load(path, tmp_path)
    assert rehearse(loaded)[0] == []
    assert warnings(loaded, predefined=KNOWN_TO_PLANS) == []
    assert len(resolve(loaded, JobSelection(), ResolveContext()).jobs) == number


WORDS = st.sampled_from(
    [
        *(
            "version",
            "v1",
            "stages",
            "test",
            "build",
            "a",
            ".t",
            "script",
            "x",
            "needs",
            "rules",
            "if",
            "$A",
            "==",
            "extends",
        ),
        *(
            "image",
            "default",
            "include",
            "local",
            "variables",
            "matrix",
            "parallel",
            "when",
            "timeout",
            "10m",
            "services",
        ),
        *(
            "1",
            "1.10",
            "true",
            "null",
            "~",
            "yes",
            "<<",
            "[",
            "]",
            "{",
            "}",
            ",",
            ":",
            "-",
            "|",
            ">",
            "&",
            "*",
            "!",
            "%",
            "@",
            "?",
        ),
        *('"', "'", "#", "\n", "\t", "", "\\", "\0", "\x85", "\ufeff", "\u00e9"),
    ]
)


@pytest.mark.slow
@fuzzed(300)
@given(st.lists(WORDS, max_size=40).map(" ".join))
def test_any_text_is_answered(text: str) -> None:
    file = yaml_file.parse(text.encode(), "x.yml")
    assert (file.root is None) <= (bool(file.problems) or not re.sub(r"#.*|---|~|null|\s|\ufeff|\x85", "", file.text))


@fuzzed(200)
@given(body=st.lists(st.tuples(st.integers(0, 3), WORDS, WORDS), max_size=12))
@pytest.mark.slow
def test_any_workflow_is_answered(tmp_path_factory: pytest.TempPathFactory, body: list[tuple[int, str, str]]) -> None:
    lines = [HEAD, "a:\n"] + [f"{'  ' * depth}{key}: {value}\n" for depth, key, value in body]
    said(tmp_path_factory.mktemp("any"), "".join(lines).encode("utf-8", "surrogatepass"))


@fuzzed(300)
@given(st.binary(max_size=200))
def test_any_bytes_are_answered(data: bytes) -> None:
    yaml_file.parse(data, "x.yml")
