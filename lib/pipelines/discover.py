"""Group the test images into individuals: named ones and new ones."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from sklearn.metrics import adjusted_rand_score

from lib.errors import FlukeError
from lib.files import lock_folder
from lib.pipelines.discovery_decisions import Decided, elements_of, read_decisions
from lib.pipelines.discovery_inputs import DiscoveryInputs, read_inputs
from lib.pipelines.discovery_matching import add_to_answer, match_images
from lib.pipelines.discovery_output import Clusters, read_names, write_clusters
from lib.pipelines.retrieval_session import EmbeddedTable, RetrievalSession
from lib.pipelines.retrieve import load_queries
from lib.process import announce
from lib.retrieval.cluster_names import name_clusters
from lib.retrieval.discovery import Known, find_places, group_images
from lib.retrieval.individual_folds import IndividualFold
from lib.retrieval.local_fusion import Fusion, LocalScores, fit_fusion
from lib.retrieval.pair_model import find_size_penalty, label_pairs, measure_pairs, score_cosine
from lib.retrieval.pseudo_tests import Fit, PseudoTest, fit, make_pseudo_tests, pair_scores, regret_of
from lib.retrieval.review_pairs import choose_pairs
from lib.run_folder import DiscoveryFolder, submit_command
from lib.tables import loading
from lib.training.distributed import run_on_main

REVIEWED = 300
"""Pairs of a part on the review page, at most."""
LEAST_INDIVIDUALS = 4
"""Held-out individuals of a part from which on it has pseudo-tests of its own."""


class PairScores(NamedTuple):
    """How the pairs of a part's images are scored."""

    size_penalty: float
    """As `find_size_penalty` returns it."""
    local: tuple[Fusion, LocalScores] | None
    """What local scores add to cosines; None without local scores."""


class Earlier(NamedTuple):
    """What is known of the queries beforehand."""

    names: dict[str, str]
    """Name of the cluster of each image in an earlier answer."""
    decided: Sequence[Decided]
    """What a person decided."""


def discover(
    session: RetrievalSession,
    folder: DiscoveryFolder,
    paths: Sequence[Path] | None,
    image_dir: Path | None,
    frozen: bool = False,
    decisions: Path | None = None,
) -> dict[str, Any]:
    """Group the images of `paths`, or the recipe's test images; returns what metrics.json holds. Raises FlukeError.

    frozen: the networks are pretrained ones that have learnt none of the training images. decisions: what a person decided on the
    review page, a table (first, second, answer).
    """
    train = loading.load_train(session.recipe.data, session.recipe.folds)
    queries = load_queries(session, paths, image_dir, train.classes)
    embedded_train, embedded_queries = session.embed(train, "train"), session.embed(queries, "test")

    def group_and_write() -> dict[str, Any]:
        inputs = read_inputs(session, embedded_train, embedded_queries, frozen)
        decided = [] if decisions is None else read_decisions(decisions, inputs)
        found, result = group_parts(session, inputs, embedded_queries, Earlier(read_names(folder), decided))
        with lock_folder(folder.path):
            write_clusters(session, folder, inputs, found, result)
        hand_in = submit_command(session.runs[0], f"--file {folder.submission}") if folder.submission.exists() else None
        announce(folder.list_paths(), hand_in)
        return result

    return run_on_main(session.accelerator, group_and_write) or {}


