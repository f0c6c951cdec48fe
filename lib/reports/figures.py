"""Figures of a run: each function draws arrays into a matplotlib Figure and returns it.

A figure's label (`figure.get_label()`) describes in one sentence what it shows; pages use it as the alt text.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter
from numpy.typing import NDArray
from scipy.stats import binomtest

from lib.metrics.resampling import BINS
from lib.metrics.verification import Verification
from lib.reports.drawing import BLUE, GREY, INK, ORANGE, add_legend, drawable, style_axes


def training_curves(
    history: Sequence[Mapping[str, Any]], metric: str = "accuracy", higher_is_better: bool = True, stopped: int | None = None
) -> Figure:
    """Draw losses, validation metric and learning rate over the epochs, in one panel each.

    `history` holds a dict per epoch: epoch, train_loss, val_loss, lr and metrics; a missing value, None or NaN is a gap. The best
    epoch by `metric` ("loss": the smallest val_loss) is marked. Dashed vertical lines mark sudden drops of the learning rate, a
    dotted one the epoch after which training `stopped` before its planned end.
    """
    columns = {"epoch", "train_loss", "val_loss", "lr", metric}
    data = {name: np.array([np.nan if row.get(name) is None else row[name] for row in history], dtype=float) for name in columns}
    data["lr"] = np.where(data["lr"] > 0, data["lr"], np.nan)  # a log axis has no 0, which a cosine schedule may reach
    panels = {"loss": {"train_loss": ("training", ORANGE), "val_loss": ("validation", BLUE)}}
    if metric != "loss":
        panels[metric] = {metric: (metric, BLUE)}
    if np.isfinite(data["lr"]).any():
        panels["learning rate"] = {"lr": ("learning rate", INK)}
    figure = Figure(figsize=(6.4, 0.6 + 2.0 * len(panels)), layout="constrained")
    axes = dict(zip(panels, figure.subplots(len(panels), 1, sharex=True, squeeze=False)[:, 0]))
    for title, ax in axes.items():
        _draw_curves(ax, title, data, panels[title])
        if stopped is not None:
            ax.axvline(stopped, color=INK, linestyle=":", linewidth=1.2, label=f"stopped after epoch {stopped}")
    description = f"{', '.join(panels)} over {len(history)} epoch{'s' * (len(history) != 1)}"
    values = data["val_loss" if metric == "loss" else metric]
    if np.isfinite(values).any():
        best = int(np.nanargmax(values) if higher_is_better and metric != "loss" else np.nanargmin(values))
        epoch, value = data["epoch"][best], values[best]
        label = f"best: {value:.4g} (epoch {epoch:g})"
        axes[metric].plot([epoch], [value], "o", color=INK, markersize=9, fillstyle="none", label=label)
        description += f"; best {metric} {value:.4g} in epoch {epoch:g}"
    if stopped is not None:
        description += f"; stopped after epoch {stopped}, before the planned end"
    for ax in axes.values():
        if ax.get_legend_handles_labels()[0]:
            add_legend(ax)
    if "learning rate" in axes:
        axes["learning rate"].set_yscale("log")
    last = list(axes.values())[-1]
    last.set_xlabel("epoch")
    last.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    figure.set_label(description[0].upper() + description[1:] + ".")
    return figure


def _draw_curves(ax: Axes, title: str, data: Mapping[str, NDArray[Any]], curves: Mapping[str, tuple[str, str]]) -> None:
    """Draw the columns `curves`, {column: (label, color)}, of `data` over its epochs, and the drops of the learning rate."""
    epochs, drops = data["epoch"], learning_rate_drops(data["lr"])
    for name, (label, color) in curves.items():
        if not np.isfinite(data[name]).any():  # embeddings have no validation loss
            continue
        steps = "steps-mid" if name == "lr" and drops else "default"
        ax.plot(epochs, data[name], "o-", color=color, markersize=3, linewidth=1.6, label=label, drawstyle=steps)
    for i in drops:
        label = "learning-rate drop" if title == "learning rate" and i == drops[0] else "_repeated"
        ax.axvline((epochs[i - 1] + epochs[i]) / 2, color=GREY, linestyle="--", linewidth=1, label=label)
    style_axes(ax, "", title)


def learning_rate_drops(lr: NDArray[np.float64]) -> list[int]:
    """Return the indices i where lr[i] is a quarter or more below lr[i - 1] and constant before or after.

    A smooth decay, which falls before and after, is no drop.
    """
    constant = np.isclose(lr[1:], lr[:-1], rtol=1e-6, atol=0)
    fell = lr[1:] <= 0.75 * lr[:-1]
    near = np.concatenate([[False], constant[:-1]]) | np.concatenate([constant[1:], [False]]) if len(lr) > 1 else constant
    return [int(i) + 1 for i in np.flatnonzero(fell & near)]


def confusion_matrix(
    targets: NDArray[np.int64], predicted: NDArray[np.int64], classes: Sequence[str], max_classes: int = 40
) -> Figure:
    """Draw the confusion matrix, true classes as rows, predicted ones as columns, as shares of the row.

    `targets`, `predicted`: (n,) indices into `classes`. With more than `max_classes` classes, only those of the most frequent
    confusions are shown; shares still refer to all images of a class. Rows without images are grey.
    """
    totals = np.bincount(targets, minlength=len(classes))
    shown = np.arange(len(classes)) if len(classes) <= max_classes else _most_confused(targets, predicted, totals, max_classes)
    n = len(shown)
    position = np.full(len(classes), -1)
    position[shown] = np.arange(n)
    both_shown = (position[targets] >= 0) & (position[predicted] >= 0)
    counts = np.zeros((n, n), dtype=int)
    np.add.at(counts, (position[targets[both_shown]], position[predicted[both_shown]]), 1)

    side = np.clip(1.8 + 0.34 * n, 4.5, 12.0)
    figure = Figure(figsize=(side + 1.4, side), layout="constrained")
    ax = figure.subplots()
    font_size = 9 if n <= 12 else 7.5
    image = _draw_matrix(ax, counts, totals[shown], font_size)
    style_axes(ax, "predicted", "true class (images)")
    ax.grid(False)
    names = [drawable(classes[c], c) for c in map(int, shown)]
    rows = [f"{name} ({totals[c]:,})" for name, c in zip(names, shown)]
    ax.set_xticks(range(n), names, fontsize=font_size, parse_math=False)
    steep = {"rotation": 90, "ha": "center", "rotation_mode": "default"}
    slanted = {"rotation": 40, "ha": "right", "rotation_mode": "anchor"}
    for name in ax.get_xticklabels():
        name.set(**(steep if n > 8 else slanted))
    ax.set_yticks(range(n), rows, fontsize=font_size, parse_math=False)
    ax.tick_params(length=0)
    bar = figure.colorbar(image, ax=ax, shrink=0.6, ticks=[0, 0.01, 0.05, 0.2, 0.5, 1], format=PercentFormatter(1))
    bar.ax.tick_params(labelsize=8, colors=INK)
    bar.set_label("share of the true class", fontsize=9, color=INK)
    bar.outline.set_visible(False)
    part = "" if n == len(classes) else f"the {n} most confused of {len(classes):,} classes; "
    figure.set_label(f"Confusion matrix: {part}accuracy {np.mean(targets == predicted):.1%} over {len(targets):,} images.")
    return figure


def _most_confused(
    targets: NDArray[np.int64], predicted: NDArray[np.int64], totals: NDArray[np.int64], limit: int
) -> NDArray[np.int64]:
    """Return the classes of the most frequent confusions, then the largest ones, at most `limit`, in ascending order."""
    wrong = targets != predicted
    pairs, times = np.unique(targets[wrong] * len(totals) + predicted[wrong], return_counts=True)
    pairs = pairs[np.argsort(-times, kind="stable")]
    confused = np.stack([pairs // len(totals), pairs % len(totals)], axis=1).ravel()
    return np.sort(pd.unique(np.concatenate([confused, np.argsort(-totals, kind="stable")]))[:limit])


def _draw_matrix(ax: Axes, counts: NDArray[np.int64], totals: NDArray[np.int64], font_size: float) -> Any:
    """Draw counts (n, n) as shares of the rows' totals (n,); up to 30 classes with the counts in the cells."""
    n = len(counts)
    with np.errstate(invalid="ignore"):
        shares = counts / totals[:, None]
    norm = PowerNorm(0.5, vmin=0, vmax=1)  # square root: a confusion of 4% stays visible beside a diagonal of 95%
    colors = matplotlib.colormaps["Blues"].with_extremes(bad="#d9d9d9")
    image = ax.imshow(np.ma.masked_invalid(shares), cmap=colors, norm=norm, aspect="auto")
    for i, j in zip(*np.nonzero(counts)) if n <= 30 else ():
        text = f"{shares[i, j]:.0%}\n{counts[i, j]:,}" if n <= 12 else f"{counts[i, j]:,}"
        color = "white" if norm(shares[i, j]) > 0.6 else INK
        ax.text(j, i, text, ha="center", va="center", fontsize=font_size - 1, color=color)
    return image


