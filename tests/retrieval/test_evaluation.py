"""Metrics of searches whose answers are known."""

import numpy as np
import pandas as pd
import pytest

from lib.config.recipe import Recipe, Retrieval
from lib.metrics.retrieval import open_set_accuracies
from lib.retrieval.evaluation import (
    ValidationSet,
    evaluate_open_set,
    evaluate_queries,
    mean_metrics,
    metrics_per_query,
    validation_set,
)
from lib.retrieval.gallery import GalleryRows, HeldOut, build_gallery
from lib.retrieval.open_set import fit_open_set
from lib.retrieval.ranking import Ranking
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
        result = search_identities(gallery, queries, Retrieval(method=method, neighbours=len(who)), "m", 5)
        curve = threshold_curve(LabelledScores(result.scores, result.names == truth[:, None], known))
        values, _ = evaluate_queries(gallery, queries, truth, result, fit_threshold(curve, "map@k", 0.5), "new")
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
    each = metrics_per_query(["b"], ranking.names(np.array(["a", "b"])), ranking.scores, there, 0.9, "new")
    assert mean_metrics(each, ranking.scores, there) == {
        "map@5": 0.0,
        "recall@1": 0.0,
        "recall@5": 0.0,
    }  # the padding is not the last class
    score = np.array([[0.5]])
    assert mean_metrics(metrics_per_query(["x"], np.array([["a"]]), score, ~there, 0.9, "new"), score, ~there) == {"map@5": 1.0}


def test_the_new_share_leaves_out_individuals_that_validation_held_out():
    """All queries are of known individuals: a third of these are new to validation's gallery, but not to the whole one."""
    rng = np.random.default_rng(0)
    names = np.array([f"{i:02d}" for i in range(30)])
    centres = rng.normal(size=(30, 32))
    labels = np.repeat(names, 8)
    images = (centres.repeat(8, axis=0) + 0.3 * rng.normal(size=(240, 32))).astype(np.float32)
    is_query = (np.arange(240) % 8 < 2) | (labels >= "20")  # ten held out whole
    queries = (centres.repeat(4, axis=0) + 0.3 * rng.normal(size=(120, 32))).astype(np.float32)
    recipe = Recipe()
    recipe.data.new_label = "new"
    assert evaluate_open_set(ValidationSet(images, labels, is_query, None), recipe, None, queries).new_share < 0.1


def test_a_query_for_which_the_index_finds_no_image_counts():
    scores_found = np.array([[0.9], [0.2], [-np.inf]], np.float32)
    known = np.array([True, False, False])
    values = metrics_per_query(["a", "b", "a"], np.array([["a"], ["a"], [""]]), scores_found, known, 0.5, "new")
    assert mean_metrics(values, scores_found, known)["auroc"] == 1.0


def test_map_at_k_is_for_the_share_of_new_queries_that_the_threshold_is_for(recipe: Recipe):
    rng = np.random.default_rng(0)
    centres, labels = rng.normal(size=(30, 12)), np.repeat([f"{i:02}" for i in range(30)], 6)
    images = (centres.repeat(6, axis=0) + 0.9 * rng.normal(size=(180, 12))).astype(np.float32)
    is_query = (np.arange(180) % 6 < 2) | (labels >= "15")  # 90 of 120 queries are new
    for share in (0.05, 0.6):
        recipe.retrieval.new_share = share
        found = evaluate_open_set(ValidationSet(images, labels, is_query, None), recipe)
        known = labels[is_query] < "15"
        parts = [found.per_query["map@5"][kind].mean() for kind in (known, ~known)]
        assert parts == [found.metrics["map@5_known"], found.metrics["map@5_new"]]
        assert found.metrics["map@5"] == pytest.approx((1 - share) * parts[0] + share * parts[1])
        assert np.average(found.per_query["map@5"], weights=found.weights) == pytest.approx(found.metrics["map@5"])
        assert found.metrics["map@5"] == pytest.approx(found.curve.map_at_k(share).max(), abs=0.06)
    recipe.predict.topk = 3
    found = evaluate_open_set(ValidationSet(images, labels, is_query, None), recipe)
    assert found.metrics["map@3"] <= found.metrics["map@5"]
    recipe.data.new_label = None
    assert "map@5_new" not in evaluate_open_set(ValidationSet(images, labels, is_query, None), recipe).metrics


