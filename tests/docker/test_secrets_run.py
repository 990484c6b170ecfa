"""A whole run with secrets: afterwards their values, in no form a tool gives them, are in anything that the run left."""

import base64
import gzip
import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import docker
import pytest
import zstandard

from tests.support.waiting import until

pytestmark = pytest.mark.docker

TOKEN = """p@ss/w+rd "x" hunter2"""
KEY = "-----BEGIN KEY-----\nMIIEvQIBADANBgkqhkiG9w0BAQEFAASC\nYWJjZGVmZ2hpamtsbW5vcAxyz0123456789\n-----END KEY-----\n"

WORKFLOW = """
version: v1
stages: [build, later]
use:
  stage: build
  image: debian:trixie-slim
  secrets:
    TOKEN: {ref: env://MY_TOKEN, file: false}
    KEY: {ref: file://~/key.pem}
    MAYBE: {ref: env://NOT_SET, required: false}
  cache: {paths: [deps], key: k, when: always}
  artifacts: {paths: [dist], when: always}
  script:
    - |
      echo "plain $TOKEN"; echo "$TOKEN" | base64; printf 'user:%s' "$TOKEN" | base64
      cat "$KEY"; base64 "$KEY"; base64 -w0 "$KEY"; echo
      printf '%s' "$TOKEN" | od -An -tx1 | tr -d ' \\n'; echo
      env; echo "$TOKEN" >&2; printf '%s' "no line end: $TOKEN"
    - |
      [ "$(stat -c %a "$KEY")" = 600 ] && [ -z "${MAYBE+set}" ]
      case $KEY in "$PWD"/*) echo "the secret lies in the workspace"; exit 9;; esac
    - i=0; while [ $i -lt 3000 ]; do printf '%s ' "$TOKEN"; i=$((i+1)); done; echo
    - mkdir -p dist deps; echo ok > dist/ok; echo ok > deps/ok
    - echo "$TOKEN" > dist/token.txt; cat "$KEY" > deps/key
    - touch started; while [ ! -e seen ]; do sleep 0.1; done
    - echo "::failing with $TOKEN"; rm dist/token.txt deps/key; exit 3
other:
  stage: later
  when: always
  image: debian:trixie-slim
  script:
    - '[ -z "${TOKEN+set}${KEY+set}" ]'
"""


def forms(value: str) -> list[bytes]:
    """What must be nowhere: the value itself, its lines, and its encodings at every alignment."""
    raw = value.strip().encode()
    found = [line for line in raw.splitlines() if not line.startswith(b"-----")]
    found += [raw.hex().encode(), quote(value.strip(), safe="").encode(), json.dumps(value.strip())[1:-1].encode()]
    for before in range(3):
        digits = base64.b64encode(bytes(before) + raw)
        found.append(digits[4:24])
    return found


def contents(path: Path) -> Iterator[bytes]:
    data = path.read_bytes()
    yield data
    if path.suffix == ".gz":
        yield gzip.decompress(data)
    if path.suffix == ".zst":
        yield zstandard.ZstdDecompressor().decompressobj().decompress(data)


class Site:
    def __init__(self, base: Path) -> None:
        self.home, self.repo, self.cache, self.tmp = (base / name for name in ("home", "repo", "cache", "tmp"))
        self.screen = base / "screen"
        for path in (self.home, self.repo / ".loom", self.tmp):
            path.mkdir(parents=True)
        (self.home / "key.pem").write_text(KEY)
        self.git("init", "-q")

    def git(self, *arguments: str) -> None:
        identity = ("-c", "user.name=t", "-c", "user.email=t@example.org")
        subprocess.run(["git", *identity, *arguments], cwd=self.repo, check=True)

    def start(self, workflow: str, *arguments: str, token: str = TOKEN) -> subprocess.Popen[bytes]:
        (self.repo / ".loom/workflow.yml").write_text(workflow)
        self.git("add", "-A")
        self.git("commit", "-qm", "x", "--allow-empty")
        with self.screen.open("wb") as screen:
            return subprocess.Popen(
                [sys.executable, "-m", "loom", "run", "--local", "--stream", *arguments],
                cwd=self.repo,
                env={
                    "PATH": os.environ["PATH"],
                    "HOME": str(self.home),
                    "PYTHONPATH": str(Path(__file__).parents[2]),
                    "LOOM_CACHE_DIR": str(self.cache),
                    "LOOM_TRUST": "1",
                    "LOOM_CONTAINER": "0",
                    "LOOM_TMP_DIR": str(self.tmp),
                    "MY_TOKEN": token,
                },
                stdout=screen,
                stderr=subprocess.STDOUT,
            )

    def run(self, workflow: str, *, token: str = TOKEN) -> tuple[int, str]:
        running = self.start(workflow, token=token)
        return running.wait(timeout=120), self.screen.read_text()

    def left(self) -> Iterator[Path]:
        """Every file that was not there before: record, workspace, cache; not the key itself."""
        for root in (self.home, self.repo, self.cache, self.tmp):
            for path in root.rglob("*"):
                if path.is_file() and not path.is_symlink() and path != self.home / "key.pem":
                    yield path

    def receipt(self) -> dict[str, object]:
        (path,) = self.home.rglob("receipts/*.json")
        return json.loads(path.read_text())  # type: ignore[no-any-return]


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path)


