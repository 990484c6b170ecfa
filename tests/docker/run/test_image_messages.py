"""An image that can't be had: the line that names it."""

from __future__ import annotations

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
    ran = project.run("--image", "nowhere/base:1=debian:trixie-slim")
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
