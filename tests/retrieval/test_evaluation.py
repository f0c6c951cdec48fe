"""Metrics of searches whose answers are known."""

import numpy as np
import pandas as pd
import pytest

from lib.config.recipe import Recipe, Retrieval
from lib.metrics.retrieval import open_set_accuracies
from lib.retrieval.class_centres import ClassCentres
from lib.retrieval.evaluation import (
    AnswerRule,
    evaluate_open_set,
    evaluate_queries,
    evaluate_search,
    mean_metrics,
    metric_interval,
    metrics_per_query,
    search_held_out,
)
from lib.retrieval.gallery import build_gallery
from lib.retrieval.held_out import ValidationSet, hold_out
from lib.retrieval.queries import Queries
from lib.retrieval.ranking import Ranking
from lib.retrieval.rows import GalleryRows
from lib.retrieval.search import search_identities
from lib.retrieval.thresholds import LabelledScores, fit_threshold, threshold_curve
from tests.retrieval.conftest import unit


def test_all_metrics_of_well_separated_individuals():
    """Half of the individuals have one gallery image; known queries are other images of them, new ones are far from all."""
    rng = np.random.default_rng(3)
    centres = unit(rng.normal(size=(80, 32)))
    who = np.concatenate([np.arange(40), np.repeat(np.arange(20, 40), 3)])  # 20 classes with one image, 20 with four
    draw = lambda of: unit(centres[of] + 0.08 * rng.normal(size=(len(of), 32))).astype(np.float32)  # noqa: E731
    gallery = build_gallery(draw(who), GalleryRows(np.arange(len(who)), who.astype(str), [f"w{i}" for i in who]), "m")
    truth, known = np.array([f"w{i}" for i in range(80)]), np.arange(80) < 40
    queries = draw(np.arange(80))
    for method in ("best", "mean_n", "vote"):
        result = search_identities(gallery, Queries(queries), Retrieval(method=method, neighbours=len(who)), 5)
        curve = threshold_curve(LabelledScores(result.scores, result.names == truth[:, None], known))
        values, _ = evaluate_queries(
            gallery, Queries(queries), truth, result, AnswerRule(fit_threshold(curve, "map@k", 0.5), "new")
        )
        open_set = ["known_accuracy", "new_accuracy", "open_set_accuracy"]
        assert list(values) == ["map@5", "recall@1", "recall@5", "map@r", "auroc", *open_set]
        assert values["map@5"] == pytest.approx(curve.map_at_k(0.5).max())
        assert values["recall@1"] == 1
        assert values["auroc"] > 0.98
        assert values["map@r"] > 0.98
        assert (result.names[:20, 0] == truth[:20]).all()  # those with one gallery image


def test_open_set_accuracies_weigh_each_individual_alike():
    """As AnimalCLEF 2025 scores them: balanced over known and over new individuals."""
    rng = np.random.default_rng(0)
    truth, right = rng.choice(list("aaaabbcdefffg"), 200), rng.random(200) < 0.6
    known = np.isin(truth, list("abcd"))
    table = pd.DataFrame({"truth": truth, "right": right.astype(float), "known": known})
    of = table.groupby(["known", "truth"])["right"].mean().groupby("known").mean()
    expected = {"known_accuracy": of[True], "new_accuracy": of[False], "open_set_accuracy": np.sqrt(of[True] * of[False])}
    assert open_set_accuracies(truth, right, known) == pytest.approx(expected)
    assert open_set_accuracies(truth[known], right[known], known[known]) == {}


def test_metrics_leave_out_what_the_queries_do_not_define():
    ranking = Ranking(np.array([[0, -1]]), np.float32([[0.5, -np.inf]]), np.array([[0, -1]]))
    there = np.array([True])
    each = metrics_per_query(["b"], ranking.names(np.array(["a", "b"])), ranking.scores, there, AnswerRule(0.9, "new"))
    assert mean_metrics(each, ranking.scores, there) == {
        "map@5": 0.0,
        "recall@1": 0.0,
        "recall@5": 0.0,
    }  # the padding is not the last class
    score = np.array([[0.5]])
    assert mean_metrics(metrics_per_query(["x"], np.array([["a"]]), score, ~there, AnswerRule(0.9, "new")), score, ~there) == {
        "map@5": 1.0
    }


def test_the_new_share_leaves_out_individuals_that_validation_held_out():
    """All queries are of known individuals: a third of these are new to validation, but not to the gallery."""
    rng = np.random.default_rng(0)
    names = np.array([f"{i:02d}" for i in range(30)])
    centres = rng.normal(size=(30, 32))
    labels = np.repeat(names, 8)
    images = (centres.repeat(8, axis=0) + 0.3 * rng.normal(size=(240, 32))).astype(np.float32)
    is_query = (np.arange(240) % 8 < 2) | (labels >= "20")  # ten held out whole
    queries = (centres.repeat(4, axis=0) + 0.3 * rng.normal(size=(120, 32))).astype(np.float32)
    recipe = Recipe()
    recipe.data.new_label = "new"
    gallery = build_gallery(images, GalleryRows(np.arange(240), labels, labels), "m")
    found = search_held_out(hold_out(ValidationSet(images, labels, is_query, None), "new"), gallery, recipe)
    best = search_identities(gallery, Queries(queries), recipe.retrieval, 5).best_scores
    assert evaluate_search(found, gallery, recipe, best).new_share < 0.1


