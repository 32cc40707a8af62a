"""House rules that no linter holds: ASCII, size, no printing in the library, pins for every dependency."""

from __future__ import annotations

import ast
import importlib.metadata
import re
import tomllib
from pathlib import Path

import pytest
import torch
from packaging.markers import Marker
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = ("cm3", "recipes", "tests", "benchmarks", "docs")
LINES = 600
FORBIDDEN = ("print", "exit", "quit", "sys.exit", "os._exit")


def files(suffix: str) -> list[Path]:
    """Every file of ours with this suffix."""
    found = [p for folder in FOLDERS for p in (ROOT / folder).rglob(f"*{suffix}")]
    return sorted([*found, *ROOT.glob(f"*{suffix}")])


def library() -> list[Path]:
    """The modules that other people's programs import: all but the command line."""
    verbs = (ROOT / "cm3/cli", ROOT / "cm3/scenes/cli", ROOT / "cm3/stickers/cli")
    return [p for p in files(".py") if p.is_relative_to(ROOT / "cm3") and not any(p.is_relative_to(v) for v in verbs)]


def where(path: Path, line: int) -> str:
    """A place that an editor can jump to."""
    return f"{path.relative_to(ROOT)}:{line}"


def test_the_rules_see_the_files() -> None:
    assert ROOT / "cm3/errors.py" in library()
    assert Path(__file__) in files(".py")
    assert ROOT / "CHANGELOG.md" in files(".md")


@pytest.mark.parametrize("suffix", [".py", ".md"])
def test_text_is_ascii(suffix: str) -> None:
    bad = [
        f"{where(path, number)}: {line!a}"
        for path in files(suffix)
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        if not line.isascii()
    ]
    assert not bad, "\n".join(bad)


def test_files_are_short() -> None:
    long = [f"{where(p, n)}" for p in files(".py") if (n := len(p.read_text().splitlines())) > LINES]
    assert not long, f"longer than {LINES} lines, split by idea: {long}"


def test_test_files_have_names_of_their_own() -> None:
    names = [path.name for path in (ROOT / "tests").rglob("test_*.py")]
    twice = sorted({name for name in names if names.count(name) > 1})
    assert not twice, f"pytest takes two files of one name for the same module, and runs neither: {twice}"


def named_alike(package: Path) -> dict[str, list[str]]:
    """Files of one name for different things, by name. A verb may have the name of the module that it runs."""
    found: dict[str, list[Path]] = {}
    for path in sorted(package.rglob("*.py")):
        if not path.name.startswith("__"):
            found.setdefault(path.stem, []).append(path)
    for stem, paths in found.items():
        verb = package / "cli" / f"{stem}.py"
        said = verb.read_text(encoding="utf-8") if verb in paths else ""
        if len(paths) == 2 and any(f"from cm3.{p.parent.name}.{stem} import" in said for p in paths):
            paths.remove(verb)
    return {s: [p.relative_to(package).as_posix() for p in paths] for s, paths in found.items() if len(paths) > 1}


def _less(folder: str, paths: list[str]) -> list[str]:
    return [p for p in paths if not p.startswith(folder)]


def test_no_two_files_have_one_name_for_different_things(tmp_path: Path) -> None:
    """A name that is searched for leads to one file."""
    for path in ("cli/a.py", "cli/b.py", "data/a.py", "data/b.py", "data/c.py", "read/c.py", "read/__init__.py"):
        (tmp_path / path).parent.mkdir(exist_ok=True)
        (tmp_path / path).write_text("from cm3.data.b import b")
    assert named_alike(tmp_path) == {"a": ["cli/a.py", "data/a.py"], "c": ["data/c.py", "read/c.py"]}
    # the stickers take the place of the scenes, name by name
    found = {s: kept for s, paths in named_alike(ROOT / "cm3").items() if len(kept := _less("scenes/", paths)) > 1}
    assert not found, f"rename the less general of each: {found}"


def test_every_module_says_what_it_does() -> None:
    silent = [str(p.relative_to(ROOT)) for p in files(".py") if not ast.get_docstring(ast.parse(p.read_text()))]
    assert not silent, f"no module docstring: {silent}"


