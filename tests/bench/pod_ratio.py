"""One warm job on a cluster, as a ratio to the same command in a pod that is made, attached to and removed by hand.

    LOOM_TEST_KUBECONFIG=... scripts/bench pod_ratio

What `kubectl run --rm -i` does, by the client library: create, wait until it runs, attach, read to the end, delete. The
image is on the nodes. Both take turns; medians are printed.
"""

import os
import statistics
import sys
import tempfile
import time
from pathlib import Path

from loom import providers
from loom.cancel import Cancel
from loom.config import Config
from loom.plan.model import Image, MountMode
from loom.providers.base import SessionRequest, Setup
from loom.providers.command import Command
from loom.providers.kubernetes.cluster.client import Cluster
from loom.providers.kubernetes.cluster.pods import Pods, runs, state_of

IMAGE = os.environ.get("LOOM_TEST_KUBERNETES_IMAGE", "debian:trixie-slim")
SCRIPT = "echo begins; ls / | wc -l; echo ends"


def by_hand(cluster: Cluster, number: int) -> float:
    name = f"loom-bench-{os.getpid()}-{number}"
    pods = Pods(cluster, f"bench={name}")
    begun = time.monotonic()
    container = {
        "name": "c",
        "image": IMAGE,
        "stdin": True,
        "stdinOnce": True,
        "command": ["sh", "-c", f"read x; {SCRIPT}"],
    }
    cluster.call(
        "creating",
        "create_namespaced_pod",
        {
            "metadata": {"name": name, "labels": {"bench": name}},
            "spec": {"restartPolicy": "Never", "containers": [container]},
        },
    )
    pods.wait_for(name, lambda pod: runs(pod, "c"), 60)
    from kubernetes.stream import stream

    attached = stream(
        cluster.api.connect_get_namespaced_pod_attach,
        name,
        cluster.namespace,
        container="c",
        stdin=True,
        stdout=True,
        stderr=True,
        tty=False,
        _preload_content=False,
    )
    attached.write_stdin("go\n")
    said = ""
    while attached.is_open() and "ends" not in said:
        attached.update(timeout=5)
        said += attached.read_stdout()
    pods.wait_for(name, lambda pod: "terminated" in state_of(pod, "c"), 60)
    cluster.call("removing", "delete_namespaced_pod", name, grace_period_seconds=0)
    took = time.monotonic() - begun
    attached.close()
    pods.close()
    return took


def by_loom(environ: dict[str, str], workspace: Path) -> float:
    begun = time.monotonic()
    run_id = f"b{time.monotonic_ns()}"
    provider = providers.make("kubernetes", Setup(environ=environ, config=Config(), run_id=run_id))
    request = SessionRequest(
        run_id=run_id,
        job_id="job",
        workspace=workspace,
        project_dir="/workspace",
        environment={},
        shell=("sh", "-e"),
        image=Image(name=IMAGE),
        mount_mode=MountMode.VOLUME,
    )
    with provider.open(request, lambda *_: None, Cancel()) as session:
        assert session.run(Command(script=SCRIPT, shell=()), lambda *_: None, Cancel()).code == 0
    provider.close()
    return time.monotonic() - begun


def main() -> None:
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 7
    if not (kubeconfig := os.environ.get("LOOM_TEST_KUBECONFIG")):
        print("needs a cluster: LOOM_TEST_KUBECONFIG names its kubeconfig")
        return
    environ = {**os.environ, "KUBECONFIG": kubeconfig}
    cluster = Cluster.of(None, environ)
    with tempfile.TemporaryDirectory() as folder:
        for number in range(150):
            (Path(folder) / f"file{number}").write_bytes(b"x" * 4000)
        hand, loom = [], []
        for number in range(rounds + 1):
            hand.append(by_hand(cluster, number))
            loom.append(by_loom(environ, Path(folder)))
    cluster.close()
    first, second = statistics.median(hand[1:]), statistics.median(loom[1:])
    print(f"by hand {first:.2f} s, loom {second:.2f} s, ratio {second / first:.2f} ({rounds} rounds)")


if __name__ == "__main__":
    main()
