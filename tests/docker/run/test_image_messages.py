"""An image that can't be had: the line that names it."""

import pytest

from .conftest import Project

pytestmark = pytest.mark.docker


def test_a_misspelt_image_is_named_with_its_line(project: Project) -> None:
    project.workflow("""\
version: v1
stages: [test]
a:
  stage: test
  image:
    name: debian:trixie-slin
    pull: never
  script: [exit 0]
""")
    ran = project.run()
    assert ran.code == 3
    assert "debian:trixie-slin" in ran.out
    assert "(image: .loom/workflow.yml:6)" in ran.out
    assert "similar ones are here: debian:trixie-slim" in ran.out
    assert "--image debian:trixie-slin=debian:trixie-slim" in ran.out


def test_a_run_with_another_image_says_so(project: Project) -> None:
    project.workflow("""\
version: v1
stages: [test]
a: {stage: test, image: "docker.io/nowhere/base:1", script: [exit 0]}
""")
    ran = project.run("--image", "nowhere/base:1=debian:trixie-slim", "--image", "typo:1=x")
    assert "--image typo:1: no job of this run has this image" in ran.out
    assert "--image nowhere/base:1: no job" not in ran.out
    assert (ran.code, ran.receipt["extent"]["proof"]) == (0, False)
    assert ran.receipt["extent"]["replaced_images"] == {"docker.io/nowhere/base:1": "debian:trixie-slim"}
    assert "other images (debian:trixie-slim for docker.io/nowhere/base:1)" in ran.out


def test_a_services_image_that_is_not_there_is_named_with_its_line(project: Project) -> None:
    project.workflow("""\
version: v1
stages: [test]
a:
  stage: test
  image: {name: "debian:trixie-slim", pull: never}
  services:
    - name: other
      image:
        name: debian:trixie-slin
        pull: never
  script: [exit 0]
""")
    ran = project.run()
    assert ran.code == 3
    assert "(image: .loom/workflow.yml:9)" in ran.out


def test_all_that_jobs_lack_is_told_before_the_first_one(project: Project) -> None:
    project.workflow("""\
version: v1
stages: [build, test]
first: {stage: build, image: debian:trixie-slim, script: [touch began]}
a: {stage: test, image: {name: "debian:nothing", pull: never}, secrets: {TOKEN: env://NOT_SET}, script: [x]}
b: {stage: test, image: debian:trixie-slim, services: [{name: db, image: {name: "base:nothing", pull: never}}], script: [x]}
c: {stage: test, image: {name: "debian:else", pull: never}, allow_failure: true, script: [x]}
d: {stage: test, image: {build: {context: .}, pull: never}, script: [x]}
""")
    (project.root / "Dockerfile").write_text("FROM debian:trixie-slim AS one\nFROM start:nothing\n")
    ran, looked = project.run(), project.loom("doctor", LOOM_DEFAULT_IMAGE="debian:trixie-slim")
    assert "--image debian:nothing=" in ran.out
    assert "--image start:nothing=" not in ran.out, "no option replaces the base of a Dockerfile"
    assert "docker tag IMAGE start:nothing" in ran.out
    assert (ran.code, looked.code) == (3, 3)
    assert "4 things are missing that jobs need" in ran.out
    for lacked in ("debian:nothing", "base:nothing", "NOT_SET", "start:nothing"):
        assert lacked in ran.out
        assert lacked in looked.out
    assert "debian:else" not in ran.out
    assert "started in" not in ran.out


def test_actions_that_cannot_be_had_are_told_with_the_images(project: Project) -> None:
    settings = project.home / ".config/loom/config.yml"
    settings.parent.mkdir(parents=True, exist_ok=True)
    settings.write_text("github: {server: 'http://127.0.0.1:9'}\n")
    step = "runs-on: ubuntu-latest, container: '127.0.0.1:9/debian:1', steps: [{uses: o/r@v1}]"
    project.write(".github/workflows/ci.yml", f"on: push\njobs: {{a: {{{step}}}, b: {{{step}}}}}\n")
    project.commit()
    for command in (("run",), ("run", "--dry-run"), ("doctor",)):
        told = project.loom(*command, LOOM_DEFAULT_IMAGE="debian:trixie-slim")
        text = told.out + told.err
        assert (told.code, text.count("uses: o/r@v1"), "- 127.0.0.1:9/debian:1" in text) == (3, 1, True), text


def test_images_of_one_registry_share_its_reason_and_one_command(project: Project) -> None:
    project.workflow("""\
version: v1
stages: [test]
a: {stage: test, image: "127.0.0.1:9/debian:1", script: [x]}
b: {stage: test, image: "127.0.0.1:9/zzz:1", script: [x]}
""")
    ran = project.run()
    assert ran.code == 3
    assert ran.out.count("127.0.0.1:9 can't be reached") == 1
    assert {"127.0.0.1:9/debian:1 (.loom/workflow.yml:3)", "127.0.0.1:9/zzz:1 (.loom/workflow.yml:4)"} <= {
        part.strip() for line in ran.out.splitlines() for part in line.rpartition("images: ")[2].split(",")
    }
    (command,) = [line for line in ran.out.splitlines() if "loom run --image" in line]
    assert "--image 127.0.0.1:9/debian:1=debian:trixie-slim" in command
    assert "--image 127.0.0.1:9/zzz:1=IMAGE" in command
    assert "skipped" not in ran.out


def test_the_image_that_an_earlier_job_makes_is_not_missing_before_the_run(project: Project) -> None:
    project.workflow("""\
version: v1
stages: [build, test]
make: {stage: build, image: debian:trixie-slim, script: ["echo docker build -t made:1 ."]}
use: {stage: test, image: {name: "made:1", pull: never}, script: [x]}
""")
    ran = project.run()
    assert ran.code == 3
    assert ran.manifest("make")["status"] == "success"