def group_parts(
    session: RetrievalSession, inputs: DiscoveryInputs, queries: EmbeddedTable, earlier: Earlier
) -> tuple[Clusters, dict[str, Any]]:
    """Return the clusters of the queries, each part on its own, and the metrics by part."""
    if not any(np.any(~np.isin(fold.labels[fold.held_out], fold.labels[fold.learnt])) for fold in inputs.folds):
        session.log(
            "note: no individual was held out whole, so the threshold is fitted on individuals that the network has learnt and "
            "will merge too little; train with data.new_label and folds.unknown"
        )
    parts = np.unique([*inputs.parts, *inputs.query_parts]).tolist()
    pairs = {part: label_pairs(part_folds(inputs, part), score_cosine, with_known=False) for part in parts}
    size_penalty = find_size_penalty([pair for of_part in pairs.values() for pair in of_part])
    scores = match_images(session, inputs)
    fusions = {} if scores is None else fit_fusions(session, inputs, scores, parts)
    scored = {part: PairScores(size_penalty, None if scores is None else (fusions[part], scores)) for part in parts}
    tests = {part: make_part_tests(inputs, part, scored[part]) for part in parts}
    every = [test for of_part in tests.values() for test in of_part]
    if not every:
        raise FlukeError(f"{session.runs[0]}: too few photographs were held out to fit a threshold; raise folds.holdout.")
    found = Clusters.empty(len(inputs.query_parts))
    found.contradictions.extend([("encounter", name, "") for name in inputs.doubted])
    result: dict[str, Any] = {"parts": {}}
    for part in np.unique(inputs.query_parts).tolist():
        others = [test for other, of_other in tests.items() for test in of_other if other != part]
        fitted = fit(tests[part], regret_of(others) if others else None) if tests[part] else fit(every)
        values = _answer_part(inputs, part, fitted, scored[part], earlier, found)
        values |= {f"{metric}_new": value for metric, value in measure_pairs(pairs[part]).items()}
        of_known = measure_pairs(label_pairs(part_folds(inputs, part), score_cosine, with_known=True))
        values |= {f"{metric}_known": value for metric, value in of_known.items()}
        values |= _measure_answer(queries, np.flatnonzero(inputs.query_parts == part), found)
        values["threshold_of"] = "all parts" if not tests[part] else "this part and the others" if others else "this part"
        result["parts"][part] = values
        session.log(_part_line(part, values))
        if warning := values.get("warning"):
            session.log(f"warning: {part}: {warning}")
    for metric in ("adjusted_rand", "test_adjusted_rand"):
        values_of = [values[metric] for values in result["parts"].values() if metric in values]
        if values_of:
            result[f"mean_{metric}"] = float(np.mean(values_of))
    if found.contradictions:
        session.log(f"warning: {len(found.contradictions):,} links or decisions weren't followed: contradictions.csv lists them")
    return found, result


def part_folds(inputs: DiscoveryInputs, part: str) -> list[IndividualFold]:
    """Return the folds of a part's images."""
    return [fold.take_part(inputs.parts == part) for fold in inputs.folds]


def fit_fusions(session: RetrievalSession, inputs: DiscoveryInputs, scores: LocalScores, parts: list[str]) -> dict[str, Fusion]:
    """Return what local scores add to cosines in each part; one without enough held-out individuals has the fit of all parts."""
    folds = {part: part_folds(inputs, part) for part in parts}
    count = session.recipe.retrieval.local_candidates
    pooled = fit_fusion([fold for of_part in folds.values() for fold in of_part], scores, count)
    fusions = {}
    for part in parts:
        own = all(len(np.unique(fold.labels[fold.held_out])) >= LEAST_INDIVIDUALS for fold in folds[part])
        fusions[part] = fit_fusion(folds[part], scores, count) if own and len(parts) > 1 else pooled
        session.log(f"{part}: local scores {fusions[part].describe()}")
    return fusions


def make_part_tests(inputs: DiscoveryInputs, part: str, scored: PairScores) -> list[PseudoTest]:
    """Return the pseudo-tests of a part; none where too few of its individuals are held out."""
    folds = part_folds(inputs, part)
    folds = [fold for fold in folds if len(np.unique(fold.labels[fold.held_out])) >= LEAST_INDIVIDUALS]
    return make_pseudo_tests(folds, len(inputs.views), scored.size_penalty, scored.local)


