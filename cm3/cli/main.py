"""Words -> verb, errors -> one line and an exit code: 0 done, 2 the user's input, 1 our fault, 75 stopped half-way."""

from __future__ import annotations

import contextlib
import errno
import importlib
import io
import json
import os
import sys
import traceback
from collections.abc import Sequence

from cm3 import __version__
from cm3.errors import Cm3Error, RequestError, did_you_mean
from cm3.files import DENIED, FULL
from cm3.registry import RENAMED, VERBS
from cm3.train.signals import STOPPED, Terminated, terminable

HEAD = """usage: cm3 VERB [options]

CM3Leon: one model that reads and writes text and images.
"""
FOOT = """
examples:
  cm3 demo
  cm3 generate "a large lion at the top left, on a sky ground" --n 4 --out out
  cm3 describe out/*.png
  cm3 VERB --help         # what a verb takes, with examples

every verb: --json (last line of stdout is one JSON object), --debug (tracebacks), --threads N
exit codes: 0 done, 2 the input was wrong, 1 our fault, 75 a signal stopped it and it can be resumed"""

# Errors of the system that come without the name of a file when what is written to has no name here, such as a pipe.
NAMELESS = {*FULL, *DENIED, errno.EIO}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command with these arguments (those of the process if None); returns the exit code."""
    args = list(sys.argv[1:] if argv is None else argv)
    _calm_streams()
    try:
        with terminable():
            code = _run(args)
            sys.stdout.flush()
        return code
    except SystemExit as stop:  # tyro, after printing help
        return stop.code if isinstance(stop.code, int) else 1
    except Terminated as stop:
        told = "give the same command again, and --resume with it where a run has a checkpoint"
        return _fail(args, f"stopped by {stop}, outside of any step; {told}", STOPPED)
    except KeyboardInterrupt:
        return _fail(args, "interrupted", 130)
    except BrokenPipeError:  # `cm3 ... | head`: nobody reads on, which is no error of ours
        _drop_output()
        return 0
    except Cm3Error as error:
        return _fail(args, f"error: {error}", 2)
    except OSError as error:
        # Full, read-only, no permission, a file in the way, no such folder: the system's to say, the user's to mend.
        if error.strerror and (error.filename is not None or error.errno in NAMELESS):
            if error.filename is None:
                _drop_output()  # else Python tries once more to write what is left, and fails aloud
            return _fail(args, f"error: {error.filename or 'output'}: {error.strerror}", 2)
        return _fail(args, f"internal error: {type(error).__name__}: {error}; run with --debug, and report it", 1)
    except Exception as error:
        return _fail(args, f"internal error: {type(error).__name__}: {error}; run with --debug, and report it", 1)


def _calm_streams() -> None:
    """Let names of files that are no text be told with escapes, and no bar be drawn where nobody watches."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    # OpenMP's threads spin while they wait: where other work had the cores, a picture took ten times as long.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    if sys.stderr is None or not sys.stderr.isatty():
        os.environ.setdefault("TQDM_DISABLE", "1")  # for bars of libraries; ours ask by themselves


def _drop_output() -> None:
    """Let what is still to be written to stdout go nowhere."""
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _fail(args: Sequence[str], message: str, code: int) -> int:
    if "--debug" in args:
        traceback.print_exc()
    line = " ".join(message.split())
    print(f"cm3: {line}", file=sys.stderr)
    if "--json" in args:
        print(json.dumps({"error": line.removeprefix("error: ")}))
    return code


def _run(args: list[str]) -> int:
    if args[:1] == ["--version"]:
        print(f"cm3 {__version__}")
        return 0
    if old := next((old for old in RENAMED if args[: len(old.split())] == old.split()), None):
        raise RequestError(f"cm3 {old} is cm3 {RENAMED[old]} now; give it the same options")
    words = _words(args)
    if words not in VERBS:
        known = {v.split()[len(words.split())] for v in VERBS if f"{v} ".startswith(f"{words} ".lstrip())}
        rest = args[len(words.split()) :]
        if not rest or rest[0] in ("-h", "--help"):
            print(_listing(words))
            return 0
        path = f"cm3 {words}".strip()
        raise RequestError(
            f"{path}: no verb {rest[0]!r}.{did_you_mean(rest[0], known)} It has {', '.join(sorted(known))}"
        )
    module, name = VERBS[words][0].split(":")
    form = getattr(importlib.import_module(module), name)
    verb = form.parse(args[len(words.split()) :], f"cm3 {words}")
    verb.common.use_threads()
    # Whatever a library or a recipe prints must not come after the JSON object, nor before it on stdout.
    with contextlib.redirect_stdout(sys.stderr) if verb.common.json else contextlib.nullcontext():
        result = verb.run()
    if verb.common.json and "silent" not in (result or {}):
        print(json.dumps(result))
    if "stopped" in (result or {}):
        return STOPPED
    return 2 if (result or {}).get("failed") else 0


def _words(args: Sequence[str]) -> str:
    """Return as many leading words as lead towards a verb."""
    words: list[str] = []
    for a in args:
        if not any(f"{v} ".startswith(" ".join([*words, a, ""])) for v in VERBS):
            break
        words.append(a)
    return " ".join(words)


def _listing(prefix: str = "") -> str:
    lines = [f"  {verb:<24}{text}" for verb, (_, text) in VERBS.items() if f"{verb} ".startswith(f"{prefix} ".lstrip())]
    head = HEAD if not prefix else f"usage: cm3 {prefix} VERB [options]\n"
    return "\n".join([head, "verbs:", *lines, FOOT if not prefix else f"\n  cm3 {prefix} VERB --help"])