@pytest.mark.parametrize("share", [0.1, 0.6])
def test_the_metric_is_of_the_mixture_that_the_threshold_is_for(share):
    rng = np.random.default_rng(0)
    labels = np.repeat([f"{i:02d}" for i in range(40)], 6)
    images = (rng.normal(size=(40, 8)).repeat(6, axis=0) + 0.7 * rng.normal(size=(240, 8))).astype(np.float32)
    recipe = Recipe()
    recipe.data.new_label, recipe.retrieval.new_share = "new", share
    found = evaluate_open_set(ValidationSet(images, labels, (np.arange(240) % 6 < 1) | (labels >= "24"), None), recipe)
    values, known = found.per_query["map@5"], found.queries.in_gallery
    assert found.metrics["map@5"] == pytest.approx((1 - share) * values[known].mean() + share * values[~known].mean())
    assert found.metrics["map@5_known"] == pytest.approx(values[known].mean())
    assert found.metrics["map@5_new"] == pytest.approx(values[~known].mean())
    low, high = found.interval("map@5")
    assert low < found.metrics["map@5"] < high
    # of lists of one name, both the threshold and the metric are of one name
    recipe.predict.topk = 1
    one = evaluate_open_set(ValidationSet(images, labels, (np.arange(240) % 6 < 1) | (labels >= "24"), None), recipe)
    assert set(one.per_query["map@5"].tolist()) <= {0.0, 1.0}


def test_a_query_for_which_the_index_finds_no_image_counts():
    scores_found = np.array([[0.9], [0.2], [-np.inf]], np.float32)
    known = np.array([True, False, False])
    values = metrics_per_query(["a", "b", "a"], np.array([["a"], ["a"], [""]]), scores_found, known, AnswerRule(0.5, "new"))
    assert mean_metrics(values, scores_found, known)["auroc"] == 1.0


def noisy(seed, individuals=40, images=6):
    """Return a validation set of individuals that look much alike, two in five held out whole."""
    rng, n = np.random.default_rng(seed), individuals * images
    labels = np.repeat([f"{i:02d}" for i in range(individuals)], images)
    x = (rng.normal(size=(individuals, 8)).repeat(images, axis=0) + rng.normal(size=(n, 8))).astype(np.float32)
    return ValidationSet(x, labels, (np.arange(n) % images < 1) | (labels >= f"{int(0.6 * individuals):02d}"), None)


def test_no_query_is_judged_at_a_threshold_that_it_helped_to_fit():
    recipe = Recipe()
    recipe.data.new_label = "new"
    found = [evaluate_open_set(noisy(seed), recipe) for seed in range(8)]
    best = [each.curve.map_at_k(0.5).max() for each in found]  # at a threshold fitted on all queries
    assert np.mean([each.metrics["map@5"] for each in found]) < np.mean(best) - 0.002


def test_map_at_r_is_the_papers_sum_over_the_images_that_may_answer():
    rows, recipe = noisy(0), Recipe()
    recipe.data.new_label = "new"
    found = evaluate_open_set(rows, recipe)
    x, values = unit(rows.embeddings), []
    for q in np.flatnonzero(rows.is_query):
        own = (rows.labels == rows.labels[q]) & ~rows.is_query
        if own.any():
            there = own | (rows.labels != rows.labels[q])
            order = np.flatnonzero(there)[np.argsort(-(x[there] @ x[q]))][: own.sum()]
            hits = own[order]
            values.append(sum(hits[: i + 1].mean() for i in np.flatnonzero(hits)) / own.sum())
    assert found.metrics["map@r"] == pytest.approx(np.mean(values))
    assert 0 < found.metrics["map@r"] < 1


def test_an_interval_of_queries_of_one_kind_is_that_of_their_mean():
    """recall@1 is of known individuals alone: the share of new ones doesn't weigh them."""
    rng = np.random.default_rng(0)
    known, clusters = np.arange(60) < 40, np.arange(60).astype(str)
    values = np.where(known, rng.random(60) < 0.7, np.nan)
    assert metric_interval(values, known, 0.3, clusters) == metric_interval(values[known], known[known], None, clusters[known])
    low, high = metric_interval(values, known, 0.3, clusters)
    assert low < np.nanmean(values) < high


def test_weighted_centres_are_fitted_to_the_neighbours_scores_and_change_the_answers():
    rng = np.random.default_rng(1)
    names = np.array([f"{i:02}" for i in range(20)])
    vectors, labels = rng.normal(size=(20, 16)).astype(np.float32), np.repeat(names, 5)
    x = (np.repeat(vectors, 5, axis=0) + 0.8 * rng.normal(size=(100, 16))).astype(np.float32)
    rows = ValidationSet(x, labels, np.arange(100) % 5 == 0, None, np.arange(100))
    centres = ClassCentres(vectors, tuple(names))
    without, found = (evaluate_open_set(rows, Recipe(retrieval=Retrieval(centre_weight=weight)), centres) for weight in (0.0, 0.7))
    assert without.centres is not None
    assert without.centres.line is None
    assert found.centres is not None
    assert found.centres.line is not None
    assert found.metrics["recall@1"] > without.metrics["recall@1"]
