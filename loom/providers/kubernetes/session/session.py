"""One job's pod, from the first step to the last."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime

import msgspec
from msgspec.structs import replace

from loom.cancel import Cancel
from loom.errors import ImageError, LoomError, ProviderError
from loom.providers.base import SessionFacts, SessionRequest
from loom.providers.command import Command
from loom.providers.driven import DrivenSession
from loom.providers.driver import protocol as driver
from loom.providers.driver.channel import Exchange
from loom.providers.kubernetes.cluster import pods as states
from loom.providers.kubernetes.cluster.client import Cluster, Gone, Json, is_transient
from loom.providers.kubernetes.cluster.pods import Pods
from loom.providers.kubernetes.images.snapshot import Pushed
from loom.providers.kubernetes.pod.spec import HELPER, JOB, KEPT_UNTIL, is_confined, lease_of
from loom.providers.kubernetes.session import exec as execs
from loom.providers.kubernetes.session.exec import PodInside
from loom.providers.kubernetes.session.files import PackedSnapshots, PodFiles
from loom.providers.kubernetes.session.link import Link, Positions
from loom.status import Ended, Exit, OnOutput
from loom.values import Environ, Immutable

_LIST = "for p in /proc/[0-9]*; do tr '\\0\\n' '  ' <\"$p/cmdline\" && echo; done 2>/dev/null"
CONFIRMED_S = 60.0
"""The time that the pod may take to receive a job's steps."""
ENDED_S = 30.0
"""The time that the cluster may take to report a container's end after the end of its output."""


def remove(cluster: Cluster, pod: str) -> None:
    """Delete a pod at once, also one whose node does not answer. Safe to repeat."""
    try:
        cluster.call(f"removing the pod {pod}", "delete_namespaced_pod", pod, grace_period_seconds=0)
    except Gone:
        pass


def facts_of(cluster: Cluster, pod: str, **details: str) -> SessionFacts:
    return SessionFacts(
        container_id=f"{cluster.namespace}/{pod}",
        container_name=pod,
        details={"namespace": cluster.namespace, **details},
    )


class SavedSession(Immutable):
    """The data with which a loom goes on with a session of an earlier one: what `PodSession.hand_over` saves, as JSON."""

    begun: int
    """The number of the line that began the commands."""
    tokens: Mapping[str, str]
    taken: Positions
    user: str
    auto_shell: tuple[str, ...]
    details: Mapping[str, str]


