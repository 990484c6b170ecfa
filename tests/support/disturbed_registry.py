"""A registry that an engine reaches only through a proxy, which cuts, delays or corrupts what the registry answers."""

import ctypes
import io
import os
import shutil
import socket
import subprocess
import tarfile
import threading
import time
from contextlib import suppress
from pathlib import Path
from random import Random
from typing import Literal

import docker

from tests.support.connections import free_port, serve_each
from tests.support.waiting import until

Harm = Literal["cut", "silence", "slow", "corrupt"]
_CLONE_NEWNET = 0x40000000
_CONFIG = "version: 0.1\nlog: {{level: error}}\nstorage: {{filesystem: {{rootdirectory: {0}/data}}}}\nhttp: {{addr: '127.0.0.1:{1}'}}\n"


class DisturbedRegistry:
    """It listens outside of the engine's network, the proxy inside, at the same port. `image` is in it."""

    def __init__(self, directory: Path, engine_pid: int) -> None:
        directory.mkdir(exist_ok=True)
        self._listener = _listening_beside(engine_pid)
        self._port = self._listener.getsockname()[1]
        self._upstream = ("127.0.0.1", free_port())
        self.image = f"127.0.0.1:{self._port}/ash:big"
        self._lock = threading.Lock()
        self._harm: tuple[Harm, int, float] = ("cut", 0, 0)
        self._left = 0
        self.served = 0
        """How many connections there were since `disturb`."""
        config = directory / "config.yml"
        config.write_text(_CONFIG.format(directory, self._upstream[1]))
        program = shutil.which("docker-registry")
        assert program is not None, "needs Debian's docker-registry"
        with (directory / "log").open("wb") as log:
            self._process = subprocess.Popen(
                [program, "serve", str(config)],
                env={"PATH": os.environ["PATH"], "OTEL_TRACES_EXPORTER": "none"},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        until(self._answers)
        serve_each(self._listener, self._serve)

    def _answers(self) -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(self._upstream) == 0

    def fill(self, client: docker.DockerClient) -> None:
        """Push `ash:test` with two megabytes more, which no other image has."""
        more = io.BytesIO()
        with tarfile.open(fileobj=more, mode="w") as archive:
            archive.addfile(tarfile.TarInfo("more"), io.BytesIO())
            member = tarfile.TarInfo("much")
            member.size = 2 << 20
            archive.addfile(member, io.BytesIO(os.urandom(member.size)))
        container = client.api.create_container("ash:test", "sh")
        client.api.put_archive(container["Id"], "/", more.getvalue())
        client.api.commit(container["Id"], repository=self.image.rpartition(":")[0], tag="big")
        client.api.remove_container(container["Id"])
        pushed = list(client.api.push(self.image, stream=True, decode=True))
        assert not any("error" in line for line in pushed), pushed

    def disturb(self, harm: Harm, at: int, times: int, seconds: float = 0) -> None:
        """Do this to the next connections, each after so many bytes."""
        with self._lock:
            self._harm, self._left, self.served = (harm, at, seconds), times, 0

    def close(self) -> None:
        self._listener.close()
        self._process.kill()
        self._process.wait()  # no limit: it was killed

    def _serve(self, client: socket.socket) -> None:
        with client, suppress(OSError), socket.create_connection(self._upstream, 10) as registry:
            registry.settimeout(None)
            threading.Thread(target=self._pass_on, args=(client, registry), daemon=True).start()
            with self._lock:
                harm = self._harm if self._left > 0 else None
                self._left -= 1
                self.served += 1
            passed = 0
            while data := registry.recv(16384):
                if harm is not None:
                    kind, at, seconds = harm
                    if kind == "slow":
                        time.sleep(seconds)
                    elif passed + len(data) > at:
                        here = max(0, at - passed)
                        if kind == "cut":
                            client.sendall(data[:here])
                            break
                        if kind == "silence":
                            time.sleep(seconds)
                        else:
                            data = data[:here] + bytes((data[here] ^ 4,)) + data[here + 1 :]
                        harm = None
                client.sendall(data)
                passed += len(data)
            for end in (client, registry):
                with suppress(OSError):
                    end.shutdown(socket.SHUT_RDWR)

    @staticmethod
    def _pass_on(client: socket.socket, registry: socket.socket) -> None:
        with suppress(OSError):
            while data := client.recv(65536):
                registry.sendall(data)
        with suppress(OSError):
            registry.shutdown(socket.SHUT_WR)


def random_harm(random: Random, *, long: bool) -> tuple[Harm, int, int, float]:
    harm: Harm = random.choice(("cut", "silence", "slow", "corrupt"))
    at = random.choice((0, 40, 200, 900, 20_000, 1_000_000))
    return harm, at, random.choice((1, 2, 4, 99)), 0.05 if harm == "slow" else 40 if long else random.choice((1, 5))


def _listening_beside(pid: int) -> socket.socket:
    """A socket in the network of this process: a thread enters it, and ends."""
    made: list[socket.socket] = []

    def listen() -> None:
        with Path(f"/proc/{pid}/ns/net").open() as network:
            if ctypes.CDLL(None, use_errno=True).setns(network.fileno(), _CLONE_NEWNET):
                raise OSError(ctypes.get_errno(), "setns")
        made.append(socket.create_server(("127.0.0.1", 0), backlog=128))

    thread = threading.Thread(target=listen)
    thread.start()
    thread.join()  # no limit: it makes a socket
    return made[0]
