"""What a run is made of, as far as no engine is needed to tell."""

import pytest

from loom.commands.wiring import Engine, publishes_services
from loom.config import Config
from loom.errors import ServiceError
from loom.plan.model import Job, ProviderName, Step

STEP = Step(phase="script", number=1, script="true")


@pytest.mark.parametrize("url", ["tcp://10.0.0.1:2376", "ssh://builder"])
def test_services_of_a_job_on_this_machine_need_an_engine_of_this_machine(url: str) -> None:
    host = Job(id="a", name="a", stage="t", steps=(STEP,), provider=ProviderName.HOST)
    boxed = Job(id="b", name="b", stage="t", steps=(STEP,), provider=ProviderName.DOCKER)
    elsewhere = Engine(Config(), {"DOCKER_HOST": url})
    assert publishes_services(host, Engine(Config(), {}))
    assert not publishes_services(boxed, elsewhere)
    with pytest.raises(ServiceError, match=f"job a runs on this machine, and its services .* another one \\({url}"):
        publishes_services(host, elsewhere)
