"""The shell programs that run in a pod beside the job, as they are sent: no comments, no blank lines."""

from __future__ import annotations

from pathlib import Path

from loom.providers.driver.protocol import source

IO = "/run/loom.io"
"""The FIFOs of the driver's streams, in the job's container and the helper's."""
SPOOL = "/run/loom.spool"
"""What the driver has printed and loom has not taken yet, in the helper's container only."""

JOINS = f'while [ ! -p {IO}/in ]; do sleep 0.05 || sleep 1; done 2>/dev/null; exec <>{IO}/in >{IO}/out 2>{IO}/err "$@"'
"""The first words of the job's container: it becomes `$@`, connected to the helper."""

_HELPER, _SENDER = (Path(__file__).with_name(f"{name}.sh") for name in ("helper", "sender"))


def helper(lease_s: float, segments: int) -> list[str]:
    """Return the command of the helper's container. `segments`: how many of each stream may wait for loom; 0: any number."""
    return ["sh", "-c", source(_HELPER), "loom", IO, SPOOL, str(int(lease_s)), str(segments)]


def sender(token: bytes, segments: tuple[int, int]) -> list[str]:
    """Return the command that connects loom to the helper (sender.sh)."""
    out, err = segments
    return ["sh", "-c", source(_SENDER), "loom", SPOOL, f"{IO}/in", token.decode(), str(out), str(err)]
