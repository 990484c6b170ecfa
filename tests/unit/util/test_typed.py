import subprocess
import sys

import pytest

PROGRAM = """
import sys, threading
from msgspec import Struct, defstruct
from loom.util import typed

sys.setswitchinterval(1e-6)

def both(do):
    barrier = threading.Barrier(4)
    threads = [threading.Thread(target=lambda: (barrier.wait(), do())) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

for number in range(60):
    inner = defstruct(f"Inner{number}", [("text", str), ("many", dict[str, int])])
    outer = defstruct(f"Outer{number}", [("number", int), ("all", list[inner]), ("other", inner | None)])
    if number % 2:
        both(lambda: typed.convert({"number": 1, "all": [{"text": "", "many": {}}], "other": None}, outer))
    else:
        both(lambda: typed.decode(b'{"number": 1, "all": [{"text": "", "many": {}}], "other": null}', outer))
"""


@pytest.mark.slow
def test_threads_may_need_a_type_at_once() -> None:
    ran = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True)
    assert (ran.returncode, ran.stderr) == (0, "")