IMPERATIVES = set(
    """
    Add Advance Answer Append Apply Attend Be Begin Break Build Call Change Check Choose Close Combine Come Compare
    Compute Copy Count Cut Decide Decode Delete Describe Do Draw Drop Edit Embed Encode End Exchange Expand Fill Find
    Free Gather Give Hold Initialise Invert Join Judge Keep Key Lay Learn Leave Let List Load Lock Look Make Map Mask
    Measure Meet Memory-map Mix Name Normalise Note Open Parse Pass Plan Prepare Print Project Put Quantise Queue Raise
    Read Recognise Reconstruct Refuse Remove Replace Resume Return Rotate Round Run Say Scale Score Search See Send
    Serve Set Share Shortlist Show Sort Spell Split Spread Step Sum Sweep Take Tell Train Truncate Turn Update
    Wait Walk Work Wrap Write Yield Zero
    """.split()
)
"""Verbs that open the docstrings of functions. A new one is welcome, a noun is not."""
CLAUSE = re.compile(r"(What|That which|Those which|Whether|How|Which|Where|Who|Why|When)\b")
"""Words that open a clause and not a sentence."""


def test_docstrings_of_functions_open_with_an_imperative() -> None:
    """A function does something: its docstring says so, verb first."""
    bad = []
    for path in files(".py"):
        name = path.relative_to(ROOT).as_posix()
        if not name.startswith("cm3/"):
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            said = ast.get_docstring(node) if isinstance(node, ast.FunctionDef) else None
            if said and re.split(r"[^A-Za-z-]", said)[0] not in IMPERATIVES:
                bad.append(f"{where(path, node.lineno)}: {said.splitlines()[0][:60]}")
    assert not bad, "\n".join(bad)


def test_no_docstring_opens_with_a_clause() -> None:
    """Subject, verb, object: a reader knows after three words of whom a sentence is."""
    bad = []
    for path in files(".py"):
        name = path.relative_to(ROOT).as_posix()
        if name.startswith(("cm3/", "recipes/")):
            tree = ast.parse(path.read_text(encoding="utf-8"))
            named = [node for node in ast.walk(tree) if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef)]
            said = [(getattr(node, "lineno", 1), ast.get_docstring(node) or "") for node in named]
            bad += [f"{where(path, line)}: {text[:60]}" for line, text in said if CLAUSE.match(text)]
    assert not bad, "\n".join(bad)


def test_the_library_neither_prints_nor_exits() -> None:
    bad = []
    for path in library():
        if path.name == "__main__.py":
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and ast.unparse(node.func) in FORBIDDEN:
                bad.append(f"{where(path, node.lineno)}: {ast.unparse(node.func)}(")
            if isinstance(node, ast.Raise) and node.exc and "SystemExit" in ast.unparse(node.exc):
                bad.append(f"{where(path, node.lineno)}: raise SystemExit")
    assert not bad, "\n".join(bad)


