"""Whether two images show the same individual."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from lib.pipelines.embed import combine_embeddings, embed_files
from lib.pipelines.retrieval_session import EmbeddedTable, RetrievalSession
from lib.retrieval.similarity import SIMILARITIES, normalize
from lib.tables import loading
from lib.training.distributed import run_on_main


def compare_pair(session: RetrievalSession, images: list[Path]) -> dict[str, Any]:
    """Decide whether two images show the same individual, at the threshold of equal error rates on held-out pairs.

    Returns the score, the probability of a match (same and different equally probable beforehand), the decision, the threshold and
    its error rate; the score alone where the held-out images make no pairs of both kinds.
    """
    train = session.embed(loading.load_train(session.recipe.data, session.recipe.folds), "train")
    parts = [embed_files(run, recipe, images, session.accelerator) for run, recipe in zip(session.runs, session.recipes)]
    pair = combine_embeddings(parts, session.combine, session.runs).astype(np.float64)
    return run_on_main(session.accelerator, lambda: _decide_pair(session, images, pair, train)) or {}


def _decide_pair(session: RetrievalSession, images: list[Path], pair: np.ndarray, train: EmbeddedTable) -> dict[str, Any]:
    similarity = SIMILARITIES[session.recipe.retrieval.metric]
    pair = normalize(pair) if similarity.normalized else pair
    score = float(similarity.of_pairs(pair[:1], pair[1:])[0])
    described = f"{images[0]} and {images[1]}: {similarity.unit} {score:.4f}"
    verified = session.verify_pairs(train)
    if verified is None:
        session.log(f"{described}; no decision, because the held-out images make no pairs to fit a threshold on")
        return {"score": score}
    threshold, rate = verified.roc.equal_error_threshold, verified.roc.equal_error_rate
    same, probability = score >= threshold, float(verified.probability_same(score))
    session.log(f"{described}: {'the same individual' if same else 'different individuals'}")
    session.log(f"  probability of the same, if same and different are equally probable beforehand: {probability:.1%}")
    session.log(f"  threshold {threshold:.4f}, at which {rate:.1%} of the held-out pairs of either kind are mistaken")
    return {"score": score, "probability": probability, "same": same, "threshold": threshold, "equal_error_rate": rate}
