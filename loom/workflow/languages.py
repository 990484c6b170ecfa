"""The languages of workflow files, with how a file's language is told. To add one: docs/contributing/add-a-language.md."""

from __future__ import annotations

import re

from loom.values import Immutable


class Language(Immutable):
    """A language, whose `workflow/NAME/loader.py` reads files and whose `plan/NAME/resolve.py` makes plans of them.

    A file is in the first language whose `named` its path has, else in the first of whose keys it has some, and none of
    other languages; else in loom's own.
    """

    name: str
    default: str
    """The path of a project's workflow, or of a directory of several, relative to the project's root."""
    named: re.Pattern[str]
    """Searched in the path, relative to the project's root."""
    keys: re.Pattern[bytes] | None = None
    foreign_keys: re.Pattern[bytes] | None = None
    has_inputs: bool = False
    """`--input` gives values that the file declares."""
    reads: frozenset[str] = frozenset()
    """The variables of the pipeline that its plans depend on, whether or not a file mentions them."""


_READ_BY_GITLAB = """
    CI_PIPELINE_SOURCE CI_COMMIT_BRANCH CI_COMMIT_TAG CI_COMMIT_BEFORE_SHA CI_PROJECT_PATH CI_PROJECT_NAME
    CI_MERGE_REQUEST_TARGET_BRANCH_NAME
"""
_READ_BY_GITHUB = """
    LOOM_EVENT CI_COMMIT_SHA CI_COMMIT_BRANCH CI_COMMIT_TAG CI_COMMIT_BEFORE_SHA CI_COMMIT_MESSAGE CI_COMMIT_TITLE
    CI_COMMIT_TIMESTAMP CI_COMMIT_REF_PROTECTED CI_COMMIT_AUTHOR CI_PIPELINE_SOURCE CI_PROJECT_PATH CI_PROJECT_NAME
    CI_DEFAULT_BRANCH CI_MERGE_REQUEST_SOURCE_BRANCH_NAME CI_MERGE_REQUEST_TARGET_BRANCH_NAME
    CI_MERGE_REQUEST_DIFF_BASE_SHA CI_MERGE_REQUEST_SOURCE_BRANCH_SHA CI_MERGE_REQUEST_TARGET_BRANCH_SHA
    GITLAB_USER_LOGIN GITLAB_USER_NAME
"""
NATIVE = Language(name="native", default=".loom/workflow.yml", named=re.compile(r"^\.loom/"))
GITLAB = Language(
    name="gitlab",
    default=".gitlab-ci.yml",
    named=re.compile(r"\.gitlab-ci[^/]*$"),
    keys=re.compile(rb"^[ \t]+[\"']?(script|trigger|extends)[\"']?[ \t]*:|^include[ \t]*:", re.MULTILINE),
    foreign_keys=re.compile(rb"^[\"']?(version|jobs|on)[\"']?[ \t]*:", re.MULTILINE),
    has_inputs=True,
    reads=frozenset(_READ_BY_GITLAB.split()),
)
GITHUB = Language(
    name="github",
    default=".github/workflows",
    named=re.compile(r"(^|/)\.github/workflows(/|$)"),
    keys=re.compile(rb"^[\"']?jobs[\"']?[ \t]*:", re.MULTILINE),
    foreign_keys=re.compile(rb"^[\"']?(version|stages|include)[\"']?[ \t]*:", re.MULTILINE),
    has_inputs=True,
    reads=frozenset(_READ_BY_GITHUB.split()),
)
LANGUAGES = (NATIVE, GITLAB, GITHUB)
"""In the order of precedence where a project has a workflow in several."""
