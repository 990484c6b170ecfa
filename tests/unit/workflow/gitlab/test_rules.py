"""Rules, only and except: whether and how a job takes part."""

from collections.abc import Mapping

import pytest

from loom.workflow.gitlab import rules
from loom.workflow.messages import Problems
from tests.support.gitlab import MERGE_REQUEST, PUSH, SCHEDULE, TAG, entry, facts, node, pipeline, scope


def decided(
    text: str,
    predefined: Mapping[str, str] = PUSH,
    *,
    global_rules: bool = False,
    files: tuple[str, ...] = (),
    **given: str,
) -> rules.RuleDecision:
    problems = Problems()
    there = facts(predefined, changed=lambda _: ["src/a.py", "docs/x/y.md"], files=files)
    found = rules.GitLabRules(scope(predefined, **given), there, problems).decide(
        entry(text), global_rules=global_rules
    )
    assert not problems.found, problems.found
    return found


WHEN = [
    ("{script: x}", "on_success"),
    ("{when: always}", "always"),
    ("{when: never}", "never"),
    ("{rules: []}", "never"),
    ("{rules: ~, when: always}", "always"),
    ("{rules: [{if: $X}]}", "never"),
    ("{rules: [{if: $CI}]}", "on_success"),
    ("{rules: [{if: $CI}], when: on_failure}", "on_failure"),
    ("{rules: [{if: $CI, when: manual}], when: on_failure}", "manual"),
    ("{rules: [{if: $X, when: always}, {when: manual}]}", "manual"),
    ("{rules: [{if: $CI, when: never}, {when: always}]}", "never"),
    ("{rules: [[{if: $X}], [[{if: $CI, when: always}]]]}", "always"),
    ("{rules: [{exists: [Dockerfile]}]}", "never"),
    ("{rules: [{exists: ['*.toml']}]}", "on_success"),
    ("{rules: [{exists: {paths: ['src/**/*.py']}}]}", "on_success"),
    ("{rules: [{exists: {paths: [a.toml], project: $CI_PROJECT_PATH}}]}", "on_success"),
    ("{rules: [{changes: ['src/*']}]}", "on_success"),
    ("{rules: [{changes: {paths: ['src/*'], compare_to: main}}]}", "on_success"),
    ("{rules: [{changes: [$DIR/*]}], variables: {DIR: src}}", "never"),
    ("{rules: [{changes: ['lib/*']}]}", "never"),
    ("{rules: [{if: $CI, changes: ['lib/*'], when: always}, {when: on_failure}]}", "on_failure"),
]


@pytest.mark.parametrize(("text", "when"), WHEN)
def test_the_first_rule_that_applies_decides(text: str, when: str) -> None:
    found = decided(text, files=("a.toml", "src/b/c.py"))
    assert found.when == when
    assert found.runs == (when not in ("never", "manual"))
    assert (found.reason == "") is found.runs


def test_what_a_rule_sets() -> None:
    text = """
variables: {A: 1}
interruptible: false
rules:
  - if: $NOWHERE
  - if: $CI
    when: delayed
    start_in: 30 minutes
    allow_failure: true
    interruptible: true
    variables: {A: 2, B: {value: $C, expand: false}}
    needs: [build]
"""
    found = decided(text)
    assert (found.when, found.start_in, found.allow_failure, found.rule) == (
        "delayed",
        1800,
        True,
        1,
    )
    assert {name: (one.value, one.expand) for name, one in found.variables.items()} == {
        "A": ("2", True),
        "B": ("$C", False),
    }
    assert found.needs is not None
    assert found.needs.plain() == ["build"]


@pytest.mark.parametrize(
    ("text", "start_in"),
    [
        ("{when: delayed, start_in: 5 minutes}", 300),
        ("{start_in: 5 minutes, rules: [{when: delayed}]}", 300),
        ("{start_in: 5 minutes, rules: [{when: delayed, start_in: 1 hour}]}", 3600),
        ("{start_in: 5 minutes, rules: [{if: $CI}]}", None),
    ],
)
def test_a_delay_is_the_rules_else_the_jobs(text: str, start_in: float | None) -> None:
    assert decided(text).start_in == start_in


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("{script: x}", False),
        ("{when: manual}", True),
        ("{when: manual, allow_failure: false}", False),
        ("{allow_failure: true}", True),
        ("{allow_failure: {exit_codes: 3}}", frozenset({3})),
        ("{allow_failure: {exit_codes: [3, 4]}}", frozenset({3, 4})),
        ("{rules: [{if: $CI, when: manual}]}", False),
        ("{rules: [{if: $CI}], when: manual}", True),
        ("{rules: [{if: $CI, allow_failure: false}], allow_failure: {exit_codes: 1}}", False),
        ("{rules: [{if: $CI}], allow_failure: {exit_codes: 1}}", frozenset({1})),
    ],
)
def test_whether_a_job_may_fail(text: str, expected: bool | frozenset[int]) -> None:
    assert decided(text).allow_failure == expected