class PodSession(DrivenSession):
    """Implements `providers.base.Session` and `Detachable` for a pod whose two containers run."""

    def __init__(
        self,
        cluster: Cluster,
        pods: Pods,
        request: SessionRequest,
        facts: SessionFacts,
        *,
        pod: str,
        snapshots: PackedSnapshots | None,
        on_output: OnOutput,
        cancel: Cancel,
        pushed: Pushed | None = None,
        saved: SavedSession | None = None,
    ) -> None:
        """`snapshots`: None for a pod that an earlier loom had a session in, which has its files; `saved`: what that one saved.

        `pushed`: what the pod copied from the registry, still to be proved.
        """
        self._cluster = cluster
        self._pods = pods
        self._pod = pod
        self.link = Link(
            cluster,
            pod,
            lease_s=lease_of(request),
            is_over=lambda: states.is_over(pods.get(pod), HELPER),
            adopt=snapshots is None,
            keeps=request.detached or saved is not None,
            taken=saved.taken if saved is not None else None,
            say=lambda text: on_output("stdout", f"{text}\n".encode()),
        )
        super().__init__(self.link, request, facts, on_output, environment=driver.environment(request.environment)[1])
        self._cancel = cancel
        self._files = PodFiles(
            cluster, pod, request, is_lost=lambda: states.is_taken_away(pods.get(pod)), cancel=cancel
        )
        self._snapshots = snapshots
        self._pushed = pushed
        self._filled = snapshots is None
        self._saved = saved
        self._owner: tuple[int, int] | None = None
        if saved is not None:
            self._set_owner(saved.user)

    def start(self, cancel: Cancel, *, running: bool = False) -> None:
        """Wait for the driver's greeting, and give it the workspace. ImageError when the image can't run it."""
        exchange = Exchange()
        greeting = driver.greeting(exchange.token)
        self.send(greeting if running else driver.program() + greeting)
        if self.greet(exchange, cancel, self._ended_at_once) is None:
            return
        self._set_owner(self.facts.user)
        if not self._filled:
            self._fill(cancel)

    def run(self, command: Command, on_output: OnOutput, cancel: Cancel) -> Exit:
        ended, pool = super().run(command, on_output, cancel), self._request.pool
        own = self._request.resources.memory is not None or (pool is not None and "memory" in pool.limits)
        limit = states.memory_limit(self._pods.get(self._pod), JOB)
        if ended.ended is not Ended.OOM_KILLED or own or not limit:
            return ended
        return replace(ended, limited_by=f": a LimitRange of the namespace {self._cluster.namespace} gives it {limit}")

    def still_running(self) -> Sequence[str]:
        words = ["sh", "-c", _LIST]
        try:
            _, out, _ = execs.run(self._cluster, self._pod, JOB, words, silent_s=10.0, doing="listing processes")
        except (LoomError, OSError):
            return ()
        lines = [line.strip() for line in out.decode("utf-8", "replace").splitlines()]
        return [line for line in lines if driver.MARK not in line and "/proc/[0-9]*" not in line]

    def _set_owner(self, user: str) -> None:
        uid, _, gid = user.partition(":")
        if gid:
            self._owner = self._files.owner = (int(uid), int(gid))

    def hand_over(
        self, steps: Sequence[Command], after: Mapping[bool, Sequence[Command]], save: Callable[[bytes], None]
    ) -> None:
        saved = self._saved
        if saved is None:
            saved = self._to_save(steps, after)
        tokens = {name: token.encode("latin-1") for name, token in saved.tokens.items()}
        lines = self.lines_of(steps, after, tokens)
        received = self.link.received(CONFIRMED_S)
        if received < 0:
            raise self._loss()
        if self._saved is None or received < saved.begun:
            saved = replace(saved, begun=self.link.sent + lines.count(b"\n") + 1)
            save(msgspec.json.encode(saved))
            self.send(lines + driver.GO)
            if not self.link.confirmed(CONFIRMED_S, self._cancel):
                raise self._loss()
        self._handed_over = tokens

    def _to_save(self, steps: Sequence[Command], after: Mapping[bool, Sequence[Command]]) -> SavedSession:
        shared = {kind: driver.new_token() for kind in ("steps", "after")}
        tokens = {}
        for kind, commands in (("steps", steps), ("after", after[True])):
            for command in commands:
                token = shared[kind] if command.share is not None else driver.new_token()
                tokens[command.name] = token.decode("latin-1")
        facts = self.facts
        return SavedSession(
            begun=0,
            tokens=tokens,
            taken=self.link.taken(),
            user=facts.user,
            auto_shell=facts.auto_shell,
            details=facts.details,
        )

    def _ended_at_once(self, output: str, reason: str) -> LoomError:
        return ImageError(
            f"the container of job {self._request.job_id} (image {self._request.image.name}) ended at once: {output or reason}",
            hint="a job needs `sh` in its image; an `entrypoint` must run the command that it is given",
            code="CLUSTER_CONTAINER_NOT_STARTED",
        )

    def _fill(self, cancel: Cancel) -> None:
        assert self._snapshots is not None
        if self._pushed is not None:
            proved = self._files.prove(self._pushed.digests, self._pushed.files)
        else:
            proved = self._files.fill(self._snapshots.of(self._request, cancel), cancel)
        # A confined helper is the job's user already.
        if self._owner is not None and self._owner[0] != 0 and not is_confined(self._request.pool):
            self._files.change("chown", f"{self._owner[0]}:{self._owner[1]}")
        if self._request.chmod:
            self._files.change("chmod", self._request.chmod)
        self._filled = True
        self.facts = replace(self.facts, details={**self.facts.details, "files_proved": proved})

    def put_secret(self, name: str, content: bytes) -> str:
        if self._saved is not None:
            return f"{driver.DIRECTORY}/secret.{name}"  # it is there, and the driver is busy
        return super().put_secret(name, content)

    # The driver's container

    def _loss(self) -> LoomError:
        return states.loss_error(self._cluster, self._pod, self._request.job_id)

    def resume(self, error: OSError | None) -> None:
        if error is not None:
            refused = self.link.failed
            # The refused request does not name the reason why the pod is gone.
            if isinstance(refused, LoomError) and not is_transient(refused) and not isinstance(refused, Gone):
                raise refused
            raise self._loss() from error
        seen = self._pods.wait_for(
            self._pod, lambda pod: pod is None or "terminated" in states.state_of(pod, JOB), ENDED_S
        )
        ended = states.state_of(seen, JOB).get("terminated")
        if ended is None or states.is_taken_away(seen):
            raise self._loss()
        oom = ended.get("reason") == "OOMKilled"
        raise self.end_error(f"the pod {self._pod}", int(ended.get("exitCode") or 0), oom=oom)

    def kill(self) -> None:
        remove(self._cluster, self._pod)

    # Files

    def files(self) -> PodFiles:
        return self._files

    def inside(self, environment: Environ, *, as_root: bool = False) -> PodInside:
        if as_root and self._owner is not None and self._owner[0] != 0:
            raise root_refusal(self._request.job_id)
        return PodInside(
            cluster=self._cluster, pod=self._pod, workdir=self._request.project_dir, environment=environment
        )

    # The end

    def keep(self, expires_at: float) -> None:
        left = expires_at - time.time()
        if self.died:
            raise ProviderError(
                f"the pod of job {self._request.job_id} could not be kept: a step ended its container, and no other can"
                " be started in it"
            )
        self.link.lease(left)
        if not self.link.confirmed(ENDED_S):
            raise ProviderError(f"the pod of job {self._request.job_id} could not be kept: it does not answer")
        found: Json = self._cluster.call("keeping the pod", "read_namespaced_pod", self._pod)
        started = found["status"].get("startTime") or found["metadata"]["creationTimestamp"]
        deadline = int(expires_at - datetime.fromisoformat(started).timestamp())
        changes: Json = {"metadata": {"labels": {KEPT_UNTIL: str(int(expires_at))}}}
        # Let the cluster end it then. The deadline can only be made shorter.
        if deadline < found["spec"].get("activeDeadlineSeconds", deadline + 1):
            changes["spec"] = {"activeDeadlineSeconds": max(1, deadline)}
        self._cluster.call("keeping the pod", "patch_namespaced_pod", self._pod, changes)
        self.kept_until = expires_at

    def leave(self) -> None:
        """End everything in the job's container; its last output goes to the session's `on_output`."""
        if self.kept_until is None and self.link.failed is None:
            self.end()
        self.link.close()


def root_refusal(job_id: str) -> ProviderError:
    return ProviderError(
        f"job {job_id} runs as another user than root, and Kubernetes starts a command only as the container's user",
        hint="leave --root out, or give the job `user: 0`",
        code="POD_UNSUPPORTED",
    )