def reliability_diagram(
    confidence: NDArray[np.floating], correct: NDArray[np.bool_], bins: int = BINS, of: str = "image"
) -> Figure:
    """Draw accuracy over confidence in bins of equal width, with 95% Wilson intervals, and the number of images per bin.

    `confidence`: (n,) probability of the predicted class; `correct`: (n,) whether the prediction is correct. With `of` "label" they
    are the probabilities of all labels of all images, and whether the image has the label. The legend holds the
    expected calibration error (Guo et al. 2017).
    """
    bin_of = np.clip(np.ceil(confidence * bins).astype(int) - 1, 0, bins - 1)
    count = np.bincount(bin_of, minlength=bins)
    correct_count = np.bincount(bin_of, weights=correct, minlength=bins).astype(int)
    filled = np.flatnonzero(count)
    mean_confidence = np.bincount(bin_of, weights=confidence, minlength=bins)[filled] / count[filled]
    accuracy = correct_count[filled] / count[filled]
    error = float(np.sum(count[filled] * np.abs(mean_confidence - accuracy)) / max(len(confidence), 1))
    wilson = [binomtest(correct_count[b], count[b]).proportion_ci(method="wilson") for b in filled]
    spread = np.array([[a - w.low for a, w in zip(accuracy, wilson)], [w.high - a for a, w in zip(accuracy, wilson)]])

    figure = Figure(figsize=(5.0, 5.6), layout="constrained")
    ax, histogram = figure.subplots(2, 1, sharex=True, height_ratios=[3, 1])
    ax.plot([0, 1], [0, 1], "--", color=GREY, linewidth=1, label="perfectly calibrated")
    label = f"observed, 95% interval (calibration error {error:.3f})"
    style: dict[str, Any] = {"fmt": "o", "color": BLUE, "markersize": 5, "linewidth": 1.2, "capsize": 3}
    ax.errorbar(mean_confidence, accuracy, np.maximum(spread, 0).reshape(2, -1), label=label, **style)
    histogram.bar((np.arange(bins) + 0.5) / bins, count, width=0.92 / bins, color=BLUE)
    x, y, counted = ("confidence", "accuracy", "images") if of == "image" else ("probability", "share with the label", "labels")
    style_axes(ax, "", y)
    style_axes(histogram, x, counted)
    ax.set_xlim(0, 1)
    ax.set_ylim(-0.02, 1.02)
    for axis in (ax.xaxis, ax.yaxis):
        axis.set_major_formatter(PercentFormatter(1))
    histogram.yaxis.set_major_locator(MaxNLocator(3, integer=True))
    add_legend(ax, columns=1)
    figure.set_label(f"Reliability diagram over {len(confidence):,} {counted}; expected calibration error {error:.3f}.")
    return figure


