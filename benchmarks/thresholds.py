"""Measure how well the threshold for the new label holds for other shares of new individuals, on re-splits of held-out images.

    python benchmarks/thresholds.py --run runs/whale
    python benchmarks/thresholds.py --run runs/whale --repeats 200 --retrieval.method mean_n

Each repeat divides the held-out individuals into two halves. The threshold is fitted on one half; the other half is searched with
10, 30 and 60% of its images being of new individuals (known or new ones are left out until the share is reached). Printed for each
share: MAP@k at the threshold for the share of retrieval.new_share (by default estimated from the searched half's scores, without
labels), at the threshold for a share of 50%, and at the best threshold for the searched images, which is unknown in practice; the
loss is the difference to it. Nothing is embedded: only scores_val.npz of the run is read.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))

from lib.config import command_line
from lib.config.recipe import Recipe
from lib.errors import FlukeError
from lib.process import run_script
from lib.retrieval.calibration import estimate_new_share
from lib.retrieval.gallery import build_gallery
from lib.retrieval.queries import Queries
from lib.retrieval.rows import GalleryRows
from lib.retrieval.search import search_identities
from lib.retrieval.thresholds import LabelledScores, fit_threshold, threshold_curve
from lib.scores import score_file

SHARES = (0.1, 0.3, 0.6)
KEYS = ("estimate", "map", "half", "best", "loss", "loss_half")


def main(argv: list[str] | None = None) -> dict[float, dict[str, float]]:
    """Print the table and return {share: {estimate, map, half, best, loss, loss_half}}, means over the repeats."""
    argv = sys.argv[1:] if argv is None else argv
    parser = command_line.make_parser(__doc__)
    parser.add_argument("--run", help="A run of train_embedding; default: the newest below runs/.")
    parser.add_argument("--repeats", type=int, default=50, help="Number of re-splits.")
    parser.add_argument("--seed", type=int, default=0, help="Seed of the re-splits.")
    args = command_line.parse(parser, argv)

    from lib.pipelines.embed import find_embedding_runs

    (run,) = find_embedding_runs([args.run] if args.run else None)
    recipe = command_line.parse(parser, ["--cfg", str(run / "recipe.yaml"), *argv]).recipe
    if recipe.data.new_label is None:
        raise FlukeError(f"{run}: its recipe has no data.new_label, so there is no threshold to examine; name another run.")
    queries, individuals = search_held_out(run, recipe)
    known = queries.in_gallery.sum()
    print(
        f"{run}: {known:,} held-out images of known individuals, {len(individuals) - known:,} of new ones; {args.repeats} re-splits"
    )
    results = resplit(queries, individuals, recipe, args.repeats, args.seed)
    if not results[SHARES[0]]:
        raise FlukeError(f"{run}: too few held-out individuals for two halves with known and new ones in both; hold out more.")
    return print_table(results, recipe.predict.topk)


def search_held_out(run: Path, recipe: Recipe) -> tuple[LabelledScores, np.ndarray]:
    """Search a run's held-out images among its other validation rows; return their scores and individuals (q,)."""
    from lib.pipelines.embed import load_class_centres

    r, new_label = recipe.retrieval, recipe.data.new_label
    val = score_file.load_scores(run / "scores_val.npz")
    labels = np.array([label for (label,) in val.labels or []])
    is_query = np.arange(len(labels)) >= len(labels) - val.source["queries"]
    rows = GalleryRows(val.rows[~is_query], np.array(val.names)[~is_query], labels[~is_query])
    gallery = build_gallery(val.logits[~is_query], rows, "", r.metric, r.factory)
    found = search_identities(gallery, Queries(val.logits[is_query]), r, recipe.predict.topk, load_class_centres(run, recipe))
    truth = labels[is_query]
    # images of `new_label` aren't of one individual: each counts as its own
    individuals = np.where(truth == new_label, [f"{new_label} {i}" for i in range(len(truth))], truth)
    return LabelledScores(found.scores, found.names == truth[:, None], np.isin(truth, gallery.rows.labels)), individuals


def resplit(
    queries: LabelledScores, individuals: np.ndarray, recipe: Recipe, repeats: int, seed: int
) -> dict[float, list[tuple[float, ...]]]:
    """Return, for each share, a row of KEYS per re-split that has known and new individuals in both halves."""
    rng = np.random.default_rng(seed)
    names, known = np.unique(individuals), queries.in_gallery
    results: dict[float, list[tuple[float, ...]]] = {share: [] for share in SHARES}
    for _ in range(repeats):
        fitting = np.isin(individuals, rng.permutation(names)[: len(names) // 2])
        if not (queries.take(fitting).both_kinds and queries.take(~fitting).both_kinds):
            continue
        for share in SHARES:
            kinds = [rng.permutation(np.flatnonzero(~fitting & kind)) for kind in (known, ~known)]
            total = min(len(kinds[0]) / (1 - share), len(kinds[1]) / share)
            counts = [max(1, round(total * part)) for part in (1 - share, share)]
            drawn = np.concatenate([rows[:count] for rows, count in zip(kinds, counts)])
            results[share].append(compare_thresholds(queries.take(fitting), queries.take(drawn), recipe))
    return results


def compare_thresholds(fitting: LabelledScores, searched: LabelledScores, recipe: Recipe) -> tuple[float, ...]:
    """Return KEYS: the share assumed, MAP@k of the searched queries at three thresholds, and two losses."""
    r, k = recipe.retrieval, recipe.predict.topk
    if r.new_share == "estimate":
        share = estimate_new_share(fitting.scores[:, 0], fitting.in_gallery, searched.scores[:, 0])
    else:
        share = float(r.new_share)
    fitted, curve = threshold_curve(fitting, k), threshold_curve(searched, k)
    values = curve.map_at_k(float((~searched.in_gallery).mean()))
    steps = (curve.thresholds[1:] + curve.thresholds[:-1]) / 2
    assumed, half = (values[np.searchsorted(steps, fit_threshold(fitted, r.threshold_by, s, r.far))] for s in (share, 0.5))
    return share, assumed, half, values.max(), values.max() - assumed, values.max() - half


def print_table(results: dict[float, list[tuple[float, ...]]], k: int) -> dict[float, dict[str, float]]:
    """Print a line per share, and return the means."""
    print(f"{'new':>6}{'estimated':>12}{'MAP@' + str(k):>10}{'if half':>10}{'best':>10}{'loss':>18}{'loss if half':>15}")
    means = {}
    for share, rows in results.items():
        mean, spread = np.mean(rows, axis=0), np.std(rows, axis=0)
        means[share] = dict(zip(KEYS, map(float, mean)))
        cells = [f"{share:>6.0%}{mean[0]:>12.0%}", *(f"{value:>10.4f}" for value in mean[1:5])]
        print("".join(cells) + f" ± {spread[4]:.4f}{mean[5]:>15.4f}")
    return means


if __name__ == "__main__":
    run_script(main)
