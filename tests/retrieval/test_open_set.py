"""The open-set model: fitted on made-up evaluations, written and read."""

import json

import numpy as np
import pytest

from lib.config.recipe import Recipe
from lib.retrieval.evaluation import evaluate_open_set, evaluate_search, search_held_out
from lib.retrieval.gallery import build_gallery
from lib.retrieval.held_out import ValidationSet, hold_out
from lib.retrieval.open_set import OpenSet, fit_open_set
from lib.retrieval.queries import Queries
from lib.retrieval.rows import GalleryRows
from lib.retrieval.search import search_identities


@pytest.fixture
def recipe():
    recipe = Recipe()
    recipe.data.new_label = "new"
    return recipe


def validation_set(seed):
    """Return 20 individuals with 6 images, of which 5 are held out whole."""
    rng = np.random.default_rng(seed)
    centres, labels = rng.normal(size=(20, 16)), np.repeat([f"{i:02}" for i in range(20)], 6)
    images = (centres.repeat(6, axis=0) + 0.5 * rng.normal(size=(120, 16))).astype(np.float32)
    return ValidationSet(images, labels, (np.arange(120) % 6 < 2) | (labels >= "15"), None)


def test_thresholds_of_several_runs_are_averaged(recipe):
    runs = [evaluate_open_set(validation_set(seed), recipe) for seed in range(2)]
    alone = [fit_open_set([run], recipe) for run in runs]
    both = fit_open_set(runs, recipe, gap=0.125)
    assert both.threshold == pytest.approx(np.mean([one.threshold for one in alone]) - 0.125)
    assert both.new_share == np.mean([one.new_share for one in alone])
    recipe.retrieval.threshold = 0.25
    assert fit_open_set(runs, recipe, gap=0.125).threshold == 0.25


def test_values_are_written_and_read(recipe):
    fitted = fit_open_set([evaluate_open_set(validation_set(0), recipe)], recipe)
    assert OpenSet.from_json(json.loads(json.dumps(fitted.to_json()))) == fitted
    recipe.data.new_label = None
    closed = fit_open_set([evaluate_open_set(validation_set(0), recipe)], recipe)
    assert closed.threshold is closed.new_share is closed.answers.new is None
    assert OpenSet.from_json(json.loads(json.dumps(closed.to_json()))) == closed


def drawn(rng, individuals, images, noise, d=24):
    """Return embeddings around random centres, and labels."""
    centres = rng.normal(size=(individuals, d))
    x = centres.repeat(images, axis=0) + noise * rng.normal(size=(individuals * images, d))
    return x.astype(np.float32), np.repeat([f"i{i:04}" for i in range(individuals)], images)


@pytest.mark.parametrize("grown", [1, 10])
def test_false_acceptance_is_what_was_asked_for_a_gallery_of_any_size(recipe, grown):
    """The threshold of 100 individuals lets far more strangers in where the gallery has ten times as many."""
    rng = np.random.default_rng(0)
    recipe.retrieval.threshold_by, recipe.retrieval.far = "far", 0.05
    rates, small = [], []
    for _ in range(6):
        x, labels = drawn(rng, 100, 4, 0.8)
        is_query = (np.arange(400) % 4 == 0) | (labels >= "i0060")
        held_out = hold_out(ValidationSet(x, labels, is_query, None), "new")
        more, names = drawn(rng, 100 * (grown - 1), 4, 0.8)
        names = np.char.add("m", names.astype(str))
        every = np.concatenate([x, more]), np.concatenate([labels, names])
        gallery = build_gallery(every[0], GalleryRows(np.arange(len(every[1])), every[1], every[1]), "m")
        threshold = fit_open_set([evaluate_search(search_held_out(held_out, gallery, recipe), gallery, recipe)], recipe).threshold
        of_small = fit_open_set([evaluate_open_set(ValidationSet(x, labels, is_query, None), recipe)], recipe).threshold
        strangers = search_identities(gallery, Queries(drawn(rng, 500, 1, 0.8)[0]), recipe.retrieval, 5).best_scores
        rates.append((strangers >= threshold).mean())
        small.append((strangers >= of_small).mean())
    assert np.mean(rates) == pytest.approx(0.05, abs=0.03)
    assert grown == 1 or np.mean(small) > 0.2


def test_a_held_out_query_finds_neither_itself_nor_other_held_out_images_of_its_individual(recipe):
    rows = validation_set(0)
    found = evaluate_open_set(rows, recipe)
    assert (found.result.scores[:, 0] < 0.9999).all()
    held_out = np.flatnonzero(rows.is_query)
    names = rows.labels[found.result.images[:, 0]]
    own = names == rows.labels[held_out]
    assert not np.isin(found.result.images[:, 0][own], held_out).any()
    assert not own[rows.labels[held_out] >= "15"].any()  # individuals that were held out whole
    assert (found.queries.in_gallery == (rows.labels[held_out] < "15")).all()


@pytest.mark.parametrize("far", [0.05, 0.1])  # at 0.25 two strangers, each the other's nearest, tie
def test_with_one_sighting_each_the_threshold_lets_the_asked_share_of_strangers_in(recipe, far):
    rng = np.random.default_rng(2)
    images, labels = rng.normal(size=(40, 16)).astype(np.float32), np.array([f"{i:02}" for i in range(40)])
    recipe.retrieval.far = far
    evaluation = evaluate_open_set(ValidationSet(images, labels, labels >= "20", None), recipe)
    best = evaluation.queries.best_scores
    assert not evaluation.queries.in_gallery.any()
    assert (best >= fit_open_set([evaluation], recipe).threshold).sum() == 20 * far
