"""Figures of a run: functions of plain arrays that return a matplotlib Figure.

No pyplot, so no global state; a palette for every kind of colour vision; the same data give the same bytes. A figure's label
(`figure.get_label()`) says in a sentence what it shows; pages use it as the alt text.
"""

from __future__ import annotations

import functools
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties, findfont, get_font
from matplotlib.ticker import MaxNLocator, PercentFormatter
from numpy.typing import NDArray
from scipy.stats import binomtest

from lib.files import atomic_write
from lib.metrics.resampling import BINS
from lib.metrics.verification import Verification

INK, GREY = "#26292e", "#6b7280"
BLUE, ORANGE, GREEN, PINK = "#0072b2", "#d55e00", "#009e73", "#cc79a7"  # Okabe and Ito 2008


def save_figure(figure: Figure, path: Path) -> None:
    """Write a figure as a PNG on white, atomically."""
    with atomic_write(path) as temporary:
        temporary.write_bytes(png_bytes(figure))


def png_bytes(figure: Figure, transparent: bool = False) -> bytes:
    """A figure as PNG bytes, without date or version in them."""
    buffer, ground = io.BytesIO(), "none" if transparent else "white"
    figure.savefig(buffer, format="png", dpi=150, transparent=transparent, facecolor=ground, metadata={"Software": None})
    return buffer.getvalue()


def curves(
    history: Sequence[Mapping[str, Any]], metric: str = "accuracy", greater: bool = True, also: Sequence[str] = ()
) -> Figure:
    """Losses, validation metric and learning rate over the epochs, one above the other.

    `history` holds a dict an epoch: epoch, train_loss, val_loss, lr and metrics; what is missing, None or NaN is a gap. `metric`
    chose the best epoch (the largest if `greater`; "loss": the smallest val_loss), which is marked; `also` are drawn beside it.
    Sudden drops of the learning rate (step, plateau) are dashed vertical lines in every panel.
    """
    columns = {"epoch", "train_loss", "val_loss", "lr", metric, *also}
    data = {name: np.array([np.nan if row.get(name) is None else row[name] for row in history], dtype=float) for name in columns}
    data["lr"] = np.where(data["lr"] > 0, data["lr"], np.nan)  # a log axis has no 0, where cosine may end
    chosen, greater = (data["val_loss"], False) if metric == "loss" else (data[metric], greater)
    panels = {"loss": {"train_loss": ("training", ORANGE), "val_loss": ("validation", BLUE)}}
    if metric != "loss" or also:
        names = [*also] if metric == "loss" else [metric, *also]
        panels[names[0]] = {name: (name, color) for name, color in zip(names, (BLUE, GREEN, PINK, ORANGE, GREY))}
    if np.isfinite(data["lr"]).any():
        panels["learning rate"] = {"lr": ("learning rate", INK)}

    figure = Figure(figsize=(6.4, 0.6 + 2.0 * len(panels)), layout="constrained")
    axes = dict(zip(panels, figure.subplots(len(panels), 1, sharex=True, squeeze=False)[:, 0]))
    drops = learning_rate_drops(data["lr"])
    for title, ax in axes.items():
        for name, (label, color) in panels[title].items():
            if not np.isfinite(data[name]).any():  # an embedding has no validation loss
                continue
            steps = "steps-mid" if name == "lr" and drops else "default"
            ax.plot(data["epoch"], data[name], "o-", color=color, markersize=3, linewidth=1.6, label=label, drawstyle=steps)
        for i in drops:
            label = "learning-rate drop" if title == "learning rate" and i == drops[0] else "_repeated"
            ax.axvline((data["epoch"][i - 1] + data["epoch"][i]) / 2, color=GREY, linestyle="--", linewidth=1, label=label)
        _style_axes(ax, "", title)
    said = f"{', '.join(panels)} over {len(history)} epochs"
    if np.isfinite(chosen).any():
        best = int(np.nanargmax(chosen) if greater else np.nanargmin(chosen))
        epoch, value = data["epoch"][best], chosen[best]
        axes[metric].plot(
            [epoch], [value], "o", color=INK, markersize=9, fillstyle="none", label=f"best: {value:.4g} (epoch {epoch:g})"
        )
        said += f"; best {metric} {value:.4g} in epoch {epoch:g}"
    for ax in axes.values():
        if ax.get_legend_handles_labels()[0]:
            _legend(ax)
    if "learning rate" in axes:
        axes["learning rate"].set_yscale("log")
    last = list(axes.values())[-1]
    last.set_xlabel("epoch")
    last.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    figure.set_label(said[0].upper() + said[1:] + ".")
    return figure


