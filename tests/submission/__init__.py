import csv
from pathlib import Path

import numpy as np

from lib.config.recipe import Predict
from lib.scores.score_file import Scores
from lib.submission.writing import submit
from lib.tables.sample import Sample
from lib.tables.target import ONE_LABEL, Target


def write_sample(folder: Path, text: str, encoding: str = "utf-8") -> Path:
    path = folder / "sample_submission.csv"
    path.write_text(text, encoding=encoding, newline="")
    return path


def read_rows(path: Path, **fmt: str) -> list[list[str]]:
    with open(path, encoding="utf-8-sig", newline="") as handle:
        return list(csv.reader(handle, **fmt))


def random_logits(n: int, classes: int, seed: int = 0) -> np.ndarray:
    return (5 * np.random.default_rng(seed).normal(size=(n, classes))).astype(np.float32)


def submit_logits(
    path: Path,
    sample: Sample,
    names: list[str],
    logits: np.ndarray,
    classes: list[str],
    target: Target = ONE_LABEL,
    **predict: object,
) -> None:
    """Write a submission of logits with these fields of the predict section."""
    scores = Scores(np.arange(len(names)), names, tuple(classes), logits, target=target)
    submit(Predict(**predict), path, sample, scores)  # type: ignore[arg-type]
