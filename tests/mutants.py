"""Plant faults in a copy of the project and print how many the tests notice: `make mutants`.

    python tests/mutants.py [--each 12] [--seed 0] [--only scores/weights.py ...]

A fault is one changed operator, comparison, constant, condition or loop (cosmic-ray makes it), drawn at random in each module where
a wrong number would go unseen. The tests named beside the module run until one fails. Changes of annotations and docstrings are not
drawn. tests/SURVIVORS.md says of each fault that once survived why it is none.
"""

from __future__ import annotations

import argparse
import ast
import difflib
import multiprocessing
import os
import random
import re
import shutil
import sys
import tempfile
from pathlib import Path

import faiss  # noqa: F401  each process would import these anew
import pytest
import sklearn.linear_model
import sklearn.metrics
import sklearn.model_selection  # noqa: F401
import torchvision.transforms.v2  # noqa: F401
from cosmic_ray.ast import ast_nodes, get_ast
from cosmic_ray.mutating import mutate_code
from cosmic_ray.plugins import get_operator, operator_names

ROOT = Path(__file__).parents[1]
MODULES = {
    "metrics/classification.py": "metrics",
    "metrics/curves.py": "metrics",
    "metrics/intervals.py": "metrics/test_intervals.py",
    "metrics/regression.py": "metrics",
    "metrics/resampling.py": "metrics/test_intervals.py metrics/test_classification.py",
    "metrics/retrieval.py": "retrieval/test_evaluation.py metrics",
    "metrics/verification.py": "retrieval/test_pairs.py metrics",
    "tables/splits.py": "tables/test_splits.py",
    "tables/stratification.py": "tables/test_splits.py",
    "images/samplers.py": "images/test_samplers.py",
    "scores/averaging.py": "scores",
    "scores/calibration.py": "scores/test_calibration.py",
    "scores/combination.py": "scores/test_combination.py scripts/test_ensemble.py",
    "scores/cut_points.py": "scores/test_cut_points.py",
    "scores/decided.py": "scores/test_cut_points.py scores",
    "scores/decisions.py": "scores/test_decisions.py submission",
    "scores/stacking.py": "scores/test_stacking.py scores/test_combination.py",
    "scores/weights.py": "scores/test_weights.py scores/test_combination.py",
    "retrieval/calibration.py": "retrieval",
    "retrieval/encounter_search.py": "retrieval/test_encounter_search.py retrieval/test_local_search.py",
    "retrieval/evaluation.py": "retrieval/test_evaluation.py retrieval/test_relevant.py retrieval/test_encounter_search.py",
    "retrieval/open_set.py": "retrieval",
    "retrieval/queries.py": "retrieval/test_search.py retrieval/test_local_search.py retrieval/test_encounter_search.py",
    "retrieval/ranking.py": "retrieval",
    "retrieval/search.py": "retrieval/test_search.py retrieval/test_local_search.py retrieval/test_encounter_search.py",
    "retrieval/thresholds.py": "retrieval/test_thresholds.py retrieval",
    "submission/choice.py": "submission",
    "submission/formats.py": "submission",
    "submission/pooling.py": "submission",
    "submission/writing.py": "submission scores/test_calibration.py",
}
"""Module of lib: its tests."""
OPERATORS = re.compile(
    r"core/(ReplaceBinaryOperator_(Add_Sub|Sub_Add|Mul_Div|Div_Mul|FloorDiv_Mul|Mod_Add|Pow_Mul|BitAnd_BitOr|BitOr_BitAnd)"
    r"|ReplaceComparisonOperator_(Eq_NotEq|NotEq_Eq|Lt_LtE|LtE_Lt|Gt_GtE|GtE_Gt|Lt_Gt|Gt_Lt|Is_IsNot|IsNot_Is)"
    r"|ReplaceUnaryOperator_Delete_\w+|AddNot|ReplaceTrueWithFalse|ReplaceFalseWithTrue|ReplaceAndWithOr|ReplaceOrWithAnd"
    r"|NumberReplacer|ZeroIterationForLoop)"
)
SECONDS = 60
"""Longest run of the tests; a fault that makes them longer is noticed."""