def _answer_part(
    inputs: DiscoveryInputs, part: str, fitted: Fit, scored: PairScores, earlier: Earlier, found: Clusters
) -> dict[str, Any]:
    """Put the clusters of a part's queries into `found`, and return its metrics."""
    rows, labelled = np.flatnonzero(inputs.query_parts == part), np.flatnonzero(inputs.parts == part)
    images, of_labelled = inputs.queries.take(rows), inputs.labelled.take(labelled)
    known = Known.of(of_labelled, inputs.labels[labelled], len(inputs.views))
    added = None if scored.local is None else add_to_answer(*scored.local, inputs, rows, labelled, known.names)
    elements_decided = elements_of(earlier.decided, inputs, rows, known.names)
    grouping = group_images(images, known, elements_decided, scored.size_penalty, added)
    clusters, individual = grouping.cut(fitted.threshold)
    found.probability[rows] = fitted.probability(find_places(images, grouping, clusters, individual).margin(fitted.threshold))
    found.is_known[rows] = individual >= 0
    names = [inputs.query_table.names[i] for i in rows]
    found.names[rows] = name_clusters(names, clusters, individual, known.names, part, earlier.names)
    elements = [*known.names.tolist(), *names]
    found.contradictions.extend([("link or decision", elements[i], elements[j]) for i, j in grouping.contradictions])
    of_known = np.searchsorted(known.names, inputs.labels[labelled])
    pairs = choose_pairs(grouping, images, of_labelled, of_known, fitted.threshold, fitted.merge_probability, REVIEWED)
    found.pairs.extend([pair.moved(rows, labelled) for pair in pairs])
    number = len(np.unique(clusters))
    middle, low, high = fitted.count.estimate(number)
    least, most = fitted.count.expected_clusters(len(rows))
    result: dict[str, Any] = {
        "threshold": fitted.threshold,
        "size_penalty": scored.size_penalty,
        **{name: value for name, value in fitted.metrics.items() if not np.isnan(value)},
        "images": len(rows),
        "clusters": number,
        "known_individuals": len(np.unique(individual[individual >= 0])),
        "individuals": middle,
        "individuals_interval": [low, high],
    }
    if scored.local is not None:
        fusion, _ = scored.local
        result |= {"local_ratio": fusion.ratio} | {name: v for name, v in fusion.metrics.items() if not np.isnan(v)}
    for view, name in enumerate(inputs.views[1:], 1):
        result[f"clusters_{name}"] = len(np.unique(clusters[images.views == view]))
    if not least <= number <= most:
        result["warning"] = f"{number:,} clusters of {len(rows):,} images; the folds expect {least:,} to {most:,}"
    return result


def _measure_answer(queries: EmbeddedTable, rows: np.ndarray, found: Clusters) -> dict[str, float]:
    """Return the metrics of clusters of queries at `rows` whose individuals are known; empty without labels."""
    if queries.table.labels is None:
        return {}
    labels, clusters = queries.labels[rows], found.names[rows].astype(str)
    precision, recall = pair_scores(labels, clusters)
    found_metrics = {"test_adjusted_rand": float(adjusted_rand_score(labels, clusters))}
    return found_metrics | {"test_pair_precision": precision, "test_pair_recall": recall}


def _part_line(part: str, values: dict[str, Any]) -> str:
    low, high = values["individuals_interval"]
    line = (
        f"{part}: {values['images']:,} images in {values['clusters']:,} clusters, {values['known_individuals']:,} of them known; "
    )
    line += f"about {values['individuals']:.0f} individuals ({low:.0f} to {high:.0f}); threshold {values['threshold']:.2f} of "
    line += f"{values['threshold_of']}; adjusted Rand index {values['adjusted_rand']:.3f} on held-out individuals "
    line += f"({values['best_adjusted_rand']:.3f} with each sample's best threshold)"
    if "test_adjusted_rand" in values:
        line += f"; {values['test_adjusted_rand']:.3f} on these images' labels"
    return line
