"""The kinds of faults. Each starts the looms of its trial and does its harm; what has to be true afterwards is the same for all."""

import fcntl
import os
import pty
import resource
import shutil
import signal
import struct
import subprocess
import termios
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from docker.errors import APIError

from tests.chaos.proxy import How, shape
from tests.chaos.trial import Trial
from tests.chaos.workflows import random_workflow
from tests.chaos.world import git
from tests.support.disturbed_registry import random_harm

FAILED, REQUEST, INFRASTRUCTURE = 1, 2, 3

# -- what is killed -----------------------------------------------------------------------------------------------


def kill_loom(trial: Trial) -> None:
    """Several on one checkout, one after the other or up to three at once, each in its own moment."""
    if trial.random.random() < 0.6:
        trial.through_proxy()
    for _ in range(8 if trial.long else 2):
        first, *others = [trial.start() for _ in range(trial.random.choice((1, 1, 2, 3)))]
        trial.moment(first)
        for loom in (first, *others):
            loom.kill()
            time.sleep(trial.random.random() ** 4)


def kill_driver(trial: Trial) -> None:
    loom = trial.start()
    if container := trial.container(loom):
        with suppress(APIError, OSError):
            pid = trial.world.client.api.inspect_container(container)["State"]["Pid"]
            if pid:
                trial.notes.append(f"process {pid} of {container[:12]}")
                os.kill(pid, signal.SIGKILL)
    trial.end()


def kill_container(trial: Trial) -> None:
    loom = trial.start()
    if container := trial.container(loom):
        with suppress(APIError):
            trial.world.client.api.kill(container, trial.random.choice(("KILL", "TERM", "STOP")))
    trial.end()


def remove_container(trial: Trial) -> None:
    loom = trial.start()
    if container := trial.container(loom):
        with suppress(APIError):
            trial.world.client.api.remove_container(container, force=True)
    trial.end()


def kill_shim(trial: Trial) -> None:
    loom = trial.start()
    if container := trial.container(loom):
        pid = trial.world.shim_of(container)
        if pid is not None:
            trial.notes.append(f"shim {pid} of {container[:12]}")
            os.kill(pid, signal.SIGKILL)
    trial.end()


# -- the engine ---------------------------------------------------------------------------------------------------


def kill_engine(trial: Trial) -> None:
    loom = trial.start()
    trial.moment(loom)
    _end_engine(trial, signal.SIGKILL)


def restart_engine(trial: Trial) -> None:
    loom = trial.start()
    trial.moment(loom)
    _end_engine(trial, signal.SIGTERM)


def _end_engine(trial: Trial, how: signal.Signals) -> None:
    engine = trial.world.engine
    assert engine.process is not None
    engine.signal(how)
    engine.process.wait(60)
    time.sleep(trial.random.choice((0, 0.5, 3)))
    trial.world.client.close()
    trial.world.start()
    trial.end()


def freeze_engine(trial: Trial) -> None:
    loom = trial.start()
    trial.moment(loom)
    seconds = 30 if trial.long else trial.random.choice((1, 3, 6))
    trial.notes.append(f"for {seconds} s")
    trial.world.engine.signal(signal.SIGSTOP)
    try:
        time.sleep(seconds)
    finally:
        trial.world.engine.signal(signal.SIGCONT)
    trial.end()


def lose_network(trial: Trial) -> None:
    """All connections to the engine end, and for some time there are no new ones."""
    proxy = trial.through_proxy()
    loom = trial.start()
    trial.moment(loom)
    seconds = trial.random.choice((0, 0.3, 2, 20 if trial.long else 2))
    trial.notes.append(f"for {seconds} s")
    proxy.unreachable = True
    proxy.cut()
    time.sleep(seconds)
    proxy.unreachable = False
    trial.end()


def fail_request(trial: Trial) -> None:
    """One request fails; the trials of this kind take them in turn, each in every way."""
    _fail_requests(trial, 1)


def fail_request_twice(trial: Trial) -> None:
    """One request fails, and the next one of its shape too."""
    _fail_requests(trial, 2)


