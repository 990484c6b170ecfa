"""Reading `.gitlab-ci.yml`: what its values become, where they come from, and what is wrong with them."""

import base64
import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from loom.errors import RequestError, WorkflowError
from loom.plan.model import Job, JobSelection, ResolveContext
from loom.plan.resolve import rehearse
from loom.plan.resolve import resolve as resolve_plan
from loom.util import yaml_file
from loom.workflow.dialects import examine, load, refuse_inputs
from loom.workflow.gitlab.loader import examine_text
from loom.workflow.gitlab.yaml import resolve
from loom.workflow.loaded import LoadOutcome
from loom.workflow.sources import Component, NotFound, Tree
from tests.support.gitlab import PUSH
from tests.support.plans import expect, problem_line

HERE = ".gitlab-ci.yml"


class Remembered:
    """The files of a project on a server."""

    def __init__(self, path: str, ref: str | None, files: Mapping[str, str]) -> None:
        self.label, self.project, self.sha = f"{path}@{ref}:", path, "5" * 40
        self._files = files

    def read(self, path: str) -> bytes:
        if path not in self._files:
            raise NotFound(f"{path}: there is no such file")
        return self._files[path].encode()

    def paths(self) -> list[str]:
        return list(self._files)


class Server:
    def __init__(self, projects: Mapping[str, Mapping[str, str]]) -> None:
        self._projects = projects

    def project(self, path: str, ref: str | None) -> Tree:
        return Remembered(path, ref, self._projects[path])

    def component(self, host: str, path: str, version: str) -> Component:
        return Component(tree=Remembered(f"{host}/{path}", version, self._projects[path]), version="1.2.0")

    def remote(self, url: str) -> bytes:
        if "//" not in url:
            raise NotFound(f"{url} is no address")
        return b"from_web: {script: web}\n"

    def template(self, name: str) -> bytes:
        raise NotFound(f"GitLab has no template {name}")


def loaded(root: Path, text: str, server: Server | None = None, **files: str) -> LoadOutcome:
    """Load a file; the others are given by names with `__` for a slash, without `.yml`."""
    for name, content in files.items():
        path = root / f"{name.replace('__', '/')}.yml"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    listed = [str(path.relative_to(root)) for path in sorted(root.rglob("*")) if path.is_file()]
    context = ResolveContext(predefined=PUSH, files=lambda: listed, sources=lambda: server)
    return examine_text(HERE, text.encode(), root, context)


def jobs(root: Path, text: str, server: Server | None = None, **files: str) -> dict[str, Any]:
    found = loaded(root, text, server, **files)
    assert [str(problem) for problem in found.problems] == []
    assert found.workflow is not None
    return {name: entry.merged.plain() for name, entry in found.workflow.jobs.items()}


def problems(root: Path, text: str, server: Server | None = None, **files: str) -> list[str]:
    return [
        f"{one.file}:{one.line}:{one.column}: {one.message}" for one in loaded(root, text, server, **files).problems
    ]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("yes", True), ("Off", False), ("y", "y"), ("~", None), ("NULL", None), ("017", 15), ("0o17", "0o17"), ("08", "08"), (".e+3", ".e+3"), ("0b_", "0b_"), ("0x,5", 5),
        ("1_000", 1000), ("0x1F", 31), ("1.10", 1.1), ("1e3", "1e3"), ("1.5e+3", 1500.0), ("1:30", 5400), ("1.2.3", "1.2.3"), ("2024-13-01", "2024-13-01"),
        ("-1:30", -1800), ("+1:00:01", 3601), ("-0x10", -16), ("0b11", 3), ("-1,5.5", -15.5), (".inf", float("inf")), ("1a", "1a"),
        (":word", "word"), (":'word'", "word"), (":", ":"), (".", "."), ("-", "-"), ("+5", 5), ("8080:80", "8080:80"), ("onion", "onion"),
    ],
)  # fmt: skip
def test_plain_scalars_are_what_rubys_parser_makes_of_them(text: str, value: Any) -> None:
    found = resolve(text)
    assert (type(found), found) == (type(value), value)


