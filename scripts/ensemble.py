"""Combine runs, or k-fold runs, and say what the combination is honestly worth.

    python scripts/ensemble.py --runs runs/a runs/b runs/c --method greedy
    python scripts/ensemble.py --runs runs/a runs/b --method mean --metric macro_f1 --offsets macro_f1 --out runs/ens

Weights are fitted on out-of-fold scores (oof.npz, or a single run's scores_val.npz). The ensemble's score is printed for rows that
nothing was fitted on. A k-fold run is judged by its single folds' models, while on the test rows their mean is combined, which
mostly does better. A run that knows only some of the first run's classes corrects the first run within them.

Methods: mean (of logits), mean_prob (of probabilities), geometric (product of probabilities), rank (mean rank), vote, weighted
(vote weighted by score), greedy (selection with replacement, Caruana 2004), optimal (least log-loss), stack_lr, stack_gb (stacking
by logistic regression, gradient boosting).
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from lib.config import command_line
from lib.errors import FlukeError
from lib.files import write_json, write_text
from lib.process import run_script
from lib.run_folder import RunFolder, default_run_folder

METHODS = ("mean", "mean_prob", "geometric", "rank", "vote", "weighted", "greedy", "optimal", "stack_lr", "stack_gb")


def main(argv: list[str] | None = None) -> dict[str, Any]:
    """Run the script with `argv`; returns what ensemble.json holds."""
    parser = command_line.make_parser(__doc__, recipe=False)
    parser.add_argument("--runs", nargs="+", required=True, help="Run folders; the first one's recipe is the submission's.")
    parser.add_argument("--method", choices=METHODS, default="greedy", help="How to combine; default: greedy.")
    parser.add_argument("--out", help="Folder to write; default: runs/ensemble-<time>.")
    parser.add_argument("--metric", help="What to score by; default: the task's usual metric.")
    parser.add_argument("--temperature", action="store_true", help="Calibrate the result by a temperature (Guo et al. 2017).")
    parser.add_argument(
        "--thresholds",
        action="store_true",
        help="Several labels per image: each label's threshold of best F1, in the scores and in what is printed.",
    )
    parser.add_argument("--offsets", choices=("accuracy", "macro_f1"), help="One label per image: the best offset per class.")
    args = command_line.parse(parser, argv)

    from lib.scores import alignment, score_file  # scikit-learn only later: runs that don't fit each other are answered at once

    out = Path(args.out) if args.out else default_run_folder("ensemble")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise FlukeError(f"--out {out}: is there already, and not empty; take another name, or remove it first.")
    oof, test = alignment.load_aligned_scores(args.runs)
    first = (oof or test)[0]
    if args.thresholds and not first.target.several:
        raise FlukeError("--thresholds are for several labels per image; for one label there is --offsets.")
    if args.offsets and first.target.several:
        raise FlukeError("--offsets are for one label per image; for several there is --thresholds.")
    adjust = {"temperature": args.temperature, "thresholds": args.thresholds, "offsets": args.offsets}

    import numpy as np

    from lib.metrics import intervals, registry
    from lib.pipelines.runs import load_recipe
    from lib.scores import averaging, combination
    from lib.scores.decisions import label_thresholds
    from lib.submission import writing
    from lib.tables.sample import load_sample

    recipe = load_recipe(RunFolder(args.runs[0]))
    if recipe is None:
        print(f"{args.runs[0]} has no recipe.yaml that says what a submission is: none will be written.")
    sample = load_sample(recipe) if recipe is not None and test else None
    metric = registry.resolve_metric(args.metric or ("macro_f1" if args.thresholds else "auto"), first.target)
    if registry.METRICS[metric].resampled is None:
        raise FlukeError(f"--metric {metric}: is known in training only; take {first.target.default_metric} or another.")
    result = {"runs": args.runs, "method": args.method, "metric": metric, **{key: value for key, value in adjust.items() if value}}

    if oof:
        targets = alignment.encode_targets(oof[0], args.runs[0])
        lead = next((i for i, run in enumerate(oof) if run.groups is not None), 0)  # the others weren't told of groups
        folds, result["inner_folds"] = _inner_folds(Path(args.runs[lead]), oof[lead], targets)
        groups = None if oof[lead].groups is None else np.array(oof[lead].groups)
        fitted, honest, report = combination.evaluate_combination(
            args.method, args.runs, averaging.extend_members(oof), targets, metric, folds, groups, **adjust
        )
        result |= report
    elif args.method in combination.FITTED or any(adjust.values()):
        raise FlukeError(
            f"{', '.join(args.runs)}: test scores alone; {args.method} and what else is fitted needs out-of-fold scores."
        )
    else:
        fitted = combination.Combination(
            combination.fit_method(args.method, averaging.extend_members(test), None, first.target, None)
        )
    if oof and test:
        interval = intervals.interval_on_test(metric, result["score"], result["interval"], len(targets), len(test[0].names))
        result |= {"test_rows": len(test[0].names), "test_interval": interval}
    if fitted.adjust is not None:
        result["fitted"] = {
            "temperature": fitted.adjust.temperature,
            "offsets": dict(zip(first.classes, fitted.adjust.offsets.tolist())),
        }
    print(combination.describe_combination(result))

    source = {"run": out.name, "model": f"{args.method} of {len(args.runs)}", "metric": metric, "runs": args.runs}
    if test:
        of_test = replace(test[0], logits=fitted(averaging.extend_members(test)), source=source)
        if recipe is not None and sample is not None:
            least = None
            if first.target.several and oof and not args.thresholds:  # with --thresholds they are in the logits
                least = label_thresholds(honest, targets, first.classes, metric)
            writing.submit(recipe.predict, out / "submission.csv", sample, of_test, least)
        score_file.save_scores(out / "scores_test.npz", of_test)
    if oof:
        score_file.save_scores(out / "oof.npz", replace(oof[0], logits=honest, source=source, groups=oof[lead].groups))
    if recipe is not None:
        write_text(out / "recipe.yaml", command_line.dump(recipe))
    write_json(out / "ensemble.json", result)
    print(f"{out}: {', '.join(sorted(path.name for path in out.iterdir() if path.is_file()))}")
    return result


def _inner_folds(folder: Path, oof: Any, targets: Any) -> tuple[Any, str]:
    """Which rows are left out together when a fit is judged: the run's own folds, if any, which keep groups together."""
    import numpy as np

    from lib.scores import combination
    from lib.tables import readers

    if (folder / "folds.csv").exists():
        return np.unique(readers.read_mapping(folder / "folds.csv", oof.names), return_inverse=True)[1], str(folder / "folds.csv")
    return combination.inner_folds(targets, groups=oof.groups), "5, random" if oof.groups is None else "5, random, of whole groups"


if __name__ == "__main__":
    run_script(main)
