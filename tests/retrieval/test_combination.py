"""Thresholds of folds for their combined embeddings, against the truth of a simulation."""

import numpy as np

from lib.config.recipe import Recipe
from lib.retrieval.combination import combination_gap
from lib.retrieval.evaluation import evaluate_search, search_held_out
from lib.retrieval.gallery import build_gallery
from lib.retrieval.held_out import ValidationSet, hold_out
from lib.retrieval.open_set import fit_open_set
from lib.retrieval.queries import Queries
from lib.retrieval.rows import GalleryRows
from lib.retrieval.search import search_identities
from tests.retrieval.conftest import unit

FOLDS, D = 3, 24


def embed(rng, truth, learnt):
    """Return embeddings (FOLDS, n, D) of images with true features `truth` (n, D): each run adds errors of its own, smaller ones to
    images that it has learnt, (FOLDS, n) bool."""
    errors = rng.normal(size=(FOLDS, *truth.shape)) * np.where(learnt, 0.35, 0.6)[:, :, None]
    return unit((truth + errors).reshape(-1, D)).reshape(FOLDS, -1, D).astype(np.float32)


def combined(parts):
    return np.concatenate(list(parts), axis=1) / np.float32(np.sqrt(FOLDS))


def test_folds_answer_new_about_as_often_as_the_best_threshold_would():
    rng, recipe = np.random.default_rng(0), Recipe()
    recipe.data.new_label, recipe.retrieval.new_share = "new", 0.3
    losses, rejected = [], []
    for _ in range(5):
        centres = rng.normal(size=(260, D))
        labels = np.repeat([f"{i:03d}" for i in range(200)], 5)
        look = lambda of: centres[of] + 0.35 * rng.normal(size=(len(of), D))  # noqa: B023, E731
        fold = rng.permutation(200).repeat(5) % FOLDS  # a third of each fold's queries is of individuals held out whole
        splits = []
        for k in range(FOLDS):
            whole = (fold == k) & (np.char.mod("%d", np.arange(1000) // 5).astype(int) % 2 == 0)
            splits.append(whole | ((fold != k) & (np.arange(1000) % 5 == k)))
        parts = embed(rng, look(np.arange(200).repeat(5)), np.array([~held for held in splits]))
        rows = GalleryRows(np.arange(1000), labels, labels)
        gallery, vectors = build_gallery(combined(parts), rows, "m"), combined(parts)
        evaluations = []
        for part, held in zip(parts, splits):
            one = build_gallery(part, rows, "m")
            found = search_held_out(hold_out(ValidationSet(part, labels, held, None), "new"), one, recipe)
            evaluations.append(evaluate_search(found, one, recipe))
        gap = combination_gap(parts, gallery, vectors, rows, None, recipe.retrieval)
        threshold = fit_open_set(evaluations, recipe, gap).threshold
        best = []
        for of in (np.arange(200).repeat(3), np.arange(200, 260).repeat(5)):
            asked = combined(embed(rng, look(of), np.zeros((FOLDS, len(of)), bool)))
            best.append(search_identities(gallery, Queries(asked), recipe.retrieval, 5).best_scores)
        value = lambda t: 0.7 * (best[0] >= t).mean() + 0.3 * (best[1] < t).mean()  # noqa: B023, E731
        losses.append(max(map(value, np.linspace(0, 1, 201))) - value(threshold))
        rejected.append((best[0] < threshold).mean())
    assert np.mean(losses) < 0.03
    assert np.mean(rejected) < 0.1
