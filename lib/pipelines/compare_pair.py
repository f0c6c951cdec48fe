"""Verification of one pair: whether two images show the same individual."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from lib.pipelines.retrieval_job import EmbeddedTable, RetrievalJob
from lib.retrieval.similarity import SIMILARITIES, normalize
from lib.tables import loading
from lib.training.distributed import run_on_main


def compare_pair(job: RetrievalJob, images: list[Path]) -> dict[str, Any]:
    """Decide whether two images show the same individual, at the threshold of equal error rates on held-out pairs.

    Returns the score, the probability of a match (same and different equally probable beforehand), the decision, the threshold and
    its error rate; the score alone where the held-out images make no pairs of both kinds.
    """
    train = job.embed(loading.load_train(job.recipe.data, job.recipe.folds), "train")
    pair = job.embed_pair(images).astype(np.float64)
    return run_on_main(job.accelerator, lambda: _decide(job, images, pair, train)) or {}


def _decide(job: RetrievalJob, images: list[Path], pair: np.ndarray, train: EmbeddedTable) -> dict[str, Any]:
    similarity = SIMILARITIES[job.recipe.retrieval.metric]
    pair = normalize(pair) if similarity.normalized else pair
    score = float(similarity.of_pairs(pair[:1], pair[1:])[0])
    described = f"{images[0]} and {images[1]}: {similarity.unit} {score:.4f}"
    verified = job.verify_pairs(train)
    if verified is None:
        job.log(f"{described}; no decision, because the held-out images make no pairs to fit a threshold on")
        return {"score": score}
    threshold, rate = verified.roc.equal_error_threshold, verified.roc.equal_error_rate
    same, probability = score >= threshold, float(verified.probability_same(score))
    job.log(f"{described}: {'the same individual' if same else 'different individuals'}")
    job.log(f"  probability of the same, if same and different are equally probable beforehand: {probability:.1%}")
    job.log(f"  threshold {threshold:.4f}, at which {rate:.1%} of the held-out pairs of either kind are mistaken")
    return {"score": score, "probability": probability, "same": same, "threshold": threshold, "equal_error_rate": rate}
