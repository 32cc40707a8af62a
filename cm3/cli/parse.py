"""Arguments -> a frozen dataclass, by tyro, with errors of one line that name what is near.

tyro prints help and errors in boxes and exits. Help stays as it is; an error is caught and told in our own manner.
"""

from __future__ import annotations

import contextlib
import dataclasses
import io
import os
import re
from collections.abc import Iterator, Sequence
from typing import Any, TypeVar
from unittest import mock

from cm3.errors import RequestError, did_you_mean

T = TypeVar("T")
HELP = ("-h", "--help", "--help-verbose")


def parse(form: type[T], args: Sequence[str], *, prog: str, description: str, names: Sequence[str]) -> T:
    """Fill the dataclass `form`, which takes the dotted options `names`, from arguments.

    With `--help` prints help and raises `SystemExit(0)`; raises `RequestError` for anything that does not fit.
    """
    import tyro

    conf = (tyro.conf.AvoidSubcommands,)
    if any(a in HELP for a in args):
        tyro.cli(form, args=args, prog=prog, description=description, config=conf)
    known = sorted({f"--{name}".replace("_", "-") for name in names})
    for a in args:
        flag = a.split("=")[0].replace("_", "-")
        if flag.startswith("--") and flag not in known and flag.replace("no-", "", 1) not in known:
            raise RequestError(f"{a.split('=')[0]}: no such option.{_near(flag, known)} See {prog} --help")
    caught = io.StringIO()
    try:
        # tyro wraps its boxes at the width of the terminal; one line is not to be wrapped.
        with contextlib.redirect_stderr(caught), mock.patch.dict(os.environ, COLUMNS="4000"):
            value, rest = tyro.cli(
                form, args=args, prog=prog, description=description, config=conf, return_unknown_args=True
            )
    except SystemExit:
        raise RequestError(condense(caught.getvalue(), prog)) from None
    if rest:
        raise RequestError(f"{rest[0]!r}: one argument too many; put several words in quotes, and see {prog} --help")
    return value


def condense(box: str, prog: str) -> str:
    """The message of one of tyro's boxes, as a line."""
    lines = []
    for line in box.splitlines()[1:]:
        line = line.strip().strip("\u2502").strip()
        if not line or line[0] in "\u2500\u2570\u256d":
            break
        lines.append(line)
    text = " ".join(" ".join(lines).split())
    text = re.sub(r"^Error parsing (-\S+): ", r"\1: ", text)
    text = re.sub(r"^Error parsing [^:]*: ", "", text)  # a value that checks itself says what is wrong
    text = re.sub(r"invalid literal for int\(\) with base 10: (.*)", r"\1 is not a whole number", text)
    text = re.sub(r"could not convert string to float: (.*)", r"\1 is not a number", text)
    text = re.sub(
        r"no type matching \{None\}\|(\w+) could be instantiated from \[(.*)\]",
        lambda found: f"{found[2]} is not a {'whole number' if found[1] == 'INT' else 'number'}",
        text,
    )
    text = re.sub(rf"^Missing from {re.escape(prog)}: (\S+) (.*) \(required\)$", r"missing \1: \2", text)
    return f"{text.rstrip('.')}; see {prog} --help" if text else f"wrong arguments; see {prog} --help"


def names_of(value: Any, prefix: str = "") -> Iterator[str]:
    """The dotted names of the fields of a config, or of a verb, whose groups of options stand without a prefix."""
    for field in dataclasses.fields(value):
        inner = field.default if isinstance(value, type) else getattr(value, field.name)
        if dataclasses.is_dataclass(inner):
            yield from names_of(inner, "" if isinstance(value, type) else f"{prefix}{field.name}.")
        else:
            yield prefix + field.name


def _near(flag: str, known: Sequence[str]) -> str:
    if hint := did_you_mean(flag, known):
        return hint
    # A field given without the group that it stands in: --lr for --optim.lr.
    last = flag.removeprefix("--").split(".")[-1]
    inside = [k for k in known if k.removeprefix("--").split(".")[-1] == last]
    return f" Did you mean {inside[0]!r}?" if inside else ""
