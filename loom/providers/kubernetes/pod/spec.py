"""The specification of a job's pod.

A pod, not a Job object: what a Job adds is a new pod for a lost one, which would start without the snapshot, unseen by the
run. Attempts are the run's (`retry`), and so they are in its record.
"""

from __future__ import annotations

import os
import pwd
import re
import secrets
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from msgspec import to_builtins

from loom.config.pools import Pool
from loom.errors import ProviderError, ServiceError
from loom.images.reference import service_aliases
from loom.plan.model import Image, PullPolicy, Resources, Service
from loom.providers import labels
from loom.providers.base import JOB_CAPS, SERVICE_CAPS, SessionRequest
from loom.providers.driver import protocol as driver
from loom.providers.kubernetes.cluster.client import Json
from loom.providers.kubernetes.images.snapshot import COPY, Pushed, copying
from loom.providers.kubernetes.pod.policies import NamespacePolicies, amount, check_level, fit
from loom.providers.services import http_address
from loom.values import Environ, Immutable

JOB, HELPER = "job", "loom"
"""The names of the two containers of each pod."""
KEPT_UNTIL = "loom.kept-until"
"""The label of a kept pod, with its expiry in seconds since the epoch."""
MANAGED = "app.kubernetes.io/managed-by"
DEADLINE_S = 48 * 3600.0
"""The longest life of a pod, where its pool does not say."""
LEASE_S = 900.0
"""The time that a pod lives on without its loom."""
WAITING = 8
"""The number of segments of a stream, each of 2 to 4 MiB, that may wait for loom."""
DETACHED_BYTES = 512 << 20
"""The output that a pod without its loom keeps at most. Beyond that the cluster evicts it."""
DETACHED = "loom.detached"
"""The label of a pod that lives on without its loom."""
CPU = "250m"
"""The processor share that a job's container reserves by default; without requests, a node takes any number of jobs."""
_PULL: Mapping[PullPolicy, str] = {"always": "Always", "missing": "IfNotPresent", "never": "Never"}
_SECCOMP = {"seccompProfile": {"type": "RuntimeDefault"}}


# The shell programs that run beside the job
IO = "/run/loom.io"
"""The FIFOs of the driver's streams, in the job's container and the helper's."""
SPOOL = "/run/loom.spool"
"""The driver's output that loom has not read yet, in the helper's container only."""

FULL = "/run/loom.full"
"""The volume with which the helper lets the kubelet end a pod with services."""

JOINS = f'while [ ! -p {IO}/in ]; do sleep 0.05 || sleep 1; done 2>/dev/null; exec <>{IO}/in >{IO}/out 2>{IO}/err "$@"'
"""The first words of the job's container: it becomes `$@`, connected to the helper."""

_HELPER, _SENDER = (Path(__file__).with_name(f"{name}.sh") for name in ("helper", "sender"))


class PodServiceContainer(Immutable):
    """A service in the pod."""

    service: Service
    container: str
    image: str


def deadline_of(request: SessionRequest) -> int:
    return int((request.pool.deadline if request.pool else None) or DEADLINE_S)


def lease_of(request: SessionRequest) -> float:
    return deadline_of(request) if request.detached else LEASE_S


def name_of(request: SessionRequest) -> str:
    job = re.sub(r"[^a-z0-9]+", "-", request.job_id.lower()).strip("-")[:30].strip("-") or "job"
    return f"loom-{request.run_id[-10:]}-{job}-{secrets.token_hex(3)}".lower()


def selector(run_id: str, job_id: str = "") -> str:
    of_job = f",{labels.JOB}={_label(job_id)}" if job_id else ""
    return f"{MANAGED}=loom,{labels.RUN}={_label(run_id)}{of_job}"


def _label(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9._-]+", "-", text)[:63].strip("._-")


def _user_here() -> str:
    try:
        return pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:
        return str(os.geteuid())


