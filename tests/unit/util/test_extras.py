"""The command for a missing extra, as loom was installed."""

import shlex
import sys
import sysconfig
import tomllib
from importlib import metadata
from pathlib import Path

import pytest

from loom.util import extras

DECLARED = tomllib.loads((Path(__file__).parents[3] / "pyproject.toml").read_text())["project"]["optional-dependencies"]


@pytest.fixture
def prefix(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(sys, "prefix", str(tmp_path / "loom-ci"))
    (tmp_path / "loom-ci").mkdir()
    monkeypatch.setattr(
        metadata,
        "requires",
        lambda _: [
            "docker>=7.1",
            *(f"{need}; extra == '{extra}'" for extra, needs in DECLARED.items() for need in needs),
        ],
    )
    monkeypatch.setattr(extras, "_has_pip", lambda: True)
    return tmp_path / "loom-ci"


@pytest.mark.parametrize("extra", ["kubernetes", "s3", "mcp"])
def test_pip_in_an_environment(prefix: Path, extra: str) -> None:
    assert shlex.split(extras.install_command(extra)) == [
        sys.executable,
        "-I",
        "-m",
        "pip",
        "install",
        *DECLARED[extra],
    ]


def test_pipx(prefix: Path) -> None:
    (prefix / "pipx_metadata.json").touch()
    assert shlex.split(extras.install_command("s3")) == ["pipx", "inject", "loom-ci", *DECLARED["s3"]]


def test_uv(prefix: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = ["uv", "pip", "install", "--python", sys.executable, *DECLARED["mcp"]]
    monkeypatch.setattr(extras, "_has_pip", lambda: False)
    assert shlex.split(extras.install_command("mcp")) == wanted
    monkeypatch.setattr(extras, "_has_pip", lambda: True)
    (prefix / "uv-receipt.toml").touch()
    assert shlex.split(extras.install_command("mcp")) == wanted


def test_a_python_of_the_system(prefix: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "base_prefix", str(prefix))
    (prefix / "EXTERNALLY-MANAGED").touch()
    monkeypatch.setattr(sysconfig, "get_path", lambda _: str(prefix))
    assert "install --break-system-packages" in extras.install_command("mcp")


def test_a_checkout_that_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(_: str) -> list[str]:
        raise metadata.PackageNotFoundError

    monkeypatch.setattr(metadata, "requires", missing)
    assert extras.install_command("mcp") == "pipx install --force '.[mcp]' in a checkout of loom"
