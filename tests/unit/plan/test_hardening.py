"""The hardened profile: what a job gets, and what it may not ask for."""

from typing import Any

import pytest
from msgspec.structs import replace

from loom.config import Config
from loom.config.settings import ValueOrigin
from loom.plan import hardening
from loom.plan.model import Job, Network, Resources

PLAIN = Job(id="a", name="a", stage="s", steps=(), provider="docker")


def hardened(job: Job, config: Config | None = None) -> tuple[Job, list[tuple[tuple[str, ...], str]]]:
    refused: list[tuple[tuple[str, ...], str]] = []
    return hardening.hardened(job, config or Config(), lambda at, why: refused.append((at, why))), refused


def test_a_plain_job_gets_the_profile() -> None:
    job, refused = hardened(PLAIN)
    assert refused == []
    assert job.hardened
    assert job.network.mode == "none"
    assert (job.resources.read_only, job.resources.pids) == (True, 1024)
    assert job.resources.tmpfs == (
        "/tmp:exec,mode=1777,size=1g",
        "/var/tmp:exec,mode=1777,size=1g",
        "/run:mode=755,size=64m",
    )


@pytest.mark.parametrize(
    ("source", "named"), [("c.toml:1", "the hardened profile (c.toml:1) "), ("", "the hardened profile ")]
)
def test_a_refusal_names_who_asks_for_the_profile(source: str, named: str) -> None:
    config = Config(origins={"hardened": ValueOrigin(layer="user", source=source)})
    ((_, why),) = hardened(replace(PLAIN, privileged=True), config)[1]
    assert why.startswith(f"{named}does not give privileges")


def test_what_a_job_asks_for_within_the_profile_stays() -> None:
    asked = replace(
        PLAIN, network=Network(mode="bridge"), resources=Resources(pids=7, tmpfs=("/run/:size=1m", "/scratch"))
    )
    job, refused = hardened(asked)
    assert refused == []
    assert (job.network.mode, job.resources.pids) == ("bridge", 7)
    assert job.resources.tmpfs[:2] == ("/run/:size=1m", "/scratch")
    assert [entry.partition(":")[0] for entry in job.resources.tmpfs[2:]] == ["/tmp", "/var/tmp"]


def test_the_users_limit_of_processes_counts() -> None:
    assert hardened(PLAIN, Config(pids=50))[0].resources.pids == 50


@pytest.mark.parametrize(
    ("changes", "config", "at", "what"),
    [
        ({"privileged": True}, {}, ("privileged",), "does not give privileges"),
        ({"docker_socket": True}, {}, ("docker_socket",), "the engine's socket"),
        ({"resources": Resources(devices=("/dev/fuse",))}, {}, ("resources", "devices"), "devices"),
        ({"resources": Resources(gpus="all")}, {}, ("resources", "gpus"), "GPUs"),
        ({"network": Network(mode="host")}, {}, ("network",), "the network host"),
        (
            {"resources": Resources(cpus=3)},
            {"cpus": 2.0},
            ("resources", "cpus"),
            "`cpus: 3`, more than your limit of 2",
        ),
        ({"resources": Resources(memory=3 << 20)}, {"memory": 2 << 20}, ("resources", "memory"), "`memory: 3"),
        ({"resources": Resources(pids=1025)}, {}, ("resources", "pids"), "`pids: 1025`, more than your limit of 1024"),
        ({"resources": Resources(pids=6)}, {"pids": 5}, ("resources", "pids"), "`pids: 6`, more than your limit of 5"),
    ],
)
def test_what_is_beyond_the_profile_is_refused(
    changes: dict[str, Any], config: dict[str, Any], at: tuple[str, ...], what: str
) -> None:
    job, refused = hardened(replace(PLAIN, **changes), Config(**config))
    ((where, why),) = refused
    assert where == at
    assert what in why
    assert why.startswith("the hardened profile does not give ")
    assert why.endswith("; remove it, or run without the profile: LOOM_HARDENED=0")
    assert job.hardened


@pytest.mark.parametrize(
    ("changes", "config"),
    [
        ({"resources": Resources(cpus=2, memory=5, pids=1024)}, {"cpus": 2.0, "memory": 5}),
        ({"resources": Resources(cpus=64, memory=1 << 40)}, {}),
        ({"network": Network(mode="none")}, {}),
    ],
)
def test_the_largest_that_is_allowed_is(changes: dict[str, Any], config: dict[str, Any]) -> None:
    assert hardened(replace(PLAIN, **changes), Config(**config))[1] == []
