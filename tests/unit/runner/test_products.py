"""What jobs hand to each other and to later runs: artifacts, variables, reports, caches; and what the record says of it."""

import errno
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from loom.cancel import Cancel
from loom.errors import ProviderError
from loom.plan.model import Artifacts, Job, Need, Plan
from loom.runner import products
from loom.storage import artifacts, junit
from loom.storage.artifacts import ReadReports
from loom.storage.workspace import DirectoryView
from loom.util.masking import Masker
from tests.unit.providers.far_provider import FarProvider

from .conftest import Make, Ran, Replaced, on

JUNIT = """<testsuite><testcase classname="tests.test_x" name="test_a" file="tests/test_x.py" line="3">
<failure message="1 != 2">tests/test_x.py:4: AssertionError</failure></testcase>
<testcase classname="tests.test_x" name="test_b"/><testcase classname="c" name="d"><skipped/></testcase></testsuite>"""
SARIF = """{"version": "2.1.0", "runs": [{"tool": {"driver": {"name": "lint"}}, "results": [
{"ruleId": "E1", "level": "error", "message": {"text": "bad"}, "locations": [{"physicalLocation":
{"artifactLocation": {"uri": "a.py"}, "region": {"startLine": 7}}}]}]}]}"""


def job(stage: str, script: str, more: str = "") -> str:
    return f"{{stage: {stage}, script: [{script!r}]{', ' if more else ''}{more}}}\n"


# -- artifacts --------------------------------------------------------------------------------------------------------

HANDED = f"""stages: [build, test]
build: {job("build", "mkdir out; echo one >out/a; ln -s a out/link; echo no >rest", "artifacts: {paths: [out, nothing/*], exclude: [out/x]}")}
second: {job("build", "mkdir out; echo two >out/a; echo b >out/b", "artifacts: {paths: [out]}")}
test: {job("test", "cat out/a out/b out/link; test ! -e rest", "needs: [build, second]")}
bare: {job("test", "test ! -e out", "needs: [{job: build, artifacts: false}]")}
"""


@pytest.mark.parametrize("provider", ["host", "far"])
def test_a_job_gets_the_artifacts_that_it_needs_in_the_order_of_the_plan(make: Make, provider: str) -> None:
    ran = make(HANDED).run(on=provider)
    assert set(ran.statuses.values()) == {"success"}
    assert ran.lines("test") == ["two", "b", "two"]
    assert ran.warnings("test") == []
    assert ran.warnings("build") == ["artifacts: nothing matches nothing/*"]
    codes = {event.phase_code for event in ran.events if event.message == "warning" and event.job_id == "build"}
    assert codes == {"job.artifact_extract"}
    (saved,) = ran.facts("artifacts_saved", "build")
    assert (saved["files"], saved["bytes"], saved["missing"]) == (2, 4, ["nothing/*"])
    assert (ran.reading.paths.logs / saved["archive_path"]).is_file()
    assert ran.lines("test", "artifact_restore") == ["build: 2 files, 4 bytes", "second: 2 files, 6 bytes"]
    assert ran.lines("bare", "artifact_restore") == []