def learning_rate_drops(lr: NDArray[np.float64]) -> list[int]:
    """Indices i where lr[i] falls a quarter or more below lr[i - 1] and is flat before or after: a step, not a smooth decay."""
    flat = np.isclose(lr[1:], lr[:-1], rtol=1e-6, atol=0)
    fell = lr[1:] <= 0.75 * lr[:-1]
    beside = np.concatenate([[False], flat[:-1]]) | np.concatenate([flat[1:], [False]]) if len(lr) > 1 else flat
    return [int(i) + 1 for i in np.flatnonzero(fell & beside)]


def confusion(truth: NDArray[np.int64], predicted: NDArray[np.int64], classes: Sequence[str], most: int = 40) -> Figure:
    """Which class (row) is taken for which (column), as shares of the row; grey rows have no images.

    `truth`, `predicted`: (n,) indices into `classes`. With more than `most` classes only the ends of the most frequent confusions
    are shown, at most `most`; shares still refer to all images of the class. Up to 30 classes the cells carry counts.
    """
    total = np.bincount(truth, minlength=len(classes))
    shown = np.arange(len(classes))
    if len(classes) > most:
        wrong = truth != predicted
        pairs, times = np.unique(truth[wrong] * len(classes) + predicted[wrong], return_counts=True)
        pairs = pairs[np.argsort(-times, kind="stable")]
        ends = np.stack([pairs // len(classes), pairs % len(classes)], axis=1).ravel()
        shown = np.sort(pd.unique(np.concatenate([ends, np.argsort(-total, kind="stable")]))[:most])
    place = np.full(len(classes), -1)
    place[shown] = np.arange(len(shown))
    counts = np.zeros((len(shown), len(shown)), dtype=int)
    inside = (place[truth] >= 0) & (place[predicted] >= 0)
    np.add.at(counts, (place[truth[inside]], place[predicted[inside]]), 1)
    with np.errstate(invalid="ignore"):
        share = counts / total[shown][:, None]

    n = len(shown)
    side = np.clip(1.8 + 0.34 * n, 4.5, 12.0)
    figure = Figure(figsize=(side + 1.4, side), layout="constrained")
    ax = figure.subplots()
    # Square root: a confusion of 4% stays visible beside a diagonal of 95%.
    norm = PowerNorm(0.5, vmin=0, vmax=1)
    picture = ax.imshow(
        np.ma.masked_invalid(share), cmap=matplotlib.colormaps["Blues"].with_extremes(bad="#d9d9d9"), norm=norm, aspect="auto"
    )
    size = 9 if n <= 12 else 7.5
    if n <= 30:
        for i, j in zip(*np.nonzero(counts)):
            text = f"{share[i, j]:.0%}\n{counts[i, j]:,}" if n <= 12 else f"{counts[i, j]:,}"
            ax.text(j, i, text, ha="center", va="center", fontsize=size - 1, color="white" if norm(share[i, j]) > 0.6 else INK)
    _style_axes(ax, "predicted", "true class (images)")
    ax.grid(False)
    names = [drawable(classes[c], c) for c in map(int, shown)]
    ax.set_xticks(range(n), names, rotation=90 if n > 8 else 40, ha="center" if n > 8 else "right", rotation_mode="default" if n > 8
                  else "anchor", fontsize=size, parse_math=False)  # fmt: skip
    rows = [f"{name} ({total[c]:,})" for name, c in zip(names, shown)]
    ax.set_yticks(range(n), rows, fontsize=size, parse_math=False)
    ax.tick_params(length=0)
    bar = figure.colorbar(picture, ax=ax, shrink=0.6, ticks=[0, 0.01, 0.05, 0.2, 0.5, 1], format=PercentFormatter(1))
    bar.ax.tick_params(labelsize=8, colors=INK)
    bar.set_label("share of the true class", fontsize=9, color=INK)
    bar.outline.set_visible(False)
    part = "" if n == len(classes) else f"the {n} most confused of {len(classes):,} classes; "
    figure.set_label(f"Confusion matrix: {part}{np.mean(truth == predicted):.1%} of {len(truth):,} images are right.")
    return figure


def reliability(confidence: NDArray[np.floating], correct: NDArray[np.bool_], bins: int = BINS) -> Figure:
    """Stated probability against the share that is right, in equal bins, with 95% Wilson intervals; below, the number of each.

    `confidence`: (n,) probabilities; `correct`: (n,) whether that answer was right. The legend holds the expected calibration error
    (Guo et al. 2017).
    """
    bin_of = np.clip(np.ceil(confidence * bins).astype(int) - 1, 0, bins - 1)
    count = np.bincount(bin_of, minlength=bins)
    right = np.bincount(bin_of, weights=correct, minlength=bins).astype(int)
    full = np.flatnonzero(count)
    stated = np.bincount(bin_of, weights=confidence, minlength=bins)[full] / count[full]
    observed = right[full] / count[full]
    error = float(np.sum(count[full] * np.abs(stated - observed)) / max(len(confidence), 1))
    wilson = [binomtest(right[b], count[b]).proportion_ci(method="wilson") for b in full]

    figure = Figure(figsize=(5.0, 5.6), layout="constrained")
    ax, below = figure.subplots(2, 1, sharex=True, height_ratios=[3, 1])
    ax.plot([0, 1], [0, 1], "--", color=GREY, linewidth=1, label="perfectly calibrated")
    spread = np.array([[o - w.low for o, w in zip(observed, wilson)], [w.high - o for o, w in zip(observed, wilson)]])
    ax.errorbar(stated, observed, np.maximum(spread, 0).reshape(2, -1), fmt="o", color=BLUE, markersize=5, linewidth=1.2, capsize=3,
                label=f"observed, 95% interval (calibration error {error:.3f})")  # fmt: skip
    below.bar((np.arange(bins) + 0.5) / bins, count, width=0.92 / bins, color=BLUE)
    _style_axes(ax, "", "share that is right")
    _style_axes(below, "stated probability of the answer", "images")
    ax.set_xlim(0, 1)
    ax.set_ylim(-0.02, 1.02)
    for axis in (ax.xaxis, ax.yaxis):
        axis.set_major_formatter(PercentFormatter(1))
    below.yaxis.set_major_locator(MaxNLocator(3, integer=True))
    _legend(ax, columns=1)
    figure.set_label(f"Reliability diagram over {len(confidence):,} images; expected calibration error {error:.3f}.")
    return figure


def average_precisions(
    labels: Sequence[str], values: NDArray[np.floating], chance: NDArray[np.floating], most: int = 120
) -> Figure:
    """Average precision of each label, worst first, beside what guessing gets (the label's share of the images).

    All three have length L; labels with NaN (no positive image) are left out and counted, and so are the best ones beyond `most`.
    """
    order = [int(i) for i in np.argsort(values, kind="stable") if np.isfinite(values[i])]
    missing = len(values) - len(order)
    order = order[:most]
    parts = np.array_split(order, max(1, -(-len(order) // 40)))
    tall = max(len(part) for part in parts)
    figure = Figure(figsize=(1.2 + 4.4 * len(parts), 1.2 + 0.18 * tall), layout="constrained")
    axes = figure.subplots(1, len(parts), squeeze=False)[0]
    for ax, part in zip(axes, parts):
        y = np.arange(len(part))
        ax.hlines(y, chance[part], values[part], color="#b9cfdf", linewidth=2)
        ax.plot(chance[part], y, "|", color=ORANGE, markersize=7, markeredgewidth=1.6, label="guessing")
        ax.plot(values[part], y, "o", color=BLUE, markersize=4.5, label="average precision")
        _style_axes(ax, "average precision", "")
        ax.set_yticks(y, [drawable(labels[i], i) for i in part], fontsize=8, parse_math=False)
        ax.set_ylim(tall - 0.5, -0.5)
        ax.set_xlim(-0.02, 1.02)
    _legend(axes[0])
    mean = f"{np.nanmean(values):.3f}" if missing < len(values) else "undefined"
    figure.set_label(
        f"Average precision of {len(order)} of {len(values)} labels, worst first; macro mean {mean}"
        + (f"; {missing} labels without a positive image are left out." if missing else ".")
    )
    return figure


def threshold_curve(
    thresholds: NDArray[np.floating], scores: NDArray[np.floating], chosen: float, metric: str, score: str
) -> Figure:
    """`metric` (T,) for each threshold (T,) below which an image counts as new, the chosen one marked; `score` names the x axis."""
    figure = Figure(figsize=(5.7, 3.6), layout="constrained")
    ax = figure.subplots()
    order = np.argsort(thresholds, kind="stable")
    ax.plot(thresholds[order], scores[order], color=BLUE, linewidth=1.8, label=metric)
    reached = float(np.interp(chosen, thresholds[order], scores[order])) if len(order) else np.nan
    ax.axvline(chosen, color=ORANGE, linestyle="--", linewidth=1.4, label=f"chosen: {chosen:.4g} ({metric} {reached:.4g})")
    if len(order) > 3:  # the curve's ends stand for "below all scores" and "above all": flat, and far out
        low, high = thresholds[order][[1, -2]]
        ax.set_xlim(min(low, chosen) - 0.03 * (high - low), max(high, chosen) + 0.03 * (high - low))
    _style_axes(ax, f"threshold on {score}", metric)
    _legend(ax)
    figure.set_label(f"{metric} for each threshold on {score}; the chosen threshold {chosen:.4g} reaches {reached:.4g}.")
    return figure


def score_histograms(known: NDArray[np.floating], new: NDArray[np.floating], threshold: float, score: str) -> Figure:
    """Best-match scores of queries of known (n,) and of new (m,) individuals as shares of each group, with the threshold."""
    figure = Figure(figsize=(5.7, 3.6), layout="constrained")
    ax = figure.subplots()
    both = np.concatenate([known, new, [threshold]])
    edges = np.linspace(both.min(), both.max() if both.max() > both.min() else both.min() + 1, 41)
    for values, label, color, hatch in ((known, "known", BLUE, ""), (new, "new", ORANGE, "///")):
        if len(values):  # shares, for the groups differ in size; hatched, so that the two differ in grey print too
            weights, named = np.full(len(values), 1 / len(values)), f"{label} ({len(values):,} queries)"
            look: dict[str, Any] = {"facecolor": (color, 0.3), "edgecolor": color, "hatch": hatch, "linewidth": 1.4}
            ax.hist(values, list(edges), weights=weights, histtype="stepfilled", label=named, **look)
    ax.axvline(threshold, color=INK, linestyle="--", linewidth=1.4, label=f"threshold {threshold:.4g}")
    _style_axes(ax, score, "share of queries")
    ax.yaxis.set_major_formatter(PercentFormatter(1))
    _legend(ax, columns=2)
    figure.set_label(f"Histograms of {score} for {len(known):,} known and {len(new):,} new queries; threshold {threshold:.4g}.")
    return figure


def roc(curve: Verification, what: str) -> Figure:
    """A ROC with its area and equal error rate; `what` is told apart ("known against new", "same against different individual")."""
    false, true, error, area = curve.false_accept, curve.true_accept, curve.equal_error_rate, curve.auroc
    figure = Figure(figsize=(5.7, 4.8), layout="constrained")
    ax = figure.subplots()
    ax.plot([0, 1], [0, 1], "--", color=GREY, linewidth=1, label="guessing")
    ax.plot(false, true, color=BLUE, linewidth=1.8, label=f"{what} (area {area:.3f})")
    ax.plot([error], [1 - error], "o", color=ORANGE, markersize=7, label=f"equal error rate {error:.1%}")
    _style_axes(ax, "false acceptance rate", "true acceptance rate")
    for axis in (ax.xaxis, ax.yaxis):
        axis.set_major_formatter(PercentFormatter(1))
    _legend(ax, "lower right")
    figure.set_label(f"ROC curve, {what}: area {area:.3f}, equal error rate {error:.1%}.")
    return figure


@functools.cache
def _font() -> Any:
    return get_font(findfont(FontProperties()))


def drawable(label: str, index: int, width: int = 28) -> str:
    """`label` as a figure can show it: one line, at most `width` characters; with its #index where the font lacks a glyph (□)."""
    flat = " ".join(label.split())
    drawn = "".join(c if c.isprintable() and _font().get_char_index(ord(c)) else "□" for c in flat)
    if drawn != flat or not flat:
        drawn = f"#{index} {drawn}".strip()
    return drawn if len(drawn) <= width else drawn[: width - 1] + "…"


def _style_axes(ax: Axes, x: str, y: str) -> None:
    ax.set_xlabel(x, fontsize=10, color=INK, parse_math=False)
    ax.set_ylabel(y, fontsize=10, color=INK, parse_math=False)
    ax.tick_params(labelsize=9, colors=INK)
    ax.spines[["top", "right"]].set_visible(False)
    ax.spines[["left", "bottom"]].set_color(GREY)
    ax.grid(color="#dfe3e8", linewidth=0.7)
    ax.set_axisbelow(True)


def _legend(ax: Axes, inside: str = "", columns: int = 4) -> None:
    """A legend at the corner `inside` that holds no data, else above the axes."""
    above = {"loc": "lower left", "bbox_to_anchor": (0, 1.0), "ncols": columns, "borderaxespad": 0.2}
    legend = ax.legend(frameon=False, fontsize=9, labelcolor=INK, **({"loc": inside} if inside else above))
    for text in legend.get_texts():
        text.set_parse_math(False)
