"""`loom doctor --on`: what a cluster allows, as it says itself."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.kubernetes import environ

pytestmark = pytest.mark.kubernetes


def doctor(tmp_path: Path, on: str, **more: str) -> dict[str, tuple[str, str]]:
    """Return each check's state and text, by its name."""
    ran = subprocess.run(
        [sys.executable, "-m", "loom", "doctor", "--on", on, "--json"],
        cwd=tmp_path,
        env={**environ(), "HOME": str(tmp_path), **more},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    return {check["name"]: (check["state"], check["text"]) for check in json.loads(ran.stdout)["checks"]}


def test_a_cluster_that_allows_all(tmp_path: Path) -> None:
    found = doctor(tmp_path, "kubernetes")
    assert [found[name][0] for name in ("cluster", "rights", "pods")] == ["ok", "ok", "ok"]
    assert "engine" not in found


def test_no_cluster(tmp_path: Path) -> None:
    state, text = doctor(tmp_path, "kubernetes", KUBECONFIG=str(tmp_path / "none"))["cluster"]
    assert (state, "no cluster is configured" in text) == ("bad", True)
