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
