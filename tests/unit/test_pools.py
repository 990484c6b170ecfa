"""Pools of the user's configuration: their values, their mistakes, and the jobs that name them."""

from pathlib import Path

import pytest

from loom import config
from loom.commands.project import open_project
from loom.config import Config
from loom.config.pools import Pool, named
from loom.errors import RequestError, WorkflowError
from loom.plan.model import JobSelection, Plan, ResolveContext
from loom.plan.resolve import resolve
from tests.support.native import load

POOLS = """\
pools:
  big:
    provider: kubernetes
    context: team
    jobs: 200
    namespace: ci
    requests: {cpu: 2, memory: 1Gi}
    limits: {ephemeral-storage: 20Gi}
    pod_template: {spec: {hostUsers: false}}
    deadline: 2h
    start_timeout: 90
  here: {provider: docker, jobs: 1}
  metal: {provider: host}
"""
JOBS = """\
version: v1
stages: [all]
plain: {stage: all, script: "true"}
far: {stage: all, script: "true", runner_pool: big}
near: {stage: all, script: "true", runner_pool: here}
bare: {stage: all, script: "true", runner_pool: metal}
"""


def configured(tmp_path: Path, text: str, **flags: object) -> Config:
    path = tmp_path / "home/.config/loom/config.yml"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return config.load(root=None, environ={"HOME": str(tmp_path / "home")}, flags=flags)


def planned(tmp_path: Path, jobs: str, settings: Config) -> Plan:
    path = tmp_path / "workflow.yml"
    path.write_text(jobs)
    selection = JobSelection(container=True, on=settings.on)
    return resolve(load(path, tmp_path), selection, ResolveContext(config=settings))


def test_a_pool_has_every_value(tmp_path: Path) -> None:
    found = configured(tmp_path, POOLS).pools["big"]
    assert found == Pool(
        name="big",
        provider="kubernetes",
        context="team",
        jobs=200,
        namespace="ci",
        requests={"cpu": 2, "memory": "1Gi"},
        limits={"ephemeral-storage": "20Gi"},
        pod_template={"spec": {"hostUsers": False}},
        deadline=7200,
        start_timeout=90,
    )
    assert found.target == "kubernetes:team"


@pytest.mark.parametrize(
    ("text", "line", "message"),
    [
        ("{big: {namespace: ci}}", 1, "big: expected a mapping with at least `provider`"),
        (
            "\n  big:\n    provider: kubernetes\n    namspace: ci",
            4,
            "unknown setting namspace; did you mean namespace?",
        ),
        ("\n  big:\n    provider: docker\n    namespace: ci", 4, "namespace has no meaning for the provider docker"),
        ("\n  big:\n    provider: kubernetes\n    namespace: 3", 4, "big.namespace: expected `str | null`, got `int`"),
        ("\n  big:\n    provider: kubernetes\n    deadline: soon", 4, "big.deadline: "),
        ("\n  big:\n    provider: kubernetes\n    start_timeout: soon", 4, "big.start_timeout: "),
        ("\n  big:\n    provider: kubernetes\n    jobs: 0", 4, "big.jobs: expected `int` >= 1"),
        (
            "\n  big:\n    provider: kubernetes\n    limits: {memory: [2]}",
            4,
            "big.limits: expected `int | float | str`, got `array`",
        ),
        ("\n  big:\n    provider: kubernetes:team", 3, "write the context of kubernetes:team under `context`"),
        (
            "\n  big:\n    provider: kubernetes\n    pod_template: {kind: Pod}",
            4,
            "unknown key kind; a template has metadata and spec",
        ),
        (
            "\n  big:\n    provider: kubernetes\n    pod_template: {spec: {containers: [{name: job, resources: {limits: [1]}}]}}",
            4,
            "big.pod_template.spec.containers.0.resources.limits: expected `object | null`, got `array`",
        ),
        (
            "\n  big:\n    provider: kubernetes\n    pod_template:\n      metadata:\n        labels: {team: 5}",
            6,
            "big.pod_template.metadata.labels: expected `str`, got `int`",
        ),
        (
            "\n  big:\n    provider: kubernetes\n    pod_template:\n      spec:\n      - hostUsers: false",
            6,
            "big.pod_template.spec: expected `object | null`, got `array`",
        ),
        ("\n  a b: {provider: docker}", 2, "'a b' can't name a pool"),
        ("[big]", 1, "expected a mapping"),
    ],
)
def test_a_mistake_has_its_line(tmp_path: Path, text: str, line: int, message: str) -> None:
    with pytest.raises(WorkflowError) as raised:
        configured(tmp_path, f"pools: {text}\n")
    (problem,) = raised.value.problems
    assert (problem.line, problem.code) == (line, "CONFIG_INVALID")
    assert message in problem.message


