#!/usr/bin/env python3
"""How long an agent waits for a run: from its call of `loom mcp`'s tool to the answer, beside plain `docker run`.

    python tests/bench/agent_calls.py [--rounds N] [--files N]

Each round writes a file, calls `run` for one job through the protocol's own client, and then times `docker run --rm`.
Prints rows of a Markdown table.
"""

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import anyio
from mcp import StdioServerParameters
from mcp.client.client import Client
from mcp.client.stdio import stdio_client
from watch import IMAGE, environment, repository


async def rounds(root: Path, base: Path, number: int) -> tuple[list[float], list[float]]:
    server = StdioServerParameters(command=sys.executable, args=["-m", "loom", "mcp"], env=environment(base), cwd=root)
    calls, docker = [], []
    with open(os.devnull, "w") as errors:
        async with Client(stdio_client(server, errlog=errors)) as client:
            for count in range(number + 1):
                (root / "a.txt").write_text(f"value {count}\n")
                began = time.perf_counter()
                answer = await client.call_tool("run", {"jobs": ["hi"]})
                took = time.perf_counter() - began
                if answer.is_error or (answer.structured_content or {}).get("status") != "success":
                    raise SystemExit(f"the run did not pass: {answer}")
                await anyio.sleep(2)
                began = time.perf_counter()
                subprocess.run(["docker", "run", "--rm", IMAGE, "true"], check=True)
                if count:  # the first call reads what the others find in memory
                    calls.append(took)
                    docker.append(time.perf_counter() - began)
                await anyio.sleep(2)
    return calls, docker


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--files", type=int, default=150)
    arguments = parser.parse_args()
    base = Path(tempfile.mkdtemp(prefix="loom-bench-"))
    try:
        root = repository(base, arguments.files)
        calls, docker = anyio.run(rounds, root, base, arguments.rounds)
    finally:
        shutil.rmtree(base, ignore_errors=True)
    plain = statistics.median(docker)
    for what, took in (("`run` of one job, call to answer", calls), ("`docker run --rm`", docker)):
        ms = [round(seconds * 1000) for seconds in took]
        median = statistics.median(took)
        print(f"| {arguments.files} | {what} | {median * 1000:.0f} | {min(ms)}-{max(ms)} | {median / plain:.2f} |")


if __name__ == "__main__":
    main()
