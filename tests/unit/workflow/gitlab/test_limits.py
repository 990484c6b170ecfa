"""What GitLab refuses in a file whose keywords have the right shapes (lib/gitlab/ci/config/entry in its source)."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from loom.errors import Problem, WorkflowError
from loom.plan.model import JobSelection, ResolveContext
from loom.plan.resolve import resolve
from loom.workflow.dialects import load
from tests.support.gitlab import PUSH


def problems(root: Path, text: str) -> list[Problem]:
    path = root / ".gitlab-ci.yml"
    path.write_text(text + "\n")
    context = ResolveContext(predefined=PUSH)
    try:
        resolve(load(path, root, lambda: context), JobSelection(container=True), context)
    except WorkflowError as error:
        return list(error.problems)
    return []


def said(root: Path, text: str) -> list[str]:
    return [f"{one.line}:{one.column}: {one.message}" for one in problems(root, text)]


def of_job(keywords: str) -> str:
    return f"job: {{script: x, {keywords}}}"


def needs_of(count: int) -> str:
    names = [f"a{number}" for number in range(count)]
    return "".join(f"{name}: {{script: x, stage: build}}\n" for name in names) + of_job(f"needs: [{', '.join(names)}]")


def of_extends(levels: int) -> str:
    chain = "".join(f".a{number}: {{extends: .a{number - 1}}}\n" for number in range(1, levels + 1))
    return f".a0: {{tags: [a]}}\n{chain}job: {{script: x, extends: .a0}}"


DOUBLING = "{A: " + "x" * 1000 + ", B: " + "$A" * 40 + ", C: " + "$B" * 40 + "}"
BRACES = "{a,b}" * 18
FIVE = "[{paths: [a]}, {paths: [b]}, {paths: [c]}, {paths: [d]}, {paths: [e]}]"
MANY = "[" + ", ".join(f"p{number}" for number in range(51)) + "]"
REFUSED = {
    "": "1:1: .gitlab-ci.yml is empty; add a job to it",
    "# a comment": "1:1: .gitlab-ci.yml is empty; add a job to it",
    "{}": "1:1: .gitlab-ci.yml is empty; add a job to it",
    "null": "1:1: .gitlab-ci.yml is empty; add a job to it",
    of_job("rules: [{when: always}], only: [main]"): "job: `rules` and `only` exclude each other; remove one",
    of_job("rules: [{when: always}], except: [main]"): "job: `rules` and `except` exclude each other; remove one",
    of_job("rules: [{when: always}], start_in: 1h"): "job: `rules` and `start_in` exclude each other; remove one",
    ".a: {only: [main]}\njob: {extends: .a, script: x, rules: [{when: always}]}": "`rules` and `only` exclude each other",
    of_job("trigger: {include: a.yml}"): "job: `script` and `trigger` exclude each other; remove one",
    "job: {trigger: {include: a.yml}, image: x}": "a job with `trigger` runs no script, so it can't have `image`",
    "job: {trigger: {include: a.yml}, when: delayed, start_in: 1h}": "it can't have `start_in`",
    "job: {trigger: {strategy: depend}}": "trigger: include or project is missing; add it",
    "job: {trigger: {include: a.yml, branch: x}}": "trigger: `include` and `branch` exclude each other",
    "job: {trigger: {include: [a.yml, b.yml, c.yml, d.yml]}}": "trigger:include: there are 4 files; GitLab allows 1 to 3",
    "job: {trigger: {include: []}}": "trigger:include: there are 0 files; GitLab allows 1 to 3",
    "job: {trigger: {include: ''}}": "trigger:include: it is empty",
    "job: {trigger: {project: ''}}": "trigger:project: it is empty",
    "job: {trigger: ''}": "trigger: it is empty",
    "job: {trigger: {include: [{artifact: a.yml}]}}": "trigger:include: job is missing beside `artifact`",
    "job: {trigger: {include: [{project: a/b}]}}": "trigger:include: file is missing beside `project`; add it",
    of_job(
        "cache: {paths: [a], key: {files: [x], prefix: a/b}}"
    ): "cache:key:prefix: a/b: GitLab refuses a key with a slash",
    of_job(
        "cache: {paths: [a], key: {files_commits: [a, b, c]}}"
    ): "cache:key:files_commits: there are 3 paths; GitLab allows",
    of_job(f"environment: {{name: {'e' * 256}}}"): "environment:name: it has more than 255 characters",
    of_job(f"environment: {{name: x, url: {'u' * 256}}}"): "environment:url: it has more than 255 characters",
    **{of_job(f"{key}: ['/(/']"): f"{key}: not a pattern: missing ) at position 1" for key in ("only", "except")},
    **{of_job(f"{key}: {{refs: ['/(/']}}"): f"{key}:refs: not a pattern: missing ) at" for key in ("only", "except")},
    of_job(
        "rules: [{when: delayed, start_in: 8 days}]"
    ): "rules:start_in: 8 days is longer than 168h, the most in GitLab",
    of_job(
        f"rules: [{{changes: {{paths: {MANY}}}}}]"
    ): "rules:changes:paths: there are 51 patterns; GitLab allows at most 50",
    of_job(f"rules: [{{exists: {MANY}}}]"): "rules:exists: there are 51 patterns; GitLab allows at most 50",
    of_job("rules: [{changes: {compare_to: x}}]"): "rules:changes: paths or regexp is missing; add it",
    "workflow: {rules: [{changes: {compare_to: x}}]}\n"
    + of_job("tags: [a]"): "1:30: rules:changes: paths or regexp is missing; add it",
    of_job("rules: [{exists: {project: y}}]"): "rules:exists: paths or regexp is missing; add it",
    of_job("start_in: 1h"): "job: `start_in` counts only with `when: delayed`",
    of_job("when: delayed"): "job: `when: delayed` has no `start_in`; add it",
    of_job("when: delayed, start_in: 2 weeks"): "start_in: 2 weeks is longer than 168h, the most in GitLab",
    of_job("rules: [{if: $CI, start_in: 1h}]"): "rules: `start_in` counts only with `when: delayed`",
    of_job("rules: [{if: $CI, when: delayed}]"): "rules: `when: delayed` has no `start_in`; add it",
    of_job("rules: [{if: $CI}], when: delayed"): "job: `when: delayed` has no `start_in`; add it",
    of_job("timeout: 2 months"): "timeout: 2 months is longer than 720h, the most in GitLab",
    of_job("retry: 3"): "retry: expected 0 to 2, found 3",
    of_job("retry: {max: 5}"): "retry:max: expected 0 to 2, found 5",
    "default: {retry: 3}\n" + of_job("tags: [a]"): "retry: expected 0 to 2, found 3",
    of_job(f"cache: {FIVE}"): "cache: there are 5 caches; GitLab allows at most 4",
    f"cache: {FIVE}\n" + of_job("tags: [a]"): "cache: there are 5 caches; GitLab allows at most 4",
    of_job("cache: {key: {files: [a, b, c]}}"): "cache:key:files: there are 3 paths; GitLab allows 1 to 2",
    of_job("cache: {key: {prefix: a}}"): "cache:key: files or files_commits is missing; add it",
    of_job(
        "cache: {key: {files: [a], files_commits: [b]}}"
    ): "cache:key: `files` and `files_commits` exclude each other",
    of_job("cache: {paths: [a], fallback_keys: [a, b, c, d, e, f]}"): "cache:fallback_keys: there are 6 keys",
    of_job("artifacts: {access: all, public: true}"): "artifacts: `access` and `public` exclude each other",
    of_job("artifacts: {expose_as: it, paths: ['a*']}"): "artifacts: `expose_as` allows no `*` in `paths`",
    of_job("artifacts: {expose_as: it}"): "artifacts: `expose_as` needs `paths`",
    of_job("artifacts: {expose_as: 'a/b', paths: [a]}"): "artifacts: `expose_as` is up to 100 letters",
    of_job("artifacts: {reports: {coverage_report: {path: a}}}"): "the key coverage_format is missing; add it",
    of_job("environment: {url: x}"): "the key name is missing; add it",
    of_job("environment: {name: a, on_stop: nope}"): "environment:on_stop: there is no job nope",
    of_job("environment: {name: a, on_stop: b}") + "\nb: {script: x}": "on_stop: b has not the same environment",
    of_job("environment: {name: a, on_stop: b}")
    + "\nb: {script: x, environment: a}": "on_stop: b has no `action: stop`",
    of_job("image: {entrypoint: [sh]}"): "the key name is missing; add it",
    of_job("image: {name: , entrypoint: [sh]}"): "1:26: the key name is missing; add it",
    of_job("services: [{alias: a}]"): "the key name is missing; add it",
    of_job("id_tokens: {T: {}}"): "the key aud is missing; add it",
    of_job("secrets: {S: {file: true}}"): "secrets: vault or gcp_secret_manager or",
    of_job("release: {tag_name: v1}"): "the key description is missing; add it",
    of_job("release: {tag_name: a, description: b, assets: {links: [{name: a}]}}"): "the key url is missing; add it",
    of_job("needs: [{project: a/b, job: c}]"): "needs: ref is missing; add it",
    "a: {script: x}\n" + of_job("needs: [a, {job: a}]"): "needs: the job a is a duplicate; keep one",
    of_job(f"rules: [{{changes: {MANY}}}]"): "rules:changes: there are 51 patterns; GitLab allows at most 50",
    of_job(f"rules: [{{exists: {{paths: {MANY}}}}}]"): "rules:exists:paths: there are 51 patterns",
    of_job("tags: " + MANY.replace(", p50", "")): "tags: there are 50 tags; GitLab allows at most 49",
    "a: {script: x, parallel: {matrix: [{X: [p, q]}]}}\n"
    + of_job(
        "needs: [{job: a, parallel: {matrix: [{X: z}]}}]"
    ): "no instance of a has these values; its matrix is [p]; [q]",
    "a: {script: x}\n" + of_job("needs: [{job: a, parallel: {matrix: [{X: z}]}}]"): "values; its matrix is none",
    "a: {script: x, needs: [b]}\nb: {script: x, needs: [a]}": "1:23: needs: the jobs need each other in a cycle: a -> b -> a",
    of_job(
        "variables: {RUNNER_SCRIPT_TIMEOUT: soon}"
    ): "1:1: RUNNER_SCRIPT_TIMEOUT: expected a duration such as 30 minutes",
    of_job(
        "variables: {P: x}, cache: {policy: $P, paths: [a]}"
    ): "1:53: cache:policy: expected pull, push or pull-push",
    "job: {trigger: {include: [{artifact: a.yml, job: nope}]}}": "1:50: trigger:include:job: there is no job nope",
    of_job("timeout: never"): "expected a duration such as 1h 30m, found the text 'never'",
    of_job("timeout: 0m"): "expected a duration such as 1h 30m, found the text '0m'",
    of_job("timeout: '1,000 seconds'"): "expected a duration such as 1h 30m, found the text '1,000 seconds'",
    of_job("artifacts: {expire_in: soon}"): "expected a duration such as 1h 30m or never",
    of_job("coverage: abc"): "coverage: abc is no pattern; one stands between slashes",
    of_job("coverage: '/(a/'"): "coverage: not a pattern",
    of_job("only: main"): "expected a mapping or a list, found the text 'main'",
    of_job("except: {changes: a}"): "expected a list, found the text 'a'",
    of_job("only: [a, '/(/']"): "only: not a pattern",
    of_job("except: {refs: ['/(/i']}"): "except:refs: not a pattern",
    of_job("tags: a"): "expected a list, found the text 'a'",
    of_job("tags: [[a], b]"): "1:25: expected text, found a list",
    of_job("services: [a, [b]]"): "expected text or a mapping, found a list",
    of_job("artifacts: {paths: [[a]]}"): "expected text, found a list",
    of_job("needs: [{artifacts: true}]"): "needs: job or pipeline is missing; add it",
    of_job("inherit: {default: [imag]}"): "expected one of the documented words, found the text 'imag'",
    of_job("environment: a*b"): "environment: a*b: letters, digits, spaces",
    of_job("environment: {name: review/}"): "environment:name: review/: letters, digits",
    of_job(
        "environment: {name: a, deployment_tier: live}"
    ): "expected one of production, staging, testing, development",
    "default: [a]\n" + of_job("tags: [a]"): "1:10: expected a mapping, found a list",
    needs_of(51): "52:25: needs: a job can need 50 others, and this one lists 51; wait for a stage instead",
    f"{'j' * 256}: {{script: x}}": "1:1: the name of a job has at most 255 characters",
    of_extends(11): "12:17: extends goes deeper than 10 levels",
    "job:\n  <<: text\n  script: x": "2:7: << merges a mapping or a list of mappings",
    "job:\n  ? [a]\n  : b\n  script: x": "2:5: a key must be text",
    "job: {script: *nope}": "1:15: the alias *nope is unknown; its anchor must stand before it, in the same file",
    "job: {script: &a [*a]}": "1:19: the alias *a stands inside its own anchor",
    "spec: {inputs: {}}\n---\njob: {script: x}\n---\nother: {script: x}": "4:1: a third document starts here",
    "a: {script: x}\n---\njob: {script: x}\n---\nother: {script: x}": "4:1: a third document starts here",
    of_job(f"before_script: {'[' * 12}x{']' * 12}"): "before_script: lists are nested deeper than 10 levels",
    of_job(f"variables: {DOUBLING}"): "1:1: variables: the expanded value exceeds 1024 KiB",
    of_job("image: !!int 5"): "1:25: unknown tag !!int; GitLab knows !reference [job, key]",
    of_job(
        "image: 2024-01-01"
    ): '1:25: 2024-01-01 is a date in YAML, which GitLab refuses; write it in quotes: "2024-01-01"',
    "include: [{local: ./a.yml}]\n"
    + of_job("tags: [a]"): "GitLab finds no file by a path with ./ in front; write a.yml",
    "include: [{local: ../a.yml}]\n" + of_job("tags: [a]"): "1:19: include:local: ../a.yml leads out of the project",
    "include: [{local: '/ci/*.yml'}]\n" + of_job("tags: [a]"): "1:19: include:local: no file matches /ci/*.yml",
    of_job(
        f"artifacts: {{paths: ['{BRACES}']}}"
    ): f"1:38: the braces of the glob {BRACES} stand for more than 200 paths",
    of_job(f"cache: {{paths: ['{BRACES}']}}"): f"1:34: the braces of the glob {BRACES} stand for more than 200 paths",
    of_job(f"rules: [{{exists: ['{BRACES}']}}]"): f"1:26: rules: the braces of the glob {BRACES} stand for more",
    of_job(f"rules: [{{changes: ['{BRACES}']}}]"): f"1:26: rules: the braces of the glob {BRACES} stand for more",
    f"include: '{'**a' * 101}.yml'\n" + of_job("tags: [a]"): "**a.yml has more than 200 stars",
    f"spec: {{inputs: {{a: {{default: {'x' * 900_000}}}}}}}\n---\nj: {{script: [{', '.join(['$[[ inputs.a ]]'] * 9)}]}}": "3:82: with its inputs, .gitlab-ci.yml is larger than 4 MiB; hand over less",
    "job: {trigger: {include: [{job: a}]}}": "1:27: trigger:include: expected local, or artifact with job",
    of_job("image: $NO"): "1:25: image: '' is not a valid image name. $NO has no value here: give it with --var",
    of_job("image: A B"): "1:25: image: 'A B' is not a valid image name. Write it as [REGISTRY/]NAME[:TAG]",
    "spec: {inputs: {a: {rules: [{if: '$[[ inputs.b'}]}, b: {default: y}}}\n---\nj: {script: x}": "1:17: input a of .gitlab-ci.yml: rules:if: '$' can't stand here",
    "spec: {inputs: {a: {default: x}}}\n---\nj: {script: '$[[ inputs.nope ]]'}": "3:14: $[[ inputs.nope ]] is unknown here; known are: inputs.a (declare inputs under spec: inputs)",
    "t: {stage: build, trigger: {include: [{artifact: a.yml, job: g}]}}\ng: {script: x}": "1:39: trigger:include:job: g is in a later stage",
    of_job("needs: [{pipeline: g/p}]"): "job: job is missing beside `pipeline` in `needs`; add it",
    "a: {script: x, stage: build}\n" + of_job("needs: [{job: a, ref: b}]"): "needs: project is missing beside `ref`",
    "job: {trigger: {include: a.yml}, parallel: 2}": "a job with `trigger` has no copies; write `parallel: {matrix",
    of_job("parallel: {matrix: [{A: null, B: c}]}"): "parallel:matrix: a name has no value",
    of_job("services: [{name: x, variables: {A: {value: b}}}]"): "expected text",
    of_job("publish: dist"): "1:27: publish: only a job with `pages: true` publishes",
    "pages: {script: x, publish: a, pages: false}": "1:29: publish: only a job with `pages: true` publishes",
    "include: [{local: a.yml, template: b}]\n" + of_job("tags: [a]"): "include: local and template exclude each other",
    "include: [{local: a.yml, rules: []}]\n"
    + of_job("tags: [a]"): "include:rules: the list, or a rule in it, is empty",
    "include: [{local: a.yml, rules: [{}]}]\n"
    + of_job("tags: [a]"): "include:rules: the list, or a rule in it, is empty",
    "spec: {inputs: {a: {default: x, rules: [{default: y}]}}}\n---\nj: {script: x}": "`rules` excludes `options`",
    f"spec: {{inputs: {{a: {{default: p1, options: {MANY}}}}}}}\n---\nj: {{script: x}}": "GitLab allows at most 50 options",
    "spec: {inputs: {a: {type: boolean, default: true, options: [true]}}}\n---\nj: {script: x}": "a boolean has no `options`",
    "spec: {inputs: {a: {type: number, default: 5, regex: 5}}}\n---\nj: {script: x}": "a `regex` is for inputs of type string",
    "spec: {inputs: {a: {type: array, default: [x, z], options: [x, y]}}}\n---\nj: {script: x}": "is not one of its options: x, y",
    of_job("rules: [{if: true}]"): "expected text, found true",
    of_job("rules: [{if: $A}, {}]"): "1:36: rules is empty, which GitLab refuses",
    of_job("rules: [{when: always, allow_failure: {exit_codes: 1}}]"): "expected true or false",
    "workflow: {rules: []}\n" + of_job("tags: [a]"): "rules is empty, which GitLab refuses",
    f"workflow: {{name: {'n' * 256}}}\n" + of_job("tags: [a]"): "1:18: name: it has more than 255 characters",
    "stages: []\n" + of_job("tags: [a]"): "job: there is no stage test; the stages are .pre, .post (see `stages`)",
    ".x:\n" + of_job("tags: [a]"): "1:1: .x is empty, which GitLab refuses; remove it or fill it",
    ".x: {}\n" + of_job("tags: [a]"): "1:1: .x is empty, which GitLab refuses; remove it or fill it",
    "on: {script: x}": '1:1: the name of a job is text; write it in quotes: "on"',
    "12: {script: x}": '1:1: the name of a job is text; write it in quotes: "12"',
    of_job("variables: {NO: x}"): '1:30: variables: a name is text; write it in quotes: "NO"',
    of_job("parallel: {matrix: [{PY: [3.9, '3.10']}]}"): "expected text or a whole number, found the number 3.9",
    of_job("image: {name: x, entrypoint: sh}"): "expected a list, found the text 'sh'",
    of_job("image: {name: x, docker: {user: 1000}}"): "expected text, found the number 1000",
    of_job("services: [{name: x, command: sh}]"): "expected a list, found the text 'sh'",
    of_job("cache: {key: 5, paths: [a]}"): "expected text or a mapping, found the number 5",
    of_job("cache: {key: {files: [a], prefix: 5}}"): "expected text, found the number 5",
    of_job("cache: {fallback_keys: [5], paths: [a]}"): "expected text, found the number 5",
    of_job("only: {}"): "only is empty, which GitLab refuses; remove it or fill it",
    "job: {trigger: {include: a.yml}, allow_failure: {exit_codes: 1}}": "a job with `trigger` has no exit code",
    of_job("environment: {name: a, auto_stop_in: soon}"): "auto_stop_in: expected a duration such as 30 minutes",
    of_job("release: {tag_name: v, description: d, released_at: soon}"): "released_at: soon is no date",
    "before_script: [a]\ndefault: {before_script: [b]}\n"
    + of_job("tags: [a]"): "before_script is at the root and in `default`",
}


NAMED = {"NO": "false"}
"""What a key of YAML is in a pointer."""


def places(node: yaml.Node | None, pointer: str) -> Iterator[tuple[int, int]]:
    """Yield where the key and the value are to which a pointer leads, or the nearest one above it that is written."""
    found = [node]
    for name in pointer.strip("/").split("/"):
        inner = found[-1]
        if isinstance(inner, yaml.MappingNode):
            found = next(
                ([key, value] for key, value in inner.value if name in (key.value, NAMED.get(key.value))), found
            )
        elif isinstance(inner, yaml.SequenceNode) and name.isdecimal() and int(name) < len(inner.value):
            found = [inner.value[int(name)]]
    yield from ((one.start_mark.line + 1, one.start_mark.column + 1) for one in found if one is not None)


@pytest.mark.parametrize(("text", "message"), REFUSED.items(), ids=[text[:70] for text in REFUSED])
def test_gitlab_refuses_at_the_keyword(tmp_path: Path, text: str, message: str) -> None:
    (found,) = problems(tmp_path, text)
    assert message in f"{found.line}:{found.column}: {found.message}"
    try:
        documents = list(yaml.compose_all(text, yaml.CSafeLoader))
    except yaml.YAMLError:
        return  # there are no keywords
    written = [place for node in documents for place in places(node, found.pointer)]
    assert found.pointer == "/" or (found.line, found.column) in written, (found.pointer, written)


def test_a_mistake_of_several_jobs_is_at_its_position(tmp_path: Path) -> None:
    text = "default:\n  retry: 3\na: {script: x}\nb: {script: x, rules: [{if: $CI}], only: [x]}"
    assert [one.partition(": ")[0] for one in said(tmp_path, text)] == ["2:10", "4:4"]


ACCEPTED = [
    needs_of(50),
    of_extends(10),
    of_job("coverage: '/(\\d+)%/', environment: {name: 'review/$A ${B}-c_d.e', deployment_tier: other}"),
    of_job("artifacts: {paths: [a], expire_in: never}, timeout: 1h 30"),
    of_job("only: [/^a/i, b@c/d, '/x'], inherit: {default: [image, retry]}"),
    of_job("before_script: [[a, [b]]], rules: [[{if: $A}], {when: always}]") + "\nk: {script: x, needs: [[job]]}",
    f"{'j' * 255}: {{script: x}}",
    of_job(f"before_script: {'[' * 10}x{']' * 10}"),
    "spec: {inputs: {}}\n---\njob: {script: x}",
    of_job("image: !!str 5"),
    of_job("rules: [{if: $CI}], only: null"),
    of_job("rules: [{if: $CI, when: delayed, start_in: 1 week}]"),
    of_job("when: delayed, start_in: 30 minutes"),
    of_job("retry: 2"),
    of_job("retry: {max: 0, when: [script_failure], exit_codes: 3}"),
    of_job("timeout: 4 weeks"),
    of_job("cache: [{paths: [a]}, {paths: [b]}, {paths: [c]}, {paths: [d]}]"),
    of_job("cache: {key: {files: [a], prefix: b}, fallback_keys: [a, b, c, d, e]}"),
    of_job("artifacts: {expose_as: 'my 1st-file', paths: [a]}"),
    of_job("environment: review"),
    of_job("environment: {name: a, on_stop: b}") + "\nb: {script: x, environment: {name: a, action: stop}}",
    of_job("needs: [{project: a/b, job: c, ref: main}]"),
    "job: {trigger: {include: a.yml}, needs: [], rules: [{when: always}], variables: {A: b}, inherit: {variables: false}}",
    "default: {image: x, tags: [y]}\njob: {trigger: {include: a.yml}}",
    "image: a\ndefault: {before_script: [b]}\n" + of_job("tags: [a]"),
    ".a: {retry: 9}\n" + of_job("tags: [a]"),
    "job: {script: ['']}",
    "t: {trigger: {include: [{artifact: a.yml, job: g}]}}\ng: {script: x}",
    "spec: {inputs: {a: {type: array, default: [x], options: [x, y]}}}\n---\nj: {script: x}",
    "pages: {script: x, publish: a}\njob: {script: x, publish: a, pages: {path_prefix: b}}",
    "job: {trigger: {include: a.yml}, needs: [{pipeline: g/p}]}",
    ".a: [x]\n'12': {script: x, variables: {1: x, 'NO': y}, parallel: {matrix: [{A: [1, x]}]}}",
    of_job(
        "environment: {name: a, auto_stop_in: $A}, release: {tag_name: v, description: d, released_at: '2030-01-31'}"
    ),
    "job: {trigger: {include: a.yml}, allow_failure: true}",
    needs_of(50).strip().removesuffix("}") + ", rules: [{needs: [a0]}]}",
]


@pytest.mark.parametrize("text", ACCEPTED, ids=[text[:70] for text in ACCEPTED])
def test_gitlab_accepts(tmp_path: Path, text: str) -> None:
    assert said(tmp_path, text) == []