def specification(
    request: SessionRequest,
    name: str,
    environment: Environ,
    services: Sequence[PodServiceContainer],
    *,
    image: str,
    pushed: Pushed | None = None,
    policies: NamespacePolicies = NamespacePolicies(),  # noqa: B008  a value
) -> Json:
    """Return the pod, which copies the snapshot if it is `pushed`. ProviderError for what a pod can't have.

    Its values fit the `policies` of its namespace.
    """
    _refuse(request)
    pool = request.pool or Pool(provider="kubernetes")
    marks = labels.request_labels(request, "job")
    marks.pop(labels.WORKSPACE)  # a path of this machine is nobody else's business
    volumes = _volumes(request)
    if services:
        volumes.append(_volume("full", FULL, (HELPER,), size=1 << 20))
    confined = is_confined(pool)
    mounts = {one["mount"]["mountPath"]: one["name"] for one in volumes}
    given = request.environment
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": name,
            "labels": {
                MANAGED: "loom",
                labels.RUN: _label(request.run_id),
                labels.JOB: _label(request.job_id),
                "loom.user": _label(_user_here()),
                "loom.repository": _label(given.get("CI_PROJECT_PATH") or given.get("GITHUB_REPOSITORY", "")) or None,
                "loom.branch": _label(given.get("CI_COMMIT_REF_NAME") or given.get("GITHUB_REF_NAME", "")) or None,
                "loom.network": "none" if request.network.mode == "none" else None,
                DETACHED: "true" if request.detached else None,
            },
            "annotations": marks,
        },
        "spec": {
            "restartPolicy": "Never",
            "terminationGracePeriodSeconds": 1,
            "activeDeadlineSeconds": deadline_of(request),
            "automountServiceAccountToken": bool((pool.pod_template.get("spec") or {}).get("serviceAccountName")),
            "enableServiceLinks": False,
            "containers": [
                _helper(request, image, confined, volumes),
                _job(request, environment, image, confined),
                *(_service(one, request.hardened, confined) for one in services),
            ],
            "initContainers": [copying(pushed, mounts)] if pushed is not None else [],
            "volumes": [{"name": one["name"], "emptyDir": one["emptyDir"]} for one in volumes],
            "tolerations": [  # how long it stays on a node that does not answer
                {
                    "key": f"node.kubernetes.io/{key}",
                    "operator": "Exists",
                    "effect": "NoExecute",
                    "tolerationSeconds": 30,
                }
                for key in ("not-ready", "unreachable")
            ],
            "nodeSelector": _platform(request.image),
            "hostAliases": _aliases(request, services),
            "hostname": request.network.hostname or None,
            "hostNetwork": request.network.mode == "host" or None,
            "securityContext": _SECCOMP if confined else None,
        },
    }
    whole = cast("Json", merged(to_builtins(pool.pod_template), _literal(pod)))
    job = next(one for one in whole["spec"]["containers"] if one["name"] == JOB)
    requests = job["resources"].get("requests") or {}
    if "cpu" not in {**requests, **(job["resources"].get("limits") or {})}:
        job["resources"] = {**job["resources"], "requests": {"cpu": CPU, **requests}}
    check_level(policies, confined=confined)
    for container in (*whole["spec"]["containers"], *whole["spec"]["initContainers"]):
        fit(container, policies, pool, own=container["name"] in (HELPER, COPY))
    return whole


def merged(below: Any, above: Any) -> Any:
    """Merge two parts of a specification; `above` counts more. Lists of named parts merge by name, others are joined."""
    if isinstance(below, Mapping) and isinstance(above, Mapping):
        return {
            key: merged(below[key], above[key]) if key in below and key in above else above.get(key, below.get(key))
            for key in (*above, *(key for key in below if key not in above))
        }
    if isinstance(below, list) and isinstance(above, list):
        named = {one["name"]: one for one in below if isinstance(one, Mapping) and "name" in one}
        own = [merged(named.pop(one["name"]), one) if _name(one) in named else one for one in above]
        return [*own, *(one for one in below if _name(one) is None or _name(one) in named)]
    return above


def _name(part: Any) -> str | None:
    return part.get("name") if isinstance(part, Mapping) else None


def _refuse(request: SessionRequest) -> None:
    def no(what: str, hint: str) -> ProviderError:
        return ProviderError(f"job {request.job_id}: a pod can't have {what}", hint=hint, code="POD_UNSUPPORTED")

    if request.docker_socket:
        raise no(
            "the engine's socket", "run the job in Docker (`runner_pool`), or build with a tool that needs no engine"
        )
    if request.resources.devices:
        raise no("devices by path", "give it `gpus`, or a pool whose nodes offer the device as a resource")
    if request.network.mode not in (None, "bridge", "default", "none", "host"):
        raise no(f"the network {request.network.mode}", "a pod has the cluster's network, or `host`")
    gpus = request.resources.gpus
    if gpus is not None and not gpus.isdigit():
        raise no(f"`gpus: {gpus}`", "name a number of GPUs")
    user = request.image.user or ""
    if user and not re.fullmatch(r"\d+(:\d+)?", user):
        raise no(f"a user by name ({user})", "write the number, as in `user: 1000:1000`")


def unenforced(resources: Resources, network: str | None) -> list[str]:
    """Name, for people, what the job asks for and a pod can't promise."""
    found = []
    if resources.pids is not None:
        found.append("`pids` is not enforced: the kubelet has one limit for all pods of a node")
    if resources.ulimits:
        found.append("`ulimits` are not set: a pod has none of its own")
    if network == "none":
        found.append(
            "`network: none` is only as strict as the namespace: a NetworkPolicy for pods with the label loom.network=none"
        )
    return found


