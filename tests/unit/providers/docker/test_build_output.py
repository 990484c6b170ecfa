"""The reason for a failed build in a builder's output."""

import pytest

from loom.providers.docker.images.buildx import parse_failure

BUILDKIT_SAID = """\
#6 ERROR: failed to calculate checksum: "/nothing": not found
------
 > [3/3] COPY nothing /x:
------
Dockerfile:3
--------------------
   1 |     FROM debian
   2 |     RUN true
   3 | >>> COPY nothing /x
   4 |
--------------------
ERROR: failed to solve: failed to compute cache key: "/nothing": not found
"""


@pytest.mark.parametrize(
    ("said", "failed"),
    [
        (BUILDKIT_SAID, (3, "COPY nothing /x", 'failed to compute cache key: "/nothing": not found')),
        (
            "Step 1/2 : FROM x\n ---> 1\nStep 2/2 : RUN false\n ---> Running in 2\n",
            (None, "RUN false", "---> Running in 2"),
        ),
        ("", (None, None, "the builder printed no reason")),
    ],
)
def test_which_line_of_a_build_failed(said: str, failed: tuple[int | None, str | None, str]) -> None:
    assert parse_failure(said) == failed