def test_nothing_that_a_run_leaves_holds_a_secret(site: Site) -> None:
    running = site.start(WORKFLOW, "--mount-mode", "bind_mount")  # to see in the workspace how far the job is
    # Until the job has come to the step that waits.
    workspace = until(lambda: list(site.tmp.glob("*/loom-run-local-*/started")), while_runs=running)[0].parent

    engine = docker.from_env()
    try:
        workspace_id = workspace.name.split("-")[3]
        containers = engine.containers.list(filters={"label": f"loom.run={workspace_id}"})
        assert containers
        inspected = json.dumps([container.attrs for container in containers], ensure_ascii=False).encode()
        logged = b"".join(container.logs() for container in containers)
    finally:
        engine.close()
    (workspace / "seen").touch()
    assert running.wait(timeout=120) == 1
    screen = site.screen.read_bytes()
    assert b"::failing with [REDACTED:SECRET_TOKEN]" in screen
    assert b"dist/token.txt" not in screen.split(b"rm dist/token.txt")[-1]
    assert site.receipt()["status"] == "failure"
    files = list(site.left())
    names = {path.name for path in files}
    assert {"events.jsonl", "manifest.json", "artifacts.tar.gz", "phase-report.json"} <= names
    assert any(path.suffix == ".zst" for path in files), "the cache was saved"
    wanted = [form for value in (TOKEN, KEY) for form in forms(value)]
    found = [(str(path), form) for path in files for data in contents(path) for form in wanted if form in data]
    found += [("screen", form) for form in wanted if form in screen]
    found += [("docker inspect", form) for form in wanted if form in inspected]
    assert found == []
    # The engine's own log of the container is what `docker logs` shows while it is there; it goes with the container.
    assert b"plain " in logged
    events = b"".join(path.read_bytes() for path in files if path.name == "events.jsonl")
    assert events.count(b"[REDACTED:SECRET_TOKEN]") > 3000
    assert b"[REDACTED:SECRET_KEY]" in events


def test_files_with_a_secret_in_them_stay_out_of_artifacts_and_cache(site: Site) -> None:
    workflow = (
        WORKFLOW.replace("rm dist/token.txt deps/key; ", "").replace("exit 3", "true").replace("[ ! -e seen ]", "false")
    )
    _, text = site.run(workflow)
    assert "dist/token.txt left out: it holds the secret TOKEN" in text
    assert "deps/key left out: it holds the secret KEY" in text
    wanted = [form for value in (TOKEN, KEY) for form in forms(value)]
    kept = [path for path in site.left() if site.tmp not in path.parents]
    assert [(str(path), form) for path in kept for data in contents(path) for form in wanted if form in data] == []


def test_tracing_is_refused_before_the_job_starts(site: Site) -> None:
    workflow = WORKFLOW.replace("    - mkdir -p dist", "    - set -x; mkdir -p dist")
    code, screen = site.run(workflow)
    assert code == 3
    assert "SECRETS_UNSAFE_DEBUG_TRACE" in screen
    assert not list(site.tmp.glob("*/started"))


