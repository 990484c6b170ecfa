"""The top level is fixed: what is new goes into one of these."""

import re
from pathlib import Path

import pytest
import yaml

from tests.support.native import load

ROOT = Path(__file__).parents[2]

TOP = {
    "pyproject.toml",
    "loom",
    "images",
    "tests",
    "docs",
    "Dockerfile",
    "README.md",
    "CONTRIBUTING.md",
    "SECURITY.md",
    "LICENSE",
    "scripts",
    ".ci",
    ".loom",
}
MADE_HERE = {"build", "dist"}
"""By the scripts and by packaging tools; git ignores them."""


def test_nothing_else_is_at_the_top() -> None:
    here = {path.name for path in ROOT.iterdir()} - MADE_HERE
    assert {name for name in here if not name.startswith(".") and not name.endswith(".egg-info")} <= TOP
    assert here >= TOP


@pytest.mark.parametrize("image", sorted(path.parent.name for path in ROOT.glob("images/*/Dockerfile")))
def test_an_image_says_what_it_is_for(image: str) -> None:
    first = (ROOT / "images" / image / "Dockerfile").read_text().splitlines()[0]
    assert first.startswith(f"# loom/{image}: ")
    assert f"[`loom/{image}`]({image}/Dockerfile)" in (ROOT / "images" / "README.md").read_text()


@pytest.mark.parametrize("project", [ROOT, ROOT / "docs" / "sample"], ids=["loom", "sample"])
def test_our_own_workflows_are_right_and_use_images_that_are_built_here(project: Path) -> None:
    path = project / ".loom" / "workflow.yml"
    load(Path(".loom/workflow.yml"), project)
    used = yaml.safe_load(path.read_text())["default"]["image"]
    built = (ROOT / "scripts/lib.sh").read_text().partition("IMAGES=(")[2].partition(")")[0].split()
    assert used.removeprefix("loom/") in built


@pytest.mark.parametrize("example", sorted(path.parent.name for path in ROOT.glob("docs/examples/*/workflow.yml")))
def test_an_example_is_a_workflow_without_mistakes(example: str, tmp_path: Path) -> None:
    assert load(ROOT / "docs/examples" / example / "workflow.yml", tmp_path).jobs


@pytest.mark.slow
def test_each_kind_of_test_is_in_a_folder_that_its_script_reads() -> None:
    """`scripts/lib.sh` leaves out the folders that have only tests of another kind."""
    left_out = {"docker": ("unit", "kubernetes"), "kubernetes": ("unit", "security", "docker/run", "docker/registry")}
    for mark, folders in left_out.items():
        marked = re.compile(rf"\bmark[.]{mark}\b")
        for path in (path for folder in folders for path in (ROOT / "tests" / folder).rglob("*.py")):
            assert not marked.search(path.read_text()), path
    for folder, mark in (("docker/run", "docker"), ("docker/registry", "docker"), ("kubernetes", "kubernetes")):
        for path in (ROOT / "tests" / folder).rglob("test_*.py"):
            assert re.search(rf"^pytestmark = \[?\s*pytest[.]mark[.]{mark}\b", path.read_text(), re.M), path
