"""docs/guides/kubernetes.md, followed word for word on the cluster of the tests, under the name that kind gives to one."""

import json
import subprocess
from pathlib import Path

import pytest
import yaml

from tests.support import kubernetes
from tests.support.guide import follow

pytestmark = [pytest.mark.kubernetes, pytest.mark.slow]


def test_the_guide_is_true(tmp_path: Path) -> None:
    environ = {"PATH": (given := kubernetes.environ())["PATH"], "HOME": str(tmp_path), "TMPDIR": str(tmp_path)}
    known = yaml.safe_load(Path(given["KUBECONFIG"]).read_text())
    (context,) = (one for one in known["contexts"] if one["name"] == known["current-context"])
    context["name"] = known["current-context"] = "kind-kind"
    (tmp_path / ".kube").mkdir()
    (tmp_path / ".kube/config").write_text(json.dumps(known))
    project = tmp_path / "project"
    project.mkdir()
    user = ["-c", "user.name=a", "-c", "user.email=a@b"]
    for words in (["init", "-q"], [*user, "commit", "-q", "--allow-empty", "-m", "x"]):
        subprocess.run(["git", *words], cwd=project, check=True)
    pipx = "pipx install '.[kubernetes]'         # in a checkout of loom; beside an installed loom: pipx inject loom-ci kubernetes"
    follow("kubernetes.md", project, environ, {pipx: "true", "kind create cluster": "true"})
