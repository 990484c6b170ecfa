"""Steps that were handed over to a pod: they go on without loom, and another one hears each byte of them once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import pytest

from loom.cancel import Cancel
from loom.plan.model import Image
from loom.providers.command import Command, Share
from loom.status import Exit
from tests.support import kubernetes
from tests.support.waiting import until

if TYPE_CHECKING:
    from tests.kubernetes.conftest import Pods

pytestmark = [pytest.mark.kubernetes, pytest.mark.slow]

STEPS = (
    "echo one; echo V=it\\'s >>$LOOM_ENV; printf 'W<<E\\na\\nb\\nE\\n' >>$LOOM_ENV",
    "i=0; while [ $i -lt 3000 ]; do echo line $i; echo err $i >&2; i=$((i+1)); done; until [ -e /run/loom/go ]; do sleep 0.2; done",
    'echo "$V|$W|$S"; exit 3',
    "echo never",
)
AFTER = ('echo "after $V $HOW"; exit 2', "echo last")


def commands(*, shared: bool) -> tuple[list[Command], dict[bool, list[Command]]]:
    def made(scripts: Sequence[str], kind: str, **environment: str) -> list[Command]:
        return [
            Command(
                script=script,
                shell=(),
                name=f"{kind}/{number}",
                environment={"S": "set", **environment},
                share=Share(first=number == 0, last=number == len(scripts) - 1, saved=kind == "step")
                if shared
                else None,
            )
            for number, script in enumerate(scripts)
        ]

    return made(STEPS, "step"), {ok: made(AFTER, "after", HOW="ok" if ok else "failed") for ok in (True, False)}


def run_all(session: Any, heard: dict[str, bytes], *, shared: bool) -> list[Exit]:
    """As the runner does: up to the first that fails, then what comes after it."""

    def take(stream: str, data: bytes) -> None:
        heard[stream] += data

    steps, after = commands(shared=shared)
    ended = []
    for command in steps:
        ended.append(session.run(command, take, Cancel()))
        if ended[-1].code:
            break
    for command in after[False]:
        ended.append(session.run(command, take, Cancel()))
        if shared and not ended[-1].goes_on:
            break
    return ended


@pytest.mark.parametrize("image", [kubernetes.IMAGE, kubernetes.BUSYBOX])
@pytest.mark.parametrize("shared", [False, True])
def test_steps_go_on_without_loom_and_another_one_hears_all_of_them(pods: Pods, image: str, *, shared: bool) -> None:
    saved: list[bytes] = []
    steps, after = commands(shared=shared)
    request = pods.request(detached=True, image=Image(name=image))
    opened = pods.provider.open(request, lambda *_: None, Cancel())
    session = opened.__enter__()
    session.put_secret("KEY", b"s3cr3t-value")
    session.hand_over(steps, after, saved.append)
    session.link.close()  # this loom is gone

    found = pods.provider.find(pods.run_id, "job")
    assert found is not None
    found.inside({}).exec(["touch", "/run/loom/go"], lambda *_: None, Cancel())
    until(lambda: (b"after it's failed" if shared else b"last") in _spooled(found))
    left = [(opened, session)]
    for _ in range(2):
        heard = {"stdout": b"", "stderr": b""}
        opened = found.attach(saved[-1], request, lambda *_: None, Cancel())
        session = opened.__enter__()
        session.hand_over(steps, after, saved.append)
        assert len(saved) == 1
        ended = run_all(session, heard, shared=shared)
        assert session.handed_on() == {"V": "it's", "W": "a\nb"}
        session.link.close()  # nor does this one end it
        left.append((opened, session))
        assert [one.code for one in ended] == [0, 0, 3, 2, *([] if shared else [0])]
        lines = b"".join(b"line %d\n" % number for number in range(3000))
        assert heard["stdout"] == b"one\n" + lines + b"it's|a\nb|set\nafter it's failed\n" + (
            b"" if shared else b"last\n"
        )
        assert heard["stderr"] == b"".join(b"err %d\n" % number for number in range(3000))
    for opened, session in left:
        session.link.failed = OSError("gone")
        opened.__exit__(None, None, None)


def _spooled(found: Any) -> bytes:
    from loom.providers.kubernetes.session import exec as execs

    command = ["sh", "-c", "cat /run/loom.spool/out.*"]
    return execs.run(found.cluster, found.name, "loom", command, doing="looking")[1]
