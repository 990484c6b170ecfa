"""The reference pages name every key, warning and setting there is."""

import re
from pathlib import Path

import pytest

from loom import config
from loom.cli import options
from loom.errors import RequestError
from loom.plan import model as plan
from loom.plan import variables
from loom.plan.resolve import rehearse
from loom.workflow import predefined
from loom.workflow.native import keywords
from tests.support import native as workflow

ROOT = Path(__file__).parents[3]
PAGES = ROOT / "docs/reference"


def test_every_key_of_the_language_is_in_the_reference() -> None:
    text = (PAGES / "workflow.md").read_text()
    words = set(re.findall(r"[a-z_]+", " ".join(re.findall(r"`([^`]*)`", text))))
    keys = {key for name in ("root", "job") for keys in keywords.TABLES[name].values() for key in keys}
    elsewhere = {
        "soft",
        "hard",
        "count",
        "local",
        "tcp",
        "command",
        "http",
        "log",
        "interval",
    }  # services.md has the probes
    assert keys - words - elsewhere == {"NAME"}


def test_every_warning_is_in_the_reference() -> None:
    codes = set(re.findall(r'"(WF_[A-Z_]+)"', (ROOT / "loom/workflow/native/lint.py").read_text()))
    page = (PAGES / "errors.md").read_text().partition("## Warnings and notices")[2]
    assert codes <= set(re.findall(r"^\\| `(WF_[A-Z_]+)`", page, re.MULTILINE))


def test_every_setting_is_in_the_reference() -> None:
    row = r"^\| `(\w+)` \| `([^`]*)`[^|]*\| (?:any|lower|stricter|trusted|never|`true`) \| (.*) \|$"
    rows = re.findall(row, (PAGES / "config.md").read_text(), re.MULTILINE)
    defaults = config.Config()
    assert [(name, value) for name, value, _ in rows] == [(name, defaults.text_of(name)) for name in config.KEYS]
    assert [
        name for name, _, text in rows if not text.startswith(config.SETTINGS[name].about)
    ] == []  # a page may say more


