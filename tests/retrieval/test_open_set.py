"""The open-set model: fitted on made-up evaluations, written and read."""

import json

import numpy as np
import pytest

from lib.config.recipe import Recipe
from lib.retrieval.evaluation import ValidationSet, evaluate_open_set
from lib.retrieval.open_set import fit_open_set


@pytest.fixture
def recipe():
    recipe = Recipe()
    recipe.data.new_label = "new"
    return recipe


def evaluation(recipe, seed):
    """Return the evaluation of 20 individuals with 6 images, of which 5 are held out whole, and of 60 unlabelled queries."""
    rng = np.random.default_rng(seed)
    centres, labels = rng.normal(size=(20, 16)), np.repeat([f"{i:02}" for i in range(20)], 6)
    images = (centres.repeat(6, axis=0) + 0.5 * rng.normal(size=(120, 16))).astype(np.float32)
    is_query = (np.arange(120) % 6 < 2) | (labels >= "15")
    unlabelled = (centres.repeat(3, axis=0) + 0.5 * rng.normal(size=(60, 16))).astype(np.float32)
    return evaluate_open_set(ValidationSet(images, labels, is_query, None), recipe, None, unlabelled)


def test_thresholds_of_several_runs_are_averaged_or_carried_over_by_the_share_of_rejected_queries(recipe):
    runs = [evaluation(recipe, seed) for seed in range(2)]
    alone = [fit_open_set([run], recipe) for run in runs]
    both = fit_open_set(runs, recipe)
    assert both.threshold == np.mean([one.threshold for one in alone])
    assert both.new_share == np.mean([one.new_share for one in alone])
    scores = np.random.default_rng(0).normal(size=1000)
    rejected = np.mean([(run.unlabelled_scores < one.threshold).mean() for run, one in zip(runs, alone)])
    assert (scores < fit_open_set(runs, recipe, scores).threshold).mean() == pytest.approx(rejected, abs=0.002)
    recipe.retrieval.threshold = 0.25
    assert fit_open_set(runs, recipe, scores).threshold == 0.25


def test_values_are_written_under_their_names(recipe):
    fitted = fit_open_set([evaluation(recipe, 0)], recipe)
    written = json.loads(json.dumps(fitted.to_json()))
    assert (written["threshold"], written["share"]) == (fitted.threshold, fitted.new_share)
    assert written["probability"] == {"slope": fitted.name_probability.slope, "intercept": fitted.name_probability.intercept}
    recipe.data.new_label = None
    closed = fit_open_set([evaluation(recipe, 0)], recipe)
    assert closed.threshold is closed.new_share is closed.new_probability is None
    assert closed.to_json()["probability_new"] is None