def average_precision_chart(
    labels: Sequence[str], values: NDArray[np.floating], chance: NDArray[np.floating], max_labels: int = 120
) -> Figure:
    """Draw the average precision of each label, lowest first, beside that of chance (the label's share of the images).

    `labels`, `values` and `chance` have length L. Labels with NaN (no positive image) are left out and counted; of the others, the
    lowest `max_labels` are drawn.
    """
    order = [int(i) for i in np.argsort(values, kind="stable") if np.isfinite(values[i])]
    missing = len(values) - len(order)
    order = order[:max_labels]
    parts = np.array_split(order, max(1, -(-len(order) // 40)))
    tall = max(len(part) for part in parts)
    figure = Figure(figsize=(1.2 + 4.4 * len(parts), 1.2 + 0.18 * tall), layout="constrained")
    axes = figure.subplots(1, len(parts), squeeze=False)[0]
    for ax, part in zip(axes, parts):
        y = np.arange(len(part))
        ax.hlines(y, chance[part], values[part], color="#b9cfdf", linewidth=2)
        ax.plot(chance[part], y, "|", color=ORANGE, markersize=7, markeredgewidth=1.6, label="chance")
        ax.plot(values[part], y, "o", color=BLUE, markersize=4.5, label="average precision")
        style_axes(ax, "average precision", "")
        ax.set_yticks(y, [drawable(labels[i], i) for i in part], fontsize=8, parse_math=False)
        ax.set_ylim(tall - 0.5, -0.5)
        ax.set_xlim(-0.02, 1.02)
    add_legend(axes[0])
    mean = f"{np.nanmean(values):.3f}" if missing < len(values) else "undefined"
    figure.set_label(
        f"Average precision of {len(order)} of {len(values)} labels, lowest first; macro mean {mean}"
        + (f"; {missing} labels without a positive image are left out." if missing else ".")
    )
    return figure


def threshold_curve(
    thresholds: NDArray[np.floating], values: NDArray[np.floating], chosen: float, metric: str, score: str
) -> Figure:
    """Draw a metric's `values` (T,) over the thresholds (T,) below which a query counts as unknown, and mark the chosen one.

    `metric` and `score` name the axes.
    """
    figure = Figure(figsize=(5.7, 3.6), layout="constrained")
    ax = figure.subplots()
    order = np.argsort(thresholds, kind="stable")
    ax.plot(thresholds[order], values[order], color=BLUE, linewidth=1.8, label=metric)
    reached = float(np.interp(chosen, thresholds[order], values[order])) if len(order) else np.nan
    ax.axvline(chosen, color=ORANGE, linestyle="--", linewidth=1.4, label=f"chosen: {chosen:.4g} ({metric} {reached:.4g})")
    if len(order) > 3:  # the curve's ends stand for "below all scores" and "above all": flat, and far out
        low, high = thresholds[order][[1, -2]]
        ax.set_xlim(min(low, chosen) - 0.03 * (high - low), max(high, chosen) + 0.03 * (high - low))
    style_axes(ax, f"threshold on {score}", metric)
    add_legend(ax)
    figure.set_label(f"{metric} for each threshold on {score}; the chosen threshold {chosen:.4g} reaches {reached:.4g}.")
    return figure


def score_histograms(known: NDArray[np.floating], unknown: NDArray[np.floating], threshold: float, score: str) -> Figure:
    """Draw histograms of the best scores of queries of known (n,) and unknown (m,) identities, and the threshold.

    Each histogram shows shares of its group, because the groups differ in size.
    """
    figure = Figure(figsize=(5.7, 3.6), layout="constrained")
    ax = figure.subplots()
    both = np.concatenate([known, unknown, [threshold]])
    edges = np.linspace(both.min(), both.max() if both.max() > both.min() else both.min() + 1, 41)
    for values, name, color, hatch in ((known, "known", BLUE, ""), (unknown, "unknown", ORANGE, "///")):
        if len(values):
            weights, label = np.full(len(values), 1 / len(values)), f"{name} ({len(values):,} queries)"
            # hatched, so that the two differ in grey print too
            style: dict[str, Any] = {"facecolor": (color, 0.3), "edgecolor": color, "hatch": hatch, "linewidth": 1.4}
            ax.hist(values, list(edges), weights=weights, histtype="stepfilled", label=label, **style)
    ax.axvline(threshold, color=INK, linestyle="--", linewidth=1.4, label=f"threshold {threshold:.4g}")
    style_axes(ax, score, "share of queries")
    ax.yaxis.set_major_formatter(PercentFormatter(1))
    add_legend(ax, columns=2)
    found = f"{len(known):,} known and {len(unknown):,} unknown queries"
    figure.set_label(f"Histograms of {score} for {found}; threshold {threshold:.4g}.")
    return figure


def roc_curve(curve: Verification, title: str) -> Figure:
    """Draw a ROC curve with its area and equal error rate; `title` names the two kinds ("known against unknown")."""
    false, true, error, area = curve.false_accept, curve.true_accept, curve.equal_error_rate, curve.auroc
    figure = Figure(figsize=(5.7, 4.8), layout="constrained")
    ax = figure.subplots()
    ax.plot([0, 1], [0, 1], "--", color=GREY, linewidth=1, label="chance")
    ax.plot(false, true, color=BLUE, linewidth=1.8, label=f"{title} (area {area:.3f})")
    ax.plot([error], [1 - error], "o", color=ORANGE, markersize=7, label=f"equal error rate {error:.1%}")
    style_axes(ax, "false acceptance rate", "true acceptance rate")
    for axis in (ax.xaxis, ax.yaxis):
        axis.set_major_formatter(PercentFormatter(1))
    add_legend(ax, "lower right")
    figure.set_label(f"ROC curve, {title}: area {area:.3f}, equal error rate {error:.1%}.")
    return figure