def test_conditions_compare_what_is_written_and_globs_what_it_means() -> None:
    assert decided('{rules: [{if: $A == "main"}]}', A="$CI_COMMIT_BRANCH").when == "never"
    assert decided("{rules: [{if: $A == '$CI_COMMIT_BRANCH'}]}", A="$CI_COMMIT_BRANCH").when == "on_success"
    assert decided("{rules: [{changes: [$B/*]}]}", A="src", B="$A").when == "on_success"


ONLY = [
    ("{script: x}", PUSH, True),
    ("{script: x}", TAG, True),
    ("{script: x}", MERGE_REQUEST, False),
    ("{only: [main]}", PUSH, True),
    ("{only: main}", PUSH, True),
    ("{only: [develop]}", PUSH, False),
    ("{only: [branches]}", PUSH, True),
    ("{only: [branches]}", TAG, False),
    ("{only: [tags]}", TAG, True),
    ("{only: [merge_requests]}", MERGE_REQUEST, True),
    ("{only: [merge_requests]}", PUSH, False),
    ("{only: [pushes]}", PUSH, True),
    ("{only: [schedules]}", SCHEDULE, True),
    ("{only: [web, triggers, api]}", PUSH, False),
    ("{only: ['/^ma/']}", PUSH, True),
    ("{only: ['/^MA/i']}", PUSH, True),
    ("{only: ['/^MA/']}", PUSH, False),
    ("{only: ['/^v/']}", TAG, True),
    ("{only: ['/.*/']}", MERGE_REQUEST, False),
    ("{only: ['/(/']}", PUSH, False),
    ("{only: [main@group/project]}", PUSH, True),
    ("{only: [main@other/project]}", PUSH, False),
    ("{only: {refs: [main], variables: [$NOWHERE, $CI]}}", PUSH, True),
    ("{only: {refs: [main], variables: [$NOWHERE]}}", PUSH, False),
    ("{only: {variables: [$CI]}}", MERGE_REQUEST, False),
    ("{only: {changes: ['src/*']}}", PUSH, True),
    ("{only: {changes: ['lib/*']}}", PUSH, False),
    ("{only: {refs: [tags], changes: ['lib/*']}}", TAG, True),
    ("{except: [main]}", PUSH, False),
    ("{except: [develop]}", PUSH, True),
    ("{except: [tags, '/^ma/']}", PUSH, False),
    ("{except: {variables: [$CI]}}", PUSH, False),
    ("{except: {refs: [tags], variables: [$NOWHERE], changes: ['lib/*']}}", PUSH, True),
    ("{except: {changes: ['docs/**/*']}}", PUSH, False),
    ("{only: [branches], except: [main]}", PUSH, False),
    ("{only: ~, except: ~}", PUSH, True),
    ("{only: []}", PUSH, False),
]


@pytest.mark.parametrize(("text", "predefined", "runs"), ONLY)
def test_only_and_except(text: str, predefined: Mapping[str, str], runs: bool) -> None:
    assert decided(text, predefined).runs is runs


def test_workflow_rules_lift_the_default_of_only() -> None:
    assert not decided("{script: x}", MERGE_REQUEST).runs
    assert decided("{script: x}", MERGE_REQUEST, global_rules=True).runs
    assert decided("{rules: [{when: always}]}", MERGE_REQUEST).runs


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("{only: [develop]}", "only: develop: not a push of main"),
        ("{except: [main]}", "except: main: this is a push of main"),
        ("{except: {variables: [$CI]}}", "except:variables holds: $CI is 'true'"),
        ("{except: {changes: ['docs/**/*']}}", "except:changes holds: a changed file matches docs/**/*"),
        ("{only: {changes: ['lib/*']}}", "only:changes does not hold: 2 changed files, none matches lib/*"),
        ("{only: {refs: [develop, tags]}}", "only: develop, tags: not a push of main"),
        ("{only: {variables: [$NOWHERE]}}", "only:variables does not hold: $NOWHERE is not set"),
        ("{rules: [{if: $NOWHERE}]}", "none of its rules matches: $NOWHERE is not set"),
        ("{rules: [{if: $CI, when: never}]}", "rules[0] says never ($CI is 'true')"),
        ("{rules: [{when: never}]}", "rules[0] says never"),
        ("{when: manual}", "manual: name it to run it"),
    ],
)
def test_the_reason_why_a_job_is_left_out(text: str, reason: str) -> None:
    assert decided(text).reason == reason


