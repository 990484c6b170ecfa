"""`loom` in a process of its own that need not import anything: it is forked from one which has all modules.

A suite starts loom two thousand times, and its imports are the better part of most commands. What such a process does is
what `python -m loom` does. Tests that send signals, need a terminal or look at the start itself start that instead.
"""

import faulthandler
import multiprocessing
import os
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from multiprocessing.connection import Connection, wait
from pathlib import Path

import loom

_FORKING = multiprocessing.get_context("forkserver")
_FORKING.set_forkserver_preload(["tests.support.warm"])
_ALONE = threading.Lock()
"""For what reads an exit code: each start reads those of all processes, and the second to read one is told 255."""
_MAIN = str(Path(loom.__file__).with_name("__main__.py"))


def run_loom(
    arguments: tuple[str, ...], *, cwd: Path, environ: Mapping[str, str], timeout: float = 600, out_to: str = ""
) -> subprocess.CompletedProcess[str]:
    """`loom ARGUMENTS` from its start to its end, and until nothing that it started writes to its output any more.

    Its standard output goes to the file `out_to`, if one is named.
    A run starts no `loom clean` behind it, unless `environ` asks for that: it takes more of the processor than the run.
    """
    environ = {"LOOM_AUTO_CLEAN": "no", **environ}
    if any(
        name.startswith(("LC_", "LANG", "PYTHON")) and value != "C.UTF-8"
        for name, value in environ.items()
        if name not in ("PYTHONPATH", "PYTHONDONTWRITEBYTECODE", "PYTHONUNBUFFERED")
    ):
        assert not out_to, "a loom with other settings of the language writes to a pipe"
        return _started(arguments, cwd=cwd, environ=environ, timeout=timeout)
    with ExitStack() as stack:
        out, out_of_loom = (stack.enter_context(end) for end in _FORKING.Pipe(duplex=False))
        if out_to:
            out_of_loom.close()
            out_of_loom = stack.enter_context(Connection(os.open(out_to, os.O_WRONLY), readable=False))
        err, err_of_loom = (stack.enter_context(end) for end in _FORKING.Pipe(duplex=False))
        process = _FORKING.Process(target=_main, args=(arguments, str(cwd), dict(environ), out_of_loom, err_of_loom))
        with _ALONE:
            process.start()
        out_of_loom.close()
        err_of_loom.close()
        readers = stack.enter_context(ThreadPoolExecutor(2))
        printed = [readers.submit(_read, end.fileno()) for end in (out, err)]
        try:
            if not wait([process.sentinel], timeout):
                # At TERM loom ends what it started, which would else hold the output open.
                process.terminate()
                wait([process.sentinel], timeout)
                raise subprocess.TimeoutExpired(["loom", *arguments], timeout)
            stdout, stderr = (text.result(timeout) for text in printed)
        finally:
            with _ALONE:
                if process.exitcode is None:
                    process.kill()
                    process.join()
                code = process.exitcode
                process.close()
    return subprocess.CompletedProcess(["loom", *arguments], code, stdout, stderr)


def _started(
    arguments: tuple[str, ...], *, cwd: Path, environ: Mapping[str, str], timeout: float
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "loom", *arguments],
        cwd=cwd,
        env=environ,
        capture_output=True,
        text=True,
        encoding="utf-8",
        stdin=subprocess.DEVNULL,
        timeout=timeout,
        check=False,
    )


def _read(descriptor: int) -> str:
    with open(descriptor, encoding="utf-8", closefd=False) as stream:
        return stream.read()


def _main(arguments: tuple[str, ...], cwd: str, environ: dict[str, str], out: Connection, err: Connection) -> None:
    """Be `python -m loom`: with its working directory, environment, arguments and standard streams."""
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(environ)
    if not {"LANG", "LC_ALL", "LC_CTYPE"} & environ.keys():
        os.environ["LC_CTYPE"] = "C.UTF-8"  # which Python itself sets then
    time.tzset()
    sys.argv = [_MAIN, *arguments]
    nothing = os.open(os.devnull, os.O_RDONLY)
    for target, source in enumerate((nothing, out.fileno(), err.fileno())):
        os.dup2(source, target)
    os.close(nothing)
    out.close()
    err.close()
    sys.stdin = os.fdopen(0, encoding="utf-8", errors="surrogateescape", closefd=False)
    sys.stdout = os.fdopen(1, "w", encoding="utf-8", errors="surrogateescape", closefd=False)
    sys.stderr = os.fdopen(2, "w", encoding="utf-8", errors="backslashreplace", buffering=1, closefd=False)
    faulthandler.enable()  # a crash of the interpreter tells where
    from loom.cli import main

    main()