def examples() -> list[tuple[str, str]]:
    """Every whole workflow that a page shows."""
    found = []
    for page in sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]):
        blocks = re.findall(r"^```yaml\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL)
        whole = [block for block in blocks if re.search(r"^version: v1$", block, re.MULTILINE)]
        found += [(f"{page.relative_to(ROOT)}-{number}", block) for number, block in enumerate(whole, start=1)]
    return found


@pytest.mark.parametrize("text", [text for _, text in examples()], ids=[name for name, _ in examples()])
def test_workflows_in_the_pages_are_good(text: str, tmp_path: Path) -> None:
    path = tmp_path / "workflow.yml"
    path.write_text(text)
    assert rehearse(workflow.load(path, tmp_path))[0] == []


def rows_of_variables(table: str) -> dict[str, str]:
    """Return the names in a table of the page, each with the second column of its row."""
    page = (PAGES / "variables.md").read_text()
    rows = page.partition(f"<!-- table of {table} -->\n\n")[2].partition("\n\n")[0]
    found = re.findall(r"^\| (`\w+`(?:, `\w+`)*) \| (.*?) \|", rows, re.MULTILINE)
    return {name: second for names, second in found for name in re.findall(r"\w+", names)}


def known_from(*phases: str) -> set[str]:
    return {name for name, known in rows_of_variables("every_job").items() if known.strip("`") in phases}


def test_the_page_of_variables_names_those_that_loom_knows() -> None:
    assert known_from("plan", "job") == {*predefined.KNOWN_TO_PLANS}
    assert known_from("start") == predefined.KNOWN_AT_START
    reasons = rows_of_variables("not_set")
    assert {each.name: each.why for each in predefined.NOT_SET}.items() <= reasons.items()


def test_every_variable_of_gitlabs_list_has_a_value_or_a_reason() -> None:
    ours = [*rows_of_variables("every_job"), *rows_of_variables("gitlab")]
    reasons = [*rows_of_variables("not_set")]
    listed = (Path(__file__).parent / "gitlab_predefined.txt").read_text().splitlines()
    assert sorted({*ours, *reasons} & {*listed}) == sorted(listed)
    assert {*ours} & {*reasons} == set()
    assert {*reasons} <= {*listed}, "GitLab has no such variable"


def test_every_event_is_in_the_reference() -> None:
    rows = re.findall(r"^\| `([a-z_]+)`[^|]*\| `(\w+)` \|[^|]*\|$", (PAGES / "variables.md").read_text(), re.MULTILINE)
    assert dict(rows) == variables.SOURCES
    assert tuple(event.value for event in options.Event) == variables.EVENTS
    assert {variables.gitlab_event(event.value) for event in options.Event} == variables.SOURCES.keys()


def test_loom_sets_the_predefined_variables_and_no_others() -> None:
    commit = variables.HeadCommit(
        sha="a" * 40,
        branch="topic",
        tags=["v1"],
        default_branch="main",
        message=variables.Message(author="a", timestamp="b", text="title\n\nmore", tag="t", fork="b" * 40),
    )
    given: set[str] = set()
    for event in variables.SOURCES:
        given |= variables.run_variables(
            run_id="1",
            workflow_path="w",
            commit=commit,
            project_name="p",
            origin_url="git@gitlab.com:group/sub/project.git",
            event=event,
            user=variables.User(name="n", email="n@example.com"),
        ).keys()
    for image in (None, plan.Image(name="i")):
        job = plan.Job(id="a", name="a", stage="s", steps=(), provider="host", image=image, timeout_s=60, when="manual")
        given |= variables.job_variables(job, project_dir="/p", image_name="", project_url="https://x").keys()
    given |= {"CI_NODE_INDEX", "CI_NODE_TOTAL"}
    given |= variables.attempt_variables(1, 0).keys()
    assert given == known_from("plan", "job", "start")
    settings = {f"LOOM_{key.upper()}" for key in config.KEYS}
    assert settings.isdisjoint(rows_of_variables("every_job")), "loom in a job would read its own variables"


@pytest.mark.parametrize(
    ("event", "branch", "tags", "expected"),
    [
        (
            "push",
            "topic",
            [],
            {"CI_PIPELINE_SOURCE": "push", "CI_COMMIT_BRANCH": "topic", "CI_COMMIT_REF_NAME": "topic"},
        ),
        ("push", None, ["v1"], {"CI_PIPELINE_SOURCE": "push", "CI_COMMIT_TAG": "v1", "CI_COMMIT_REF_NAME": "v1"}),
        (
            "push",
            "Fix/A b",
            ["v1"],
            {"CI_COMMIT_BRANCH": "Fix/A b", "CI_COMMIT_TAG": None, "CI_COMMIT_REF_SLUG": "fix-a-b"},
        ),
        ("tag", "topic", ["v1"], {"CI_PIPELINE_SOURCE": "push", "CI_COMMIT_TAG": "v1", "CI_COMMIT_BRANCH": None}),
        ("schedule", "topic", [], {"CI_PIPELINE_SOURCE": "schedule", "CI_COMMIT_BRANCH": "topic"}),
        (
            "merge_request",
            "topic",
            ["v1"],
            {
                "CI_PIPELINE_SOURCE": "merge_request_event",
                "CI_COMMIT_BRANCH": None,
                "CI_COMMIT_TAG": None,
                "CI_MERGE_REQUEST_SOURCE_BRANCH_NAME": "topic",
                "CI_MERGE_REQUEST_TARGET_BRANCH_NAME": "main",
                "CI_COMMIT_REF_NAME": "topic",
            },
        ),
    ],
)
def test_an_event_sets_what_ci_would_set(
    event: str, branch: str | None, tags: list[str], expected: dict[str, str | None]
) -> None:
    commit = variables.HeadCommit(sha="a" * 40, branch=branch, tags=tags, default_branch="main")
    given = variables.run_variables(
        run_id="1", workflow_path="w", commit=commit, project_name="p", origin_url=None, event=event
    )
    assert {name: given.get(name) for name in expected} == expected
    assert given["LOOM_EVENT"] == event


def test_an_event_of_a_tag_wants_a_tag() -> None:
    commit = variables.HeadCommit(sha="a" * 40, branch="main")
    with pytest.raises(RequestError, match="no tag points at the commit"):
        variables.run_variables(
            run_id="1", workflow_path="w", commit=commit, project_name="p", origin_url=None, event="tag"
        )
