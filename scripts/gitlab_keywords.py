"""Write docs/reference/gitlab-keywords.md from the keyword table that `loom check` reads. Run by `scripts/docs gitlab`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

from loom.workflow.gitlab.keywords import DEFAULTS, GLOBALS, JOB, ROOT_KEYWORDS, RUNNER_VARIABLES
from loom.workflow.keywords import Keyword, Support

PAGE = Path(__file__).parents[1] / "docs/reference/gitlab-keywords.md"

HEAD = """# GitLab's keywords

Each keyword of GitLab's CI/CD YAML reference, and what loom makes of it in a `.gitlab-ci.yml` ([guide](../guides/gitlab.md)).
This page is made by `scripts/docs gitlab` from the table that `loom check` reads: a keyword that is not here is an error,
with its place and the nearest known one.

| here | meaning |
| --- | --- |
| as in GitLab | The same effect. |
| differs | An effect, but another one on one machine; the last column says which. |
| no effect | No meaning on one machine. `loom check` says so once, as a notice with the place; a run says how many there are. |
| refused | An error with the reason: without the keyword the job would not do what its file says. |
| refuses the job | Other jobs run. `loom check` warns with the place; a run that does not name the job ends it as an error. |
"""


def page() -> str:
    counts = Counter(one.support for one in (*ROOT_KEYWORDS, *JOB))
    numbers = ", ".join(f"{counts[support]} {_named(support)}" for support in Support)
    lines = [HEAD, f"{sum(counts.values())} keywords: {numbers}.", ""]
    lines += ["## At the root of a file", "", *_table(ROOT_KEYWORDS), ""]
    lines += [
        f"{_names(GLOBALS)} at the root are defaults of all jobs, which GitLab calls deprecated.",
        f"`default` may have {_names(DEFAULTS)}.",
        "",
        "## In a job",
        "",
        *_table(JOB),
        "",
        "## Variables that GitLab's runner reads",
        "",
        *_table(RUNNER_VARIABLES, "variable"),
    ]
    return "\n".join(lines) + "\n"


def _named(support: Support) -> str:
    return "as in GitLab" if support is Support.SAME else support.value


def _names(names: Iterable[str]) -> str:
    return ", ".join(f"`{name}`" for name in names)


def _table(keywords: Iterable[Keyword], what: str = "keyword") -> Iterator[str]:
    """List what is as in GitLab in one paragraph; a table has the others."""
    same = [one.name for one in keywords if one.support is Support.SAME and not one.about]
    if same:
        yield f"As in GitLab: {_names(same)}."
        yield ""
    yield f"| {what} | here | how |"
    yield "| --- | --- | --- |"
    for one in keywords:
        if one.name not in same:
            yield f"| `{one.name}` | {_named(one.support)} | {one.about} |"


if __name__ == "__main__":
    PAGE.write_text(page())