def _fail_requests(trial: Trial, times: int) -> None:
    ways: tuple[How, ...] = ("refused", "lost", "error")
    at, how = divmod(trial.number, len(ways))
    at %= 45
    lock = threading.Lock()
    failed: list[str] = []

    def disturb(number: int, request: str) -> How | None:
        with lock:
            if len(failed) < times and ((not failed and number >= at) or (failed and shape(request) == failed[0])):
                failed.append(shape(request))
                trial.notes.append(f"request {number} ({shape(request)}) {ways[how]}")
                return ways[how]
        return None

    trial.through_proxy(disturb)
    trial.start()
    trial.end()


def fail_runtime(trial: Trial) -> None:
    """The runtime fails the first times, with the words of a busy machine or with others."""
    says = trial.random.choice(
        (
            "runc create failed: unable to start container process: read init-p: connection reset by peer",
            "runc create failed: something is wrong here",
        )
    )
    which = trial.random.choice(("create", "create", "start"))
    times = trial.random.choice((1, 2, 3, 9))
    trial.notes.append(f"{times} times {which}: {says}")
    trial.world.failures.write_text(f"{which} {says}\n" * times)
    trial.start()
    trial.end()


# -- the machine --------------------------------------------------------------------------------------------------


@contextmanager
def _small(place: Path, megabytes: int, inodes: int = 0) -> Iterator[None]:
    options = f"size={megabytes}M,mode=700" + (f",nr_inodes={inodes}" if inodes else "")
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "none", str(place)], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", str(place)], check=True)


def _know_mount(trial: Trial, place: Path) -> None:
    lines = Path("/proc/self/mounts").read_text().splitlines()
    trial.mounts += [line for line in lines if line.split()[1] == str(place)]


def _fill(place: Path) -> Path:
    filler = place / "filler"
    with filler.open("wb", buffering=0) as file:
        for size in (1 << 20, 4096, 512):
            with suppress(OSError):
                while file.write(bytes(size)) == size:
                    pass
    return filler


def full_disk(name: str) -> Callable[[Trial], Iterator[None]]:
    def fault(trial: Trial) -> Iterator[None]:
        place = trial.directory / name
        with _small(place, trial.random.choice((2, 6, 30))):
            if trial.random.random() < 0.3:
                filler = _fill(place)
                trial.notes.append("from the start")
                trial.start()
            else:
                loom = trial.start()
                trial.moment(loom)
                filler = _fill(place)
            trial.end()
            filler.unlink(missing_ok=True)
            _know_mount(trial, place)
            yield

    return fault


def full_engine(trial: Trial) -> None:
    """The disk of the engine is full from a moment on."""
    loom = trial.start()
    trial.moment(loom)
    filler = _fill(trial.world.engine.data)
    trial.end()
    filler.unlink()


def no_inodes(trial: Trial) -> Iterator[None]:
    name = trial.random.choice(("work", "state", "scratch", "cache"))
    count = trial.random.choice((3, 20, 60, 150))
    trial.notes.append(f"{count} inodes for {name}")
    place = trial.directory / name
    with _small(place, 60, count):
        trial.start()
        trial.end()
        subprocess.run(["mount", "-o", "remount,nr_inodes=100000", str(place)], check=True)
        _know_mount(trial, place)
        yield


def no_descriptors(trial: Trial) -> None:
    count = trial.random.randint(8, 60)
    trial.notes.append(f"{count} descriptors")
    trial.start(before=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (count, count)))
    trial.end()


class _Group:
    """A control group with a limit, on v1 or v2."""

    def __init__(self, trial: Trial, controller: str) -> None:
        root = Path("/sys/fs/cgroup")
        base = root / controller if (root / controller).is_dir() else root
        self.path = base / f"{trial.world.directory.name}-{trial.seed}"
        self.path.mkdir(exist_ok=True)

    def enter(self) -> None:
        (self.path / "cgroup.procs").write_text(str(os.getpid()))

    def limit(self, value: int, *names: str) -> None:
        for name in names:
            with suppress(OSError):
                (self.path / name).write_text(str(value))

    def remove(self) -> None:
        with suppress(OSError):
            self.path.rmdir()


