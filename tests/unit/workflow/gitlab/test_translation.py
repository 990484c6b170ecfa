"""What v1 says otherwise has a comment in an imported workflow."""

from pathlib import Path

from loom.plan.model import ResolveContext
from loom.workflow.dialects import load
from loom.workflow.gitlab.pipeline import Pipeline
from loom.workflow.gitlab.translation import translated
from tests.support.gitlab import PUSH


def imported(folder: Path, text: str) -> tuple[list[str], list[str]]:
    """Return the comments behind the first one, and the other lines."""
    (folder / ".gitlab-ci.yml").write_text(text)
    pipeline = load(folder / ".gitlab-ci.yml", folder, lambda: ResolveContext(predefined=PUSH))
    assert isinstance(pipeline, Pipeline)
    lines = translated(pipeline).splitlines()[1:]
    comments = [line.removeprefix("# ") for line in lines if line.startswith("#")]
    return comments, [line.strip() for line in lines if not line.startswith("#")]


def test_exclusions_that_reach_below_a_directory(tmp_path: Path) -> None:
    text = "a: {script: x, artifacts: {paths: ['./out**'], exclude: [out/tmp, 'out/**/*', 'out/b/**']}}"
    comments, lines = imported(tmp_path, text)
    assert comments == [
        "artifacts:exclude (.gitlab-ci.yml:1:57): out/tmp leaves out also what is below a directory of that name"
    ]
    assert "- out*" in lines


def test_keys_of_caches(tmp_path: Path) -> None:
    text = """\
a:
  script: x
  cache: {paths: [p], key: k, fallback_keys: [other], untracked: true}
b:
  script: x
  cache: [{paths: [q], key: k}, {paths: [q], key: alone}, {untracked: true}]
"""
    shared = "other jobs have this key with other paths, and an entry of their own"
    assert imported(tmp_path, text)[0] == [
        f"cache (.gitlab-ci.yml:3:10): {shared}",
        "cache:untracked (.gitlab-ci.yml:3:66) has no counterpart",
        "cache:fallback_keys (.gitlab-ci.yml:3:46): each means the newest of all keys that begin with it",
        f"cache (.gitlab-ci.yml:6:11): {shared}",
        "cache:untracked (.gitlab-ci.yml:6:71) has no counterpart",
    ]


def test_rules(tmp_path: Path) -> None:
    text = "a: {script: x}\nb: {script: x, rules: [{if: $A, needs: [a]}, {changes: ['src/**', '**/c']}]}"
    comments, lines = imported(tmp_path, text)
    assert comments == ["rules:needs (.gitlab-ci.yml:2:40) has no counterpart"]
    assert {"- src/*", "- '**/c'"} <= set(lines)


def test_services(tmp_path: Path) -> None:
    comments, _ = imported(tmp_path, "a: {script: x, services: [redis]}")
    assert comments == ["services (.gitlab-ci.yml:1:26): one that ends, or is not ready in its time, fails the job"]


def test_a_trigger_is_left_out_and_so_is_the_need_of_it(tmp_path: Path) -> None:
    text = "t: {trigger: {include: c.yml}}\na: {script: x, needs: [t]}"
    comments, lines = imported(tmp_path, text)
    assert comments == [
        "t (.gitlab-ci.yml:1:1) is left out: a job without a script has no counterpart",
        "the need of t (.gitlab-ci.yml:2:24) can't be said",
    ]
    assert "a:" in lines
    assert "t:" not in lines
