"""Arguments -> a frozen dataclass, by tyro, with errors of one line that name what is near.

tyro draws its errors as boxes and exits. Its hook for failed parses says the same as objects, before anything is drawn.
"""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Iterator, Sequence
from typing import Any, TypeVar

from cm3.errors import RequestError, did_you_mean

T = TypeVar("T")
HELP = ("-h", "--help", "--help-verbose")
NUMBERS = {int: ("INT", "whole number"), float: ("FLOAT", "number")}
"""Of each kind: the word for it in help, and in an error."""


def parse(form: type[T], args: Sequence[str], *, prog: str, description: str) -> T:
    """Fill the dataclass `form` from arguments.

    With `--help` prints help and raises `SystemExit(0)`; raises `RequestError` for anything that does not fit.
    """
    import tyro
    from tyro._errors import on_parse_error  # tyro is pinned to a minor version for this, in pyproject.toml

    registry = tyro.constructors.ConstructorRegistry()
    registry.primitive_rule(_number)
    options: Any = {
        "args": args, "prog": prog, "description": description, "registry": registry,
        "config": (tyro.conf.AvoidSubcommands,),
    }  # fmt: skip
    if any(a in HELP for a in args):
        return tyro.cli(form, **options)

    def refuse(event: Any) -> None:
        told = message(event, sorted({f"--{name}".replace("_", "-") for name in names_of(form)}))
        end = "" if told.endswith(("?", "...")) else ";"
        raise RequestError(
            f"{told if not end else told.removesuffix('.')}{end} {'see' if end else 'See'} {prog} --help"
        )

    try:
        with on_parse_error(refuse):
            return tyro.cli(form, **options, console_outputs=False)
    except SystemExit as stop:  # of a failure that the hook was not told of
        raise RequestError(f"wrong arguments; see {prog} --help") from stop


def message(event: Any, known: Sequence[str]) -> str:
    """Return what went wrong, for an event of tyro and the options that there are."""
    from tyro import _errors

    strays = getattr(event, "tokens", None) or getattr(event, "unrecognized_tokens", None) or []
    if stray := next((word for word in strays if word.startswith("-") and not word[1:2].isdigit()), None):
        flag = stray.split("=")[0]
        return f"{flag}: no such option.{_near(flag.replace('_', '-'), known)}"
    if strays:
        return f"{strays[0]!r}: one argument too many; put several words in quotes"
    match event:
        case _errors.MissingArgs():
            arg = event.missing_arguments[0].arg
            name = arg.lowered.metavar if arg.is_positional() else arg.lowered.name_or_flags[0]
            return f"missing {name}: {_plain(arg.field.helptext)}"
        case _errors.BadValue():
            count = f". Expected {event.argument.lowered.nargs} values" if event.argument.lowered.nargs != 1 else ""
            return f"Missing value for argument {event.argument.display_name()!r}{count}"
        case _errors.InvalidChoice():
            # In an order that is always the same; None is to leave the option out.
            choices = sorted(choice for choice in event.choices if choice != "None")
            near = did_you_mean(event.value, choices)
            listed = f"{event.value!r} for argument {event.argument.display_name()!r}; choose {' or '.join(choices)}"
            return f"invalid choice {listed}.{near}"
        case _errors.InstantiationFailure() if event.argument is not None:
            return f"{event.argument.display_name()}: {_plain(event.message)}"
        case _errors.InstantiationFailure():
            return _plain(event.message)  # of a group that checks its values itself
        case _:
            return "wrong arguments"


def names_of(value: Any, prefix: str = "") -> Iterator[str]:
    """Yield the dotted names of the fields of a config, or of a verb, whose groups of options stand without a
    prefix."""
    for field in dataclasses.fields(value):
        inner = field.default if isinstance(value, type) else getattr(value, field.name)
        if dataclasses.is_dataclass(inner):
            yield from names_of(inner, "" if isinstance(value, type) else f"{prefix}{field.name}.")
        else:
            yield prefix + field.name


def near_name(name: str, known: Sequence[str]) -> str:
    """Return `" Did you mean 'x'?"` for a name that is near, or that stands in a group: lr for optim.lr."""
    inside = [one for one in known if one.split(".")[-1] == name.split(".")[-1]]
    return did_you_mean(name, known) or (f" Did you mean {inside[0]!r}?" if inside else "")


def _near(flag: str, known: Sequence[str]) -> str:
    bare = flag.lstrip("-")
    return near_name(bare, [one.removeprefix("--") for one in known]).replace("'", "'--", 1)


def _plain(text: Any) -> str:
    """Return one line of a text of tyro's, which may be made when it is asked for."""
    return " ".join(str(text() if callable(text) else text or "").split())


def _number(info: Any) -> Any:
    """Read int, float and either or None as tyro does, with our words for what is none."""
    from tyro.constructors import PrimitiveConstructorSpec

    kinds = typing.get_args(info.type) if isinstance(info.type, types.UnionType) or typing.get_origin(info.type) else ()
    empty = type(None) in kinds
    kind = next((k for k in NUMBERS if info.type is k or set(kinds) == {k, type(None)}), None)
    if kind is None:
        return None
    name, words = NUMBERS[kind]

    def read(given: list[str]) -> Any:
        if empty and given == ["None"]:
            return None
        try:
            return kind(given[0])
        except ValueError as error:
            raise ValueError(f"{given[0]!r} is not a {words}") from error

    return PrimitiveConstructorSpec(
        nargs=1,
        metavar=f"{{None}}|{name}" if empty else name,
        instance_from_str=read,
        is_instance=lambda value: (
            (empty and value is None) or (isinstance(value, kind | int) and not isinstance(value, bool))
        ),
        str_from_instance=lambda value: [str(value)],
    )