def no_processes(trial: Trial) -> None:
    group = _Group(trial, "pids")
    count = trial.random.randint(1, 25)
    trial.notes.append(f"{count} processes and threads")
    group.limit(count, "pids.max")
    trial.start(before=group.enter)
    trial.end()
    group.remove()


def little_memory(trial: Trial) -> None:
    group = _Group(trial, "memory")
    megabytes = trial.random.randint(20, 70)
    trial.notes.append(f"{megabytes} MB")
    group.limit(megabytes << 20, "memory.limit_in_bytes", "memory.max")
    loom = trial.start(before=group.enter)
    trial.end()
    loom.killed = loom.code == -signal.SIGKILL
    group.remove()


def step_clock(trial: Trial) -> None:
    """The clock goes to and fro; what measures time passed goes on."""
    library = next(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"), None)
    if library is None:
        trial.notes.append("skipped: libfaketime (Debian's faketime) is not installed")
        return
    clock = trial.directory / "output" / "clock"
    clock.write_text("+0")
    environ = {
        "LD_PRELOAD": str(library),
        "FAKETIME_TIMESTAMP_FILE": str(clock),
        "FAKETIME_NO_CACHE": "1",
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        "DONT_FAKE_MONOTONIC": "1",
    }
    loom = trial.start(environ=environ)
    while loom.code is None and time.monotonic() < trial.begun + 60:
        draft = clock.with_suffix(".new")
        draft.write_text(trial.random.choice(("-2d", "+0", "+3h", "-90m", "+400d", "-5s")))
        draft.replace(clock)
        time.sleep(trial.random.random() * 0.3)
    trial.end()


def close_terminal(trial: Trial) -> None:
    trial.on_terminal = True
    controller, terminal = pty.openpty()
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 100, 0, 0))
    os.set_blocking(controller, False)

    def take() -> None:
        fcntl.ioctl(0, termios.TIOCSCTTY, 0)

    loom = trial.start(
        environ={"TERM": "xterm"}, before=take, stdin=terminal, stdout=terminal, stderr=terminal, start_new_session=True
    )
    os.close(terminal)
    stop = threading.Event()

    def read() -> None:
        while not stop.wait(0.01):
            with suppress(OSError):
                while os.read(controller, 65536):
                    pass

    reader = threading.Thread(target=read)
    reader.start()
    trial.moment(loom)
    stop.set()
    reader.join()
    os.close(controller)
    trial.end()


def interrupt(trial: Trial) -> None:
    loom = trial.start()
    trial.has_begun(loom)
    for _ in range(trial.random.choice((1, 1, 2, 3))):
        trial.moment(loom)
        if loom.code is None:
            loom.process.send_signal(trial.random.choice((signal.SIGINT, signal.SIGTERM, signal.SIGHUP)))
    trial.end()


def disturb_registry(trial: Trial) -> Iterator[None]:
    """The registry answers late, in part or wrong, on one connection or on all."""
    registry = trial.world.registry()
    try:
        while registry.image not in trial.workflow.text:  # not on this machine, nor in an image that is built
            trial.choose(random_workflow(trial.random, image=registry.image))
        harm = random_harm(trial.random, long=trial.long)
        trial.notes.append(f"{harm}")
        registry.disturb(*harm)
        trial.start()
        trial.end()
        trial.notes.append(f"{registry.served} connections")
        yield
    finally:
        registry.close()


# -- the files ----------------------------------------------------------------------------------------------------


def many_at_once(trial: Trial) -> None:
    for _ in range(50 if trial.long else 6):
        trial.start()
    trial.end()


