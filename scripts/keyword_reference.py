"""Write the pages of GitHub's and GitLab's keywords from the tables that `loom check` reads: `scripts/docs github`, `gitlab`."""

from __future__ import annotations

import re
import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

from loom.workflow.github import keywords as github
from loom.workflow.gitlab import keywords as gitlab
from loom.workflow.keywords import Keyword, Support

README = Path(__file__).parents[1] / "README.md"
PAGES = README.parent / "docs/reference"

HEAD = """# {system}'s keywords

Each keyword of {system}'s {reference}, and what loom makes of it in {files} ([guide](../guides/{name}.md)).
`scripts/docs {name}` makes this page from the table that `loom check` reads: a keyword that is not here is an error.
"""

LEGEND = """
| here | meaning |
| --- | --- |
| as in GitLab | The same effect. |
| differs | An effect, but another one on one machine; the last column says which. |
| no effect | No meaning on one machine. `loom check` says so once, as a notice with the line; a run says how many there are. |
| refused | An error with the reason: without the keyword the job would not do what its file says. |
| refuses the job | Other jobs run. `loom check` warns with the line; a run that does not name the job ends it as an error. |
"""


def page(name: str) -> str:
    """Return the page of `github` or `gitlab`."""
    words = {"name": name, "system": "GitLab", "reference": "CI/CD YAML reference", "files": "a `.gitlab-ci.yml`"}
    root, job = gitlab.ROOT_KEYWORDS, gitlab.JOB
    if name == "github":
        words |= {"system": "GitHub", "reference": "workflow syntax", "files": "`.github/workflows`"}
        root, job = github.ROOT_KEYWORDS, github.JOB
    system = words["system"]
    counts = Counter(one.support for one in (*root, *job))
    numbers = ", ".join(f"{counts[support]} {_named(support, system)}" for support in Support if counts[support])
    legend = LEGEND if name == "gitlab" else "[GitLab's page](gitlab-keywords.md) tells what the column `here` means.\n"
    lines = [HEAD.format(**words) + legend, f"{sum(counts.values())} keywords: {numbers}.", ""]
    lines += ["## At the root of a file", "", *_table(root, system), ""]
    if name == "gitlab":
        lines += [
            f"{_names(gitlab.GLOBALS)} at the root are defaults of all jobs, which GitLab calls deprecated.",
            f"`default` may have {_names(gitlab.DEFAULTS)}.",
            "",
        ]
    lines += ["## In a job", "", *_table(job, system)]
    if name == "gitlab":
        lines += [
            "",
            "## Variables that GitLab's runner reads",
            "",
            *_table(gitlab.RUNNER_VARIABLES, system, "variable"),
        ]
    return "\n".join(lines) + "\n"


def _named(support: Support, system: str) -> str:
    return f"as in {system}" if support is Support.SAME else support.value


def _names(names: Iterable[str]) -> str:
    return ", ".join(f"`{name}`" for name in names)


def _table(keywords: Iterable[Keyword], system: str, what: str = "keyword") -> Iterator[str]:
    """List what is the same in one paragraph; a table has the others, a row for those that share a text."""
    same = [one.name for one in keywords if one.support is Support.SAME and not one.about]
    if same:
        yield f"As in {system}: {_names(same)}."
        yield ""
    yield f"| {what} | here | how |"
    yield "| --- | --- | --- |"
    rows: dict[tuple[Support, str], list[str]] = {}
    for one in keywords:
        if one.name not in same:
            rows.setdefault((one.support, one.about), []).append(one.name)
    for (support, about), names in rows.items():
        yield f"| {_names(names)} | {_named(support, system)} | {about} |"


def with_count(readme: str) -> str:
    """Return the text with the present number of GitLab's keywords that are refused."""
    support = [one.support for one in (*gitlab.ROOT_KEYWORDS, *gitlab.JOB)]
    refused = sum(one in (Support.REFUSED, Support.NO_JOB) for one in support)
    return re.sub(r"\[\d+ of \d+\](?=\(docs/reference/gitlab-keywords.md\))", f"[{refused} of {len(support)}]", readme)


if __name__ == "__main__":
    (PAGES / f"{sys.argv[1]}-keywords.md").write_text(page(sys.argv[1]))
    README.write_text(with_count(README.read_text()))
