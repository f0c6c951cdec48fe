"""Results of predicted numbers: a figure of predictions against true values, and the largest errors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from numpy.typing import NDArray

from lib.reports.drawing import BLUE, GREY, add_legend, drawable, style_axes


def prediction_chart(targets: NDArray[Any], predicted: NDArray[Any], names: Sequence[str]) -> Figure:
    """Draw predicted against true numbers, (n, K) each, in a panel per number of `names`, K, at most 6."""
    shown = names[:6]
    figure = Figure(figsize=(1.0 + 4.2 * len(shown), 4.4), layout="constrained")
    for k, ax in enumerate(figure.subplots(1, len(shown), squeeze=False)[0]):
        both = np.concatenate([targets[:, k], predicted[:, k]])
        ax.plot([both.min(), both.max()], [both.min(), both.max()], "--", color=GREY, linewidth=1, label="equal")
        ax.plot(targets[:, k], predicted[:, k], ".", color=BLUE, markersize=4, alpha=0.6, label="images")
        name = drawable(shown[k], k)
        style_axes(ax, f"true {name}", f"predicted {name}")
        add_legend(ax)
    figure.set_label(f"Predicted against true numbers of {len(targets):,} images: {', '.join(map(str, shown))}.")
    return figure


def largest_errors(
    images: Sequence[str], targets: NDArray[Any], predicted: NDArray[Any], names: Sequence[str], limit: int = 48
) -> pd.DataFrame:
    """Return the images with the largest errors, in standard deviations of the true numbers: image, number, true, predicted."""
    spread = targets.std(axis=0)
    error = np.abs(predicted - targets) / np.where(spread > 0, spread, 1)
    order = np.argsort(-error, axis=None, kind="stable")[:limit]
    rows, columns = np.unravel_index(order, error.shape)
    return pd.DataFrame(
        {
            "image": [images[i] for i in rows],
            "number": [names[k] for k in columns],
            "true": targets[rows, columns],
            "predicted": predicted[rows, columns],
            "error": predicted[rows, columns] - targets[rows, columns],
        }
    )
