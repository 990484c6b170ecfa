"""The start and the end of a session on this machine."""

import os
from pathlib import Path

from loom.cancel import Cancel
from loom.providers.base import SessionRequest
from loom.providers.host import HostProvider


def test_a_session_that_is_cancelled_as_it_starts_shows_nothing_of_its_driver(tmp_path: Path) -> None:
    shown: list[bytes] = []
    cancel = Cancel()
    cancel.request()
    request = SessionRequest(job_id="j", run_id="1", workspace=tmp_path, project_dir=str(tmp_path))
    with HostProvider(os.environ).open(request, lambda _, data: shown.append(data), cancel) as session:
        assert session.facts
    assert shown == []
