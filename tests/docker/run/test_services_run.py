"""Services and builds in whole runs, with secrets, and what the record has of them."""

import json
import uuid
from collections.abc import Iterator
from typing import Any

import docker
import pytest

pytestmark = pytest.mark.docker


@pytest.fixture
def built_name() -> Iterator[str]:
    """A name for an image that the test builds; gone afterwards under all its names."""
    name = f"loom-test-{uuid.uuid4().hex[:12]}"
    yield name
    client = docker.from_env()
    for image in client.images.list(name=name):
        for tag in image.tags:
            client.api.remove_image(tag)
    client.close()


SERVICE = """
  services:
    - name: db
      image: debian:trixie-slim
      command:
        - perl
        - -MIO::Socket
        - -e
        - |
          $s = IO::Socket::INET->new(Listen => 9, LocalAddr => "0.0.0.0", LocalPort => 7000) || die;
          while ($c = $s->accept) { print $c "hello\\n"; close $c }
      ready: {tcp: 7000, interval: 100ms}
  variables: {WHERE: "$LOOM_SERVICE_DB_HOST:${LOOM_SERVICE_DB_PORT_7000}", OTHER: "$LOOM_SERVICE_NONE_HOST"}
  script:
    - |
      perl -MIO::Socket -e 'print IO::Socket::INET->new("$ENV{LOOM_SERVICE_DB_HOST}:$ENV{LOOM_SERVICE_DB_PORT}")->getline'
    - '[ "$WHERE" = "$LOOM_SERVICE_DB_HOST:$LOOM_SERVICE_DB_PORT" ] && [ "$OTHER" = \\$LOOM_SERVICE_NONE_HOST ]'
"""


def test_a_script_reaches_a_service_by_its_variables(project: Any) -> None:
    project.workflow(f"version: v1\nstages: [test]\nboxed:\n  stage: test\n  image: debian:trixie-slim{SERVICE}")
    assert "WF_NAME_UNKNOWN" not in project.loom("check").out
    ran = project.loom("run", "--local")
    assert ran.code == 0, ran.out
    assert ran.output("boxed") == ["hello"]


def test_a_job_on_this_machine_has_no_services(project: Any) -> None:
    project.workflow(f"version: v1\nstages: [test]\nhost:\n  stage: test{SERVICE}")
    ran = project.loom("run", "--local", "--no-container")
    assert ran.code == 2, ran.out
    assert "a job on this machine can't have services; give it an `image`" in ran.out + ran.err


SECRET_WORKFLOW = """
version: v1
stages: [test]
test:
  stage: test
  secrets: {BUILD_TOKEN: "file://secret/build"}
  image: {name: IMAGE, build: {secrets: [BUILD_TOKEN]}}
  services:
    - name: db
      image: debian:trixie-slim
      secrets: {PASSWORD: "file://secret/password", WORD: {ref: "file://secret/word", file: false}}
      command: [sh, -c, 'echo "I say $WORD"; cat "$PASSWORD_FILE"; echo; echo up; exec sleep 600']
      ready: {log: "^up$"}
  script:
    - sha256sum </sum
    - '[ ! -e /run/secrets/BUILD_TOKEN ] && [ -z "${PASSWORD_FILE+set}${WORD+set}" ]'
"""


def test_secrets_of_a_build_and_of_a_service_are_nowhere_in_the_record(project: Any, built_name: str) -> None:
    values = {name: f"{name}-value-{uuid.uuid4().hex}" for name in ("build", "password", "word")}
    for name, value in values.items():
        project.write(f"secret/{name}", value)
    project.write(".gitignore", "secret\n")
    project.write(
        "Dockerfile",
        "FROM debian:trixie-slim\nRUN --mount=type=secret,id=BUILD_TOKEN cat /run/secrets/BUILD_TOKEN && "
        f"sha256sum </run/secrets/BUILD_TOKEN >/sum; : {uuid.uuid4()}\n",
    )
    project.workflow(SECRET_WORKFLOW.replace("IMAGE", built_name))
    ran = project.run()
    assert ran.code == 0, ran.out
    services = (ran.logs / "jobs/test/system/services").rglob("*")
    said = "".join(path.read_text() for path in services if path.is_file())
    assert "I say [REDACTED:SECRET_WORD]" in said
    assert "db | [REDACTED:SECRET_PASSWORD]" in said
    built = "".join(
        path.read_text() for path in (ran.logs / "jobs/test/system/image_build").rglob("*") if path.is_file()
    )
    assert "[REDACTED:SECRET_BUILD_TOKEN]" in built
    everything = [ran.out.encode(), ran.err.encode()]
    record = project.home / ".local/state/loom"
    everything += [path.read_bytes() for path in record.rglob("*") if path.is_file()]
    everything += [path.read_bytes() for path in project.tmp.rglob("*") if path.is_file()]
    for value in values.values():
        assert not any(value.encode() in data for data in everything)


def test_a_service_s_secret_that_is_not_there_ends_the_job_with_its_name(project: Any, built_name: str) -> None:
    project.workflow(SECRET_WORKFLOW.replace("IMAGE", built_name))
    ran = project.run()
    assert ran.code == 3
    assert "SECRETS_REQUIRED_MISSING" in ran.out


def test_an_error_of_a_service_stands_beside_the_job_s(project: Any) -> None:
    """Of the step's time alone; the service goes on."""
    answers = "; ".join(
        (
            "print STDERR qq(ERROR: at the start\\n)",
            "$s = IO::Socket::INET->new(Listen => 9, LocalAddr => '0.0.0.0', LocalPort => 7000) || die",
            "while ($c = $s->accept) { $l = <$c>; print STDERR qq(ERROR: no table $l) if $l; close $c }",
        )
    )
    asks = "$c = IO::Socket::INET->new('db:7000'); print $c qq(carts\\n); print <$c>; exit 7"
    job = {
        "image": "debian:trixie-slim",
        "services": [
            {"name": "debian:trixie-slim", "alias": "db", "command": ["perl", "-MIO::Socket", "-e", answers]},
        ],
        "script": [
            "until perl -MIO::Socket -e 'IO::Socket::INET->new(qq(db:7000)) || die'; do :; done",
            f'perl -MIO::Socket -e "{asks}"'.replace("$", "\\$"),
        ],
    }
    project.write(".gitlab-ci.yml", json.dumps({"test": job}))
    project.commit()
    project.loom("run", "--local")
    found = json.loads(project.loom("diagnose", "--json").out)
    assert [text.split(": ", 1) for text in found["beside"]] == [
        ["service db printed then", "ERROR: no table carts"]
    ], found