def test_the_record_names_only_the_first_of_many_jobs_with_artifacts(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(products, "MAX_NAMED", 1)
    ran = make(HANDED).run(on="far")
    assert ran.lines("test") == ["two", "b", "two"]
    assert ran.lines("test", "artifact_restore") == ["build: 2 files, 4 bytes", "1 more job: 2 files, 6 bytes"]


def test_jobs_that_share_a_workspace_have_the_artifacts_already(make: Make) -> None:
    project = make(HANDED.replace("mkdir out", "mkdir -p out").replace("test ! -e rest", "true"))
    ran = project.run("test", needs=True, mount_mode="bind_mount", jobs=1)
    assert ran.lines("test") == ["two", "b", "two"]
    assert ran.lines("test", "artifact_restore") == []


def test_without_needs_a_job_gets_the_artifacts_of_all_earlier_stages_and_of_no_other(make: Make) -> None:
    ran = make(f"""stages: [a, b, c]
first: {job("a", "echo 1 >first", "artifacts: {paths: [first]}")}
second: {job("b", "cat first; echo 2 >second", "artifacts: {paths: [second]}")}
beside: {job("b", "test ! -e second; cat first", "artifacts: {paths: [beside]}")}
last: {job("c", "cat first second")}
""").run()
    assert ran.lines("last") == ["1", "2"]
    assert ran.lines("last", "artifact_restore") == [
        "first: 1 file, 2 bytes",
        "second: 1 file, 2 bytes",
        "beside: 0 files, 0 bytes",
    ]


def test_a_job_of_a_child_gets_what_jobs_of_the_pipelines_above_left(tmp_path: Path) -> None:
    above, own = tmp_path / "above.tar.gz", tmp_path / "own.tar.gz"
    above.touch()
    own.touch()
    left = {"up": str(above), "gone": str(tmp_path / "gone.tar.gz")}
    one = Job(id="one", name="one", stage="a", steps=(), provider="host", artifacts_from=("one",), artifacts_above=left)
    plan = Plan(workflow_path="w", stages=("a",), jobs=(one,))
    handed = products.Handover(
        plan,
        workspace=tmp_path,
        archive_of=lambda _: own,
        logs=tmp_path,
        masker=Masker(),
        tracked=lambda: pytest.fail("nobody asks"),
    )
    assert handed.sources(one) == ["up"]


@pytest.mark.parametrize("missing", [False, True])
def test_into_a_shared_workspace_only_artifacts_are_restored_that_it_lacks(tmp_path: Path, missing: bool) -> None:
    workspace, archive = tmp_path / "workspace", tmp_path / "a.tar.gz"
    for directory in (workspace, tmp_path / "other"):
        directory.mkdir()
    (tmp_path / "other/file").touch()
    artifacts.collect(
        Artifacts(paths=("file",)), DirectoryView(tmp_path / "other"), archive=archive, on_output=lambda *_: None
    )
    made = Job(id="a", name="a", stage="s", steps=(), provider="host", artifacts=Artifacts(paths=("file",)))
    wants = Job(id="b", name="b", stage="s", steps=(), provider="host", needs=(Need(job="a"),))
    handed = products.Handover(
        Plan(workflow_path="w", stages=("s",), jobs=(made, wants)),
        workspace=workspace,
        archive_of=lambda _: archive,
        logs=tmp_path,
        masker=Masker(),
        tracked=lambda: pytest.fail("nobody asks"),
        missing_here=frozenset({"a"} if missing else ()),
    )
    session: Any = SimpleNamespace(files=lambda: workspace)
    handed.restore_artifacts(wants, session, lambda *_: None)
    assert (workspace / "file").exists() is missing


@pytest.mark.parametrize(
    ("when", "script", "kept"),
    [
        ("on_success", "true", True),
        ("on_success", "false", False),
        ("on_failure", "false", True),
        ("on_failure", "true", False),
        ("always", "false", True),
    ],
)
def test_artifacts_are_kept_by_the_result(make: Make, when: str, script: str, kept: bool) -> None:
    ran = make(f"stages: [a]\none: {job('a', f'echo x >x; {script}', f'artifacts: {{paths: [x], when: {when}}}')}").run(
        code=None
    )
    assert bool(ran.facts("artifacts_saved", "one")) == kept
    assert ran.reading.paths.artifacts_archive("one").exists() == kept


def test_untracked_files_are_artifacts_and_those_of_git_are_not(make: Make) -> None:
    ran = make(
        f"stages: [a]\none: {job('a', 'echo 1 >new; echo 2 >>old', 'artifacts: {untracked: true}')}", old="1\n"
    ).run()
    assert ran.facts("artifacts_saved", "one")[0]["files"] == 1


def test_files_that_are_left_out_are_named_up_to_a_number(make: Make) -> None:
    script = "mkdir out; for i in 1 2 3 4 5 6 7; do mkfifo out/$i; done; echo x >out/x"
    ran = make(f"stages: [a]\none: {job('a', script, 'artifacts: {paths: [out]}')}").run()
    warnings = ran.warnings("one")
    assert warnings[:2] == [
        "artifacts: out/1 left out: a FIFO, not a file",
        "artifacts: out/2 left out: a FIFO, not a file",
    ]
    assert warnings[5:] == ["artifacts: 2 more left out: `loom logs one --system` names them"]
    (saved,) = ran.facts("artifacts_saved", "one")
    assert (saved["files"], len(saved["skipped"])) == (1, 7)


def test_a_file_with_a_secret_is_no_artifact(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOKEN", "correct horse battery")
    spec = 'secrets: {KEY: {ref: "env://TOKEN", file: false}}, artifacts: {paths: [out]}'
    ran = make(f"stages: [a]\none: {job('a', 'mkdir out; echo $KEY >out/key; echo x >out/x', spec)}").run()
    assert [warning.partition(":")[2] for warning in ran.warnings("one")] == [
        " out/key left out: it holds the secret KEY"
    ]


# -- faults -----------------------------------------------------------------------------------------------------------


def gone(*_: object, **__: object) -> Any:
    raise ProviderError("the place is gone", code="CONTAINER_LOST")


ONE_ARTIFACT = f"stages: [a]\none: {job('a', 'echo x >x; exit 0', 'artifacts: {paths: [x]}')}"


def test_artifacts_that_can_not_be_kept_are_the_error_of_a_job_that_succeeded(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> Iterable[Any]:
        raise OSError(errno.ENOSPC, "full")

    monkeypatch.setattr("loom.storage.artifacts.packing", full)
    ran = make(ONE_ARTIFACT).run(code=3)
    assert ran.statuses == {"one": "error"}
    assert ran.job("one").outcome["error_code"] == "ARTIFACT_NO_SPACE"
    assert ran.job("one").outcome["failing_section"] == "artifact_extract"
    assert ran.warnings("one") == []


def test_artifacts_that_can_not_be_kept_are_a_warning_for_a_job_that_failed(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> Iterable[Any]:
        raise OSError(errno.ENOSPC, "full")

    monkeypatch.setattr("loom.storage.artifacts.packing", full)
    ran = make(ONE_ARTIFACT.replace("exit 0", "exit 4").replace("[x]", "[x], when: always")).run(code=1)
    assert ran.error("one") == "script/01 failed with exit code 4"
    (warning,) = ran.warnings("one")
    assert warning.startswith("artifacts: not kept: ")
    assert "failing_section" not in ran.job("one").outcome


def test_a_session_that_does_not_settle_is_a_warning(make: Make) -> None:
    ran = make(ONE_ARTIFACT).run(tools=on(Replaced(settle=gone)))
    assert ran.warnings("one") == ["the place is gone"]
    assert ran.facts("artifacts_saved", "one")


def test_a_job_that_was_broken_off_says_why_its_files_are_missing(make: Make) -> None:
    reports = "artifacts: {paths: [y], when: always, reports: {dotenv: z.env}}"
    ran = make(f"stages: [a]\none: {job('a', 'true', reports)}").run(tools=on(Replaced(run=gone)), code=3)
    assert ran.warnings("one") == [
        "artifacts: nothing matches y, since the job was broken off: the place is gone",
        "artifacts: no dotenv report matches z.env, since the job was broken off: the place is gone",
    ]


@pytest.mark.parametrize(("times", "saved"), [(1, True), (2, False)])
def test_what_a_job_leaves_is_kept_after_one_interrupt_and_not_after_two(make: Make, times: int, saved: bool) -> None:
    cancel = Cancel()

    def interrupted() -> None:
        for _ in range(times):
            cancel.request()

    project = make(ONE_ARTIFACT.replace("[x]", "[x], when: always").replace("exit 0", "sleep 0"))
    ran = project.run(code=130, cancel=cancel, tools=on(Replaced(settle=interrupted)))
    assert bool(ran.facts("artifacts_saved", "one")) == saved
    assert ran.warnings("one") == []


def test_after_an_interrupt_no_artifacts_are_restored(make: Make) -> None:
    cancel = Cancel()

    class Interrupting(FarProvider):
        def open(self, request: Any, *arguments: Any) -> Any:
            if request.job_id == "two":
                cancel.request()
            return super().open(request, *arguments)

    project = make(f"stages: [a, b]\none: {job('a', 'echo x >x', 'artifacts: {paths: [x]}')}two: {job('b', 'true')}")
    ran = project.run(code=130, on="far", cancel=cancel, tools=on(Interrupting(project.home / "far"), "far"))
    assert ran.lines("two", "artifact_restore") == []
    assert ran.statuses == {"one": "success", "two": "canceled"}


# -- variables --------------------------------------------------------------------------------------------------------


def test_variables_that_a_job_reports_reach_the_jobs_that_get_its_artifacts(make: Make) -> None:
    dotenv = "artifacts: {reports: {dotenv: build.env}}"
    ran = make(f"""stages: [a, b]
one: {job("a", "echo VERSION=1 >build.env; echo OTHER=x >>build.env", dotenv)}
two: {job("a", "echo VERSION=2 >build.env", dotenv)}
last: {job("b", "echo $VERSION$OTHER")}
without: {job("b", "echo ${VERSION-none}", "needs: [{job: one, artifacts: false}]")}
""").run()
    assert ran.lines("last") == ["2x"]
    assert ran.lines("without") == ["none"]
    assert ran.lines("one", "artifact_extract") == ["variables for later jobs: VERSION, OTHER"]
    assert ran.warnings("one") == []
    kept = ran.reading.paths.artifacts_archive("one").with_name("variables.json")
    assert '"VERSION"' in kept.read_text()


def test_a_job_whose_variables_are_too_long_with_a_reported_one_is_refused_alone(make: Make) -> None:
    """Once the whole run ended."""
    many = "${A}" * 600
    ran = make(f"""stages: [a, b]
one: {job("a", "echo A=$(printf %02000d 1) >a.env", "artifacts: {reports: {dotenv: a.env}}")}
use: {job("b", "true", f"variables: {{X: '{many}'}}")}
other: {job("b", "true")}
""").run(code=3)
    assert ran.statuses == {"one": "success", "use": "error", "other": "success"}
    assert "the expanded value exceeds 1024 KiB, with what the jobs before use report" in ran.error("use")


def test_a_job_whose_variables_refer_to_each_other_once_one_is_reported_is_refused(make: Make) -> None:
    script = """
one: {stage: build, script: ["echo B=1 > a.env"], artifacts: {reports: {dotenv: a.env}}}
use: {script: [ls], variables: {A: $CI_ENVIRONMENT_URL}, environment: {name: e, url: "https://$A", action: verify}}
"""
    ran = make("", **{".gitlab-ci.yml": script}).run(code=3)
    wrong = "variables: CI_ENVIRONMENT_URL -> A -> CI_ENVIRONMENT_URL, with what the jobs before use report"
    assert wrong in ran.error("use")


def test_a_reported_variable_with_a_secret_is_not_in_the_record(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOKEN", "correct horse battery")
    spec = 'secrets: {KEY: {ref: "env://TOKEN", file: false}}, artifacts: {reports: {dotenv: build.env}}'
    ran = make(f"""stages: [a, b]
one: {job("a", "echo VALUE=$KEY >build.env", spec)}
two: {job("b", "echo ${#VALUE}")}
""").run()
    assert ran.lines("two") == [str(len("correct horse battery"))]
    assert not ran.reading.paths.artifacts_archive("one").with_name("variables.json").exists()


def test_a_report_without_a_file_is_a_warning_and_one_that_is_wrong_an_error(make: Make) -> None:
    project = make(f"""stages: [a]
none: {job("a", "true", "artifacts: {reports: {dotenv: build.env}}")}
wrong: {job("a", "echo nothing >build.env", "artifacts: {reports: {dotenv: build.env}}")}
""")
    ran = project.run(code=None)
    assert ran.warnings("none") == ["artifacts: no dotenv report matches build.env"]
    assert ran.lines("none", "artifact_extract") == ["variables for later jobs: none"]
    assert ran.job("wrong").outcome["error_code"] == "DOTENV_INVALID"


def test_a_job_here_gets_no_variable_that_decides_which_programs_run(make: Make) -> None:
    dotenv = "artifacts: {reports: {dotenv: build.env}}"
    ran = make(f"""stages: [a, b]
one: {job("a", "echo LD_PRELOAD=x >build.env", dotenv)}
two: {job("b", "true", "retry: {max: 2}")}
""").run(code=3)
    assert ran.statuses == {"one": "success", "two": "error"}
    assert ran.job("two").outcome["error_code"] == "JOB_REFUSED"
    assert "reports LD_PRELOAD in its dotenv file" in ran.error("two")
    assert ran.facts("attempt_failed", "two") == []
    assert len(ran.job("two").phases) == 1


# -- reports ----------------------------------------------------------------------------------------------------------


def test_reports_are_facts_of_the_record_whatever_the_result(make: Make) -> None:
    reports = "artifacts: {reports: {junit: [r.xml, none.xml, bad.xml], sarif: s.json}}"
    ran = make(
        f"stages: [a]\none: {job('a', 'echo no >bad.xml; cat r.xml >/dev/null; exit 1', reports)}",
        **{"r.xml": JUNIT, "s.json": SARIF},
    ).run(code=1)
    (tests,) = ran.facts("test_reports", "one")
    assert {name: tests[name] for name in ("reports", "tests", "failures", "errors", "skipped")} == {
        "reports": 1,
        "tests": 3,
        "failures": 1,
        "errors": 0,
        "skipped": 1,
    }
    assert len(tests["problems"]) == 2
    assert tests["problems"][1] == "none.xml: no such file"
    (failing,) = ran.facts("failing_test", "one")
    assert (failing["file"], failing["line"]) == ("tests/test_x.py", 4)
    (findings,) = ran.facts("finding_reports", "one")
    assert (findings["findings"], findings["reports"], findings["problems"]) == (1, 1, [])
    (finding,) = ran.facts("finding", "one")
    assert (finding["file"], finding["line"], finding["code"]) == ("a.py", 7, "E1")


def test_a_job_without_reports_states_none(make: Make) -> None:
    ran = make(ONE_ARTIFACT).run()
    assert not any(ran.facts(name, "one") for name in ("test_reports", "finding_reports", "coverage"))


def test_coverage_is_what_the_output_states(make: Make) -> None:
    script = """one:
  script: ['echo "covered 12"', 'printf "covered 20"']
  coverage: '/covered \\d+/'
"""
    ran = make("", **{".gitlab-ci.yml": script}).run()
    assert ran.facts("coverage", "one") == [{"percent": 20.0}]


def test_findings_that_two_reports_have_count_once() -> None:
    from loom.runner.products import finding_facts
    from loom.status import Failure
    from loom.storage.artifacts import ReadReports
    from loom.storage.findings import FindingReport

    def finding(line: int) -> Failure:
        return Failure(file="a.py", line=line, code="E1", message="m", tool="lint")

    def reports(*lines: int, total: int | None = None) -> ReadReports[FindingReport]:
        first = tuple(finding(line) for line in lines)
        return ReadReports(read=(FindingReport(total=total or len(lines), first=first),), missing=(), problems=())

    totals, named = finding_facts([reports(1, 2), reports(2, 3, total=10)])
    assert totals["findings"] == 2 + 9
    assert [one["line"] for one in named] == [1, 2, 3]
    assert totals["reports"] == 2


# -- caches -----------------------------------------------------------------------------------------------------------

CACHE = "cache: {{key: k, paths: [store]{more}}}"


def caching(script: str, more: str = "") -> str:
    return f"stages: [a]\none: {job('a', script, CACHE.format(more=more))}"


GROW = "mkdir -p store; echo x >>store/x; wc -l <store/x"


def twice(make: Make, workflow: str, **options: Any) -> tuple[Ran, Ran]:
    project = make(workflow)
    return project.run(code=None, **options), project.run(code=None, **options)


@pytest.mark.parametrize("provider", ["host", "far"])
def test_a_cache_is_there_in_the_next_run(make: Make, provider: str) -> None:
    first, second = twice(make, caching(GROW), on=provider)
    assert (first.lines("one"), second.lines("one")) == (["1"], ["2"])
    restored, saved = second.facts("cache", "one")
    assert (restored["action"], restored["wanted"], saved["action"]) == ("restore", "k", "save")
    assert second.facts("cache_keys", "one") == [{"keys": ["k"]}]
    assert second.lines("one", "cache_restore")
    assert second.lines("one", "cache_save")


@pytest.mark.parametrize(("policy", "lines"), [("pull", ["1"]), ("push", ["1"]), ("pull-push", ["2"])])
def test_the_policy_of_a_cache(make: Make, policy: str, lines: list[str]) -> None:
    _, second = twice(make, caching(GROW, f", policy: {policy}"))
    assert second.lines("one") == lines
    actions = [fact["action"] for fact in second.facts("cache", "one")]
    assert actions == {"pull": ["restore"], "push": ["save"], "pull-push": ["restore", "save"]}[policy]


@pytest.mark.parametrize(
    ("when", "end", "lines"),
    [("on_success", "false", ["1"]), ("always", "false", ["2"]), ("on_failure", "true", ["1"])],
)
def test_a_cache_is_saved_by_the_result(make: Make, when: str, end: str, lines: list[str]) -> None:
    _, second = twice(make, caching(f"{GROW}; {end}", f", when: {when}"))
    assert second.lines("one") == lines


def test_without_caches_none_is_restored_or_saved(make: Make) -> None:
    first, second = twice(make, caching(GROW), no_cache=True)
    assert (first.lines("one"), second.lines("one")) == (["1"], ["1"])
    assert second.facts("cache", "one") == []
    assert second.facts("cache_keys", "one") == []


def test_the_key_is_that_of_the_files_before_the_job_changes_them(make: Make) -> None:
    project = make(
        f"stages: [a]\none: {job('a', f'{GROW}; echo changed >lock', 'cache: {key: {files: [lock]}, paths: [store]}')}",
        lock="1\n",
    )
    assert [project.run(mount_mode="bind_mount").lines("one") for _ in range(2)] == [["1"], ["2"]]


def test_what_a_cache_leaves_out_is_a_warning(make: Make) -> None:
    ran = make(caching("mkdir store; mkfifo store/fifo; echo x >store/x")).run()
    assert ran.warnings("one") == ["cache: store/fifo left out: a FIFO, not a file"]


def test_a_cache_that_can_not_be_saved_ends_a_successful_job_as_an_error(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> Iterator[Any]:
        raise ProviderError("the disk is full", code="CACHE_FULL")

    monkeypatch.setattr("loom.storage.cache.Cache.save", full)
    project = make(caching("mkdir store; exit $CODE"))
    succeeded = project.run(code=3, var=["CODE=0"])
    assert succeeded.job("one").outcome["failing_section"] == "cache_save"
    assert succeeded.warnings("one") == []
    failed = project.run(code=1, var=["CODE=1"])
    assert failed.error("one") == "script/01 failed with exit code 1"


def test_failing_tests_are_named_up_to_a_number_and_all_are_counted() -> None:
    failing = tuple(junit.FailingTest(name=f"t{number}", classname="c", message="m") for number in range(25))
    report = junit.Report(tests=30, failures=25, errors=0, skipped=1, failing=failing)
    reports = ReadReports(read=(report, report), missing=(), problems=tuple(f"p{number}" for number in range(30)))
    totals, named = products.test_facts(reports)
    assert (totals["tests"], totals["failures"], totals["skipped"], totals["reports"]) == (60, 50, 2, 2)
    assert (len(named), named[-1]["name"]) == (20, "t19")
    assert len(totals["problems"]) == 20


@pytest.mark.parametrize("more", ["", "needs: [a, b]"])
def test_of_a_file_that_several_jobs_leave_the_last_jobs_wins(make: Make, more: str) -> None:
    jobs = "".join(f"{name}: {{stage: x, script: ['echo {name} >f'], artifacts: {{paths: [f]}}}}\n" for name in "ba")
    ran = make(f"stages: [x, y]\n{jobs}c: {{stage: y, {f'{more}, ' if more else ''}script: [cat f]}}\n").run()
    assert ran.lines("c") == ["a"]
