"""Which file may import which: the data flows one way, and the command line is answered before torch is loaded."""

import ast
import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

LIB = Path(__file__).parents[1] / "lib"

# What each file of lib may import from lib; every file may import `files`.
ALLOWED: dict[str, set[str]] = {
    "files": set(),
    "config": set(),
    "rules": {"config"},
    "cli": {"config", "rules"},
    # tables
    "sources": set(),
    "table": {"sources"},
    "filters": {"config", "sources", "table"},
    "contest": {"config", "filters", "sources", "table"},
    "folds": {"config", "sources", "table"},
    # images
    "images": {"config"},
    "cache": {"images"},
    "data": {"config", "images"},
    # the network and its training
    "objectives": {"config"},
    "model": {"config"},
    "optim": {"config"},
    "metrics": set(),
    "intervals": {"metrics"},
    "verification": {"metrics"},
    "ranks": set(),
    "checkpoint": set(),
    "runs": {"cli", "config"},
    "predict": {"data", "model"},
    "tasks": {"config", "data", "intervals", "metrics", "objectives", "retrieval", "table"},
    "train": {"checkpoint", "config", "data", "metrics", "model", "optim", "predict", "ranks", "tasks"},
    # scores and what is made of them
    "scores": {"sources"},
    "pools": {"scores"},
    "adjust": {"metrics"},
    "blend": {"adjust", "intervals", "metrics", "pools"},
    "sample": {"config", "sources"},
    "submission": {"config", "sample", "scores", "sources"},
    "index": set(),
    "stranger": {"index", "metrics"},
    "identify": {"metrics"},
    "retrieval": {"config", "identify", "index", "stranger"},
    "answers": {"config", "figures", "identify", "index", "metrics", "report", "retrieval", "stranger", "table", "verification"},
    "figures": {"metrics", "verification"},
    "report": {"figures"},
    "finished": {"cli", "config", "intervals", "metrics", "sources", "table"},
    "run_report": {
        "cli",
        "config",
        "figures",
        "identify",
        "metrics",
        "pools",
        "report",
        "scores",
        "table",
        "tasks",
        "verification",
    },
}
ANYTHING = {"experiment", "crossval", "gallery", "ask"}  # one run, its folds, or one retrieval, end to end: what the scripts call
# Read by scripts before, or without, any training: seconds of torch would be felt.
NO_TORCH = (
    "adjust",
    "blend",
    "cli",
    "config",
    "contest",
    "figures",
    "files",
    "filters",
    "finished",
    "folds",
    "identify",
    "index",
    "intervals",
    "metrics",
    "pools",
    "report",
    "retrieval",
    "rules",
)
NO_TORCH += ("sample", "scores", "sources", "stranger", "submission", "table", "verification")


def imports(path: Path) -> set[str]:
    """Full names of all modules that a file imports, within functions too."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            found |= {f"lib.{alias.name}" for alias in node.names} if node.module == "lib" else {node.module or ""}
    return found


def of_lib(path: Path) -> set[str]:
    return {name.split(".")[1] for name in imports(path) if name.startswith("lib.")}


FILES = {path.stem: path for path in sorted(LIB.glob("*.py")) if path.stem != "__init__"}


def test_every_file_imports_what_the_table_allows() -> None:
    for name, path in FILES.items():
        if name in ANYTHING:
            continue
        assert name in ALLOWED, f"lib/{name}.py is new: say in this table what it may import"
        assert of_lib(path) <= ALLOWED[name] | {"files"}, f"lib/{name}.py"
    assert set(ALLOWED) <= set(FILES), "the table names files that are gone"


def test_files_imports_nothing_of_lib() -> None:
    assert of_lib(FILES["files"]) == set()


def test_no_cycles() -> None:
    list(TopologicalSorter({name: of_lib(path) for name, path in FILES.items()}).static_order())  # raises CycleError


def test_lib_imports_no_scripts() -> None:
    assert not [name for name, path in FILES.items() if any(module.split(".")[0] == "scripts" for module in imports(path))]


@pytest.mark.parametrize("name", NO_TORCH)
def test_torch_is_not_imported_by(name: str) -> None:
    """Nor by anything of lib that the file imports, at any depth."""
    seen, queue = set(), [name]
    while queue:
        module = queue.pop()
        seen.add(module)
        queue += of_lib(FILES[module]) - seen
    heavy = {"torch", "torchvision", "timm", "accelerate", "pytorch_metric_learning"}
    found = {module: {full.split(".")[0] for full in imports(FILES[module])} & heavy for module in seen}
    assert not {module: names for module, names in found.items() if names}


def test_command_line_is_parsed_without_torch_and_pandas() -> None:
    code = (
        "import sys; from lib import cli\n"
        "parser = cli.make_parser('x'); cli.add_run_arguments(parser)\n"
        "cli.parse(parser, ['--train.epochs', '3', '--model.kwargs', '{drop_path_rate: 0.1}'])\n"
        "print(sorted({name.split('.')[0] for name in sys.modules} & {'torch', 'pandas', 'numpy', 'timm', 'accelerate'}))"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"
