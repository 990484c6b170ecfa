"""`loom run --cache-diff`: which keys change what comes out."""

import pytest

from tests.docker.run.conftest import Project

pytestmark = pytest.mark.docker

WORKFLOW = """
version: v1
stages: [test]
default: {image: debian:trixie-slim}
stale:
  stage: test
  cache: {paths: [deps/], key: too-broad}
  artifacts: {paths: [out]}
  script: [test ! -e deps/old, mkdir -p deps && touch deps/old && echo fine > out]
sound:
  stage: test
  cache: {paths: [more/], key: good}
  script: [mkdir -p more && echo fine > more/file]
"""


def test_the_keys_that_change_the_outcome_are_named(project: Project) -> None:
    project.workflow(WORKFLOW)
    first = project.run("--cache-diff")
    assert first.code == 0, first.out
    assert "no cache was there to be restored; the same command again" in first.out
    second = project.run("--cache-diff")
    assert second.code == 1
    assert second.out.splitlines()[-4:] == [
        "cache diff: stale depends on its cache: too-broad",
        "    status: success without, failure with the cache",
        "    failing step: none without, script/01 with the cache",
        "    artifact out differs",
    ]
    assert len([line for line in second.out.splitlines() if line.startswith("receipt: ")]) == 2


@pytest.mark.parametrize(
    ("more", "reason"),
    [
        (["--no-cache"], "--cache-diff does not go with --no-cache"),
        (["--json"], "--cache-diff does not go with --json or --format"),
        (["sound", "--dry-run"], "--cache-diff does not go with --dry-run"),
    ],
)
def test_what_can_not_be_compared(project: Project, more: list[str], reason: str) -> None:
    project.workflow(WORKFLOW)
    ran = project.run("--cache-diff", *more)
    assert (ran.code, ran.out) == (2, "")
    assert reason in ran.err


def test_without_caches_there_is_nothing_to_compare(project: Project) -> None:
    project.workflow("version: v1\nstages: [a]\nj: {stage: a, script: [ls]}\n")
    ran = project.run("--cache-diff")
    assert ran.code == 2
    assert "no job that would run has a cache" in ran.err
