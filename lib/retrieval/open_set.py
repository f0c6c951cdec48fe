"""The open-set model: everything that validation teaches about answers to further queries."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from lib.config.recipe import Recipe
from lib.retrieval.answer_model import AnswerModel, fit_answer_model
from lib.retrieval.evaluation import OpenSetEvaluation
from lib.retrieval.local_fusion import Fusion
from lib.retrieval.ranking import replace_missing
from lib.retrieval.thresholds import LabelledScores, fit_threshold


@dataclass(frozen=True)
class OpenSet:
    """Threshold, share of new individuals and calibration, made by `fit_open_set` and stored beside the gallery."""

    threshold: float | None
    """Score that a name needs to precede the new label; None without `data.new_label`, or when no new individual was held out."""
    new_share: float | None
    """Share of new individuals among the queries; None where no new individual was held out."""
    answers: AnswerModel | None
    """Probabilities of a query's names and of "new"; None where no known individual was held out."""
    centre_line: tuple[float, float] | None = None
    """Of class centres: see `class_centres.fit_line`."""
    fusion: Fusion | None = None
    """What local scores add; None without retrieval.local."""

    @property
    def lowest_score(self) -> float:
        """The threshold, -inf without one: the new label comes last."""
        return -np.inf if self.threshold is None else self.threshold

    def to_json(self) -> dict[str, Any]:
        """Return the values under their names in threshold.json."""
        values = {"threshold": self.threshold, "share": self.new_share, "answers": self.answers and self.answers._asdict()}
        return values | {"centre_line": self.centre_line, "fusion": self.fusion and self.fusion.to_json()}

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> OpenSet:
        """Return what `to_json` wrote. Raises KeyError or TypeError for something else."""
        line, answers = values["centre_line"], values["answers"]
        model = None if answers is None else AnswerModel(**answers)
        fusion = values.get("fusion")  # galleries of earlier versions have none
        fused = None if fusion is None else Fusion.from_json(fusion)
        return cls(values["threshold"], values["share"], model, line and (line[0], line[1]), fused)


def fit_open_set(evaluations: Sequence[OpenSetEvaluation], recipe: Recipe, gap: float = 0.0) -> OpenSet:
    """Fit threshold and calibration on one evaluation, or on several of runs that held out different rows.

    Thresholds and shares of several are averaged, and their scores reduced by `gap`: how much lower the best score of the combined
    embeddings is than the mean of the runs' (see `pipelines.open_set.combination_gap`). The probabilities are for queries of which
    the share is new, not validation's.
    """
    thresholds = [threshold for e in evaluations if (threshold := _fit_threshold(e, recipe)) is not None]
    threshold = float(np.mean(thresholds)) if thresholds else None
    if threshold is not None and recipe.retrieval.threshold == "auto":
        threshold -= gap
    shares = [e.new_share for e in evaluations if e.new_share is not None]
    share = float(np.mean(shares)) if shares else None
    queries = pooled_queries(evaluations, gap)
    answers = fit_answer_model(queries, share) if queries.in_gallery.any() else None
    return OpenSet(threshold, share, answers, _line(evaluations), evaluations[0].fusion)


def pooled_queries(evaluations: Sequence[OpenSetEvaluation], gap: float = 0.0) -> LabelledScores:
    """Return the labelled queries of all evaluations, their scores reduced by `gap`."""
    scores, right, known = (np.concatenate([e.queries[i] for e in evaluations]) for i in range(3))
    return LabelledScores(scores - gap, right, known)


def _line(evaluations: Sequence[OpenSetEvaluation]) -> tuple[float, float] | None:
    return None if len(evaluations) > 1 or evaluations[0].centres is None else evaluations[0].centres.line


def _fit_threshold(evaluation: OpenSetEvaluation, recipe: Recipe) -> float | None:
    """Return the recipe's threshold, or the one fitted on the evaluation's curve; None without a new label or a curve.

    Where no query is of a known individual, it is the score that `retrieval.far` of the queries reach.
    """
    r = recipe.retrieval
    if recipe.data.new_label is None:
        return None
    if r.threshold != "auto":
        return float(r.threshold)
    known = evaluation.queries.in_gallery
    if len(known) and not known.any():  # one sighting of each individual: only what strangers score is known
        best = np.sort(replace_missing(evaluation.queries.best_scores).astype(np.float32))
        # The next float32: scores are compared as float32, and a closer float64 would be rounded to the score itself.
        return float(np.nextafter(best[len(best) - 1 - int(r.far * len(best) + 1e-9)], np.float32(np.inf)))
    if evaluation.curve is None or evaluation.new_share is None:
        return None
    return fit_threshold(evaluation.curve, r.threshold_by, evaluation.new_share, r.far)