@pytest.mark.parametrize(
    ("predefined", "reason"),
    [
        (TAG, "only: nothing: not the tag v1.2"),
        (SCHEDULE, "only: nothing: not a schedule of main"),
        (MERGE_REQUEST, "only: nothing: not a merge request"),
        ({}, "only: nothing: not a push: HEAD is on no branch"),
    ],
)
def test_the_pipeline_that_a_ref_does_not_fit_is_named(predefined: Mapping[str, str], reason: str) -> None:
    assert decided("{only: [nothing]}", predefined).reason == reason
    assert decided("{script: x}", MERGE_REQUEST).reason == "only: branches, tags (the default): not a merge request"


def test_workflow_rules() -> None:
    def of(text: str) -> rules.RuleDecision:
        problems = Problems()
        return rules.GitLabRules(scope(), facts(), problems).workflow(pipeline(text))

    assert of("{job: {script: x}}").runs
    assert of("{workflow: {rules: [{if: $CI, variables: {A: 1}}]}}").variables["A"].value == "1"
    assert of("{workflow: {rules: [{if: $CI, when: never}]}}").reason == "workflow: rules[0] says never ($CI is 'true')"
    assert of("{workflow: {rules: [{if: $CI, when: never}]}}").when == "never"
    assert of("{workflow: {rules: ~}}").when == "always"
    none = of("{workflow: {rules: [{if: $NOWHERE}]}}")
    assert (none.when, none.reason) == ("never", "no rule of `workflow: rules` matches: $NOWHERE is not set")


@pytest.mark.parametrize(
    ("text", "expected"),
    [("[{if: $CI}]", True), ("[{if: $X}]", False), ("[{if: $CI, when: never}]", False), ("[{exists: [a]}]", True)],
)
def test_include_rules(text: str, expected: bool) -> None:
    assert rules.GitLabRules(scope(), facts(files=["a"]), Problems()).include_applies(node(text)) is expected
    assert rules.GitLabRules(scope(), facts(), Problems()).include_applies(None)
    assert rules.GitLabRules(scope(), facts(), Problems()).include_applies(node("{a: ~}").get("a"))


BRACES = "{a,b}" * 18


