"""Which package may import which: the data flows one way, and the command line is answered before torch is loaded."""

import ast
import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

LIB = Path(__file__).parents[1] / "lib"
BASE = ("errors", "files", "process", "run_folder")  # files of lib itself, in order
PACKAGES = (
    "config",
    "tables",
    "images",
    "matching",
    "models",
    "metrics",
    "scores",
    "retrieval",
    "training",
    "submission",
    "reports",
)
PACKAGES += ("pipelines",)
"""In the order in which data flows; a package may import from the base and from the packages before it."""
HEAVY = {"torch", "torchvision", "timm", "accelerate", "pytorch_metric_learning"}
NO_TORCH = ("config", "tables", "metrics", "scores", "retrieval", "submission")
"""Packages that scripts read before, or without, any training: seconds of torch would be felt."""
NO_TORCH_FILES = ("reports.figures", "reports.html", "reports.drawing", "pipelines.ensemble")


def name_of(path: Path) -> str:
    """Dotted name of a file below lib, without "lib."; a package's __init__.py is the package."""
    return ".".join(path.relative_to(LIB).with_suffix("").parts).removesuffix(".__init__")


FILES = {name_of(path): path for path in sorted(LIB.rglob("*.py")) if path != LIB / "__init__.py"}


def imports(path: Path) -> set[str]:
    """Full names of all modules that a file imports, within functions too."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            module = node.module or ""
            within = module == "lib" or (module.startswith("lib.") and module.removeprefix("lib.") in PACKAGES)
            found |= {f"{module}.{alias.name}" for alias in node.names} if within else {module}
    return found


def of_lib(path: Path) -> set[str]:
    """Names of the files of lib that a file imports."""
    return {name.removeprefix("lib.") for name in imports(path) if name.startswith("lib.")}


def place(name: str) -> int:
    """Position of a file's package in the order; the base comes first."""
    first = name.split(".")[0]
    return 0 if first in BASE else 1 + PACKAGES.index(first)


def test_every_file_is_in_a_package_of_the_order() -> None:
    unknown = {name.split(".")[0] for name in FILES} - {*BASE, *PACKAGES}
    assert not unknown, f"lib/{unknown}: not in the order of packages"


def test_a_package_imports_only_from_those_before_it() -> None:
    backwards = [f"{name} imports {other}" for name in FILES for other in of_lib(FILES[name]) if place(other) > place(name)]
    assert not backwards
    in_base = [f"{name} imports {o}" for i, name in enumerate(BASE) for o in of_lib(FILES[name]) if o not in BASE[:i]]
    assert not in_base


def test_no_cycles() -> None:
    list(TopologicalSorter({name: of_lib(path) for name, path in FILES.items()}).static_order())  # raises CycleError


def test_lib_imports_no_scripts() -> None:
    assert not [name for name, path in FILES.items() if any(module.split(".")[0] == "scripts" for module in imports(path))]


@pytest.mark.parametrize("name", [n for n in FILES if n.split(".")[0] in NO_TORCH] + list(NO_TORCH_FILES))
def test_torch_is_not_imported_by(name: str) -> None:
    """Nor by anything of lib that the file imports, at any depth."""
    seen, queue = set(), [name]
    while queue:
        module = queue.pop()
        seen.add(module)
        queue += of_lib(FILES[module]) - seen
    found = {module: {full.split(".")[0] for full in imports(FILES[module])} & HEAVY for module in seen}
    assert not {module: names for module, names in found.items() if names}


def test_command_line_is_parsed_without_torch_and_pandas() -> None:
    code = (
        "import sys; from lib.config import command_line\n"
        "parser = command_line.make_parser('x'); command_line.add_run_arguments(parser)\n"
        "command_line.parse(parser, ['--train.epochs', '3', '--model.kwargs', '{drop_path_rate: 0.1}'])\n"
        "print(sorted({name.split('.')[0] for name in sys.modules} & {'torch', 'pandas', 'numpy', 'timm', 'accelerate'}))"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"


@pytest.mark.parametrize("package", PACKAGES)
def test_a_packages_docstring_lists_its_modules(package: str) -> None:
    """It is where a reader begins."""
    listed = {
        line.split()[0] for line in ast.get_docstring(ast.parse((LIB / package / "__init__.py").read_text())).splitlines() if line
    }
    assert {path.stem for path in (LIB / package).glob("*.py")} - {"__init__"} <= listed
