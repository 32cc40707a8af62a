"""`file.py:function`, `NAME:function` of the package's own, or `module:function` -> the config of a run.

    recipes/scenes.py:pretrain     a file
    scenes:pretrain                the recipe that comes with the package, from any folder
    mine.runs:first                a module that Python can import

A recipe is a Python function without arguments that returns a frozen dataclass with a method
`run(*, progress: bool, resume: bool) -> dict`. Its docstring states what the run costs and what it promises.
"""

from __future__ import annotations

import dataclasses
import hashlib
import importlib
import importlib.util
import inspect
import os
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import cm3
from cm3.errors import ConfigError, did_you_mean

Recipe = Callable[[], Any]


def find(spec: str) -> Recipe:
    """Return the function that `spec` names. Raises `ConfigError` where there is none, and says which there are."""
    place, _, name = spec.rpartition(":") if ":" in spec else (spec, "", "")
    module = module_of(place)
    known = recipes_of(module)
    if name in known:
        return known[name]
    listed = f"it has {', '.join(known)}" if known else "it has no function that takes no argument"
    if not name:
        raise ConfigError(f"recipe {spec!r}: names no function; {listed}; write {place}:FUNCTION")
    raise ConfigError(
        f"recipe {spec!r}: {place} has no recipe {name!r}.{did_you_mean(name, known)} {listed.capitalize()}"
    )


def module_of(place: str) -> ModuleType:
    """Return the module of recipes that half a name means. Raises `ConfigError` for one that does not load."""
    if place in shipped():
        return _from_file(_own() / f"{place}.py")
    return _from_file(Path(place)) if place.endswith(".py") else _from_name(place)


def shipped() -> tuple[str, ...]:
    """Return the names of the files of recipes that come with the package."""
    return tuple(sorted(path.stem for path in _own().glob("*.py") if not path.stem.startswith("_")))


def _own() -> Path:
    """Return their folder: inside an installed package, beside it in a checkout."""
    inside = Path(cm3.__file__).parent / "recipes"
    return inside if inside.is_dir() else inside.parent.parent / "recipes"


def config_of(spec: str, recipe: Recipe) -> Any:
    """Call a recipe. Raises `ConfigError` where what it returns can not be run."""
    config = recipe()
    if not dataclasses.is_dataclass(config) or isinstance(config, type) or not callable(getattr(config, "run", None)):
        raise ConfigError(
            f"recipe {spec!r}: returned a {type(config).__name__}; "
            "must return a dataclass with run(progress, resume), such as a PretrainRun"
        )
    return config


def recipes_of(module: ModuleType) -> dict[str, Recipe]:
    """Return the public functions that a module defines and that need no argument."""
    return {
        name: value
        for name, value in vars(module).items()
        if inspect.isfunction(value) and value.__module__ == module.__name__ and not name.startswith("_")
        if all(p.default is not p.empty for p in inspect.signature(value).parameters.values())
    }


def _from_file(path: Path) -> ModuleType:
    if not path.is_file():
        near = did_you_mean(path.name, [p.name for p in path.parent.glob("*.py")]) if path.parent.is_dir() else ""
        if path.stem in shipped():
            near = f" The one that comes with the package is {path.stem}:FUNCTION."
        raise ConfigError(f"recipe file {str(path)!r}: no such file.{near} Write path/to/file.py:FUNCTION")
    # As for a script, its own folder and the one where the command was given can be imported from.
    for folder in (str(path.resolve().parent), str(Path.cwd())):
        if folder not in sys.path:
            sys.path.append(folder)
    # Of a package that is the file's folder, so that a recipe may begin with `from .other import run`.
    folder = str(path.resolve().parent)
    package = f"cm3_recipes_{hashlib.sha256(os.fsencode(folder)).hexdigest()[:12]}"
    if package not in sys.modules:
        sys.modules[package] = ModuleType(package)
        sys.modules[package].__path__ = [folder]
    name = f"{package}.{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look up the module of their annotations there
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        del sys.modules[name]
        raise ConfigError(f"recipe file {str(path)!r}: does not load: {_told(error)}; --debug shows where") from error
    return module


def _from_name(name: str) -> ModuleType:
    if str(Path.cwd()) not in sys.path:
        sys.path.append(str(Path.cwd()))
    try:
        return importlib.import_module(name)
    except Exception as error:
        known = ", ".join(f"{own}:FUNCTION" for own in shipped())
        raise ConfigError(
            f"recipe module {name!r}: does not load: {_told(error)}.{did_you_mean(name, shipped())} "
            f"Write path/to/file.py:FUNCTION, module:FUNCTION, or one that comes with the package: {known}"
        ) from error


def _told(error: Exception) -> str:
    where = f" (line {error.lineno})" if isinstance(error, SyntaxError) else ""
    return f"{type(error).__name__}: {error.msg if isinstance(error, SyntaxError) else error}{where}"
