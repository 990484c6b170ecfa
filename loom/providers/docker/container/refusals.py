"""Errors for containers that the engine refuses to create or start, or that end at once."""

from __future__ import annotations

from loom.errors import ImageError, LoomError, ProviderError
from loom.plan.model import MountMode
from loom.providers.base import SessionRequest
from loom.providers.docker.container import mounts
from loom.providers.docker.engine.errors import explanation, to_loom_error
from loom.providers.docker.engine.retries import StartFailed, start_failed

UNSEEN = "WORKSPACE_UNSEEN"
"""The error code for an engine that can't see or read the workspace."""


def creation_error(error: Exception, request: SessionRequest) -> LoomError | None:
    """Return the error to raise instead of `error`; None when it is not the engine's."""
    answer = explanation(error)
    if getattr(error, "status_code", None) == 404 and "No such image" in answer:
        return ImageError(
            f"the image {request.image_to_run} of job {request.job_id} is not on the engine",
            hint=f"docker pull {request.image_to_run}",
        )
    if "init binary" in answer:  # recommended by podman, possibly missing
        return ProviderError(
            f"podman has no init for the container of job {request.job_id}: {answer}",
            hint="install catatonit where podman runs (Debian, Ubuntu and Fedora: the package catatonit)",
        )
    return _refused(error, request, "creating")


def start_error(error: Exception, request: SessionRequest) -> LoomError | None:
    """Explain the same for a container that was created."""
    answer = explanation(error)
    if "executable file" in answer or ("exec: " in answer and "no such file or directory" in answer):
        return known_reason(request, answer) or _no_shell(request)
    return _refused(error, request, "starting")


def _refused(error: Exception, request: SessionRequest, doing: str) -> LoomError | None:
    doing = f"{doing} the container of job {request.job_id}"
    known = known_reason(request, explanation(error))
    return known or start_failed(error, doing) or to_loom_error(error, doing)


def ended_at_once(answer: str, reason: str, request: SessionRequest) -> LoomError:
    """Explain a container that was started and printed `answer` before it ended, for `reason`."""
    if "exec sh failed" in answer:
        if "Exec format error" in answer:
            return ImageError(
                f"image {request.image.name or request.image_id} is built for another kind of processor than this machine's",
                hint="choose another `image:`, or set its `platform:` and install the emulation for it",
            )
        return _no_shell(request)
    text = f"the container of job {request.job_id} did not start: {reason}"
    if not answer and reason.endswith(" 137"):
        # The input was closed before the driver had read it: the connection was lost, and with it the engine's answer.
        failed = StartFailed(text)
        failed.refused = False
        return failed
    return ProviderError(text + (f"; its output: {answer[-2000:]}" * bool(answer)))


def known_reason(request: SessionRequest, answer: str) -> LoomError | None:
    """Return the error for an engine's `answer` to the creation or start of a container; None if its reason is not known."""
    if (too_much := _asked_too_much(request, answer)) is not None:
        return too_much
    job, image, other_mode = request.job_id, request.image, "use --mount-mode ephemeral_volume"
    of_volume = "failed to mount local volume" in answer and "no such file or directory" in answer
    if of_volume or "bind source path does not exist" in answer:
        return ProviderError(
            f"the engine does not see the workspace of job {job}: there is no {request.workspace} where it runs",
            hint=f"it runs on another machine, or sees other files: {other_mode}",
            code=UNSEEN,
        )
    # Podman asks by `statfs`.
    if "permission denied" in answer and any(
        at in answer for at in ("chdir to cwd", "invalid mount config", "statfs ")
    ):
        return not_ours(request)
    of_view = "mount" in answer and ("overlay" in answer or "volume" in answer)
    if of_view and request.mount_mode is MountMode.OVERLAY:
        return ProviderError(
            f"the engine can't mount an overlay of the workspace of job {job}: {answer}",
            hint="use another `mount_mode`: auto and copy work everywhere where the engine sees this machine's files",
            code=mounts.UNAVAILABLE,
        )
    if "unable to find user" in answer or "unable to find group" in answer:
        name, user = image.name or request.image_id, image.user or "the user that it names itself"
        return ImageError(
            f"image {name} can't run job {job} as {user}: {answer}",
            hint="name a user that the image knows, or a number such as 1000:1000, in `user:`",
        )
    return None


def not_ours(request: SessionRequest) -> ProviderError:
    """Return the error for an engine whose root is neither root nor the user of this process."""
    return ProviderError(
        f"the engine may not change the workspace of job {request.job_id}: root in its containers is another user here",
        hint="use --mount-mode ephemeral_volume; a rootless engine is best used by the user whose it is",
        code=UNSEEN,
    )


def _no_shell(request: SessionRequest) -> ImageError:
    return ImageError(
        f"image {request.image.name or request.image_id} has no shell: loom needs `sh` in it to run a job's steps",
        hint="use the image's variant with a shell (often called debug or slim), or build one from it",
    )


_PHRASES = (
    ("range of cpus", "cpus"),
    ("memory limit", "memory"),
    ("rlimit", "ulimits"),
    ("tmpfs", "tmpfs"),
    ("could not select device driver", "gpus"),
    ("could not select device driver", "devices"),
)
"""Words of the engine's answer, in lower case, when it refuses a key of `resources`."""


def _asked_too_much(request: SessionRequest, answer: str) -> ProviderError | None:
    resources = request.resources
    devices = [(part, "devices") for device in resources.devices for part in device.split(":") if "/" in part]
    for phrase, key in (*_PHRASES, *devices):
        if getattr(resources, key) and phrase in (answer if key == "devices" else answer.lower()):
            position = resources.sources.get(key, "the workflow")
            return ProviderError(
                f"{position}: the engine can't give job {request.job_id} the `{key}` that it asks for: {answer}",
                hint=f"ask for what the engine's machine has, or leave `{key}` out",
                code="DEVICE_UNAVAILABLE" if key in ("devices", "gpus") else "LIMIT_REFUSED",
            )
    return None
