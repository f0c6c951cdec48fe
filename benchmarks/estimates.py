"""How near `--estimate` comes: estimated beside needed minutes of short trainings.

    python benchmarks/estimates.py [--only digits lesion5 ...]

Digits are written to demo/data if they aren't there; the other recipes need ../shared and are left out without it. Both commands
of a recipe run one after the other, so other work on the machine should not change in between.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).parents[1]
SMALL = "--train.epochs 3 --data.size 96 --data.eval_size 96"
RECIPES = {
    "digits": "train_classifier --cfg recipes/digits.yaml",
    "identities": "train_embedding --cfg recipes/digits_identity.yaml",
    "folds": "kfold --cfg recipes/digits.yaml --folds.n 3 --train.epochs 4",
    "lesion5": f"train_classifier --cfg benchmarks/quality/lesion5.yaml {SMALL}",
    "fashion20": f"train_classifier --cfg benchmarks/quality/fashion20.yaml {SMALL} --train.limit_rows 1200",
}


def main() -> None:
    """Estimate, run, compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="*", default=list(RECIPES), choices=list(RECIPES))
    names = parser.parse_args().only
    if not (ROOT / "demo/data").is_dir():
        call("digits --out demo/data")
    for name in names:
        if "quality" in RECIPES[name] and not (ROOT.parent / "shared").is_dir():
            print(f"{name}: left out, there is no ../shared")
            continue
        estimate = json.loads(call(f"{RECIPES[name]} --estimate --json").splitlines()[-1])["metrics"]["seconds"]
        out = ROOT / "demo/estimated"
        shutil.rmtree(out, ignore_errors=True)
        began = time.monotonic()
        call(f"{RECIPES[name]} --out {out}")
        needed = time.monotonic() - began
        print(f"{name}: estimated {estimate:.0f} s, needed {needed:.0f} s, ratio {estimate / needed:.2f}", flush=True)
    shutil.rmtree(ROOT / "demo/estimated", ignore_errors=True)


def call(command: str) -> str:
    """Run a script with its arguments, and return what it prints."""
    script, *arguments = command.split()
    done = subprocess.run([sys.executable, f"scripts/{script}.py", *arguments], cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        sys.exit(done.stderr)
    return done.stdout


if __name__ == "__main__":
    main()