def test_a_threshold_never_sees_another_photograph_of_its_querys_individual(recipe: Recipe, monkeypatch: pytest.MonkeyPatch):
    seen = []
    monkeypatch.setattr(
        "lib.retrieval.evaluation.crossfit_thresholds", lambda *args: seen.append(args[3]) or np.zeros(len(args[3]))
    )
    labels = np.array(["a", "b", "a", "a", "b", "new", "new", "new"])
    groups = np.array(["1", "1", "2", "3", "4", "5", "5", "6"])
    images = np.random.default_rng(0).normal(size=(8, 4)).astype(np.float32)
    for of_row in (groups, None):
        evaluate_open_set(ValidationSet(images, labels, np.arange(8) >= 2, of_row), recipe)
    names = labels[2:]
    for found, of_row in zip(seen, (groups[2:], np.arange(6))):
        for i, j in np.ndindex(6, 6):
            expected = names[i] == names[j] if "new" not in (names[i], names[j]) else of_row[i] == of_row[j]
            assert (found[i] == found[j]) == expected


@pytest.fixture
def recipe() -> Recipe:
    recipe = Recipe()
    recipe.data.new_label = "new"
    return recipe


def test_a_gallery_that_has_grown_keeps_the_false_acceptance_rate_that_was_asked_for(recipe: Recipe):
    rng = np.random.default_rng(0)
    recipe.retrieval.threshold_by, recipe.retrieval.far = "far", 0.05

    def photographs(of: np.ndarray) -> np.ndarray:
        return (centres[of] + 0.7 * rng.normal(size=(len(of), 16))).astype(np.float32)

    centres = rng.normal(size=(4000, 16))
    first, asked = np.repeat(np.arange(100), 3), np.concatenate([np.arange(100), np.repeat(np.arange(100, 400), 2)])
    labels = np.char.mod("%04d", np.arange(4000))
    held_out = HeldOut(10_000 + np.arange(len(asked)), photographs(asked), labels[asked], np.arange(len(asked)).astype(str))
    gallery = build_gallery(photographs(first), GalleryRows(np.arange(300), first.astype(str), labels[first]), "m")
    gallery.held_out = held_out
    small = fit_open_set([evaluate_open_set(validation_set(gallery), recipe)], recipe).threshold
    more = np.repeat(np.arange(400, 3000), 3)
    gallery.add(photographs(more), GalleryRows(1000 + np.arange(len(more)), more.astype(str), labels[more]), "m")
    grown = fit_open_set([evaluate_open_set(validation_set(gallery), recipe)], recipe).threshold
    strangers = photographs(np.repeat(np.arange(3000, 4000), 3))
    best = gallery.search(strangers, 1, "m")[0][:, 0]
    assert (best >= grown).mean() == pytest.approx(0.05, abs=0.02)
    assert (best >= small).mean() > 0.3  # what the threshold of the small gallery would accept
    gallery.remove(1000 + np.arange(len(more)))
    assert fit_open_set([evaluate_open_set(validation_set(gallery), recipe)], recipe).threshold == pytest.approx(small)


def test_a_query_of_the_gallery_counts_only_its_other_images(recipe: Recipe, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("lib.retrieval.evaluation.BLOCK", 7)  # several blocks
    x, labels = unit(np.random.default_rng(0).normal(size=(30, 6))).astype(np.float32), np.array(list("aaaaaabbbbccd" * 3))[:30]
    labels[-1] = "z"
    gallery = build_gallery(x, GalleryRows(np.arange(30) * 2, labels, labels), "m")
    own = np.arange(30) * 2
    found = search_identities(gallery, x, Retrieval(neighbours=2), "m", 5, own=own)
    metrics, per_query = evaluate_queries(gallery, x, labels, found, 0.0, "new", own=own)
    scores = x @ x.T
    np.fill_diagonal(scores, -9)
    for i in range(30):
        order = np.argsort(-scores[i])[:29]
        assert found.names[i, 0] == labels[order[0]]
        same = (labels[order] == labels[i])[: (labels == labels[i]).sum() - 1]
        expected = np.nan if not len(same) else (same * np.cumsum(same) / np.arange(1, len(same) + 1)).sum() / len(same)
        assert per_query["map@r"][i] == pytest.approx(expected, nan_ok=True)
    assert metrics["new_accuracy"] == float(scores[29].max() < 0)