def change_checkout(trial: Trial) -> None:
    """Files change, and commits are made and rebased, as long as the run goes on."""
    loom = trial.start()
    checkout, random = trial.checkout, trial.random
    number = 0
    while loom.code is None and number < 400:
        number += 1
        file = checkout / f"file{random.randrange(30)}"
        match random.randrange(8):
            case 0 | 1 | 2:
                file.write_text(f"{random.random()}\n" * random.randrange(1, 5000))
            case 3:
                file.unlink(missing_ok=True)
            case 4:
                git(checkout, "add", "-A", check=False)
                git(checkout, "commit", "-qm", f"change {number}", check=False)
            case 5:
                git(checkout, "switch", "-qC", f"branch{number % 3}", check=False)
            case 6:
                git(checkout, "rebase", "-q", "--autostash", "-f", "--root", check=False)
            case 7:
                git(checkout, "gc", "-q", "--prune=now", check=False)
        time.sleep(random.random() * 0.05)
    trial.end()


def remove_workspace(trial: Trial) -> None:
    _remove_at_a_moment(trial, "work", "*/loom-run-local-*")


def remove_record(trial: Trial) -> None:
    trial.record_was_removed = True
    _remove_at_a_moment(trial, "state/runs", "*")


def _remove_at_a_moment(trial: Trial, folder: str, pattern: str) -> None:
    loom = trial.start()
    trial.moment(loom)
    for path in (trial.directory / folder).glob(pattern):
        shutil.rmtree(path, ignore_errors=True)
    trial.end()


Fault = Callable[[Trial], Iterator[None] | None]

KINDS: dict[str, tuple[Fault, tuple[int, ...]]] = {
    "kill-loom": (kill_loom, ()),
    "kill-driver": (kill_driver, (FAILED, INFRASTRUCTURE)),
    "kill-container": (kill_container, (FAILED, INFRASTRUCTURE)),
    "remove-container": (remove_container, (FAILED, INFRASTRUCTURE)),
    "kill-shim": (kill_shim, (FAILED, INFRASTRUCTURE)),
    "kill-engine": (kill_engine, (FAILED, INFRASTRUCTURE)),
    "restart-engine": (restart_engine, (FAILED, INFRASTRUCTURE)),
    "freeze-engine": (freeze_engine, (FAILED, INFRASTRUCTURE)),
    "lose-network": (lose_network, (INFRASTRUCTURE,)),
    "fail-request": (fail_request, (INFRASTRUCTURE,)),
    "fail-request-twice": (fail_request_twice, (INFRASTRUCTURE,)),
    "fail-runtime": (fail_runtime, (INFRASTRUCTURE,)),
    "disturb-registry": (disturb_registry, (FAILED, INFRASTRUCTURE)),
    "full-tmp": (full_disk("work"), (FAILED, INFRASTRUCTURE)),
    "full-scratch": (full_disk("scratch"), (FAILED, INFRASTRUCTURE)),
    "full-state": (full_disk("state"), (FAILED, INFRASTRUCTURE)),
    "full-cache": (full_disk("cache"), (FAILED, INFRASTRUCTURE)),
    "full-engine": (full_engine, (FAILED, INFRASTRUCTURE)),
    "no-inodes": (no_inodes, (FAILED, INFRASTRUCTURE)),
    "no-descriptors": (no_descriptors, (FAILED, INFRASTRUCTURE)),
    "no-processes": (no_processes, (FAILED, INFRASTRUCTURE)),
    "little-memory": (little_memory, (FAILED, INFRASTRUCTURE)),
    "step-clock": (step_clock, (FAILED,)),
    "close-terminal": (close_terminal, (129, -1, FAILED)),
    "interrupt": (interrupt, (129, 130, 143, -1, -2, -15)),
    "many-at-once": (many_at_once, ()),
    "change-checkout": (change_checkout, (REQUEST, INFRASTRUCTURE)),  # a rebase takes the workflow away for a moment
    "remove-workspace": (remove_workspace, (FAILED, INFRASTRUCTURE)),
    "remove-record": (remove_record, (FAILED, INFRASTRUCTURE)),
}
"""By name: what is done, and the exit codes that are right besides that of an undisturbed run."""