THIRD = "a third document starts here; a file has a header with `spec` and one document after it"
TAG = "unknown tag !foo; GitLab knows !reference [job, key], and text that starts with ! needs quotes"
UNKNOWN = "the alias *s is unknown; its anchor must stand before it, in the same file"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a: {script: x}\n---\nb: {script: x}\n", None),
        ("a: {script: x}\n---\nb: {script: x}\n---\nc: {script: x}\n", (4, 1, 3, THIRD)),
        ("spec: {inputs: {}}\n---\na: {script: x}\n---\nb: {script: x}\n", (4, 1, 3, THIRD)),
        ("a: &s {script: x}\n---\nb: *s\n", (3, 4, 2, UNKNOWN)),
        ("spec: &s {inputs: {}}\n---\na: {script: x, variables: *s}\n", (3, 27, 2, UNKNOWN)),
        ("a: {script: x}\n? [b]\n: {script: x}\n", (2, 3, 1, "a key must be text")),
        (".a: &a [x]\njob: {script: x, <<: *a}\n", (1, 5, 1, "<< merges a mapping or a list of mappings; for one of another file use extends")),
        ("job: {script: x, image: !foo y}\n", (1, 25, 4, TAG)),
        ("job: {script: [x, 2024-01-01]}\n", (1, 19, 10, '2024-01-01 is a date in YAML, which GitLab refuses; write it in quotes: "2024-01-01"')),
    ],
)  # fmt: skip
def test_what_gitlabs_yaml_has_not(tmp_path: Path, text: str, expected: tuple[int, int, int, str] | None) -> None:
    found = [(one.line, one.column, one.length, one.message) for one in loaded(tmp_path, text).problems]
    assert found == ([] if expected is None else [expected])


def test_anchors_and_merge_keys_give_way_to_later_keys_alone(tmp_path: Path) -> None:
    text = """\
.a: &a {image: one, stage: test, script: [x]}
.b: &b {image: two, tags: [t]}
job:
  stage: build
  <<: [*a, *b]
  image: three
"""
    assert jobs(tmp_path, text)["job"] == {"stage": "test", "image": "three", "script": ["x"], "tags": ["t"]}


def test_extends_merges_mappings_deeply_and_replaces_lists(tmp_path: Path) -> None:
    text = """\
.one: {variables: {A: 1, B: 1}, script: [one], tags: [x]}
.two: {extends: .one, variables: {B: 2}, script: [two]}
.other: {variables: {C: 3}, tags: [y]}
job: {extends: [.two, .other], variables: {D: 4}}
"""
    found = jobs(tmp_path, text)["job"]
    assert found["variables"] == {"A": 1, "B": 2, "C": 3, "D": 4}
    assert (found["script"], found["tags"]) == (["two"], ["y"])


def test_references_are_nested_flat_and_keep_the_position_of_their_text(tmp_path: Path) -> None:
    text = """\
.a: {script: [one, two]}
.b: {script: [!reference [.a, script], three]}
job:
  script:
    - !reference [.b, script]
    - [four, [five]]
  variables: !reference [.c, variables]
"""
    found = loaded(tmp_path, "include: /c.yml\n" + text, c=".c: {variables: {X: 1}}\n")
    assert found.workflow is not None
    job = found.workflow.jobs["job"].merged
    assert job.plain() == {"script": ["one", "two", "three", "four", "five"], "variables": {"X": 1}}
    first = job.find("script", 0)
    assert first is not None
    assert first.position == f"{HERE}:2:15"
    assert job.find("variables", "X").file.name == "c.yml"  # type: ignore[union-attr]


def test_default_is_taken_per_keyword_and_inherit_says_which(tmp_path: Path) -> None:
    text = """\
image: root
default: {before_script: [b], retry: 1, tags: [t]}
all: {script: x}
none: {script: x, inherit: {default: false}}
some: {script: x, before_script: [], inherit: {default: [retry, image]}}
empty: {script: x, image: null}
"""
    found = jobs(tmp_path, text)
    assert found["all"] == {"script": "x", "image": "root", "before_script": ["b"], "retry": 1, "tags": ["t"]}
    assert found["none"] == {"script": "x", "inherit": {"default": False}}
    assert {key: found["some"].get(key) for key in ("image", "retry", "tags", "before_script")} == {
        "image": "root", "retry": 1, "tags": None, "before_script": [],
    }  # fmt: skip
    assert found["empty"]["image"] == "root"


def test_a_default_without_a_value_is_none(tmp_path: Path) -> None:
    assert jobs(tmp_path, "include:\nimage:\ndefault: {tags: , retry: 1}\njob: {script: x}\n")["job"] == {
        "script": "x",
        "retry": 1,
    }


