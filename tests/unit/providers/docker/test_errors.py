"""What the SDK's errors become."""

import errno
from pathlib import Path

import docker
import docker.errors
import pytest
import requests

from loom.errors import EngineUnavailable, ImageError, LoomError, ProviderError
from loom.providers.docker.container.cleanup import remove_container
from loom.providers.docker.engine.errors import engine_errors, to_loom_error, translated


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (docker.errors.ImageNotFound("x"), ImageError),
        (docker.errors.NotFound("x"), ProviderError),
        (docker.errors.APIError("x"), ProviderError),
        (docker.errors.StreamParseError("x"), ProviderError),
        (requests.exceptions.ConnectionError("x"), EngineUnavailable),
        (ConnectionResetError(errno.ECONNRESET, "x"), EngineUnavailable),
    ],
)
def test_an_error_becomes_ours_and_keeps_its_cause(error: Exception, kind: type[LoomError]) -> None:
    with pytest.raises(kind, match="starting the job: ") as caught, translated("starting the job"):
        raise error
    assert type(caught.value) is kind
    assert caught.value.__cause__ is error


def test_our_own_bugs_pass_untouched() -> None:
    with pytest.raises(KeyError), translated("anything"):
        raise KeyError("x")
    assert to_loom_error(KeyError("x"), "anything") is None


def test_a_lost_engine_is_told_from_an_answer_of_the_engine() -> None:
    import docker.errors

    with pytest.raises(EngineUnavailable, match="refused"), engine_errors():
        raise ConnectionRefusedError("refused")
    with pytest.raises(docker.errors.APIError), engine_errors():
        raise docker.errors.APIError("an answer")
    with pytest.raises(ZeroDivisionError), engine_errors():
        _ = 1 / 0


def test_what_is_left_where_the_engine_is_gone_goes_later(tmp_path: Path) -> None:
    client = docker.DockerClient(base_url=f"unix://{tmp_path}/gone.sock", version="1.41")
    with pytest.raises(EngineUnavailable) as caught:
        remove_container(client, "c")
    client.close()
    assert str(caught.value).endswith(": its socket is not there\nthe next loom removes it")
    with pytest.raises(EngineUnavailable, match=r"the file: \[Errno 2\]"), translated("the file"):
        (tmp_path / "none").read_bytes()
