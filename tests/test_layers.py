"""Imports point down and siblings do not see each other: the table of docs/design.md, section 3, as a test.

Every `import` of a file counts, also those inside functions and under TYPE_CHECKING: an edge is an edge.
"""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "cm3"

# unit -> what it may import. A dotted entry opens that module only; a dotted unit stands by itself, apart from the rest
# of its folder. Edges within a unit are free.
NOUNS = {"errors", "files", "precision", "weights", "document", "picture", "vocab"}
TABLE: dict[str, set[str]] = {
    # layer 0
    "errors": set(),
    "bars": set(),
    "registry": set(),
    "precision": set(),
    # layer 1
    "files": {"errors"},
    "weights": {"errors", "files", "precision"},
    "picture": {"errors", "files"},
    "document": {"errors", "files", "picture"},
    "vocab": {"errors"},
    # layer 2
    "model": {"errors", "files", "precision", "weights", "vocab"},
    "sequence": {"errors", "document", "vocab"},
    "store": NOUNS | {"sequence"},
    # layer 3
    "tokens": NOUNS | {"sequence", "model.folder", "model.vqgan"},
    "retrieval": NOUNS | {"bars", "sequence", "store"},
    "engine": {"errors", "vocab", "model"},
    "parallel": {"errors", "model"},
    "read": NOUNS | {"bars", "store"},
    # layer 4
    "tasks": NOUNS | {"sequence", "tokens", "read"},
    "score": NOUNS | {"bars", "model", "retrieval"},
    "bench": {"errors", "precision", "weights", "vocab", "model", "engine"},
    "data": NOUNS | {"bars", "sequence", "tokens", "retrieval", "read", "tasks", "store"},
    # layer 5
    "train": NOUNS | {"bars", "sequence", "data", "model", "parallel", "retrieval", "score"},
    "generate": NOUNS | {"sequence", "engine", "tokens", "retrieval", "model", "parallel", "tasks"},
    "convert": NOUNS | {"bars", "sequence", "model", "tokens"},
    # layer 6: eval reaches a model only through generate
    "runs": NOUNS
    | {"train", "data", "tasks", "tokens", "model", "parallel", "generate", "retrieval", "store", "sequence", "score"},
    "eval": NOUNS | {"generate", "data", "read", "tasks", "score"},
    "serve": NOUNS
    | {"bars", "generate", "engine", "tasks", "retrieval", "sequence", "store", "data.cluster", "tokens.noted"},
}
# Layer 7 and the public face see everything; nothing below may see them.
TOP = {"claims", "cli", "scenes", "stickers", "__init__", "__main__"}
# Networks are arithmetic: nothing but torch, and for the file on disk (bundle) what reads it.
MODEL_LIBRARIES = {"torch", "numpy", "safetensors", "huggingface_hub"}


def unit_of(name: str) -> str:
    """The unit that a dotted name below cm3 belongs to: the longest in the table, else its first part."""
    parts = name.split(".")
    longest = (".".join(parts[:i]) for i in range(len(parts), 0, -1))
    return next((u for u in longest if u in TABLE), parts[0])


def name_of(path: Path) -> str:
    """The dotted name below cm3 of a file of the package."""
    return ".".join(path.relative_to(PACKAGE).with_suffix("").parts)


