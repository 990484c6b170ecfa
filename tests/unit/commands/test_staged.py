"""`loom run --staged`: the files that a commit would have, also where a hook of git's runs it; jobs run on this machine."""

import subprocess

import pytest

from tests.unit.commands.test_gitlab_runs import Project
from tests.unit.commands.test_gitlab_runs import project as project

pytestmark = pytest.mark.slow
WORKFLOW = """
list:
  script: ['cat here/edited; echo "secret $SECRET"; git status --short; git rev-parse --abbrev-ref HEAD']
  only: [main]
"""


def test_a_job_gets_what_is_staged_and_the_run_is_the_checkouts(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = project.root / "here"
    here.mkdir()
    (here / "edited").write_text("committed\n")
    (project.root / ".gitignore").write_text("here/secrets\n")
    project.write(gitlab=WORKFLOW)
    (here / "edited").write_text("staged\n")
    (here / "new").touch()
    project.git("add", "-A")
    (here / "edited").write_text("on disk\n")
    (here / "untracked").touch()
    (here / "secrets").write_text("SECRET=hunter22\n")
    monkeypatch.chdir(here)
    for name, path in (("DIR", ".git"), ("INDEX_FILE", ".git/index")):
        monkeypatch.setenv(f"GIT_{name}", str(project.root / path))
    code, said = project.run("--staged", "--trust", "--secret-file", "secrets", "--workflow", "../.gitlab-ci.yml")
    assert code == 0, said
    printed = ["staged", "secret [REDACTED:SECRET_SECRET]", "M  here/edited", "A  here/new", "HEAD"]
    assert project.output("list").splitlines() == printed
    assert [run["repo_root"] for run in project.runs()] == [str(project.root)]
    code, _, err = project.loom("rerun", "--fresh", "--trust")
    assert (code, project.output("list").splitlines()) == (0, printed), err
    status = subprocess.run(["git", "status", "--short"], cwd=project.root, capture_output=True, text=True, check=True)
    assert status.stdout == "MM here/edited\nA  here/new\n?? here/untracked\n"


def test_files_in_conflict_are_refused(project: Project) -> None:
    project.write(gitlab=WORKFLOW, a="1\n")
    project.git("checkout", "-q", "-b", "other")
    project.write(a="2\n")
    project.git("checkout", "-q", "main")
    project.write(a="3\n")
    with pytest.raises(subprocess.CalledProcessError):
        project.git("merge", "other")
    code, said = project.run("--staged")
    assert (code, "in conflict" in said) == (2, True), said
