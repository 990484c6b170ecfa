"""A command that is not in the image: what an index in the image knows about it."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import docker
import pytest

from .conftest import IMAGE, Project, load

pytestmark = pytest.mark.docker

DOCKERFILE = f"""\
FROM {IMAGE}
WORKDIR /repository
RUN <<'END'
    set -e
    for name in frob-tools frob zzot widget; do
        printf 'Package: %s\\nVersion: 1\\nArchitecture: amd64\\nFilename: x.deb\\nSize: 1\\nSHA256: %064d\\n\\n' $name 0
    done >Packages
    printf '%s\\n' 'usr/bin/frob admin/frob-tools,oldlibs/frob-old' 'usr/bin/frobnicate x/other' \\
        'usr/share/doc/bin/zzot doc/other' >Contents-amd64
    {{
        printf 'Suite: test\\nArchitectures: amd64\\nSHA256:\\n'
        for file in Packages Contents-amd64; do
            echo " $(sha256sum <$file | cut -d' ' -f1) $(stat -c %s $file) $file"
        done
    }} >Release
    rm -rf /etc/apt/sources.list /etc/apt/sources.list.d
    echo 'deb [trusted=yes arch=amd64] file:/repository ./' >/etc/apt/sources.list
    echo 'Acquire::IndexTargets::deb::Contents-deb {{
        MetaKey "$(COMPONENT)/Contents-$(ARCHITECTURE)"; flatMetaKey "Contents-$(ARCHITECTURE)";
        ShortDescription "Contents"; Description "Contents"; flatDescription "Contents"; KeepCompressed "true";
    }};' >/etc/apt/apt.conf.d/50apt-file
    apt-get update
END
"""
"""With a repository of its own, whose lists apt fetches as for any other; those of `Contents` as apt-file configures it."""

WORKFLOW = """\
version: v1
stages: [test]
.all: {stage: test, image: {build: {dockerfile: Dockerfile}, user: "1234"}}
by-command: {extends: .all, script: ["echo on; frob --all"]}
by-name: {extends: .all, script: [zzot]}
by-table: {extends: .all, script: [shellcheck x]}
no-command: {extends: .all, script: ["echo 'page 3: widget: not found here'; exit 127"]}
"""


def test_the_package_by_the_indexes_of_the_image(project: Project) -> None:
    project.write("Dockerfile", DOCKERFILE)
    project.workflow(WORKFLOW)
    ran = project.run()
    assert ran.code == 1, ran.out + ran.err
    with closing(docker.from_env()) as client:
        client.images.remove(ran.manifest("by-name")["image"]["id"], force=True)
    first = load(Path(ran.receipt["diagnosis_path"]))

    def found(job: str) -> tuple[dict[str, str] | None, str]:
        others = ran.logs / "jobs" / job / "diagnosis.json"
        diagnosis = first if first["job_id"] == job else load(others)
        return ran.manifest(job)["missing_command"], "".join(cause["advice"] for cause in diagnosis["causes"])

    seen, advice = found("by-command")
    assert seen == {"command": "frob", "package": "frob-tools", "manager": "apt", "by": "command"}
    assert "`apt-get update && apt-get install -y --no-install-recommends frob-tools`" in advice
    seen, advice = found("by-name")
    assert seen == {"command": "zzot", "package": "zzot", "manager": "apt", "by": "name"}
    assert "--no-install-recommends zzot`" in advice
    seen, advice = found("by-table")
    assert seen is None
    assert "--no-install-recommends shellcheck`" in advice
    seen, advice = found("no-command")
    assert (seen, advice) == (None, "")