# Containers


_EXPANDED = frozenset({"command", "args", "value"})
"""The fields in which the kubelet replaces `$(NAME)` and `$$`, and breaks a character behind another `$`."""


def _literal(part: Any, *, expanded: bool = False) -> Any:
    """Return a part of a pod without values that are None, its texts escaped so that the kubelet expands nothing in them."""
    if isinstance(part, Mapping):
        return {key: _literal(value, expanded=key in _EXPANDED) for key, value in part.items() if value is not None}
    if isinstance(part, list | tuple):
        return [_literal(one, expanded=expanded) for one in part]
    return part.replace("$", "$$") if expanded and isinstance(part, str) else part


def _environment(given: Mapping[str, str]) -> list[dict[str, str]]:
    return [{"name": key, "value": value} for key, value in given.items()]


def _helper(request: SessionRequest, image: str, confined: bool, volumes: Sequence[Json]) -> Json:
    """Return the container for the driver's streams and the workspace: it runs as root, or confined, as the job's user."""
    mounts = [one["mount"] for one in volumes if HELPER in one["in"]]
    full = FULL if any(one["mountPath"] == FULL for one in mounts) else ""
    limited = request.resources.memory is not None or request.resources.cpus is not None
    return {
        "name": HELPER,
        "image": image,
        "imagePullPolicy": _PULL[request.image.pull],
        "command": helper(lease_of(request), 0 if request.detached else WAITING, full),
        "workingDir": "/",
        "securityContext": {
            **_restricted(True, None if confined else JOB_CAPS),
            **(_user(request.image.user) if confined else {"runAsUser": 0}),
        },
        "resources": {
            "requests": {"cpu": "10m", "memory": "32Mi"},
            "limits": {"cpu": "1", "memory": "256Mi"} if limited else None,
        },
        "volumeMounts": mounts,
    }


def _job(request: SessionRequest, environment: Environ, image: str, confined: bool) -> Json:
    strict = request.hardened or confined
    return {
        "name": JOB,
        "image": image,
        "imagePullPolicy": _PULL[request.image.pull],
        "command": [
            "sh",
            "-c",
            JOINS,
            "loom",
            *driver.command_behind(request.image.entrypoint, driver.boot(int(LEASE_S))),
        ],
        "workingDir": request.project_dir,
        "env": _environment(environment),
        "securityContext": {
            **_user(request.image.user),
            **_restricted(strict, None if confined else JOB_CAPS),
            **(_SECCOMP if strict else {}),
            "privileged": request.privileged or None,
            "readOnlyRootFilesystem": request.resources.read_only or None,
        },
        "resources": _resources(request.resources, request.pool),
        "volumeMounts": [one["mount"] for one in _volumes(request) if JOB in one["in"]],
    }