def test_weights_are_never_loaded_by_running_a_pickle() -> None:
    bad = []
    for path in files(".py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "torch.load":
                safe = {k.arg: ast.unparse(k.value) for k in node.keywords}.get("weights_only") == "True"
                if not safe:
                    bad.append(where(path, node.lineno))
    assert not bad, f"torch.load without weights_only=True: {bad}"


def openings(path: Path) -> list[str]:
    """Where a file of Python opens pictures by Pillow itself, whatever it calls that."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    names, found = {"PIL.Image"}, []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {a.asname for a in node.names if a.name == "PIL.Image" and a.asname}
        elif isinstance(node, ast.ImportFrom) and node.module == "PIL":
            names |= {a.asname or a.name for a in node.names if a.name == "Image"}
        elif isinstance(node, ast.ImportFrom) and node.module == "PIL.Image":
            found += [f"{path}:{node.lineno}" for a in node.names if a.name == "open"]
    for node in ast.walk(tree):
        of = ast.unparse(node.value) if isinstance(node, ast.Attribute) else ""
        if isinstance(node, ast.Attribute) and (node.attr == "open" and of in names or node.attr == "Parser"):
            found.append(f"{path}:{node.lineno}")
    return found


def test_pictures_are_opened_in_one_place() -> None:
    """Pillow's own way in reads some forty formats, one by starting a program."""
    ours = [p for p in files(".py") if not p.is_relative_to(ROOT / "tests")]
    found = [place for path in ours for place in openings(path)]
    assert [place.rpartition(":")[0] for place in found] == [str(ROOT / "cm3/picture.py")], found


@pytest.mark.parametrize(
    "line",
    [
        "import PIL.Image; PIL.Image.open(x)",
        "import PIL.Image as P; P.open(x)",
        "from PIL import Image; Image.open(x)",
        "from PIL import Image as Pillow; read = Pillow.open",
        "from PIL.Image import open as read",
        "import PIL.ImageFile; PIL.ImageFile.Parser()",
    ],
)
def test_each_way_of_opening_a_picture_is_found(tmp_path: Path, line: str) -> None:
    (tmp_path / "a.py").write_text(line)
    (tmp_path / "b.py").write_text("from cm3.document import Image; Image.open(x); open(y); PIL.Image.new('L', z)")
    assert len(openings(tmp_path / "a.py")) == 1 and not openings(tmp_path / "b.py")


def test_torchvision_is_nowhere() -> None:
    bad = []
    for path in files(".py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            bad += [where(path, node.lineno) for name in names if name.split(".")[0] == "torchvision"]
    assert not bad, f"torchvision does not import beside a CPU torch: {bad}"


@pytest.mark.skipif(torch.version.cuda is not None, reason="a CUDA build of torch brings its own nvidia packages")
def test_a_cpu_install_carries_no_gpu_packages() -> None:
    installed = {canonicalize_name(d.name) for d in importlib.metadata.distributions()}
    heavy = [n for n in installed if n.startswith(("nvidia-", "cuda-")) or n in ("torchvision", "triton")]
    assert not heavy, f"CPU torch with {heavy}: gigabytes of no use, and torchvision breaks other libraries"


def pins() -> list[Requirement]:
    """The lines of constraints.txt."""
    return [Requirement(line) for line in (ROOT / "constraints.txt").read_text().splitlines() if line.strip()]


def test_every_dependency_is_pinned_within_its_range() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"].values()
    wanted = [Requirement(r) for r in [*project["dependencies"], *(r for extra in extras for r in extra)]]
    for need in wanted:
        pinned = [p for p in pins() if canonicalize_name(p.name) == canonicalize_name(need.name)]
        assert pinned, f"constraints.txt does not pin {need.name}"
        for pin in pinned:
            version = re.fullmatch(r"==([^+]+)", str(pin.specifier))
            assert version, f"{pin}: one exact public version, no local part such as +cpu"
            assert need.specifier.contains(version[1]), f"{pin}: outside {need}"


def test_every_installed_requirement_is_pinned() -> None:
    """The pins are complete: nothing that our dependencies need is left to chance."""
    if not any(d.name == "cm3leon" for d in importlib.metadata.distributions()):
        pytest.skip("cm3leon is not installed here, only importable")
    pinned = {canonicalize_name(p.name) for p in pins() if p.marker is None or p.marker.evaluate()}
    extras = re.search(r"-e '\.\[([a-z,]+)\]'", (ROOT / "Makefile").read_text())
    assert extras, "what `make venv` installs"
    queue, done = [("cm3leon", extra) for extra in extras[1].split(",")], set[tuple[str, str]]()
    while queue:
        name, extra = queue.pop()
        for line in importlib.metadata.requires(name) or []:
            need = Requirement(line)
            # An extra that is not installed (hub[torch]) is nobody's requirement.
            if not (need.marker or Marker("python_version > '3'")).evaluate({"extra": extra}):
                continue
            more = {(canonicalize_name(need.name), wanted) for wanted in ("", *need.extras)} - done
            done |= more
            queue += more
    seen = {name for name, _ in done}
    assert {"torch", "pytest"} <= seen
    # torch's own nvidia packages and triton are pinned by torch.
    own = {n for n in seen if n == "triton" or n.startswith(("nvidia-", "cuda-"))}
    assert seen - own <= pinned, f"constraints.txt lacks {sorted(seen - own - pinned)}"


def test_the_license_and_the_types_ship() -> None:
    assert "MIT License" in (ROOT / "LICENSE").read_text()
    assert (ROOT / "cm3/py.typed").is_file()
