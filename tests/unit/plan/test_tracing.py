import time

import pytest

from loom.errors import SecretError
from loom.plan import tracing as trace
from loom.plan.model import Job, Secret, Step


def job(*scripts: str, shell: tuple[str, ...] = ("sh", "-e"), with_secret: bool = True, **variables: str) -> Job:
    return Job(
        id="deploy",
        name="deploy",
        stage="deploy",
        steps=tuple(Step(phase="script", number=n, script=script) for n, script in enumerate(scripts, 1)),
        provider="docker",
        shell=shell,
        variables=variables,
        secrets=(Secret(name="TOKEN", ref="env://TOKEN"),) if with_secret else (),
    )


TRACING = [
    "set -x",
    "set -ex",
    "set -euxo pipefail",
    "set -e -x",
    "set -o xtrace",
    "set -eo xtrace",
    "  set -x",
    "cd x && set -x",
    "cd x; set -x; make",
    "if true; then set -x; fi",
    "(set -x; make)",
    "{ set -x; make; }",
    "make\nset -x\nmake",
    "bash -x ./build.sh",
    "sh -ex ./build.sh",
    "/bin/bash -x build.sh",
    "env A=b bash -x build.sh",
    "A=b bash -x build.sh",
    "sudo bash -x build.sh",
    "bash -o xtrace -c 'make'",
    "bash -exc 'make'",
    "#!/bin/sh -x\nmake",
    "set '-x'",
    "bash --norc --xtrace build.sh",
    "bash -o errexit -o xtrace build.sh",
    "env env bash -x build.sh",
    *(f"{shell} -x" for shell in ("sh", "bash", "dash", "ash", "ksh", "mksh", "zsh")),
]
NOT_TRACING = [
    "set -e",
    "set +x",
    "set -e;exit",
    "(set -e)xargs",
    "{ set -e}x",
    "bash -e&exit",
    "bash -e|xargs",
    "set -eo # xtrace",
    "set -euo pipefail",
    "echo set -x",
    "# set -x",
    "  # first; set -x",
    "make # set -x",
    "grep -x set file",
    "set -- -x",
    "bash build.sh -x",
    "bash -c 'tar -x'",
    "tar -xf a.tar",
    "sh ./x -x",
    "ssh -x host",
    "reset -x",
    "make",
    "",
]


@pytest.mark.parametrize("script", TRACING)
def test_tracing_is_refused_where_there_are_secrets(script: str) -> None:
    with pytest.raises(SecretError, match=r"job deploy has secrets \(TOKEN\)") as refused:
        trace.check_debug_trace(job("make", script))
    assert refused.value.code == "SECRETS_UNSAFE_DEBUG_TRACE"
    assert "script/02, line " in refused.value.message
    assert trace.traces(job(script, with_secret=False)) == ()


@pytest.mark.parametrize("script", NOT_TRACING)
def test_what_only_looks_like_tracing_is_not(script: str) -> None:
    assert trace.traces(job(script)) == ()


def test_the_shell_and_variables() -> None:
    assert [trace.where for trace in trace.traces(job("make", shell=("bash", "-ex")))] == ["shell"]
    assert [trace.where for trace in trace.traces(job("make", shell=("bash", "-o", "xtrace")))] == ["shell"]
    assert [t.where for t in trace.traces(job("make", CI_DEBUG_TRACE="true"))] == ["variable CI_DEBUG_TRACE"]
    assert [t.where for t in trace.traces(job("make", SHELLOPTS="braceexpand:xtrace"))] == ["variable SHELLOPTS"]
    assert trace.traces(job("make", CI_DEBUG_TRACE="false")) == ()


def test_a_long_line_is_looked_at_quickly() -> None:
    start = time.thread_time()
    for unit in ("exec ", "env ", "a;", "{", "x=1 ", "set ", "exec set ", "sudo sh -e "):
        assert not trace.traces(job(unit * 2_000))
    assert trace.traces(job("exec " * 1000 + "bash -x run"))
    assert time.thread_time() - start < 5


@pytest.mark.parametrize("name", ["CI_DEBUG_TRACE", "LOOM_DEBUG_TRACE"])
@pytest.mark.parametrize(
    ("value", "traces"),
    [
        ("1", True),
        ("true", True),
        ("yes", True),
        ("on", True),
        ("TRUE", True),
        ("0", False),
        ("", False),
        ("no", False),
    ],
)
def test_a_variable_that_switches_tracing_on(name: str, value: str, traces: bool) -> None:
    found = trace.traces(job("make", **{name: value}))
    assert bool(found) is traces
    assert trace.traces(job("make", with_secret=False, **{name: value})) == ()
