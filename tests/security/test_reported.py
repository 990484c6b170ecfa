"""What a job reports for later jobs (dotenv): it loads nothing on this machine, and a secret in it stays one."""

import json
import os
import uuid

import pytest
from msgspec.structs import replace

from loom.errors import ArtifactError
from loom.plan.model import Image, Job, Referring
from loom.plan.variables import add_reported
from loom.providers import labels
from loom.storage import dotenv

from .conftest import Victim

WORKFLOW = """
version: v1
stages: [build, test]
build:
  stage: build
  script: ['printf "%s\\n" "NAME=$HOME/evil" VERSION=1.2 > vars.env']
  artifacts: {reports: {dotenv: vars.env}}
test:
  stage: test
  shell: [bash]
  variables: {VERSION: "", SET: here}
  script: ['echo "version=$VERSION"', 'echo "$HOME" > "$HOME/ran"']
"""


@pytest.mark.parametrize("language", ["native", "gitlab"])
def test_a_job_on_this_machine_gets_what_its_file_declares_and_what_the_user_allows(language: str) -> None:
    referring = Referring(variables={"ARGS": "$X"}, image=None, services=(), artifacts=None, cache=())
    here = Job(
        id="a",
        name="a",
        stage="s",
        steps=(),
        provider="host",
        variables={
            "VERSION": "",
            "NODE_OPTIONS": "--max-old-space-size=9",
            "ARGS": "" if language == "gitlab" else "$X",
        },
        given_variables=("GIVEN",),
        referring=referring if language == "gitlab" else None,
    )
    names = (
        "VERSION NODE_OPTIONS ARGS TAR_OPTIONS PYTEST_ADDOPTS GTK_MODULES BASHOPTS IMAGE_TAG APP_URL LOOM_MASK version"
    )
    got = [name for name in names.split() if not add_reported(here, {name: "x"}, {}, ["APP_*", "LOOM_*"]).refused]
    assert got == ["VERSION", "APP_URL"]
    refused = add_reported(here, {"TAR_OPTIONS": "x", "VERSION": "1", "GIVEN": "x"})
    assert "reports TAR_OPTIONS in its dotenv file" in refused.refused[0]
    assert (refused.variables["VERSION"], "TAR_OPTIONS" in refused.variables) == ("1", False)
    inside = add_reported(replace(here, image=Image(name="x")), {"TAR_OPTIONS": "x"})
    assert (inside.refused, inside.variables["TAR_OPTIONS"]) == ((), "x")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["BASH_ENV", "SET"])
def test_a_job_on_this_machine_does_not_start_with_a_reported_name_that_loads(victim: Victim, name: str) -> None:
    victim.configure("container: false\n")
    (victim.home / "evil").write_text(f"echo loaded > {victim.home}/loaded\n")
    victim.write(workflow=WORKFLOW.replace("NAME=", f"{name}="))
    done = victim.loom("run")
    assert done.returncode == 3, done
    assert f"a job before test reports {name} in its dotenv file" in done.stdout + done.stderr
    assert not (victim.home / "ran").exists()
    assert not (victim.home / "loaded").exists()
    again = victim.loom("rerun", "last", "--failed")
    assert again.returncode == 3, again
    assert not (victim.home / "ran").exists()
    assert victim.loom("run", LOOM_REPORTED=f"OTHER,{name}X").returncode == 3
    victim.write(workflow=WORKFLOW.replace("NAME=", "OTHER="))
    assert victim.loom("run", LOOM_REPORTED="OTH*").returncode == 0
    assert (victim.home / "ran").exists()


def test_no_job_reports_a_variable_of_looms_own() -> None:
    with pytest.raises(ArtifactError, match=r"vars\.env:2: LOOM_MASK is a variable of loom's own"):
        dotenv.parsed(b"A=1\nLOOM_MASK=/x\n", "vars.env")


HANDED_ON = """
version: v1
stages: [build, test]
build:
  stage: build
  image: debian:trixie-slim
  secrets: {TOKEN: {ref: 'env://TOKEN', file: false}}
  script: ['echo "URL=https://user:$TOKEN@host/" > vars.env']
  artifacts: {reports: {dotenv: vars.env}}
test:
  stage: test
  image: debian:trixie-slim
  variables: {COMPOSED: "$$URL/path", PLAIN: here}
  script: ['printf "%s|" "$URL" "$COMPOSED" "$PLAIN" > got; exit 3']
"""


@pytest.mark.docker
def test_a_secret_that_is_handed_on_is_not_in_the_next_containers_configuration(victim: Victim) -> None:
    from loom.providers.docker.engine.client import connect  # here: the SDK takes a while, and one test needs it

    token = f"token-{uuid.uuid4().hex}"
    victim.write(workflow=HANDED_ON.replace("build:", f"build-{token[-8:]}:").replace("test:", f"test-{token[-8:]}:"))
    done = victim.loom("run", "--trust", "--container", "--keep", "always", TOKEN=token, LOOM_CONTAINER="1")
    assert done.returncode == 1, done
    engine = connect(os.environ)
    mine = [
        one
        for one in engine.containers.list(all=True, ignore_removed=True)
        if token[-8:] in one.labels.get(labels.JOB, "")
    ]
    try:
        [kept] = [one for one in mine if one.labels[labels.JOB].startswith("test")]
        assert token not in json.dumps(kept.attrs)
        assert "PLAIN=here" in kept.attrs["Config"]["Env"]
        assert token not in done.stdout + done.stderr
        got = kept.exec_run(["cat", "/workspace/got"]).output.decode()
        assert got == f"https://user:{token}@host/|https://user:{token}@host//path|here|"
        files = [path for path in victim.state.rglob("*") if path.is_file()]
        assert not [path for path in files if token.encode() in path.read_bytes()]
    finally:
        for one in mine:
            one.remove(force=True)