@pytest.mark.parametrize(
    ("text", "at", "message"),
    [
        ("{rules: [{if: $CI}, {if: '$A =~ x'}]}", "1:38 /job/rules/1/if GL_INVALID", "rules:if: expected"),
        ("{only: {variables: ['$A ==']}}", "1:32 /job/only/variables/0 GL_INVALID", "only:variables: "),
        ("{only: {kubernetes: active}}", "1:26 /job/only/kubernetes GL_UNSUPPORTED", "only:kubernetes: "),
        (f"{{except: {{changes: ['{BRACES}']}}}}", "1:25 /job/except/changes C", "except:changes: "),
        (f"{{rules: [{{changes: ['{BRACES}']}}]}}", "1:15 /job/rules/0 C", "rules: "),
        ("{rules: [{exists: {paths: [a], project: other/one}}]}", "1:46 /job/rules/0/exists/project GL_UNSUPPORTED", "rules:exists:project: "),
        ("{rules: [{when: delayed, start_in: soon}]}", "1:41 /job/rules/0/start_in C", "start_in: expected a duration"),
        ("{when: delayed}", "1:6 /job C", "when: delayed: say when"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said_with_the_keyword(text: str, at: str, message: str) -> None:
    problems = Problems(code="C")
    job = pipeline(f"job: {text}").entries["job"]
    rules.GitLabRules(scope(), facts(changed=lambda _: ["a"]), problems).decide(job, global_rules=False)
    (one,) = problems.found
    assert (f"{one.line}:{one.column} {one.pointer} {one.code}", one.message[: len(message)]) == (at, message)


def test_a_ref_that_git_does_not_know_is_an_error_of_the_rule_that_compares_with_it() -> None:
    problems = Problems(code="C")
    text = "{rules: [{if: $X, changes: {paths: [a], compare_to: b}}, {changes: {paths: [a], compare_to: $R}}]}"
    job = pipeline(f"job: {text}").entries["job"]
    there = facts(changed=lambda _: None)
    assert not rules.GitLabRules(scope(R="zz"), there, problems).decide(job, global_rules=False).runs
    (one,) = problems.found
    assert one.pointer == "/job/rules/1/changes/compare_to"
    assert one.message.startswith("rules:changes:compare_to: git can't compare with zz here")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("{only: {variables: ['$A =']}}", "only:variables does not hold: $A is not set"),
        ("{except: {variables: ['$A =']}}", ""),
        ("{except: {variables: ['$A =', $CI]}}", "except:variables holds: $A is not set, $CI is 'true'"),
        (f"{{except: {{changes: ['{BRACES}']}}}}", ""),
        (f"{{rules: [{{changes: ['{BRACES}']}}]}}", "none of its rules matches"),
        ("{rules: [{exists: {paths: [a], project: other/one}}]}", "none of its rules matches"),
    ],
)
def test_what_is_wrong_does_not_hold(text: str, reason: str) -> None:
    problems = Problems()
    there = facts(changed=lambda _: ["a"], files=["a"])
    found = rules.GitLabRules(scope(), there, problems).decide(entry(text), global_rules=False)
    assert (found.reason, len(problems.found)) == (reason, 1)


def test_a_search_without_end_is_a_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("loom.workflow.patterns.MAX_SEARCH_S", 0.01)
    problems = Problems()
    job = pipeline("job: {rules: [{if: '$A =~ /(x+x+)+y/'}, {when: always}]}").entries["job"]
    assert rules.GitLabRules(scope(A="x" * 2000), facts(), problems).decide(job, global_rules=False).when == "always"
    (problem,) = problems.found
    assert (problem.column, problem.pointer) == (20, "/job/rules/0/if")
    assert problem.message.startswith("rules:if: the search for /(x+x+)+y/ in a value of 2000 characters took longer")


CONDITIONS = """\
variables: {CI_SERVER_VERSION: '1'}
workflow: {rules: [{if: $CI_PROJECT_ID}, {if: $CI_MERGE_REQUEST_LABELS}]}
a: {rules: [{when: never}, {if: '$GITLAB_USER_ID && $CI_PROJECT_ID && $CI_COMMIT_BRANCH'}]}
b: {only: {variables: [$CI, $GITLAB_FEATURES]}, except: {variables: [$CI_SERVER_REVISION]}}
c: {variables: {CI_PROJECT_TOPICS: x}, rules: [{if: '$CI_PROJECT_TOPICS || $CI_SERVER_VERSION'}]}
d: {rules: [{if: $CI_PROJECT_TOPICS}, [{if: $CI_COMMIT_USER_LOGIN}]]}
"""


@pytest.mark.parametrize(
    ("predefined", "more"),
    [(PUSH, []), (MERGE_REQUEST, [("CI_MERGE_REQUEST_LABELS", 2, 47, "/workflow/rules/1/if")])],
)
def test_variables_that_only_the_server_knows_are_told_once(
    predefined: Mapping[str, str], more: list[tuple[str, int, int, str]]
) -> None:
    made = pipeline(CONDITIONS)
    included = node("[{if: $CI_PROJECT_VISIBILITY}]")
    found = list(rules.unset_variables(made.root, made.entries.values(), facts(predefined), [included]))
    assert {(one.code, one.severity) for one in found} == {("GL_NOT_GIVEN", "notice")}
    assert sorted(
        (one.message.partition("$")[2].partition(",")[0], one.line, one.column, one.pointer) for one in found
    ) == sorted(
        [
            ("CI_PROJECT_VISIBILITY", 1, 7, "/0/if"),
            ("CI_PROJECT_ID", 2, 25, "/workflow/rules/0/if"),
            ("GITLAB_USER_ID", 3, 33, "/a/rules/1/if"),
            ("GITLAB_FEATURES", 4, 29, "/b/only/variables/1"),
            ("CI_SERVER_REVISION", 4, 70, "/b/except/variables/0"),
            ("CI_PROJECT_TOPICS", 6, 18, "/d/rules/0/if"),
            ("CI_COMMIT_USER_LOGIN", 6, 45, "/d/rules/1/0/if"),
            *more,
        ]
    )
