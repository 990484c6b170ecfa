"""Waiting for descriptors."""

import os
import resource

from loom.util.within import readable


def test_descriptors_beyond_those_that_select_knows() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(4096, hard), hard))
    reader, writer = os.pipe()
    opened = [reader, writer]
    try:
        while opened[-1] < 1100:
            opened.append(os.dup(reader))
        assert readable(opened[2:], 0) == []
        os.write(writer, b"x")
        assert readable([opened[-1]], None) == [opened[-1]]
        os.read(reader, 1)
        os.close(writer)
        assert readable([opened[-1]], 60) == [opened[-1]]  # its end counts too
    finally:
        for descriptor in opened:
            if descriptor != writer:
                os.close(descriptor)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