def test_a_secret_that_can_not_be_had_fails_the_job_in_its_section(site: Site) -> None:
    code, screen = site.run(WORKFLOW.replace("env://MY_TOKEN", "keepass://team#x"))
    said = "no KeePass database has the alias 'team'"
    assert code == 3
    assert said in screen
    (manifest,) = site.home.rglob("jobs/use/manifest.json")
    shown = json.loads(manifest.read_text())
    assert (shown["status"], shown["failing_section"]) == ("error", "secrets")
    (told,) = (one["error"] for one in shown["system_sections"] if one["section"] == "secrets")
    assert said in told
    assert "(SECRETS_REQUIRED_MISSING)" in told or "(SECRETS_PROVIDER_UNAVAILABLE)" in told


def test_a_short_value_is_refused_with_the_reason(site: Site) -> None:
    code, screen = site.run(WORKFLOW, token="abc")
    assert code == 3
    assert "secret TOKEN: the value is shorter than 4 characters" in screen


MADE = """
version: v1
stages: [s]
default: {image: debian:trixie-slim}
makes:
  stage: s
  script:
    - made=$(printf 'made-%s' here-4711); echo "$made" >> "$LOOM_MASK"; echo abc >> "$LOOM_MASK"; echo "MADE=$made" >> "$LOOM_ENV"
    - echo "it is $MADE"; printf '%s' "$MADE" | base64 >&2
    - rm "$LOOM_MASK" "$LOOM_ENV"; echo "still $MADE"
other:
  stage: s
  needs: [makes]
  script: ['printf "made-%s\\n" here-4711']
"""


def test_values_that_a_job_makes_are_hidden_from_then_on(site: Site) -> None:
    code, screen = site.run(MADE)
    assert code == 0, screen
    assert "it is [REDACTED:SECRET_LOOM_MASK]" in screen
    assert "still [REDACTED:SECRET_LOOM_MASK]" in screen
    assert screen.count("[REDACTED:SECRET_LOOM_MASK]") == 4, screen
    assert "script/01: a line of $LOOM_MASK is not masked: the value is shorter than 4 characters" in screen
    made = [b"made-here-4711", base64.b64encode(b"made-here-4711")[:16]]
    assert [path for path in site.left() for data in contents(path) for form in made if form in data] == []


NO_VARIABLE = """
version: v1
stages: [s]
default: {image: debian:trixie-slim}
nul:
  stage: s
  secrets: {NUL: {ref: "file://~/nul", file: false}}
  script: [echo never]
bytes:
  stage: s
  secrets: {BYTES: {ref: "file://~/bytes", file: false}, FILE: {ref: "file://~/nul"}}
  script:
    - printf '%s' "$BYTES" | md5sum; md5sum < "$FILE"
    - echo fine
"""


def test_a_secret_that_no_variable_can_hold_fails_its_job_alone(site: Site) -> None:
    values = {"nul": b"abc\0defgh", "bytes": b"\xff\x1eloom:\r\n'\"$x\\ `two\nlines\t\x1b[2J"}
    for name, value in values.items():
        (site.home / name).write_bytes(value)
    code, screen = site.run(NO_VARIABLE)
    assert code == 3
    assert (
        "secret NUL of job nul: the value holds a NUL byte, which no variable can hold (SECRETS_VALUE_NOT_TEXT)"
        in screen
    )
    assert "Leave `file: false` out" in screen
    assert "fine" in screen
    for value in values.values():
        assert hashlib.md5(value).hexdigest() in screen
    assert "loom_" not in screen


def test_secrets_of_a_file_reach_a_gitlab_file_masked_and_no_record(site: Site) -> None:
    given = site.home / "given"
    given.write_text("GIVEN=hunter-2244\n")
    job = "t: {image: debian:trixie-slim, script: ['echo the word is $GIVEN', 'test ${#GIVEN} = 11']}\n"
    (site.repo / ".gitlab-ci.yml").write_text(job)
    running = site.start("version: v1\n", "-f", ".gitlab-ci.yml", "--secret-file", str(given))
    assert (running.wait(timeout=120), "the word is [REDACTED:" in site.screen.read_text()) == (0, True)
    holding = {path for path in site.home.rglob("*") if path.is_file() and b"hunter-2244" in path.read_bytes()}
    assert holding == {given}
