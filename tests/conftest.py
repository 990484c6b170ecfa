"""What tests of every kind stand on: file systems of their own, to be filled up, or to be of another kind than the machine's."""

import gc
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
import pytest_rerunfailures
from xdist.scheduler import LoadFileScheduling

from tests.support.ci_server import Stub, serving

# It would connect to 127.0.0.1, where a worker on another engine's network finds nobody.
pytest_rerunfailures.HAS_PYTEST_HANDLECRASHITEM = False

os.environ["LOOM_CONTAINER"] = "0"  # tests' jobs without an image run on this machine, unless a test says otherwise

MakeFileSystem = Callable[..., Path]
"""`make(kind, megabytes)`: an empty file system of that kind and size, mounted until the test is over."""
Fill = Callable[..., Path]
"""`fill(place, leave=0)`: leave no more than about that many bytes free; the file that takes the room."""

os.environ["HYPOTHESIS_NO_PLUGINS"] = "1"  # selenium brings trio, whose plug-in each worker would import
sys.dont_write_bytecode = False  # many images set it: each of ten processes would compile all tests
gc.disable()  # until all tests are collected: nothing of that becomes garbage


def pytest_collection_finish() -> None:
    gc.freeze()
    gc.enable()


BUILDS = ("docker/test_setup.py", "docker/test_services.py", "docker/run/test_own_image.py")
"""What builds images from packages, for minutes where an engine has not built them before."""


class BuildsOnFirstEngine(LoadFileScheduling):
    """Of several engines, the first is the machine's own: it has what it built in earlier runs. Builds are begun first."""

    def _assign_work_unit(self, node: Any) -> None:
        builds = node.gateway.id == "gw0"
        for scope in self.workqueue:
            if scope.endswith(BUILDS) == builds:
                self.workqueue.move_to_end(scope, last=False)
                break
        super()._assign_work_unit(node)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> LoadFileScheduling | None:
    return BuildsOnFirstEngine(config, log) if config.getvalue("dist") == "loadfile" else None


if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # As whatever is started in the background of a script has it. Tests send this signal, and mean it.
    signal.signal(signal.SIGINT, signal.default_int_handler)
if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
    signal.signal(signal.SIGHUP, lambda *_: None)  # the suite goes on under nohup; what it starts gets the default


@pytest.fixture
def tmp_path(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    """pytest's own directory, or under the mark `open_tmp_path` one that every user may enter.

    pytest closes the directory that all its runs share each time that it starts, also under the tests of another run.
    """
    if request.node.get_closest_marker("open_tmp_path") is None:
        yield tmp_path
        return
    with TemporaryDirectory(prefix="loom-test-") as directory:
        Path(directory).chmod(0o755)
        yield Path(directory)


@pytest.fixture
def stub() -> Iterator[Stub]:
    """A CI server that answers what the test lays out."""
    with serving() as found:
        yield found


@pytest.fixture
def other() -> Iterator[Stub]:
    """Another CI server, at another name of this machine."""
    with serving() as found:
        found.url = found.url.replace("127.0.0.1", "localhost")
        yield found


@contextmanager
def mounted(image: Path, place: Path, kind: str, megabytes: int) -> Iterator[Path]:
    """A new file system in a sparse file, mounted at `place`. Skips the test where that is not possible."""
    if os.geteuid() != 0:
        pytest.skip("needs root for a file system of its own")
    place.mkdir(parents=True, exist_ok=True)
    if kind == "tmpfs":
        command = ["mount", "-t", "tmpfs", "-o", f"size={megabytes}M,mode=700", "none", str(place)]
    else:
        _make(image, kind, megabytes)
        command = ["mount", "-t", kind, "-o", "loop", str(image), str(place)]
    mount = subprocess.run(command, check=False, capture_output=True, text=True)
    if mount.returncode != 0:
        image.unlink(missing_ok=True)
        pytest.skip(f"no {kind} can be mounted here: {mount.stderr.strip()}")
    try:
        yield place
    finally:
        if subprocess.run(["umount", str(place)], check=False, capture_output=True).returncode != 0:
            subprocess.run(["umount", "-l", str(place)], check=False)  # something still has a file open there
        image.unlink(missing_ok=True)


def _make(image: Path, kind: str, megabytes: int) -> None:
    program = shutil.which(f"mkfs.{kind}", path=f"{os.environ['PATH']}:/usr/sbin:/sbin")
    if program is None:
        pytest.skip(f"needs mkfs.{kind} for a file system of its own")
    with image.open("wb") as file:
        file.truncate(megabytes << 20)
    # No room is kept back for root: full is to mean full.
    options = {"ext4": ["-m", "0", "-F"]}.get(kind, [])
    subprocess.run([program, "-q", *options, str(image)], check=True, stdin=subprocess.DEVNULL)


def _fill(place: Path, *, leave: int = 0) -> Path:
    filler = place / "filler"
    with filler.open("wb", buffering=0) as file:
        for size in (1 << 20, 4096, 512):
            with suppress(OSError):
                while file.write(bytes(size)) == size:
                    pass
        if leave:
            file.truncate(max(0, file.tell() - leave))
    return filler


@pytest.fixture
def fill() -> Fill:
    return _fill


@pytest.fixture
def make_file_system(tmp_path: Path) -> Iterator[MakeFileSystem]:
    with ExitStack() as undo:

        def make(kind: str, megabytes: int) -> Path:
            place = tmp_path / f"{kind}-{megabytes}"
            return undo.enter_context(mounted(place.with_suffix(".image"), place, kind, megabytes))

        yield make