def imports(path: Path) -> Iterator[tuple[int, str]]:
    """Each (line, dotted name) that a file imports; `from cm3 import x` gives cm3.x."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: write imports out from cm3, not relative"
            for alias in node.names:
                yield node.lineno, f"{node.module}.{alias.name}"


def broken(path: Path) -> list[str]:
    """What a file imports against the table, one line each."""
    unit = unit_of(name_of(path))
    if unit in TOP:
        return []
    found = []
    for line, name in imports(path):
        where = f"{path.relative_to(ROOT)}:{line}: {unit} imports {name}"
        head, *rest = name.split(".")
        if head == "cm3":
            allowed = TABLE[unit] | {unit}
            inner = ".".join(rest)
            open_modules = [a for a in allowed if a not in TABLE]
            if unit_of(inner) not in allowed and not any(f"{inner}.".startswith(f"{a}.") for a in open_modules):
                found.append(f"{where}; it may import {', '.join(sorted(allowed))}")
        elif head == "recipes":
            found.append(f"{where}; recipes stand outside the package")
        elif unit == "model" and head not in MODEL_LIBRARIES and head not in sys.stdlib_module_names:
            found.append(f"{where}; the model takes only {', '.join(sorted(MODEL_LIBRARIES))}")
    return found


def modules() -> list[Path]:
    """Every Python file of the package."""
    return sorted(PACKAGE.rglob("*.py"))


def test_every_module_has_its_place_in_the_table() -> None:
    unknown = {unit_of(name_of(p)) for p in modules()} - TABLE.keys() - TOP
    assert not unknown, f"not in the table of docs/design.md section 3: {sorted(unknown)}"


def test_the_table_itself_points_down() -> None:
    seen: set[str] = set()
    for unit, allowed in TABLE.items():
        above = {unit_of(a) for a in allowed} - seen
        assert not above, f"{unit} may import {sorted(above)}, which do not stand below it"
        seen.add(unit)


def test_the_design_shows_the_table() -> None:
    page = (ROOT / "docs" / "design.md").read_text(encoding="utf-8")
    shown: dict[str, set[str]] = {}
    for units, allowed in re.findall(r"^\| [0-6] \| ([a-z, ]+) \| ([a-z., ]+) \|$", page, re.MULTILINE):
        names = set(allowed.split(", ")) - {"none"}
        for unit in units.split(", "):
            shown[unit] = names - {"the nouns"} | (NOUNS if "the nouns" in names else set())
    assert shown == TABLE, "docs/design.md section 3 shows another table"
    nouns = re.findall(r'"The nouns" are ([a-z, ]+)', page)
    assert set(re.split(", | and ", nouns[0])) == NOUNS


def test_the_design_names_the_files_that_there_are() -> None:
    page = (ROOT / "docs" / "design.md").read_text(encoding="utf-8")
    tree = page.split("## 3. The tree")[1].split("    recipes/  ")[0]
    room, named = PACKAGE, []
    for line in tree.splitlines():
        if found := re.match(r" {6}([a-z]+)/ ", line):
            room = PACKAGE / found[1]
        named += [room / name for name in re.findall(r"\b[a-z_0-9]+\.py\b", line) if name != "__init__.py"]
        named += [PACKAGE / name for name in re.findall(r"^ {6}(\w+\.py)", line)]
    assert len(named) > 100
    assert [path for path in named if not path.is_file()] == []


def test_imports_follow_the_table() -> None:
    found = [line for path in modules() for line in broken(path)]
    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    ("place", "line"),
    [
        ("model/loss.py", "from cm3.train.trainer import Trainer"),
        ("tokens/codec.py", "import cm3.engine.engine"),
        ("tokens/codec.py", "from cm3.model.decoder import Decoder"),
        ("model/loss.py", "import PIL.Image"),
        ("train/trainer.py", "from cm3.runs import PretrainRun"),
        ("train/trainer.py", "from cm3.generate import CM3Leon"),
        ("eval/by_heart.py", "from cm3 import cli"),
        ("document.py", "from cm3 import vocab"),
        ("data/pack.py", "def f():\n    from recipes import scenes"),
    ],
)
def test_a_wrong_import_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str, line: str) -> None:
    monkeypatch.setattr(sys.modules[__name__], "ROOT", tmp_path)
    monkeypatch.setattr(sys.modules[__name__], "PACKAGE", tmp_path / "cm3")
    path = tmp_path / "cm3" / place
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("import math\nfrom cm3.errors import Cm3Error\n")
    assert broken(path) == []
    path.write_text(line)
    assert len(broken(path)) == 1


LAZY = ["import cm3", "import cm3; cm3.Document, cm3.Text, cm3.Image, cm3.Gap, cm3.Cm3Error"]


@pytest.mark.parametrize("code", LAZY)
def test_the_package_loads_without_torch(code: str) -> None:
    check = "; import sys; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code + check], check=True, timeout=60)


def test_a_command_listens_to_signals_before_it_loads_anything() -> None:
    check = "import cm3.cli.main, sys; sys.exit(any(name in sys.modules for name in ('PIL', 'numpy', 'tyro')))"
    subprocess.run([sys.executable, "-c", check], check=True, timeout=60)


def test_a_loaded_model_brings_no_reader_and_no_compiler() -> None:
    """The compiler alone, which torch imports for much that is done on the meta device, takes over a second."""
    check = "import cm3, sys; model = cm3.load('scenes'); "
    check += "readers = any(name.startswith('cm3.read') for name in sys.modules); "
    check += "model.memory; sys.exit(readers or 'torch._dynamo' in sys.modules)"
    subprocess.run([sys.executable, "-c", check], check=True, timeout=120)


def readers_asked_for(path: Path, classes: set[str]) -> list[str]:
    """Each place of a file that asks whether something is a reader of one class."""
    calls = [node for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))) if isinstance(node, ast.Call)]
    asked = [call for call in calls if ast.unparse(call.func) in ("isinstance", "issubclass")]
    named = [(call, {n.id for n in ast.walk(call.args[1]) if isinstance(n, ast.Name)}) for call in asked]
    return [f"{path}:{call.lineno}: {sorted(names & classes)}" for call, names in named if names & classes]


def reader_classes() -> set[str]:
    """The names of `Reader` and of all classes that are made of it."""
    trees = [ast.parse(path.read_text(encoding="utf-8")) for path in (PACKAGE / "read").glob("*.py")]
    bases = {
        n.name: {ast.unparse(b) for b in n.bases} for t in trees for n in ast.walk(t) if isinstance(n, ast.ClassDef)
    }
    found = {"Reader"}
    while more := {name for name, of in bases.items() if of & found} - found:
        found |= more
    return found


def test_no_room_asks_which_reader_it_has(tmp_path: Path) -> None:
    """Readers say what they know by methods; a list of their classes elsewhere forgets the next one."""
    classes = reader_classes()
    assert {"Records", "Coco", "Folder", "HuggingFace"} <= classes
    (tmp_path / "a.py").write_text("isinstance(x, int); isinstance(x, Coco | Path)")
    assert len(readers_asked_for(tmp_path / "a.py", classes)) == 1
    outside = [path for path in modules() if not path.is_relative_to(PACKAGE / "read")]
    found = [line for path in outside for line in readers_asked_for(path, classes)]
    assert not found, "\n".join(found)