def main() -> None:
    """Draw, plant, test, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--each", type=int, default=12, help="faults of each module")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", nargs="*", default=sorted(MODULES), choices=sorted(MODULES), metavar="MODULE")
    options = parser.parse_args()
    noticed = planted = 0
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "fluke"
        if (ROOT.parent / "shared").exists():  # some tests need it
            (Path(folder) / "shared").symlink_to(ROOT.parent / "shared")
        shutil.copytree(ROOT, copy, ignore=shutil.ignore_patterns(".git", ".venv", "*.pyc", "demo", ".*_cache"))
        for module in options.only:
            path = copy / "lib" / module
            code = path.read_text(encoding="utf-8")
            if is_noticed(copy, MODULES[module]):  # all faults would count as noticed
                sys.exit(f"tests of lib/{module} ({MODULES[module]}) fail without a fault, or take more than {SECONDS} s")
            for mutant in draw(code, options.each, random.Random(f"{options.seed} {module}")):
                path.write_text(mutant, encoding="utf-8")
                planted += 1
                if is_noticed(copy, MODULES[module]):
                    noticed += 1
                else:
                    print(f"survived in lib/{module}:\n{difference(code, mutant)}", flush=True)
            path.write_text(code, encoding="utf-8")
            print(f"{noticed} of {planted} noticed, up to lib/{module}", flush=True)
    print(f"{noticed} of {planted} planted faults noticed: {noticed / planted:.0%}")


def draw(code: str, count: int, rng: random.Random) -> list[str]:
    """Return at most `count` different mutants of a module's code."""
    tree = get_ast(code)
    spots = []
    for name in filter(OPERATORS.fullmatch, operator_names()):
        operator = get_operator(name)()
        occurrences = sum(1 for node in ast_nodes(tree) for _ in operator.mutation_positions(node))
        spots += [(operator, occurrence) for occurrence in range(occurrences)]
    rng.shuffle(spots)
    found: list[str] = []
    for operator, occurrence in spots:
        mutant = mutate_code(code, operator, occurrence)
        if len(found) < count and mutant is not None and behaviour(mutant) != behaviour(code):
            found.append(mutant)
    return found


def behaviour(code: str) -> str:
    """Return the code's syntax tree without annotations, docstrings and messages of errors."""

    class Bare(ast.NodeTransformer):
        def visit_arg(self, node: ast.arg) -> ast.arg:
            node.annotation = None
            return node

        def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.AST:
            node.returns = None
            return self.generic_visit(node)

        def visit_AnnAssign(self, node: ast.AnnAssign) -> ast.AST:
            node.annotation = ast.Constant(None)
            return self.generic_visit(node)

        def visit_Expr(self, node: ast.Expr) -> ast.AST | None:
            return None if isinstance(node.value, ast.Constant) else self.generic_visit(node)

    return ast.dump(Bare().visit(ast.parse(code)))


def is_noticed(copy: Path, tests: str) -> bool:
    """Run the tests on the copy; return whether one failed, or they didn't end."""
    process = multiprocessing.get_context("fork").Process(target=run_tests, args=(copy, tests))
    process.start()
    process.join(SECONDS)
    if process.is_alive():
        process.kill()
        process.join()
    return process.exitcode != 0


def run_tests(copy: Path, tests: str) -> None:
    """Exit with pytest's status, in a process that has imported the libraries but nothing of the project."""
    os.chdir(copy)
    # Without the folder of this file, whose scripts/ would be imported for the project's.
    sys.path[:] = [str(copy), *(place for place in sys.path if Path(place).resolve() not in (ROOT, ROOT / "tests"))]
    sys.dont_write_bytecode = True
    os.setpgid(0, 0)
    with open(os.devnull, "w") as nowhere:
        os.dup2(nowhere.fileno(), 1)
        os.dup2(nowhere.fileno(), 2)
    status = pytest.main(["-x", "-q", "-n0", "-p", "no:cacheprovider", *(f"tests/{part}" for part in tests.split())])
    os._exit(int(status))


def difference(code: str, mutant: str) -> str:
    """Return the changed lines."""
    lines = list(difflib.unified_diff(code.splitlines(), mutant.splitlines(), n=0, lineterm=""))[2:]
    return "\n".join(f"    {line}" for line in lines)


if __name__ == "__main__":
    main()
