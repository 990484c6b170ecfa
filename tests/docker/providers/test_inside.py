"""A command that a person runs inside a job's container ends with everything that it started, in any image."""

import pytest

from loom.cancel import Cancel
from loom.status import Ended, ExitCode, Stream
from tests.support.waiting import until

from .conftest import Clock, Job, Site

pytestmark = pytest.mark.docker

# A child in the background (which ignores INT), one in a subshell, and the command itself, none of which is alone.
BUSY = "stay() { while :; do :; done; }; stay & (stay & stay) & echo up; wait; echo over"
LEFT = """
for stat in /proc/[0-9]*/stat; do
  read -r line <$stat || continue
  set -- $$ ${line##*") "}
  case $line in "$1 "* | "1 "*) ;; *) [ "$3" = 0 ] || [ "$2" = Z ] || echo "$line" ;; esac
done 2>/dev/null
"""


def left(job: Job) -> str:
    """The container's processes that a process in it started."""
    output: list[bytes] = []
    job.session.inside({}).exec(["sh", "-c", LEFT], lambda _, data: output.append(data), Cancel())
    return b"".join(output).decode()


def test_a_timeout_and_an_interrupt_end_everything_that_a_command_started(any_sh: Site, clock: Clock) -> None:
    with any_sh.job() as job:
        before = left(job)
        inside, output = job.session.inside({}), list[bytes]()

        def hear(_: Stream, data: bytes) -> None:
            output.append(data)
            clock.hour()

        ended = inside.exec(["sh", "-c", BUSY], hear, Cancel(), timeout_s=3600, grace_s=100)
        assert (ended.ended, b"".join(output)) == (Ended.TIMED_OUT, b"up\n")
        until(lambda: left(job) == before)

        cancel = Cancel()
        stop = lambda _, data: cancel.request(ExitCode.INTERRUPTED)  # noqa: E731
        ended = inside.exec(["sh", "-c", BUSY], stop, cancel, grace_s=100)
        assert (ended.code, ended.ended) == (130, Ended.CANCELED)
        until(lambda: left(job) == before)


def test_what_a_command_leaves_in_the_background_stays_when_it_ends_itself(any_sh: Site) -> None:
    with any_sh.job() as job:
        before = left(job)
        inside = job.session.inside({})
        command = "(while :; do :; done) >/dev/null 2>&1 </dev/null & i=0; while [ $i != 30000 ]; do i=$((i + 1)); done"
        assert inside.exec(["sh", "-c", command], lambda *_: None, Cancel()).code == 0
        assert left(job) != before
