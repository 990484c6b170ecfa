"""Runs of a `.gitlab-ci.yml` whose jobs run on this machine, in the test's process, from the command line to the record."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from loom.cli.boundary import run_app
from loom.util.slugs import slug
from tests.support.repository import git

pytestmark = pytest.mark.slow


class Project:
    """A repository with a `.gitlab-ci.yml`, and a home of its own."""

    def __init__(self, root: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.root = root
        self._capsys = capsys
        self.git("init", "-q", "-b", "main")

    def git(self, *arguments: str) -> None:
        git(self.root, *arguments)

    def write(self, **files: str) -> None:
        """Commit files; `gitlab` is the workflow, other names end in `.yml`."""
        for name, text in files.items():
            (self.root / (".gitlab-ci.yml" if name == "gitlab" else f"{name}.yml")).write_text(text)
        self.git("add", "-A")
        self.git("commit", "-q", "-m", "files")

    def loom(self, *arguments: str) -> tuple[int, str, str]:
        code = run_app(list(arguments))
        out, err = self._capsys.readouterr()
        return code, out, err

    def run(self, *arguments: str) -> tuple[int, str]:
        code, out, err = self.loom("run", "--no-container", *arguments)
        return code, out + err

    def output(self, job: str, run: str = "last") -> str:
        """Return the lines that the steps of a job printed."""
        code, out, err = self.loom("logs", run, job, "--json")
        assert code == 0, err
        return "".join(f"{line['text']}\n" for line in map(json.loads, out.splitlines()) if "text" in line)

    def runs(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = json.loads(self.loom("runs", "--json")[1])["runs"]
        return found


def at_home(place: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give what runs here a home in `place`; return a directory beside it, which is the working directory then."""
    home, root = place / "home", place / "project"
    root.mkdir()
    (home / "tmp").mkdir(parents=True)
    for name in ("XDG_CONFIG_HOME", "XDG_STATE_HOME", "XDG_CACHE_HOME", "NO_COLOR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("LOOM_TMP_DIR", str(home / "tmp"))
    monkeypatch.setenv("LOOM_AUTO_CLEAN", "false")
    monkeypatch.setenv("LOOM_REPORTED", "*")
    monkeypatch.chdir(root)
    return root


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Project:
    return Project(at_home(tmp_path, monkeypatch), capsys)


ABOVE = """
stages: [make, more, test]
a: {stage: make, script: [mkdir out, "echo of $CI_JOB_NAME > out/a", "echo WORD=$CI_JOB_NAME > env"],
    artifacts: {paths: [out], reports: {dotenv: env}}}
b: {stage: make, parallel: {matrix: [{X: [one, two]}]}, script: ["echo $X > $X"], artifacts: {paths: ["$X"]}}
fails: {stage: make, allow_failure: true, script: [exit 1], artifacts: {paths: [out], when: always}}
later: {stage: test, script: [":"]}
child: {stage: more, variables: {ABOVE: $CI_PIPELINE_ID}, trigger: {include: child.yml, strategy: depend}}
"""
BELOW = """
gets: {script: ["cat out/a two; ls; echo $WORD"], needs: [{pipeline: $ABOVE, job: a}, {pipeline: $ABOVE, job: $B}]}
optional: {script: [ls], needs: [{pipeline: $ABOVE, job: nobody, optional: true}]}
leaves: {script: [ls], needs: [{pipeline: $ABOVE, job: a, artifacts: false}]}
below: {variables: {PARENT: $CI_PIPELINE_ID}, trigger: {include: grandchild.yml, strategy: depend, forward: {pipeline_variables: true}}}
variables: {B: "b: [two]"}
"""
FAR_BELOW = """
deep: {script: ["cat out/a"], dependencies: [], needs: [{pipeline: $ABOVE, job: a}]}
"""
REFUSED = """
unknown: {script: [ls], needs: [{pipeline: $ABOVE, job: c}]}
several: {script: [ls], needs: [{pipeline: $ABOVE, job: b}]}
failed: {script: [ls], needs: [{pipeline: $ABOVE, job: fails, optional: true}]}
not_yet: {script: [ls], needs: [{pipeline: $ABOVE, job: later}]}
elsewhere: {script: [ls], needs: [{pipeline: "12", job: a}]}
"""


def test_a_child_gets_artifacts_and_variables_of_the_jobs_above_it(project: Project) -> None:
    project.write(gitlab=ABOVE, child=BELOW, grandchild=FAR_BELOW)
    code, shown = project.run()
    assert code == 0, shown
    _, child, deep = (run["run_id"] for run in project.runs())
    assert project.output("gets", child).split() == ["of", "a", "two", "child.yml", "grandchild.yml", "out", "two", "a"]
    assert [project.output(job, child).split() for job in ("optional", "leaves")] == [
        ["child.yml", "grandchild.yml"]
    ] * 2
    assert project.output("deep", deep) == "of a\n"


def test_a_job_that_wants_artifacts_that_no_job_above_has_is_refused(project: Project) -> None:
    project.write(gitlab=ABOVE, child=REFUSED)
    code, shown = project.run()
    assert code == 1
    assert re.findall(r"child.yml:(\d+):\d+: .* needs:pipeline: (.*)", re.sub(r"\d{9,}", "ID", shown)) == [
        ("2", "run ID has no job c"),
        ("3", "run ID has no job b"),
        ("4", "fails of run ID has not succeeded, so it has no artifacts to give"),
        ("5", "later of run ID has not succeeded, so it has no artifacts to give"),
        ("6", "12 is no pipeline above this one: these are ID"),
    ]
    project.write(gitlab="a: {script: [ls], needs: [{pipeline: $ABOVE, job: a}]}\nb: {script: [ls]}\n")
    assert "no pipeline started this one, so a of pipeline $ABOVE left nothing for it" in project.run()[1]


def test_after_script_has_the_time_that_the_file_gives_it(project: Project) -> None:
    limit = "variables: {RUNNER_AFTER_SCRIPT_TIMEOUT: 0.3s}"
    project.write(gitlab=f"a: {{script: echo sound, after_script: [sleep 60], {limit}}}\n")
    code, shown = project.run()
    assert code == 0
    assert "after_script/01 ran out of time and was ended; all of it may take 300ms" in shown


def test_a_refused_job_fails_alone_when_its_turn_comes(project: Project) -> None:
    project.write(gitlab="a: {script: echo sound}\nb: {script: x, id_tokens: {T: {aud: x}}, retry: 2}\n")
    assert project.loom("check")[0] == 0
    code, shown = project.run()
    assert code == 3
    assert "b will be refused: .gitlab-ci.yml:2:31: GL_UNSUPPORTED /b/id_tokens/T: id_tokens" in shown
    assert project.output("a") == "sound\n"
    [run] = project.runs()
    assert (run["failing_job_id"], run["status"]) == ("b", "error")
    assert project.loom("diagnose", "last", "b", "--json")[1].count("JOB_REFUSED") == 1


ATTEMPTS = """
a:
  retry: 1
  variables: {AT: "at $CI_JOB_STARTED_AT_SLUG"}
  script: ['echo "$CI_JOB_RETRY_COUNT $CI_JOB_STARTED_AT $AT $CI_JOB_ID"', '[ $CI_JOB_RETRY_COUNT = 1 ]']
"""


def test_each_attempt_at_a_job_knows_when_it_began(project: Project) -> None:
    project.write(gitlab=ATTEMPTS)
    assert project.run("--keep", "always")[0] == 0
    first, second = (line.split() for line in project.output("a").splitlines())
    assert (first[0], second[0]) == ("0", "1")
    for _, time, *more in (first, second):
        assert re.fullmatch(r"[-0-9]{10}T[:0-9]{8}Z", time)
        assert more == ["at", slug(time), "a"]
    seen = project.root.parent / "seen"
    code, _, err = project.loom("exec", "last", "a", "--", "sh", "-c", f"echo $CI_JOB_STARTED_AT $AT > {seen}")
    assert code == 0, err
    assert seen.read_text().split() == [second[1], "at", slug(second[1])]


EMPTY = """
stages: [one, two]
make: {stage: one, script: [mkdir out, echo made > out/file], artifacts: {paths: [out]}}
none:
  stage: two
  variables: {GIT_STRATEGY: none}
  script: [find . -type f, touch left, exit 3]
cloned: {stage: two, variables: {GIT_STRATEGY: clone}, script: [test -f .gitlab-ci.yml -a -d .git]}
"""


@pytest.mark.parametrize("mode", ["auto", "bind_mount"])
def test_a_job_without_a_checkout_starts_in_an_empty_directory(project: Project, mode: str) -> None:
    project.write(gitlab=EMPTY, tracked="x: 1\n")
    assert project.run("--mount-mode", mode)[0] == 1
    assert project.output("none") == "./out/file\n"
    [run] = project.runs()
    assert run["failing_job_id"] == "none"
    code, _, err = project.loom("pull", "last", "none")
    assert (code, "none has none of your files: it began empty, by GIT_STRATEGY" in err) == (2, True)


def test_a_debug_trace_prints_the_commands_of_the_shared_shell(project: Project) -> None:
    project.write(
        gitlab="""
a: {variables: {CI_DEBUG_TRACE: "true"}, script: ["W=word", "echo $W"], after_script: [echo after]}
b: {script: [echo quiet]}
"""
    )
    assert project.run()[0] == 0
    lines = project.output("a").splitlines()
    shown = [line.lstrip("+") for line in lines if "echo" in line or not line.startswith("+")]
    assert sorted(shown) == [" echo after", " echo word", "after", "word"]
    assert not [line for line in lines if "loom_" in line]
    assert project.output("b") == "quiet\n"


INPUTS = """\
spec:
  inputs:
    env: {options: [dev, prod]}
    n: {type: number, default: 1}
    list: {type: array, default: []}
    flag: {type: boolean, default: false}
---
job: {variables: {L: '$[[ inputs.list ]]'}, script: [echo $[[ inputs.env ]] $[[ inputs.n ]] $[[ inputs.flag ]] $L]}
"""


def test_inputs_of_the_main_file_come_from_the_command_line(project: Project) -> None:
    project.write(gitlab=INPUTS)
    code, shown, _ = project.loom("check")
    assert (code, "3:5: GL_INVALID /spec/inputs/env: input env of .gitlab-ci.yml: needs a value" in shown) == (2, True)
    assert "give it with --input NAME=value" in shown
    given = ["--input", "env=dev", "--input", "n=2", "--input", "flag=true", "--input", "list=[1]"]
    assert project.loom("check", *given)[0] == 0
    assert project.run(*given)[0] == 0
    assert project.output("job") == "dev 2 true [1]\n"
    assert project.loom("rerun", "last")[0] == 0
    assert project.output("job") == "dev 2 true [1]\n"
    for wrong, said in [
        (
            "env=x",
            "3:5: GL_INVALID /spec/inputs/env: input env of .gitlab-ci.yml: 'x' is not one of its options: dev, prod",
        ),
        ("n=two", "input n of .gitlab-ci.yml: expected a number, found 'two'"),
        ("other=1", "--input other: .gitlab-ci.yml declares no such input; its inputs are: env, n, list, flag"),
    ]:
        code, shown, err = project.loom("compile", "--input", "env=dev", "--input", wrong)
        assert (code, said.partition("GL_INVALID")[2] in shown + err) == (2, True)


def test_a_run_counts_the_keywords_without_effect_and_check_lists_them(project: Project) -> None:
    project.write(
        gitlab="a: {script: echo, tags: [x], variables: {GIT_CLEAN_FLAGS: -x}, rules: [{if: $CI_PROJECT_ID}, {if: $CI}]}\n"
    )
    code, shown = project.run()
    assert code == 0, shown
    assert "2 keywords of .gitlab-ci.yml without effect here: loom check" in shown
    assert "this condition reads $CI_PROJECT_ID" in shown
    assert "tags has no effect" not in shown
    assert project.loom("check")[1].count("GL_NO_EFFECT") == 2


WINDOWS = """
.shared: {script: ["if (Test-Path x) {", echo], image: $NOWHERE/x}
a: {extends: .shared}
b: {extends: .shared}
c: {extends: .shared}
d: {extends: .shared, image: base}
e: {script: x, artifacts: {reports: {dotenv: a.env}}}
"""


def test_check_says_once_what_refuses_several_jobs_and_forgives_other_shells(project: Project) -> None:
    project.write(gitlab=WINDOWS)
    code, shown, _ = project.loom("check")
    assert code == 0, shown
    [refused] = [line for line in shown.splitlines() if "GL_UNSUPPORTED" in line]
    assert refused.endswith("config.yml names (a run refuses a, b, c when their turn comes)")
    [syntax] = [line for line in shown.splitlines() if "WF_SHELL_SYNTAX" in line]
    assert "warning" in syntax


def test_check_reports_an_unknown_stage_of_a_job_beside_one_that_reports_variables(project: Project) -> None:
    project.write(gitlab=WINDOWS + "f: {script: x, stage: nowhere}\n")
    code, shown, _ = project.loom("check")
    assert (code, "f: there is no stage nowhere" in shown) == (2, True)


CHILD = """\
spec: {inputs: {n: {type: number}, flag: {type: boolean}, list: {type: array}, word: {}}}
---
a: {variables: {L: '$[[ inputs.list ]]'}, script: ['echo $[[ inputs.n ]] $[[ inputs.flag ]] $L $[[ inputs.word ]]']}
"""
TYPED = "{n: 2, flag: true, list: [x], word: '3'}"


@pytest.mark.parametrize("more", ["", ", {local: other.yml, inputs: {only: there}}"])
def test_the_inputs_of_a_childs_files_have_their_types(project: Project, more: str) -> None:
    project.write(
        gitlab=f"child: {{trigger: {{include: [{{local: child.yml, inputs: {TYPED}}}{more}], strategy: depend}}}}\n",
        child=CHILD,
        other="spec: {inputs: {only: }}\n---\n$[[ inputs.only ]]: {script: echo}\n",
    )
    code, shown = project.run()
    assert code == 0, shown
    child = next(run["run_id"] for run in project.runs() if run["child_of"])
    assert project.output("a", child) == '2 true ["x"] 3\n'


def test_an_input_of_another_type_ends_the_trigger(project: Project) -> None:
    project.write(
        gitlab="child: {trigger: {include: [{local: child.yml, inputs: {n: '2', flag: true, list: [], word: x}}]}}\n",
        child=CHILD,
    )
    code, shown = project.run()
    assert (code, "input n of child.yml: expected a number, found '2'" in shown) == (1, True), shown


def test_inputs_of_a_file_that_has_none_are_refused(project: Project) -> None:
    project.write(gitlab="job: {script: x}\n")
    code, _, err = project.loom("compile", "--input", "a=1")
    assert (code, "--input a: .gitlab-ci.yml declares no such input" in err) == (2, True)
    (project.root / ".loom").mkdir()
    (project.root / ".loom/workflow.yml").write_text("version: v1\njob: {script: x}\n")
    for command in ("check", "compile"):
        code, _, err = project.loom(command, "--input", "a=1")
        assert (code, "--input: .loom/workflow.yml is in loom's own language" in err) == (2, True)


def test_the_run_of_a_child_pipeline_belongs_to_its_parent(project: Project) -> None:
    child = "grand: {trigger: {include: last.yml, strategy: depend}}\nbad: {script: exit 1}\n"
    project.write(
        gitlab="child: {trigger: {include: child.yml, strategy: depend}, allow_failure: true}\n",
        child=child,
        last="job: {script: echo}\n",
    )
    assert project.run()[0] == 0
    assert project.run()[0] == 0
    runs = project.runs()
    assert [bool(run["child_of"]) for run in runs] == [False, True, True] * 2
    newest, first, second, older = runs[0], runs[1], runs[2], runs[3]
    assert (first["child_of"], second["child_of"]) == (newest["run_id"], first["run_id"])
    assert f"└ {first['run_id']}" in project.loom("runs")[1]
    assert [run["run_id"] for run in json.loads(project.loom("runs", "-n", "1", "--json")[1])["runs"]] == [
        run["run_id"] for run in runs[:3]
    ]
    assert json.loads(project.loom("show", "last", "--json")[1])["run_id"] == newest["run_id"]
    code, _, err = project.loom("clean", first["run_id"])
    assert (code, f"they are removed together: loom clean {newest['run_id']}" in err) == (2, True)
    gone = json.loads(project.loom("clean", "--keep-last", "1", "--dry-run", "--json")[1])["items"]
    assert {item["name"] for item in gone} == {run["run_id"] for run in runs[3:]}
    assert older["run_id"] in {item["name"] for item in gone}
    named = json.loads(project.loom("clean", newest["run_id"], "--dry-run", "--json")[1])["items"]
    assert [item["name"] for item in named] == [run["run_id"] for run in runs[:3]]
