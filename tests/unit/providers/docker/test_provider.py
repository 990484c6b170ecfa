"""What the provider of containers can tell without an engine."""

import pytest

from loom.errors import ServiceError
from loom.plan.model import Job, Step
from loom.providers.docker.provider import check_reachable


def test_services_of_a_job_on_this_machine_need_an_engine_of_this_machine() -> None:
    job = Job(id="a", name="a", stage="t", steps=(Step(phase="script", number=1, script="true"),), provider="host")
    check_reachable(job, {})
    url = "tcp://10.0.0.1:2376"
    with pytest.raises(ServiceError, match=f"job a runs on this machine, and its services .* another one \\({url}"):
        check_reachable(job, {"DOCKER_HOST": url})
