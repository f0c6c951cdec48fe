"""Write a submission in the sample's columns, rows and file format; the file gets its name only after it passes the check."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from lib.config.recipe import Predict
from lib.errors import FlukeError, first_few
from lib.files import atomic_write
from lib.metrics.registry import METRICS
from lib.scores.cut_points import cut_at
from lib.scores.score_file import Scores
from lib.submission.checking import check_file
from lib.submission.choice import ranking_format, resolve_format
from lib.submission.decisions import PLAIN, Decisions
from lib.submission.formats import Format
from lib.submission.pooling import pool_images
from lib.tables.sample import Sample, match_images


def submit(
    p: Predict,
    path: Path,
    sample: Sample,
    test: Scores,
    decisions: Decisions = PLAIN,
    log: Callable[[str], None] = print,
    metric: str = "auto",
) -> None:
    """Write the submission that the recipe's predict section and `metric` ask for, from the logits of `test`, and log its format.

    Images of one row of the sample are pooled first (predict.pool). Raises FlukeError when the predictions don't fit the sample; a
    file at `path` is left as it is then.
    """
    thresholds, cut_points, temperature = decisions.thresholds, decisions.cut_points, decisions.temperature
    fmt = resolve_format(sample, p, test.classes, test.target, thresholds, metric)
    as_probabilities = fmt.name in ("scores", "confidence")
    if as_probabilities and temperature != 1:
        test = replace(test, logits=test.logits / np.float32(temperature))
    test = pool_images(test, p.pool)
    positions = _match_rows(path, sample, test.names, fmt)
    # -inf is an excluded class and valid, but a row needs a finite score; the maximum of a row with NaN is NaN.
    if bad := [repr(test.names[i]) for i in np.flatnonzero(~np.isfinite(test.logits.max(axis=1))).tolist()]:
        raise FlukeError(
            f"{path}: the scores of {len(bad):,} images hold NaN or infinity: {first_few(bad)}; check the network's weights."
        )
    if cut_points is not None and fmt.name in ("label", "topk"):
        test = replace(test, logits=cut_at(test.logits, np.array(cut_points)))
    _write(path, sample, fmt, fmt.fill(test.logits[positions], sample))
    calibrated = f", probabilities at temperature {temperature:.2f}" if as_probabilities and temperature != 1 else ""
    log(f"submission: {path}, {len(sample.ids):,} rows in the sample's order, format {fmt.name}{calibrated}")
    if cut_points is not None and fmt.name in ("label", "topk"):
        log(f"  cut points on the expected class: {', '.join(f'{cut:.2f}' for cut in cut_points)} (best quadratic_kappa)")
    if fmt.uses_thresholds and thresholds is not None:
        best = f"best {metric}" if metric != "auto" and METRICS[metric].handed_in else "best F1 per label"
        low, middle, high = (f"{q:.3f}" for q in np.quantile(fmt.thresholds, [0, 0.5, 1]))
        log(f"  thresholds of the labels: probability {low} to {high}, median {middle} ({best} on validation rows)")


def submit_ranking(
    p: Predict,
    path: Path,
    sample: Sample,
    names: Sequence[str],
    ranked: Sequence[Sequence[str]],
    labels: Sequence[str],
    metric: str = "auto",
) -> None:
    """Write a submission from n lists of labels, best first, for the images `names` (n).

    Each cell takes one label if `predict.submission` is label, or auto with a `metric` of one label, else `predict.topk`. `labels`
    are all that may be written. Raises FlukeError as `submit` does.
    """
    if len(ranked) != len(names):
        raise ValueError(f"{len(ranked)} lists of labels for {len(names)} images")
    fmt = ranking_format(p, labels, metric)
    positions = _match_rows(path, sample, names, fmt)
    _write(path, sample, fmt, fmt.fill_from_ranking(ranked[i] for i in positions.tolist()))


def _match_rows(path: Path, sample: Sample, names: Sequence[str], fmt: Format) -> NDArray[np.int64]:
    """Return the position in `names` of each of the sample's rows. Raises FlukeError if the format doesn't fit the columns."""
    if fault := fmt.column_fault(sample):
        raise FlukeError(f"{path}: the predictions do not fit {sample.path}: {fault}.")
    return match_images(sample.ids, names, sample.path)


def _write(path: Path, sample: Sample, fmt: Format, cells: Iterable[list[str]]) -> None:
    """Write the cells of the prediction columns, row by row, with the sample's image names, and check the file."""
    with atomic_write(path) as temporary:
        with open(temporary, "w", encoding=sample.encoding, newline="") as handle:
            handle.write(_format_line(sample.file.columns, sample))
            for row in sample.rows(cells):
                handle.write(_format_line(row, sample))
        check_file(temporary, sample, fmt, path)


def _format_line(cells: Iterable[str], sample: Sample) -> str:
    # Not csv.writer: before Python 3.11.9 it leaves a bare carriage return unquoted (CPython gh-67044), which splits the row.
    special = re.compile(f'["\r\n{re.escape(sample.delimiter)}]')
    quoted = ('"' + c.replace('"', '""') + '"' if sample.quote_all or special.search(c) else c for c in cells)
    return sample.delimiter.join(quoted) + sample.newline
