"""Compare the test images with the held-out ones by the features of a trained network."""

from __future__ import annotations

import numpy as np

from lib.config.recipe import Recipe
from lib.errors import Interrupted
from lib.images.augmentation import make_eval_transform
from lib.models.network import Network
from lib.pipelines.features import Features
from lib.pipelines.run_tables import evenly_spaced, make_dataset
from lib.scores.shift import LEAST_IMAGES, Shift, measure_shift
from lib.tables.table import Table
from lib.training.inference import InferenceOptions, predict
from lib.training.run import Run

SAMPLE = 1000
"""Images of each table that are compared."""


def count_compared(num_held_out: int, num_test: int) -> int:
    """Return how many images `compare_with_test` embeds."""
    smaller = min(num_held_out, num_test)
    return 0 if smaller < LEAST_IMAGES else min(num_held_out, SAMPLE) + min(num_test, SAMPLE)


def compare_with_test(
    recipe: Recipe, run: Run, network: Network, held_out: Table, test: Table, cached: Table | None
) -> tuple[Shift, Table] | None:
    """Return how well samples of both tables can be told apart, and the sampled rows, held-out ones first.

    `network` has not learnt the held-out rows. None for too few rows. Raises Interrupted when a signal came.
    """
    if not count_compared(len(held_out), len(test)):
        return None
    parts = [each.take(evenly_spaced(np.arange(len(each)), SAMPLE)) for each in (held_out, test)]
    options = InferenceOptions.from_recipe(recipe, run.accelerator.num_processes)
    transform, features = make_eval_transform(recipe.data), []
    for part, of in zip(parts, (cached, None)):
        data = make_dataset(recipe, part, transform, cached=of)
        try:
            features += predict([Features(network)], data, run.accelerator, options, run.stop.check, "compare with test")
        except Interrupted:
            raise Interrupted(f"Stopped by a signal while predicting; {run.resume_command}") from None
    shift = measure_shift(features[0], features[1], parts[0].groups)
    return None if shift is None else (shift, parts[0].join(parts[1]))


def describe_shift(shift: Shift) -> str:
    """Return the line of the log about the test images."""
    numbers = f"AUC {shift.auc:.3f}, 95% interval {shift.interval[0]:.3f} to {shift.interval[1]:.3f}; 0.5 is chance"
    if shift.found:
        return (
            f"warning: test images can be told from the held-out ones ({numbers}): expect another score on the test than on the "
            "held-out rows; the page shows what differs"
        )
    return f"test images look like the held-out ones ({numbers})"
