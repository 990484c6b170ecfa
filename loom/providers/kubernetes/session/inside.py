"""Commands in a job's container beside its driver: with connected streams, or on a terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from loom.errors import EngineUnavailable, LoomError
from loom.providers.driver import protocol as driver
from loom.providers.driver.shared_shell import quoted
from loom.providers.driver.steps import still_running
from loom.providers.inside import CommandsInside, new_path
from loom.providers.kubernetes.pod.spec import JOB
from loom.providers.kubernetes.session import exec as execs
from loom.providers.kubernetes.session.exec import Exec
from loom.providers.watcher import BECOME, Watcher

if TYPE_CHECKING:
    from loom.providers.kubernetes.cluster.client import Cluster

# $1: the directory, $2: a file with `export` lines, which goes; then the command.
_ENTER = 'cd "$1" || exit 126; [ -z "$2" ] || { . "$2"; rm -f "$2"; }; shift 2; exec "$@"'
_LIST = "for p in /proc/[0-9]*; do tr '\\0\\n' '  ' <\"$p/cmdline\" && echo; done 2>/dev/null"


def commands_in(cluster: Cluster, pod: str) -> tuple[str, ...]:
    """The command lines of what the job's container runs; nothing where it can't tell."""
    try:
        _, out, _ = execs.run(cluster, pod, JOB, ["sh", "-c", _LIST], silent_s=10.0, doing="listing processes")
    except (LoomError, OSError):
        return ()
    lines = [line.strip() for line in out.decode("utf-8", "replace").splitlines()]
    own = [line for line in lines if line and driver.MARK not in line and "/proc/[0-9]*" not in line]
    return still_running(own, f"{driver.DIRECTORY}/step.")


class PodInside(CommandsInside, frozen=True, kw_only=True):
    """Implements `providers.base.Inside` for the job's container of a running pod."""

    cluster: Cluster
    pod: str
    workdir: str

    def script(self, program: bytes) -> tuple[int, str]:
        code, out, err = execs.run(
            self.cluster, self.pod, JOB, ["sh"], stdin=lambda: [program], doing="running a script in the pod"
        )
        return code, (out + err).decode("utf-8", "replace").strip()

    def begin(self, command: Sequence[str], *, stdin: bool, tty: bool = False) -> tuple[Exec, Watcher]:
        pid_file, variables = new_path("exec"), ""
        if self.environment:
            variables = new_path("variables")
            self.write({variables: _exports(self.environment)})
        entered = driver.entering(command, dict.fromkeys(self.environment, ""))
        # The end of an input that nobody gives gets lost now and then between a busy kubelet and its containerd.
        enter = _ENTER if stdin else f"{_ENTER} </dev/null"
        words = ["sh", "-c", BECOME, "loom", pid_file, "sh", "-c", enter, "loom", self.workdir, variables, *entered]
        watcher = Watcher(self._watch, pid_file)
        return Exec(self.cluster, self.pod, JOB, words, stdin=stdin, tty=tty), watcher

    def _watch(self, program: Sequence[str], limit_s: float) -> Exec:
        return Exec(self.cluster, self.pod, JOB, program, stdin=True)

    def lost(self, error: OSError) -> LoomError | None:
        if not isinstance(error, execs.Broken):
            return None
        return EngineUnavailable(
            f"the connection to the pod {self.pod} was lost: {error}",
            hint="the command may still run there",
            code="CLUSTER_UNAVAILABLE",
        )


def _exports(environment: Mapping[str, str]) -> bytes:
    lines = [
        b"export " + name.encode() + b"=" + quoted(value) + b"\n"
        for name, value in environment.items()
        if name.isidentifier() and name.isascii()
    ]
    return b"".join(lines)
