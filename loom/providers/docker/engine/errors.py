"""Convert every SDK error to one of loom's, by one table."""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Iterator, Mapping

from loom.errors import EngineUnavailable, ImageError, LoomError, ProviderError

DISK_FULL = "ENGINE_DISK_FULL"
MAKE_ROOM = "the engine's disk is full; see what it holds with `docker system df`, and make room there"

NO_SOCKET, NO_LISTENER, NOT_ALLOWED = "its socket is not there", "nobody listens there", "permission denied"
NO_CONNECTION: Mapping[int, str] = {
    errno.ENOENT: NO_SOCKET,
    errno.ECONNREFUSED: NO_LISTENER,
    errno.EACCES: NOT_ALLOWED,
    errno.EPERM: NOT_ALLOWED,
}
"""Why nothing answers at an address, by the error's number."""

# Maps SDK error classes to loom's; the most specific class counts. Names instead of classes avoid an import.
OUR_ERROR: Mapping[str, type[LoomError]] = {
    "docker.errors.APIError": ProviderError,  # a RequestException too
    "docker.errors.DockerException": ProviderError,
    "docker.errors.StreamParseError": ProviderError,
    "docker.errors.BuildError": ImageError,
    "docker.errors.ImageNotFound": ImageError,
    "docker.errors.InvalidVersion": EngineUnavailable,
    "docker.errors.TLSParameterError": EngineUnavailable,
    "requests.exceptions.RequestException": EngineUnavailable,
    "urllib3.exceptions.HTTPError": EngineUnavailable,
    "http.client.HTTPException": EngineUnavailable,
    "builtins.OSError": EngineUnavailable,
    # The SDK found a value that is not a string: the engine's answer is malformed.
    "json.decoder.JSONDecodeError": ProviderError,
}


def to_loom_error(error: BaseException, doing: str) -> LoomError | None:
    """Return the error to raise instead of `error`, which occurred while `doing`; None when it is not the engine's."""
    if isinstance(error, LoomError):
        return error
    for name in names_of(error):
        if kind := OUR_ERROR.get(name):
            answer = explanation(error)
            full = "no space left on device" in answer.lower()
            return kind(f"{doing}: {answer}", hint=MAKE_ROOM if full else None, code=DISK_FULL if full else None)
    return None


def explanation(error: BaseException) -> str:
    """Return the engine's own message without the SDK's wrapping."""
    answer = getattr(error, "explanation", None)
    if isinstance(answer, bytes):
        answer = answer.decode(errors="replace")
    cause = root_cause(error)
    # Errors of ssl have numbers of their own, and those of files a name.
    of_socket = type(cause).__module__ == "builtins" and getattr(cause, "filename", "") is None
    words = NO_CONNECTION.get(getattr(cause, "errno", 0)) if of_socket else None
    return str(answer).strip() if answer else words or first_line(cause)


@contextlib.contextmanager
def translated(doing: str) -> Iterator[None]:
    """Convert the SDK's errors to loom's; `doing` names the operation ("creating the container of job test")."""
    try:
        yield
    except Exception as error:
        converted = to_loom_error(error, doing)
        if converted is None or converted is error:
            raise
        raise converted from error


@contextlib.contextmanager
def engine_errors() -> Iterator[None]:
    """Convert missing answers to EngineUnavailable; pass APIError through."""
    try:
        yield
    except Exception as error:
        if "docker.errors.APIError" in names_of(error):
            raise
        converted = to_loom_error(error, "the container engine does not answer")
        if converted is None or converted is error:
            raise
        converted.hint = "Is it still running? `docker info` asks it."
        raise converted from error


def names_of(error: BaseException) -> list[str]:
    """Return an error's classes by full name, most specific first."""
    return [f"{kind.__module__}.{kind.__qualname__}" for kind in type(error).__mro__]


def root_cause(error: BaseException) -> BaseException:
    """Return the root error: SDK and HTTP library wrap it as cause, context or argument."""
    seen: set[int] = set()
    while id(error) not in seen:
        seen.add(id(error))
        inner = next(
            (arg for arg in (*error.args, getattr(error, "reason", None)) if isinstance(arg, BaseException)), None
        )
        inner = inner or error.__cause__
        if inner is None:
            return error
        error = inner
    return error


def first_line(error: BaseException) -> str:
    text = str(error).strip() or type(error).__name__
    return text.splitlines()[0]
