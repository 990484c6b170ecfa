"""What is repeated after which failure, and what must be new then."""

import docker.credentials.errors
import docker.errors
import pytest
import requests
from msgspec.structs import replace

from loom.cancel import Cancel
from loom.providers.docker.engine import retries
from loom.providers.docker.engine.retries import HICCUP, retrying

QUICKLY = replace(HICCUP, first_wait_s=0.001)


def test_hiccups_are_retried_and_nothing_else() -> None:
    calls: list[int] = []

    def flaky() -> str:
        calls.append(1)
        if len(calls) < 3:
            raise requests.exceptions.ConnectionError("reset")
        return "answer"

    assert retrying(flaky, QUICKLY) == "answer"
    calls.clear()

    def broken() -> str:
        calls.append(1)
        raise docker.errors.NotFound("no")

    with pytest.raises(docker.errors.NotFound):
        retrying(broken)
    assert len(calls) == 1


@pytest.mark.parametrize(
    ("said", "again"),
    [
        # A container's start, whose connections are dead then.
        ("runc create failed: waiting for init preliminary setup: read init-p: connection reset by peer", False),
        ("context deadline exceeded", True),
        ("exec: no such file or directory", False),
    ],
)
def test_a_failure_of_the_engines_own_is_tried_again(said: str, again: bool) -> None:
    answer = requests.Response()
    answer.status_code = 500
    tries = []

    def start() -> str:
        tries.append(1)
        if len(tries) == 1:
            raise docker.errors.APIError("x", response=answer, explanation=said)
        return "started"

    if again:
        assert retrying(start, QUICKLY) == "started"
    else:
        with pytest.raises(docker.errors.APIError):
            retrying(start)


def refusal(said: str) -> docker.errors.APIError:
    answer = requests.Response()
    answer.status_code = 500
    return docker.errors.APIError("x", response=answer, explanation=said)


@pytest.mark.parametrize(
    ("error", "starts"),
    [
        (refusal("read init-p: connection reset by peer"), ["1", "1", "2", "2", "3", "3"]),
        (requests.exceptions.ConnectionError("reset"), ["1", "2", "3"]),  # it may run: it is not started twice
        (requests.exceptions.ReadTimeout("Read timed out."), ["1"]),
        (refusal("no such file or directory"), ["1"]),
    ],
)
def test_a_failed_start_means_a_new_container(error: Exception, starts: list[str]) -> None:
    made: list[str] = []
    started: list[str] = []
    removed: list[str] = []

    def make() -> str:
        made.append(str(len(made) + 1))
        return made[-1]

    def start(container: str) -> None:
        started.append(container)
        raise retries.start_failed(error, "starting") or error

    with pytest.raises(type(retries.start_failed(error, "starting") or error)):
        retries.starting(make, start, removed.append, Cancel())
    assert started == starts
    assert removed == (made if len(made) > 1 else [])


def test_a_hiccup_that_stays_is_raised() -> None:
    def down() -> None:
        raise requests.exceptions.ConnectionError("reset")

    with pytest.raises(requests.exceptions.ConnectionError):
        retrying(down, QUICKLY)