def test_a_repository_defines_no_pool(tmp_path: Path) -> None:
    (tmp_path / ".loom").mkdir()
    (tmp_path / ".loom/config.yml").write_text(POOLS)
    found = config.load(root=tmp_path, environ={}, flags={})
    assert found.pools == {}
    assert "a repository can't set it" in str(found.overruled[0])


def test_each_job_runs_in_its_pool(tmp_path: Path) -> None:
    settings = configured(tmp_path, POOLS)
    jobs = {job.id: job for job in planned(tmp_path, JOBS, settings).jobs}
    assert {name: job.provider for name, job in jobs.items()} == {
        "plain": "docker",
        "far": "kubernetes:team",
        "near": "docker",
        "bare": "host",
    }
    assert (jobs["far"].pool, jobs["plain"].pool) == (settings.pools["big"], None)
    assert (jobs["bare"].image, jobs["plain"].image) == (None, jobs["far"].image)


def test_on_names_a_pool_or_a_provider(tmp_path: Path) -> None:
    def plain(on: str) -> tuple[str, str | None]:
        job = planned(tmp_path, JOBS, configured(tmp_path, POOLS, on=on)).job("plain")
        return job.provider, job.pool and job.pool.name

    assert plain("big") == ("kubernetes:team", "big")
    assert plain("kubernetes:other") == ("kubernetes:other", "")
    assert named("kubernetes", {}) == Pool(provider="kubernetes")


def test_a_pool_that_is_not_there_is_an_error_only_where_there_are_pools(tmp_path: Path) -> None:
    jobs = JOBS.replace("runner_pool: big", "runner_pool: bigg")
    with pytest.raises(WorkflowError) as raised:
        planned(tmp_path, jobs, configured(tmp_path, POOLS))
    (problem,) = raised.value.problems
    assert (problem.line, problem.message) == (
        4,
        "your configuration has no pool bigg; it has big, here, metal; did you mean big?",
    )
    assert {job.provider for job in planned(tmp_path, jobs, Config()).jobs} == {"docker"}


def test_a_pool_of_this_machine_runs_no_image(tmp_path: Path) -> None:
    jobs = JOBS.replace("runner_pool: metal", "runner_pool: metal, image: 'debian:12'")
    with pytest.raises(WorkflowError, match="metal runs jobs on this machine, without an image"):
        planned(tmp_path, jobs, configured(tmp_path, POOLS))


def test_a_provider_that_does_not_exist_is_a_mistake_of_the_request(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    configured(tmp_path, "pools: {cluster: {provider: kubernets}}\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.delenv("XDG_CONFIG_HOME", raising=False)
    said = {
        "dokcer": "--on: there is no provider or pool 'dokcer' for jobs; did you mean docker?",
        "clustr": "--on: there is no provider or pool 'clustr' for jobs; did you mean cluster?",
        "cluster": "--on: there is no provider or pool 'kubernets' for jobs; did you mean kubernetes?",
        "docker:there": "--on: the provider docker has no contexts",
    }
    for name, text in said.items():
        with pytest.raises(RequestError) as refused:
            open_project({"on": name})
        assert refused.value.message == text
    monkeypatch.setenv("LOOM_ON", "elsewhere")
    with pytest.raises(RequestError, match="LOOM_ON: there is no provider or pool 'elsewhere' for jobs"):
        open_project()
    assert open_project({"on": "kubernetes:there"}).config.on == "kubernetes:there"