def test_includes_merge_in_order_and_the_including_file_wins(tmp_path: Path) -> None:
    text = """\
include:
  - ci/first.yml
  - {local: "/ci/*/*.yml"}
  - {local: /no.yml, rules: [{if: $CI_COMMIT_BRANCH == "other"}]}
  - {project: group/templates, ref: v1, file: [/a.yml]}
  - https://example.com/x.yml
job: {stage: build}
variables: {A: own}
"""
    server = Server({"group/templates": {"a.yml": "include: {local: b.yml}\n", "b.yml": "from_project: {script: b}\n"}})
    found = loaded(
        tmp_path, text, server,
        ci__first="job: {script: [first], stage: test}\nvariables: {A: first, B: first}\n",
        ci__deep__second="job: {script: [second]}\n",
    )  # fmt: skip
    assert list(found.problems) == []
    assert found.workflow is not None
    assert found.workflow.jobs["job"].merged.plain() == {"script": ["second"], "stage": "build"}
    assert found.workflow.root.find("variables").plain() == {"A": "own", "B": "first"}  # type: ignore[union-attr]
    assert set(found.workflow.jobs) == {"job", "from_project", "from_web"}
    assert "group/templates@v1:b.yml" in [file.name for file in found.workflow.files]


INPUTS = """\
spec:
  inputs:
    name: {regex: "/^[a-z]+$/"}
    number: {type: number, default: 2, options: [1, 2]}
    flag: {type: boolean, default: false}
    list: {type: array, default: [a, b]}
---
"$[[ inputs.name ]]":
  script: [echo $[[ inputs.name | expand_vars | truncate(0,3) ]], "$[[ inputs.number ]]"]
  needs: $[[ inputs.list ]]
  interruptible: $[[ inputs.flag ]]
  broken: x
"""


def test_inputs_are_replaced_in_the_text_and_positions_stay_those_of_the_file(tmp_path: Path) -> None:
    text = "include: {local: part.yml, inputs: {name: abcdef}}\n"
    found = loaded(tmp_path, text, part=INPUTS)
    assert [str(one).partition(": ")[0] for one in found.problems] == ["part.yml:12:3"]
    assert found.workflow is not None
    job = found.workflow.jobs["abcdef"].merged
    assert job.plain() == {"script": ["echo abc", "2"], "needs": ["a", "b"], "interruptible": False}
    second = job.find("script", 1)
    assert second is not None
    assert second.position == "part.yml:9:67"


def test_what_is_wrong_in_a_replaced_text_is_where_it_was_inserted(tmp_path: Path) -> None:
    header = "spec: {inputs: {a: {default: 'x, foo'}, b: {default: ''}}}\n---\n"
    for job, columns in (
        ("{script: $[[ inputs.a ]]: y, bar: z}", [15, 35]),
        ('{script: "$[[ inputs.b ]]x", tags: [$[[ inputs.a ]]], foo: y, bar: z}', [60, 68]),
    ):
        found = [one.partition("; ")[0] for one in problems(tmp_path, f"{header}job: {job}\n")]
        assert found == [
            f"{HERE}:3:{column}: unknown key {key}" for key, column in zip(("foo", "bar"), columns, strict=True)
        ]


def test_what_is_unknown_in_a_text_is_all_that_is_said_of_it(tmp_path: Path) -> None:
    text = "spec: {inputs: {a: {default: x}}}\n---\njob: {script: '$[[ inputs.nope ]]', foo: y}\n"
    assert problems(tmp_path, text) == [
        f"{HERE}:3:16: $[[ inputs.nope ]] is unknown here; known are: inputs.a (declare inputs under spec: inputs)"
    ]