def _restricted(strict: bool, capabilities: Sequence[str] | None) -> Json:
    """Return a security context with no capabilities but these, if `strict`; else an empty one."""
    return {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"], "add": capabilities}} if strict else {}


def _user(user: str | None) -> Json:
    uid, _, gid = (user or "").partition(":")
    return {"runAsUser": int(uid) if uid else None, "runAsGroup": int(gid) if gid else None}


def _resources(resources: Resources, pool: Pool | None) -> Json:
    """Return requests and limits: the job's limits count more than its pool's, and no request is above its limit."""
    limits = {key: str(value) for key, value in pool.limits.items()} if pool is not None else {}
    if resources.cpus is not None:
        limits["cpu"] = f"{int(resources.cpus * 1000)}m"
    if resources.memory is not None:
        limits["memory"] = str(resources.memory)
    if resources.gpus is not None:
        limits["nvidia.com/gpu"] = resources.gpus
    requests = {
        key: str(value)
        for key, value in (pool.requests.items() if pool is not None else ())
        if key not in limits or amount(str(value)) <= amount(limits[key])
    }
    return {"limits": limits or None, "requests": requests or None}


def _service(one: PodServiceContainer, hardened: bool, confined: bool) -> Json:
    service = one.service
    return {
        "name": one.container,
        "image": one.image,
        "imagePullPolicy": _PULL[service.image.pull],
        "env": _environment(service.variables),
        "command": service.entrypoint if service.entrypoint is not None else service.image.entrypoint,
        "args": service.command,
        "resources": _resources(service.resources, None),
        "securityContext": {
            **_user(service.user or service.image.user),
            **_restricted(hardened or confined, None if confined else SERVICE_CAPS),
        },
        "readinessProbe": _probe(service),
    }


def _probe(service: Service) -> Json | None:
    """Return a probe that the kubelet runs, beside the container: no tool is needed in it."""
    ready = service.ready
    how: Json
    if ready.command is not None:
        how = {"exec": {"command": list(ready.command)}}
    elif ready.tcp is not None:
        how = {"tcpSocket": {"port": ready.tcp}}
    elif ready.http is not None:
        scheme, _, port, path = http_address(ready.http)
        port = port or (443 if scheme == "https" else 80)
        how = {"httpGet": {"port": port, "path": path, "scheme": (scheme or "http").upper()}}
    else:
        return None
    return {**how, "periodSeconds": max(1, round(ready.interval_s)), "timeoutSeconds": 5, "failureThreshold": 1}


def helper(lease_s: float, segments: int, full: str = "") -> list[str]:
    """Return the command of the helper's container. `segments`: how many of each stream may wait for loom; 0: any number.

    `full`: a volume that it fills at last, where the pod has services, so that the kubelet ends these too.
    """
    return ["sh", "-c", driver.source(_HELPER), "loom", IO, SPOOL, str(int(lease_s)), str(segments), full]


def sender(token: bytes, segments: tuple[int, int]) -> list[str]:
    """Return the command that connects loom to the helper (sender.sh)."""
    out, err = segments
    return ["sh", "-c", driver.source(_SENDER), "loom", SPOOL, f"{IO}/in", token.decode(), str(out), str(err)]


# Volumes and the rest


def _volumes(request: SessionRequest) -> list[Json]:
    """Return each volume, where it is mounted, and in which of the two containers."""
    memory = "Memory"
    both, resources = (JOB, HELPER), request.resources
    found = [
        _volume("workspace", request.project_dir, both),
        _volume("io", IO, both),
        _volume("spool", SPOOL, (HELPER,), size=DETACHED_BYTES if request.detached else None),
        _volume("driver", driver.DIRECTORY, (JOB,), medium=memory, size=128 << 20),
    ]
    found += [_volume(f"store-{index}", str(one), both) for index, one in enumerate(request.read_only_mounts)]
    if resources.shm_size is not None:
        found.append(_volume("shm", "/dev/shm", (JOB,), medium=memory, size=resources.shm_size))
    for index, entry in enumerate(resources.tmpfs):
        path, _, options = entry.partition(":")
        if path.rstrip("/") == "/run":
            continue  # the driver's directory is below; its own mount is enough
        found.append(_volume(f"tmpfs-{index}", path, (JOB,), medium=memory, size=_size(options)))
    return [*found, *(_volume(f"own-{index}", path, (JOB,)) for index, path in enumerate(resources.volumes))]


def _volume(name: str, path: str, where: Sequence[str], *, medium: str = "", size: int | None = None) -> Json:
    limits = {"medium": medium or None, "sizeLimit": str(size) if size else None}
    return {"name": name, "emptyDir": limits, "mount": {"name": name, "mountPath": path}, "in": tuple(where)}


def _size(options: str) -> int | None:
    found = re.search(r"(?:^|,)size=(\d+)([kmg]?)", options.lower())
    return int(found[1]) << {"": 0, "k": 10, "m": 20, "g": 30}[found[2]] if found else None


def _platform(image: Image) -> dict[str, str | None]:
    if not image.platform:
        return {}
    system, _, rest = image.platform.partition("/")
    return {"kubernetes.io/os": system, "kubernetes.io/arch": rest.partition("/")[0] or None}


def _aliases(request: SessionRequest, services: Sequence[PodServiceContainer]) -> list[Json]:
    names = list(dict.fromkeys(name for one in services for name in host_names(one.service)))
    here = [{"ip": "127.0.0.1", "hostnames": names}] if names else []
    return [*here, *({"ip": ip, "hostnames": [name]} for name, ip in request.network.extra_hosts.items())]


def host_names(service: Service) -> tuple[str, ...]:
    """Return the names of a service that a pod can have. ServiceError for one that the workflow gives it.

    As in GitLab's runner, those that its image gives it and that are no DNS names are left out.
    """
    names = tuple(dict.fromkeys((*service.aliases, service.name)))
    of_image = service_aliases(service.image.name or "")
    for name in names:
        if not _is_dns_name(name) and name not in of_image:
            raise ServiceError(
                f"service {service.name}: a pod can't have the host name {name!r}",
                hint="write an alias of lowercase letters, digits, `-` and `.`, or run this job in Docker",
                code="POD_UNSUPPORTED",
            )
    return tuple(name for name in names if _is_dns_name(name))


def _is_dns_name(name: str) -> bool:
    label = r"[a-z0-9](?:[-a-z0-9]*[a-z0-9])?"
    return len(name) <= 253 and re.fullmatch(rf"{label}(?:\.{label})*", name) is not None


def is_confined(pool: Pool | None) -> bool:
    """Return whether its pods may not be root's (the level `restricted`)."""
    context = ((pool.pod_template.get("spec") or {}).get("securityContext") if pool else None) or {}
    return bool(context.get("runAsNonRoot"))
