"""How quickly output is masked, and what secrets cost in memory.   python tests/bench/masking.py"""

import base64
import random
import time
import tracemalloc
from collections.abc import Mapping

from loom.util.masking import Masker

CHUNK = 1 << 16
MINUTES = 60


def ordinary(lines: int) -> bytes:
    return b"".join(
        b"2026-11-26T01:%02d:%02d INFO  service.module: handled request %d in %d ms path=/api/v1/items/%d\n"
        % (number % MINUTES, number % 59, number, number % 977, number * 7)
        for number in range(lines)
    )


def json_lines(lines: int) -> bytes:
    return b"".join(
        b'{"time":"01:%02d","level":"info","msg":"handled \\"request\\" %d","path":"/api/v1/items/%d"}\n'
        % (number % MINUTES, number, number % 977)
        for number in range(lines)
    )


def coloured(lines: int) -> bytes:
    return b"".join(
        b"\x1b[32mPASSED\x1b[0m tests/unit/test_%d.py::test_it %d%% of what there is\n" % (number, number % 100)
        for number in range(lines)
    )


def tokens() -> dict[str, bytes]:
    return {f"T{number}": b"ghp_" + base64.b64encode(random.randbytes(27)) for number in range(10)}


def bundle() -> dict[str, bytes]:
    text = b""
    while len(text) < 58_000:
        text += b"-----BEGIN CERTIFICATE-----\n" + base64.encodebytes(random.randbytes(1400)).replace(b"\n", b"")
        text += b"\n-----END CERTIFICATE-----\n"
    rows = [line[at : at + 64] for line in text.split(b"\n") for at in range(0, max(1, len(line)), 64)]
    return {"BUNDLE": b"\n".join(rows)}


def speed(masker: Masker, data: bytes) -> float:
    """Megabytes a second of this thread's own time."""
    begun = time.thread_time()
    stream = masker.stream()
    for at in range(0, len(data), CHUNK):
        stream.feed(data[at : at + CHUNK])
    stream.flush()
    return len(data) / 1e6 / (time.thread_time() - begun)


def measure(what: str, secrets: Mapping[str, bytes]) -> None:
    tracemalloc.start()
    before = resident()
    begun = time.thread_time()
    masker = Masker(secrets)
    masker.mask("x")
    took = time.thread_time() - begun
    python = tracemalloc.get_traced_memory()[0] / 1e6
    tracemalloc.stop()
    print(f"{what}: ready in {took * 1000:.0f} ms, {python:.1f} MB in Python, {resident() - before:.1f} MB in all")
    for name, data in (("plain", ordinary(200_000)), ("json", json_lines(200_000)), ("coloured", coloured(200_000))):
        print(f"  {name:<10} {speed(masker, data):6.0f} MB/s")
    value = next(iter(secrets.values())).split(b"\n")[0]
    hits = (ordinary(10) + value + b"\n") * 5000
    print(f"  {'a hit a KB':<10} {speed(masker, hits):6.0f} MB/s")


def resident() -> float:
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * 4096 / 1e6


def pathological() -> None:
    for value, text in (
        (b"aaaa", b"a" * 1_000_000),
        (b"a" * 30_000 + b"b", b"a" * 1_000_000),
        (b'a"' * 2000, b'a"' * 500_000),
        (b"%" * 10, b"%25" * 333_333),
        (b"wxyz", b"\\" * 1_000_000),
        (b'\\"&<' * 15_000 + b"wxyz", b"x" * 1_000_000),
    ):
        masker = Masker({"S": value})
        begun = time.thread_time()
        masker.mask_bytes(text)
        print(f"{value[:8]!r} x {len(value):,} against {text[:6]!r} x 1 MB: {time.thread_time() - begun:.2f} s")


def ratios() -> None:
    """What twice as much costs: 2 where the time is proportional."""

    def seconds(value: bytes, text: bytes) -> float:
        masker = Masker({"S": value})
        begun = time.thread_time()
        masker.mask_bytes(text)
        return time.thread_time() - begun

    for value, text in (
        (b"aaaa", b"a"),
        (b'a"' * 2000, b'a"'),
        (b"%" * 10, b"%25"),
        (b"wxyz", b"\x1b]"),
        (b"wxyz", b"\\"),
    ):
        once, twice = (min(seconds(value, text * count) for _ in range(3)) for count in (200_000, 400_000))
        print(f"{value[:6]!r}: twice the text takes {twice / once:.1f} times as long")
    once, twice = (min(seconds(b'a"' * count, b'a"' * 100_000) for _ in range(3)) for count in (5_000, 10_000))
    print(f"twice the value takes {twice / once:.1f} times as long")


if __name__ == "__main__":
    random.seed(1)
    Masker({"S": "warm-up-value"}).mask("x")
    measure("ten tokens", tokens())
    measure("58 KB of certificates", bundle())
    pathological()
    ratios()
