"""loom as an image, used as docs/guides/loom-in-a-container.md says."""

import os
import subprocess
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

pytestmark = [pytest.mark.docker, pytest.mark.slow]

ROOT = Path(__file__).parents[3]
IMAGE = "loom-under-test"
WORKFLOW = """\
version: v1
stages: [test]
one:
  stage: test
  image: loom/base
  services:
    - name: loom/python
      alias: web
      command: [python3, -m, http.server, "8080"]
      ready: {http: ":8080/"}
  cache: {key: k, paths: [deps/]}
  script:
    - cat deps/file || true
    - mkdir -p deps && echo cached > deps/file
built:
  stage: test
  image: {build: {dockerfile: Dockerfile}}
  script: [cat /made]
"""
Loom = Callable[..., str]


@pytest.fixture(scope="module")
def image() -> Iterator[str]:
    # Certificates that this machine has of its own, as Debian keeps them: those of a proxy or mirror, perhaps.
    own = sorted(Path("/usr/local/share/ca-certificates").glob("*.crt"))
    extra = "".join(path.read_text() for path in own).rstrip(
        "\n"
    )  # as the shell of scripts/lib.sh: one build serves both
    command = ["docker", "build", "-q", "-t", IMAGE, "--build-arg", f"EXTRA_CA={extra}", str(ROOT)]
    built = subprocess.run(command, capture_output=True, text=True, check=False)
    if "Temporary failure resolving" in built.stderr:
        pytest.skip("no network to build the image with")
    assert built.returncode == 0, built.stderr
    yield IMAGE
    subprocess.run(["docker", "image", "rm", "-f", IMAGE], capture_output=True, check=False)


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    root = tmp_path / "repo"
    (root / ".loom").mkdir(parents=True)
    (root / ".loom/workflow.yml").write_text(WORKFLOW)
    (root / "Dockerfile").write_text(
        f"FROM loom/base\nRUN --mount=type=tmpfs,target=/x echo {uuid.uuid4()} >/dev/null; echo by BuildKit >/made\n"
    )
    git = ["git", "-c", "user.name=t", "-c", "user.email=t@example.org"]
    for arguments in (["init", "-q", "-b", "main"], ["add", "-A"], ["commit", "-qm", "one"]):
        subprocess.run([*git, *arguments], cwd=root, check=True)
    return root


@pytest.fixture
def loom(image: str, repository: Path, tmp_path: Path) -> Iterator[Loom]:
    volume = f"loom-test-{uuid.uuid4().hex}"

    def run(*arguments: str, network: str = "host", code: int = 0, **environ: str) -> str:
        places = {"LOOM_STATE_DIR": f"{tmp_path}/state", "LOOM_TMP_DIR": f"{tmp_path}/workspaces", **environ}
        mounts = ["/var/run/docker.sock:/var/run/docker.sock", f"{tmp_path}:{tmp_path}", f"{volume}:/var/cache/loom"]
        done = subprocess.run(
            [
                *("docker", "run", "--rm", "--pid=host", f"--network={network}", "-w", str(repository)),
                *(word for mount in mounts for word in ("-v", mount)),
                *(word for name, value in places.items() for word in ("-e", f"{name}={value}")),
                *(image, *arguments),
            ],
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == code, done.stdout + done.stderr
        return done.stdout + done.stderr

    yield run
    subprocess.run(["docker", "volume", "rm", "-f", volume], capture_output=True, check=False)


def test_caches_builds_and_readiness(loom: Loom) -> None:
    """On another network the service's address can't be reached: loom looks from inside of its container then."""
    logs = {}
    for network in ("bridge", "host"):
        loom("run", "--local", "--pull", "never", network=network)
        logs[network] = loom("logs", "last", "--system")
        assert "answer to / on port 8080" in logs[network], network
        assert "by BuildKit" in logs[network], network
    assert "cache saved: k" in logs["bridge"]
    assert "cache hit: k" in logs["host"], "the cache outlives the container"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can play another user")
def test_a_state_directory_that_another_user_made_first(loom: Loom, tmp_path: Path) -> None:
    planted = tmp_path / "planted"
    planted.mkdir()
    os.chown(planted, 12345, 12345)
    assert "belongs to another user" in loom("runs", code=3, LOOM_STATE_DIR=str(planted))
