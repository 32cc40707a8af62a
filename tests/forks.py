"""Processes for tests, forked from one server that has imported what they need: each costs milliseconds, not seconds.

A test process has one such server, with the imports of whoever starts it first; hence one list for all.
"""

from __future__ import annotations

import atexit
import multiprocessing
import os
import runpy
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Mapping, Sequence
from multiprocessing.context import ForkServerContext
from pathlib import Path

import torch

IMPORTS = [
    *("cm3.data.prepare", "cm3.read.picture_folder", "cm3.retrieval.pairs", "cm3.train.trainer", "cm3.generate"),
    "torch._dynamo",  # what torch imports for the first optimizer of a process
]


def forks() -> ForkServerContext:
    """The context whose processes are forked from that server."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(IMPORTS)
    return context


def python(
    *words: object, env: Mapping[str, str] | None = None, cwd: Path | None = None, timeout: float = 600
) -> subprocess.CompletedProcess[str]:
    """What `python WORDS` writes and ends with: a file, -c and code, or -m and a module; in a process forked from that
    server.

    Not for what is to import something first, or to be without it.
    """
    given = [str(word) for word in words]
    with tempfile.TemporaryDirectory() as folder:
        said = [Path(folder, name) for name in ("out", "err")]
        process = forks().Process(target=_python, args=(given, dict(env or os.environ), cwd or Path.cwd(), said))
        process.start()
        process.join(timeout)
        if process.exitcode is None:
            process.kill()
            process.join()
            raise subprocess.TimeoutExpired(given, timeout, *(path.read_bytes() for path in said))
        return subprocess.CompletedProcess(given, process.exitcode, *(path.read_text() for path in said))


def _python(words: Sequence[str], env: Mapping[str, str], cwd: Path, said: Sequence[Path]) -> None:
    """Do it, as Python would from the start."""
    for number, path in enumerate((os.devnull, *said)):
        os.dup2(os.open(path, os.O_RDWR | os.O_CREAT), number)
    os.environ.clear()
    os.environ.update(env)
    os.chdir(cwd)
    torch.set_num_threads(int(env.get("OMP_NUM_THREADS", 1)))
    sys.argv = [words[0], *words[2:]] if words[0] in ("-c", "-m") else [*words]
    paths = [path for path in env.get("PYTHONPATH", "").split(os.pathsep) if path]
    sys.path[:0] = ["" if words[0] in ("-c", "-m") else str(Path(words[0]).parent), *paths]
    ended = 0
    try:
        if words[0] == "-c":
            exec(compile(words[1], "<string>", "exec"), {"__name__": "__main__"})
        elif words[0] == "-m":
            runpy.run_module(words[1], run_name="__main__", alter_sys=True)
        else:
            runpy.run_path(words[0], run_name="__main__")
    except SystemExit as stop:
        ended = stop.code if isinstance(stop.code, int) else int(stop.code is not None)
        if isinstance(stop.code, str):
            print(stop.code, file=sys.stderr)
    except BaseException:
        traceback.print_exc()
        ended = 1
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    os._exit(ended)
