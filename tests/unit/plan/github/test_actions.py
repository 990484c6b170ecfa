"""The file of an action is found, in the project and in other repositories, and read; its mistakes have a reason."""

from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from loom.plan.github.actions import ActionFile, BadAction, read
from loom.plan.late import Action
from loom.plan.model import ResolveContext
from loom.workflow.sources import Fetched, NotFetched

COMPOSITE = "runs: {using: composite, steps: [{run: echo, shell: sh}]}"
NODE = "runs: {using: %s, main: m.js}"


class Server:
    """A server of repositories in a folder."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def at(self, repository: str, ref: str) -> Fetched:
        if not (self.root / repository / ref).is_dir():
            raise NotFetched(f"{repository} has no {ref}")
        return Fetched(commit="c" * 40, directory=self.root / repository / ref)


def found(root: Path, uses: str, files: dict[str, str] | None = None, *, fetches: bool = True) -> ActionFile:
    for name, text in (files or {}).items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    context = ResolveContext(repositories=lambda: Server(root / "server") if fetches else None)
    return read(uses, root / "project", context)


def action(**fields: Any) -> Action:
    return Action(**fields)


def test_an_image_is_an_action(tmp_path: Path) -> None:
    assert found(tmp_path, "docker://a:1") == ActionFile(
        action=action(uses="docker://a:1", using="docker", image="docker://a:1")
    )


@pytest.mark.parametrize(("uses", "file"), [("./a/b/", "a/b/action.yml"), ("$/a/b", "a/b/action.yaml")])
def test_an_action_of_the_project(tmp_path: Path, uses: str, file: str) -> None:
    one = found(tmp_path, uses, {f"project/{file}": NODE % "node24"})
    assert one == ActionFile(action=action(uses=uses, path="a/b", using="node24"), main="m.js", is_described=True)
    with pytest.raises(BadAction, match=r"^\./c: the project has no c/action\.yml$"):
        found(tmp_path, "./c")
    with pytest.raises(BadAction, match=r"^\./: the project has no action\.yml$"):
        found(tmp_path, "./")


def test_the_action_of_the_root_and_one_of_a_dockerfile_alone(tmp_path: Path) -> None:
    files = {"project/action.yml": COMPOSITE, "project/d/Dockerfile": "FROM x\n"}
    assert found(tmp_path, "./", files).action == action(uses="./", using="composite")
    assert found(tmp_path, "./d").action == action(uses="./d", path="d", using="docker", image="Dockerfile")


def test_an_action_of_another_repository(tmp_path: Path) -> None:
    root = tmp_path / "server/o/r/v1"
    files = {
        "server/o/r/v1/action.yml": NODE % "node16",
        "server/o/r/v1/sub/dir/action.yaml": "runs: {using: docker, image: docker://i}",
        "server/o/r/v1/d/Dockerfile": "FROM x\n",
        "server/o/r/v1/bad/action.yml": "runs: {using: node20}",
    }
    whole = action(uses="o/r@v1", repository="o/r", ref="v1", commit="c" * 40, directory=str(root), using="node20")
    assert found(tmp_path, "o/r@v1", files).action == whole
    sub = replace(whole, uses="o/r/sub/dir/@v1", path="sub/dir", using="docker", image="docker://i")
    assert found(tmp_path, "o/r/sub/dir/@v1").action == sub
    assert found(tmp_path, "o/r/d@v1").action == replace(
        whole, uses="o/r/d@v1", path="d", using="docker", image="Dockerfile"
    )
    unfetched = found(tmp_path, "o/r@v9", fetches=False)
    assert unfetched == ActionFile(action=action(uses="o/r@v9", using="composite")), "only a check of the file"


@pytest.mark.parametrize(
    ("uses", "message"),
    [
        ("o/r@v2", "o/r@v2: o/r has no v2"),
        ("o/r/none@v1", "o/r/none@v1: o/r has no none/action.yml at v1"),
        ("o/empty@v1", "o/empty@v1: o/empty has no action.yml at v1"),
        ("o/r/bad@v1", "o/r/bad@v1: o/r/bad/action.yml@v1 has no `runs.main`, the file that Node runs"),
        *(
            (uses, f"{uses}: expected owner/name@ref, owner/name/path@ref, ./path or docker://IMAGE")
            for uses in ("o/r", "o@v1", "/r@v1", "o/@v1", "o/r@", "o/r/../x@v1")
        ),
    ],
)
def test_an_action_that_is_not_to_be_had(tmp_path: Path, uses: str, message: str) -> None:
    (tmp_path / "server/o/empty/v1").mkdir(parents=True)
    with pytest.raises(BadAction) as caught:
        found(tmp_path, uses, {"server/o/r/v1/bad/action.yml": "runs: {using: node20}"})
    assert str(caught.value) == message


def test_every_key_of_the_file_is_read(tmp_path: Path) -> None:
    inputs = {"a": "1", "b": None, "c": ""}
    common = "name: N\ninputs: {a: {default: 1}, b: {description: x}, c: {default: ''}}\n"
    node = "{using: Node12, pre: p.js, main: m.js, post: q.js, pre-if: failure(), post-if: success()}"
    docker = (
        "{using: docker, image: I, env: {E: 1}, args: [a, 2], pre-entrypoint: p, entrypoint: m, post-entrypoint: q}"
    )
    composite = f"{COMPOSITE}\noutputs: {{o: {{value: v, description: d}}}}"
    files = {
        "project/n/action.yml": f"{common}runs: {node}",
        "project/d/action.yml": f"{common}runs: {docker}",
        "project/c/action.yml": common + composite,
    }
    parts: dict[str, Any] = {"name": "N", "inputs": inputs, "main": "m", "is_described": True}
    assert found(tmp_path, "./n", files) == ActionFile(
        action=action(uses="./n", path="n", using="node20"),
        **parts | {"pre": "p.js", "main": "m.js", "post": "q.js", "pre_if": "failure()", "post_if": "success()"},
    )
    assert found(tmp_path, "./d") == ActionFile(
        action=action(uses="./d", path="d", using="docker", image="I", env={"E": "1"}),
        **parts | {"pre": "p", "post": "q", "args": ("a", "2")},
    )
    one = found(tmp_path, "./c")
    assert (one.name, one.inputs, one.outputs, len(one.steps)) == ("N", inputs, {"o": "v"}, 1)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "./a: a/action.yml has no `runs`"),
        ("name: x", "./a: a/action.yml has no `runs`"),
        ("runs: {main: x}", "./a: runs.using is missing; known are composite, docker, node20, node24"),
        ("runs: {using: ruby}", "./a: runs.using is ruby; known are composite, docker, node20, node24"),
        ("runs: {using: node20}", "./a: a/action.yml has no `runs.main`, the file that Node runs"),
        ("runs: {using: composite}", "./a: a/action.yml has no `runs.steps`"),
        ("runs: [", "./a: a/action.yml:1:"),
    ],
)
def test_a_file_that_is_none(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(BadAction) as caught:
        found(tmp_path, "./a", {"project/a/action.yml": text})
    assert str(caught.value).startswith(message)


def test_the_file_of_another_repositorys_action_lies_in_it(tmp_path: Path) -> None:
    (tmp_path / "server/o/a/v1").mkdir(parents=True)
    (tmp_path / "action.yml").write_text(COMPOSITE)
    (tmp_path / "server/o/a/v1/action.yml").symlink_to(tmp_path / "action.yml")
    with pytest.raises(BadAction, match="is a link that points outside"):
        found(tmp_path, "o/a@v1")