def test_a_file_with_its_inputs_may_be_so_large_and_no_larger(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    header, rest = (
        "spec: {inputs: {a: {default: x}}}\n---",
        "\njob: {script: $[[ inputs.a ]]}\nother: {script: $[[ inputs.a ]]}\n",
    )
    full = len(rest.replace("$[[ inputs.a ]]", "x" * 50))
    monkeypatch.setattr(yaml_file, "MAX_BYTES", full)
    assert list(given(tmp_path, header + rest, a="x" * 50).problems) == []
    assert [
        f"{one.line}:{one.column} {one.message}" for one in given(tmp_path, header + rest, a="x" * 51).problems
    ] == [f"4:17 with its inputs, {HERE} is larger than 0 MiB; hand over less"]


def test_values_of_a_matrix_stay_beside_inputs(tmp_path: Path) -> None:
    text = """\
spec: {inputs: {a: {default: "on-$CI_COMMIT_BRANCH"}}}
---
a: {script: x, parallel: {matrix: [{V: ["1"]}]}}
b:
  script: "$[[ inputs.a ]] $[[ inputs.a | expand_vars ]]"
  parallel: {matrix: [{V: ["1"]}]}
  needs: [{job: a, parallel: {matrix: [{V: ["$[[ matrix.V ]]"]}]}}]
"""
    found = jobs(tmp_path, text)["b"]
    assert found["script"] == f"on-$CI_COMMIT_BRANCH on-{PUSH['CI_COMMIT_BRANCH']}"
    assert found["needs"] == [{"job": "a", "parallel": {"matrix": [{"V": ["$[[ matrix.V ]]"]}]}}]


WRONG_INPUTS = [
    ("name: 1abc", "input name of part.yml: '1abc' does not match its regex /^[a-z]+$/"),
    ("name: abc1", "input name of part.yml: 'abc1' does not match its regex /^[a-z]+$/"),
    ("", "1:18: input name of part.yml: needs a value: it has no default; give it with include:inputs"),
    ("name: UPPER", "input name of part.yml: 'UPPER' does not match its regex /^[a-z]+$/"),
    ("name: a, number: 3", "input number of part.yml: 3 is not one of its options: 1, 2"),
    ("name: a, flag: 'no'", "input flag of part.yml: expected a boolean, found 'no'"),
    ("name: a, more: 1", "part.yml declares no input more; its inputs are: name, number, flag, list"),
]


@pytest.mark.parametrize(("given", "said"), WRONG_INPUTS)
def test_a_wrong_input_is_reported_where_it_is_given(tmp_path: Path, given: str, said: str) -> None:
    text = f"include: {{local: part.yml, inputs: {{{given}}}}}\n"
    found = problems(tmp_path, text, part=INPUTS.replace("  broken: x\n", ""))
    assert found[0].startswith(f"{HERE}:1:")
    assert said in found[0]


MISTAKES = [
    ("job: {script: x, foo: y}", "1:18: unknown key foo"),
    ("job: {script: x, stge: y}", "1:18: unknown key stge; did you mean stage?"),
    ("job: {script: x, retry: {maxx: 1}}", "1:26: unknown key maxx; did you mean max?"),
    ("job: {script: x, when: sometimes}", "1:24: expected one of on_success"),
    ("job: {script: x, stage: 1}", 'expected text, found the number 1; write it in quotes: "1"'),
    ("job: {script: x, stage: none}", "job: there is no stage none; the stages are .pre, build, test, deploy, .post"),
    ("job: {image: x}", "1:1: job has no script; every job has `script` or `trigger`"),
    ("job: {script: x, timeout: soon}", "expected a duration such as 1h 30m, found the text 'soon'"),
    ("job: {script: x, extends: .bas}\n.base: {tags: [x]}", "1:27: extends: unknown job or template .bas; did you mean .base?"),
    (".a: {extends: .b}\n.b: {extends: .a}", "extends forms a cycle: "),
    ("job: {script: [!reference [job, script]]}", "!reference [job, script] is part of a cycle: [job, script] -> "),
    ("job: {script: [!reference [.x, y]]}", "!reference [.x, y]: there is no .x; name a job and a key of it"),
    (".x: {y: {z: a}}\njob: {script: [!reference [.x, y, w]]}", "!reference [.x, y, w]: there is no w in .x.y; name a job and a key of it"),
    ("job: {script: x, rules: [{changes: {regexp: x}}]}", "rules:changes:regexp is not supported: Write `paths`"),
    ("job: [x]", "job: expected a job (a mapping with `script`), found a list"),
    (".hidden: [a]", "the file has no job"),
    (".hidden:", "1:1: .hidden is empty, which GitLab refuses; remove it or fill it"),
    ("job: {script: }", "1:1: job has no script; every job has `script` or `trigger`"),
    ("job: {trigger: [[x]]}", "1:16: expected "),
    ("job: {script: {a: b}}", "1:15: expected "),
    ("job: {trigger: }", "1:1: job has no script; every job has `script` or `trigger`"),
    ("job: {script: 2024-01-01}", "2024-01-01 is a date in YAML, which GitLab refuses"),
    ("job: {script: *x}", "the alias *x is unknown"),
    ("job: &x {script: [*x]}", "the alias *x stands inside its own anchor"),
    ("job: {script: !foo x}", "unknown tag !foo"),
    ("include: /no.yml\njob: {extends: .missing}", "include:local: no.yml can't be read: no such file or directory"),
    ("include: {local: ./no.yml}\njob: {script: x}", "include:local: GitLab finds no file by a path with ./ in front"),
    ("include: /no.txt\njob: {script: x}", "include:local: /no.txt is no YAML file"),
    ("include: {locl: /a.yml}\njob: {script: x}", "1:11: unknown key locl; did you mean local?"),
    ("include: {ref: x}\njob: {script: x}", "include: expected one of local, project, remote, template, component"),
    (".w: &w [a]\njob: {script: x, stage: *w}", "1:5: stage: expected text, found a list"),
    (".w: {variables: &w {foo: a}}\njob: {script: x, retry: *w}", "1:21: retry: unknown key foo; the keys are max, "),
    (".w: {tags: [x]}\njob: {script: x, image: !reference [.w, tags]}", "image: expected text or a mapping, found a list"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "said"), MISTAKES)
def test_a_mistake_has_its_position_and_the_next_move(tmp_path: Path, text: str, said: str) -> None:
    found = problems(tmp_path, text + "\n")
    assert len(found) == 1, found
    assert said in found[0]


MORE_MISTAKES = [
    "- a",
    "",
    "include: [a.yml, [/no.yml, b.yml]]",
    "include: [{project: group/templates, file: /no.yml}, {remote: 'http://x/$A'}, {component: a/b@1}, {template: No.yml}]",
    "spec: {inputs: &a {b: {}}}\n---\njob: {script: *a}",
    "spec: {inputs: {a: {type: text}, b: {default: [x]}, c: {regex: '(', default: x}}}\n---\njob: {script: x}",
    f"spec: {{inputs: {{a: {{default: 1, type: number, options: {[*range(50)]}}}, b: {{default: x, options: {[*range(51)]}}}}}}}\n---\njob: {{script: x}}",
    "spec: {description: d, component: [name], includes: [x], inputs: {a: {default: x, rules: [{default: y}]}, b: {rules: [{if: '$A ==', default: y}]}}}\n---\njob: {script: x}",
    "spec: {inputs: {a: {default: x, options: [y]}}}\n---\n---\njob: {script: x}",
    "job: {script: x, stage: !x build, tags: !!str [a], variables: {A: !!str 1, B: !!int 1}}",
    "default: [x]\njob: {script: x}",
    "job: {script: x, timeout: 0 hours, retry: 3, parallel: 201, needs: [a, {job: b}], dependencies: [c]}",
    "stages: [a]\njob: {script: x, stage: " + "y" * 41 + ", when: " + "z" * 40 + ", interruptible: " + "z" * 41 + "}",
    "job: {script: x, needs: [a, {job: b}, job], dependencies: [c, job], rules: [{if: $A =~ /x/gh}, {if: '('}, {needs: [d]}]}",
    ".t: {script: x, needs: [gone]}\na: {extends: .t}\nb: {extends: .t}",
    "a: {script: x, rules: [{if: $A, needs: [b]}]}\nb: {script: x, needs: [a]}\nc: {script: x, needs: [.t, {job: d, optional: true}]}\n.t: {script: x}",
    "include: {local: a.yml, rules: [{if: '$A =='}]}\njob: {script: x}",
    "include: http://example.com/x.yml\nfrom_web: {tags: [a]}",
    ".a: &a {foo: 1, stage: none}\njob: {<<: *a, script: x}",
    "a" * 256 + ": {script: x, stage: none}",
    "job: {script: [], rules: []}\nother: {script: ['', ' '], rules: [{if: $A =~ /x/gh}]}",
    "a: {script: x, needs: [{job: b, parallel: {matrix: [{V: '$[[ matrix.W ]]'}]}}]}\nb: {script: x, parallel: {matrix: [{V: [1]}]}}",
    "a: {script: x, extends: [.no, .b]}\n.b: {extends: .c}\n.c: {extends: .b}",
    "workflow: {rules: [{if: '$A =='}], name: [x]}\njob: {script: x, rules: [{if: '(', when: never, x: y}]}",
    "job: {trigger: {include: [{local: a.yml, file: b}], strategy: x}, script: x}",
]
"""Files of which all problems are kept, with their codes, pointers and lengths."""


def test_all_that_is_said_of_mistakes(tmp_path: Path) -> None:
    files = {"part": INPUTS, "a": ".a: {script: x}\n", "b": "include: a.yml\nstage: x\n"}
    said = []
    for text in MORE_MISTAKES:
        found = loaded(tmp_path, f"{text}\n", Server({"group/templates": {}}), **files)
        more = rehearse(found.workflow)[0] if found.workflow is not None else ()
        said += [f"-- {text!r}", *map(problem_line, found.sort([*found.problems, *more]))]
    expect(Path(__file__).with_name("mistakes.txt"), "".join(f"{line}\n" for line in said))


def test_includes_in_a_circle_and_too_many_of_them_are_refused(tmp_path: Path) -> None:
    circle = problems(tmp_path, "include: a.yml\njob: {script: x}\n", a="include: b.yml\n", b="include: a.yml\n")
    assert circle == ["b.yml:1:10: the includes form a cycle: a.yml -> b.yml -> a.yml; remove one"]
    for number in (150, 151, 200):
        many = "include: [" + ", ".join(["a.yml"] * number) + "]\njob: {script: x}\n"
        assert [one.partition(": ")[2] for one in problems(tmp_path, many, a=".x: [a]\n")] == [
            "more than 150 files are included, which GitLab refuses"
        ] * (number > 150)


@pytest.mark.parametrize(
    ("path", "matching"),
    [
        ("ci/**/a.yml", ["ci/x/a.yml", "ci/x/y/a.yml"]),
        ("ci/**.yml", ["ci/a.yml", "ci/x/a.yml", "ci/x/y/a.yml", "ci/x/[b].yml"]),
        ("ci/*/*.yml", ["ci/x/a.yml", "ci/x/[b].yml"]),
        ("/ci/x/[b]*.yml", ["ci/x/[b].yml"]),
        ("ci/{a,x}*.yml", []),
        ("ci/?*.yml", []),
        ("**/x/*.yml", ["ci/x/a.yml", "ci/x/[b].yml"]),
    ],
)
def test_wildcards_of_includes_are_gitlabs(tmp_path: Path, path: str, matching: list[str]) -> None:
    files = {name: f".{name}: [a]\n" for name in ("ci__a", "ci__x__a", "ci__x__y__a", "ci__x__[b]", "other")}
    found = loaded(tmp_path, f"include: '{path}'\njob: {{script: x}}\n", **files)
    if matching:
        assert [one.message for one in found.problems] == []
        assert found.workflow is not None
        assert sorted(one.name for one in found.workflow.files[:-1]) == sorted(matching)
    else:
        assert [one.message for one in found.problems] == [f"include:local: no file matches {path}"]


def test_a_keyword_without_effect_is_noticed_once(tmp_path: Path) -> None:
    found = loaded(tmp_path, "a: {script: x, tags: [t]}\nb: {script: x, tags: [t]}\n").workflow
    assert found is not None
    assert [(one.line, one.severity, one.message.partition(":")[0]) for one in found.notices] == [
        (1, "notice", "tags has no effect here")
    ]


def test_a_variable_for_the_runner_without_effect_is_noticed_once(tmp_path: Path) -> None:
    text = "variables: {FF_A: 1, GIT_STRATEGY: none}\na: {script: x, variables: {GIT_CLEAN_FLAGS: -x, FF_B: 1, GIT_DEPTH: 1}}\n"
    found = loaded(tmp_path, f"{text}b: {{script: x, variables: {{GIT_CLEAN_FLAGS: none}}}}\n").workflow
    assert found is not None
    assert [(one.line, one.message.partition(":")[0]) for one in found.notices] == [
        (1, "FF_* has no effect here"),
        (2, "GIT_CLEAN_FLAGS has no effect here"),
    ]


def test_an_expansion_bomb_is_refused_before_anything_walks_it(tmp_path: Path) -> None:
    levels = "".join(f".l{n}: &l{n} [{', '.join([f'*l{n - 1}'] * 9)}]\n" for n in range(1, 12))
    text = f".l0: &l0 [x, x, x, x, x, x, x, x, x]\n{levels}job: {{script: ok}}\n"
    assert "6:11: the alias *l4 brings more than 100000 values; share less" in problems(tmp_path, text)[0]


@pytest.mark.parametrize(("levels", "refused"), [(10, False), (11, True)])
def test_references_lead_on_ten_times_and_no_further(tmp_path: Path, levels: int, refused: bool) -> None:
    jobs = [f".r{number}: {{script: !reference [.r{number + 1}, script]}}" for number in range(levels - 1)]
    text = "\n".join(["job: {script: !reference [.r0, script]}", *jobs, f".r{levels - 1}: {{script: [echo]}}"])
    (tmp_path / ".gitlab-ci.yml").write_text(text)
    found = examine(tmp_path / ".gitlab-ci.yml", tmp_path, ResolveContext)
    assert bool(found.problems) == refused


def test_references_bring_so_many_values_and_no_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("loom.workflow.aliases.MAX_SHARED", 8)
    text = ".x: {y: [a, b, c]}\njob: {script: [!reference [.x, y], !reference [.x, y]]}\n"
    assert problems(tmp_path, text) == []
    more = "!reference [.x, y] brings more than 8 values; share less"
    assert problems(tmp_path, f"{text}k: {{script: [x, !reference [.x, y]]}}\n") == [f"{HERE}:3:17: {more}"]


COMPONENT = """\
spec:
  component: [name, version, sha, reference]
  inputs: {stage: {default: test}}
---
"$[[ component.name ]] $[[ component.version ]]": {script: "$[[ component.reference ]] $[[ component.sha ]]", stage: "$[[ inputs.stage ]]"}
"""


@pytest.mark.parametrize("path", ["templates/lint.yml", "templates/lint/template.yml"])
def test_a_component_is_a_template_of_its_project_and_knows_its_version(tmp_path: Path, path: str) -> None:
    text = "include: [{component: gitlab.com/group/tools/lint@~latest, inputs: {stage: build}}]\n"
    found = jobs(tmp_path, text, Server({"group/tools": {path: COMPONENT}}))
    assert found == {"lint 1.2.0": {"script": f"~latest {'5' * 40}", "stage": "build"}}


def test_a_component_of_ones_own_project_at_its_own_commit_is_the_file_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(globals(), "PUSH", {**PUSH, "CI_COMMIT_SHA": "7" * 40})
    text = "include: [{component: gitlab.com/$CI_PROJECT_PATH/lint@$CI_COMMIT_SHA}]\n"
    assert jobs(tmp_path, text, templates__lint=COMPONENT) == {
        "lint ": {"script": f"{'7' * 40} {'7' * 40}", "stage": "test"}
    }
    neither = "there is neither templates/nope.yml nor templates/nope/template.yml"
    text = f"include: [{{component: gitlab.com/group/project/nope@{'7' * 40}}}]\njob: {{script: x}}\n"
    assert problems(tmp_path, text) == [
        f"{HERE}:1:23: include:component: group/project has no component nope: {neither}"
    ]


@pytest.mark.parametrize("address", ["gitlab.com/lint@1", "gitlab.com/a/lint", "gitlab.com/a/@1", "/a/lint@1"])
def test_what_is_no_address_of_a_component(tmp_path: Path, address: str) -> None:
    text = f"include: [{{component: {address}}}]\njob: {{script: x}}\n"
    assert problems(tmp_path, text, Server({})) == [
        f"{HERE}:1:23: include:component: expected HOST/GROUP/PROJECT/NAME@VERSION, found {address}"
    ]


def test_the_digest_of_an_included_file_is_compared(tmp_path: Path) -> None:
    digest = "sha256-" + base64.b64encode(hashlib.sha256(b"from_web: {script: web}\n").digest()).decode()
    text = "include: [{remote: https://example.com/x.yml, integrity: %s}]\njob: {script: x}\n"
    assert set(jobs(tmp_path, text % digest, Server({}))) == {"job", "from_web"}
    for wrong in ("sha256-AAAA", digest.replace("sha256", "sha512")):
        assert problems(tmp_path, text % wrong, Server({})) == [
            f"{HERE}:1:20: include:remote: include:integrity: expected {wrong}, the file has {digest}"
        ]


TYPED = """\
spec:
  inputs:
    text: {}
    number: {type: number, options: [1, 2]}
    flag: {type: boolean}
    list: {type: array, default: []}
---
job:
  script: ["$[[ inputs.text ]]", "$[[ inputs.number ]]", "$[[ inputs.flag ]]"]
  needs: $[[ inputs.list ]]
"""


def given(root: Path, content: str, /, **inputs: str) -> LoadOutcome:
    return examine_text(HERE, content.encode(), root, ResolveContext(predefined=PUSH, inputs=inputs))


def test_inputs_of_the_command_line_have_the_types_that_the_file_says(tmp_path: Path) -> None:
    found = given(tmp_path, TYPED, text="1", number="2", flag="true", list='["a"]')
    assert list(found.problems) == []
    assert found.workflow is not None
    assert found.workflow.jobs["job"].merged.plain() == {"script": ["1", "2", "true"], "needs": ["a"]}


@pytest.mark.parametrize(
    ("inputs", "said"),
    [
        ({"number": "3"}, f"{HERE}:4:5: input number of {HERE}: 3 is not one of its options: 1, 2"),
        ({"number": "x"}, f"{HERE}:4:5: input number of {HERE}: expected a number, found 'x'"),
        ({"flag": "yes"}, f"{HERE}:5:5: input flag of {HERE}: expected a boolean, found 'yes'"),
        ({"more": "x"}, f"{HERE}:1:1: --input more: {HERE} declares no such input; its inputs are: text, number, flag, list"),
    ],
)  # fmt: skip
def test_a_wrong_input_of_the_command_line(tmp_path: Path, inputs: dict[str, str], said: str) -> None:
    found = given(tmp_path, TYPED, **{"text": "a", "number": "1", "flag": "true", **inputs})
    assert [f"{one.file}:{one.line}:{one.column}: {one.message}" for one in found.problems] == [said]


def test_inputs_for_a_file_without_any(tmp_path: Path) -> None:
    found = given(tmp_path, "job: {script: x}\n", a="1")
    assert [f"{one.line}:{one.column}: {one.message}" for one in found.problems] == [
        f"1:1: --input a: {HERE} declares no such input; remove it, or add it to the file's `spec: inputs`"
    ]


def test_only_a_language_with_inputs_takes_some(tmp_path: Path) -> None:
    (tmp_path / HERE).write_text(TYPED)
    (tmp_path / "w.yml").write_text("version: v1\n")
    refuse_inputs([], tmp_path / "w.yml", tmp_path)
    refuse_inputs(["a"], tmp_path / HERE, tmp_path)
    with pytest.raises(RequestError, match="own language, which has no inputs"):
        refuse_inputs(["a"], tmp_path / "w.yml", tmp_path)


ABOVE = "job: {script: x, needs: [{pipeline: $UP, job: build%s}]}\n"


def test_what_a_job_gets_from_a_pipeline_above(tmp_path: Path) -> None:
    asked: list[tuple[str, str]] = []

    def planned(text: str, found: tuple[str, Path] | RequestError | None) -> Job:
        def above(pipeline: str, job: str) -> tuple[str, Path] | None:
            asked.append((pipeline, job))
            if isinstance(found, RequestError):
                raise found
            return found

        (tmp_path / HERE).write_text(text)
        context = ResolveContext(predefined={**PUSH, "UP": "77"}, above=above)
        (job,) = resolve_plan(load(tmp_path / HERE, tmp_path, lambda: context), JobSelection(), context).jobs
        return job

    of_above = planned(ABOVE % "", ("the build", tmp_path))
    assert of_above.artifacts_above == {"the build": str(tmp_path)}
    assert of_above.referring is not None, "that job may report variables"
    assert planned("job: {script: x, needs: []}", None).referring is None
    assert asked == [("77", "build")]
    assert planned(ABOVE % ", optional: true", None).artifacts_above == {}
    for found, said in ((None, "run 77 has no job build"), (RequestError("it failed"), "it failed")):
        with pytest.raises(WorkflowError) as caught:
            planned(ABOVE % "", found)
        assert [str(one) for one in caught.value.problems] == [
            f"{HERE}:1:26: GL_UNSUPPORTED /job/needs/0: needs:pipeline: {said}"
        ]
    assert planned(ABOVE % ", artifacts: false", None).artifacts_above == {}
    assert len(asked) == 4


@pytest.mark.parametrize(("stage", "value"), [("prod", "slow"), ("test", "fast"), ("dev", "any")])
def test_an_input_may_depend_on_others(tmp_path: Path, stage: str, value: str) -> None:
    text = """\
spec:
  inputs:
    stage: {default: dev}
    mode:
      rules:
        - {if: '$[[ inputs.stage ]] == "prod"', default: slow, options: [slow]}
        - {if: '$[[ inputs.stage ]] == "test"', default: fast, options: [fast, slow]}
        - {default: any}
---
job: {script: "$[[ inputs.mode ]] $[[ inputs.stage ]]"}
"""
    found = given(tmp_path, text, stage=stage)
    assert list(found.problems) == []
    assert found.workflow is not None
    assert found.workflow.jobs["job"].merged.plain() == {"script": f"{value} {stage}"}
    wrong = given(tmp_path, text, stage="prod", mode="fast")
    assert [one.message for one in wrong.problems] == [f"input mode of {HERE}: 'fast' is not one of its options: slow"]


def test_inputs_of_a_parent_pipeline_keep_their_types(tmp_path: Path) -> None:
    inputs = {"text": "1", "number": 2, "flag": True, "list": ["a"]}
    context = ResolveContext(predefined=PUSH, typed_inputs=inputs)
    found = examine_text(HERE, TYPED.encode(), tmp_path, context)
    assert list(found.problems) == []
    assert found.workflow is not None
    assert found.workflow.jobs["job"].merged.plain() == {"script": ["1", "2", "true"], "needs": ["a"]}
    wrong = examine_text(HERE, TYPED.encode(), tmp_path, replace(context, typed_inputs={**inputs, "number": "2"}))
    assert [one.message for one in wrong.problems] == [f"input number of {HERE}: expected a number, found '2'"]
