"""What the scripts share (scripts/lib.sh) ends what it has started, however a script ends."""

import signal
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("end", "code"),
    [
        ("exit 7", 7),
        (f"kill -{signal.SIGINT.value} $$", 130),
        (f"kill -{signal.SIGTERM.value} $$", 143),
        ("false", 1),
    ],
)
def test_a_script_ends_what_it_started_in_reverse_order(end: str, code: int) -> None:
    script = f". scripts/lib.sh; at_end 'echo first; false'; at_end 'echo second; false'; {end}; echo not reached"
    done = subprocess.run(["bash", "-c", script], cwd=ROOT, stdout=subprocess.PIPE, text=True, timeout=60)
    assert (done.stdout, done.returncode) == ("second\nfirst\n", code)


@pytest.mark.slow
def test_engines_of_a_script_that_is_interrupted_are_ended(tmp_path: Path) -> None:
    script = f"""
        . scripts/lib.sh
        is_root() {{ true; }}
        mktemp() {{ mkdir {tmp_path}/machine && echo {tmp_path}/machine; }}
        other_machine() {{ sleep 300 & echo $! >"$1/dockerd.pid"; cp "$1/dockerd.pid" {tmp_path}; kill -INT $$; sleep 300; }}
        for name in dockerd unshare nsenter slirp4netns; do eval "$name() {{ :; }}"; done
        unset DOCKER_HOST
        other_machines 1
    """
    done = subprocess.run(["bash", "-c", script], cwd=ROOT, stdout=subprocess.DEVNULL, timeout=60)
    assert done.returncode == 130
    assert not (tmp_path / "machine").exists()
    assert not Path(f"/proc/{(tmp_path / 'dockerd.pid').read_text().strip()}").exists()
