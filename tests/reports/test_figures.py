"""Figures draw the values that they are given, for labels in any script, and are the same bytes each time."""

from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image
from sklearn.metrics import confusion_matrix

from lib.metrics import registry
from lib.metrics.verification import verify_pairs
from lib.reports import drawing, figures
from lib.tables.target import ONE_LABEL
from tests.reports import HOSTILE


def history(lr: list[float], **columns: list[float | None]) -> list[dict[str, float | None]]:
    rows = [{"epoch": i + 1, "train_loss": 2 / (i + 1), "val_loss": 3 / (i + 1), "lr": rate} for i, rate in enumerate(lr)]
    return [row | {name: values[i] for name, values in columns.items()} for i, row in enumerate(rows)]


def line(figure: Figure, label: str) -> tuple[list[float], list[float]]:
    lines = [line for ax in figure.axes for line in ax.lines if line.get_label() == label]
    assert len(lines) == 1, [line.get_label() for ax in figure.axes for line in ax.lines]
    return list(lines[0].get_xdata()), list(lines[0].get_ydata())


# --- training ---------------------------------------------------------------------------------------------------------------------


def test_training_curves_draw_the_history() -> None:
    figure = figures.training_curves(history([1e-3] * 3, accuracy=[0.5, 0.9, 0.8]))
    assert line(figure, "training") == ([1, 2, 3], [2, 1, 2 / 3])
    assert line(figure, "validation") == ([1, 2, 3], [3, 1.5, 1])
    assert line(figure, "accuracy") == ([1, 2, 3], [0.5, 0.9, 0.8])
    assert line(figure, "best: 0.9 (epoch 2)") == ([2], [0.9])
    assert [ax.get_yscale() for ax in figure.axes] == ["linear", "linear", "log"]
    assert "best accuracy 0.9 in epoch 2" in figure.get_label()


def test_best_epoch_follows_the_direction_of_the_metric() -> None:
    rows = history([1e-3] * 3, eer=[0.3, 0.1, 0.2])
    assert line(figures.training_curves(rows, "eer", higher_is_better=False), "best: 0.1 (epoch 2)") == ([2], [0.1])
    assert line(figures.training_curves(rows, "loss"), "best: 1 (epoch 3)") == ([3], [1])


@pytest.mark.parametrize(
    ("lr", "drops"),
    [
        ([1e-3, 1e-3, 1e-4, 1e-4, 1e-5], [2, 4]),
        ([1e-3, 5e-4, 5e-4], [1]),
        (list(0.5 * (1 + np.cos(np.pi * np.arange(12) / 12))), []),  # a cosine falls by more than a quarter at its end
        ([1e-5, 5e-4, 1e-3, 1e-3], []),  # warm-up rises
        ([1e-3], []),
    ],
)
def test_learning_rate_drops_are_marked_between_their_epochs(lr: list[float], drops: list[int]) -> None:
    assert figures.learning_rate_drops(np.array(lr)) == drops
    figure = figures.training_curves(history(lr, accuracy=[0.5] * len(lr)))
    for ax in figure.axes:
        marks = [line.get_xdata()[0] for line in ax.lines if line.get_linestyle() == "--"]
        assert marks == [drop + 0.5 for drop in drops]  # epochs count from 1


@pytest.mark.parametrize(
    "rows",
    [
        history([1e-3], accuracy=[0.5]),
        history([1e-3, 0.0], accuracy=[float("nan"), None]),
        history([1e-3, 1e-3]),
        [{"epoch": 1, "train_loss": float("nan")}],
        [],
    ],
)
def test_training_curves_of_missing_values(rows: list[dict[str, float | None]], tmp_path: Path) -> None:
    drawing.save_figure(figures.training_curves(rows), tmp_path / "curves.png")
    with Image.open(tmp_path / "curves.png") as picture:
        assert picture.size[0] > 500


# --- classification ---------------------------------------------------------------------------------------------------------------


def shares(figure: Figure) -> np.ma.MaskedArray:
    return figure.axes[0].images[0].get_array()


def test_confusion_matrix_agrees_with_scikit_learn() -> None:
    rng = np.random.default_rng(0)
    targets, predicted = rng.integers(0, 4, (2, 200))  # of 5: the last class has no image
    figure = figures.confusion_matrix(targets, predicted, list("abcde"))
    counts = confusion_matrix(targets, predicted, labels=range(5))
    np.testing.assert_allclose(shares(figure)[:4].filled(9), counts[:4] / counts[:4].sum(axis=1, keepdims=True))
    assert shares(figure).mask[4].all()
    assert [text.get_text() for text in figure.axes[0].get_yticklabels()][3:] == [f"d ({counts[3].sum()})", "e (0)"]
    drawn = {(text.get_position()[1], text.get_position()[0]): text.get_text() for text in figure.axes[0].texts}
    assert drawn[1, 2].endswith(f"\n{counts[1, 2]}")


def test_confusion_matrix_of_many_classes_shows_the_most_confused() -> None:
    targets = np.repeat(np.arange(4000), 3)
    predicted = targets.copy()
    predicted[np.flatnonzero(targets == 7)] = 3001
    predicted[np.flatnonzero(targets == 1234)[:2]] = 8
    figure = figures.confusion_matrix(targets, predicted, [f"w{i}" for i in range(4000)])
    names = [text.get_text() for text in figure.axes[0].get_xticklabels()]
    assert len(names) == 40
    assert {"w7", "w3001", "w1234", "w8"} <= set(names)
    assert shares(figure)[names.index("w1234"), names.index("w8")] == pytest.approx(2 / 3)
    assert "40 most confused of 4,000" in figure.get_label()


def test_shares_refer_to_all_images_of_a_class() -> None:
    figure = figures.confusion_matrix(np.array([0, 0, 0, 0, 3]), np.array([1, 1, 1, 2, 3]), list("abcd"), max_classes=2)
    assert [text.get_text() for text in figure.axes[0].get_xticklabels()] == ["a", "b"]
    assert shares(figure)[0].tolist() == [0, 0.75]


def test_calibration_error_agrees_with_the_metric() -> None:
    rng = np.random.default_rng(1)
    logits = rng.normal(size=(500, 4)) * 2
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    targets = np.array([rng.choice(4, p=row) for row in probabilities])  # calibrated: the error then depends on the bins
    figure = figures.reliability_diagram(probabilities.max(axis=1), logits.argmax(axis=1) == targets)
    error = registry.compute_metrics(ONE_LABEL, logits, targets)["ece"]
    assert f"calibration error {error:.3f}." in figure.get_label()
    assert sum(bar.get_height() for bar in figure.axes[1].patches) == 500
    counts, _ = np.histogram(probabilities.max(axis=1), np.linspace(0, 1, len(figure.axes[1].patches) + 1))
    assert [bar.get_height() for bar in figure.axes[1].patches] == counts.tolist()


def test_undefined_average_precisions_are_left_out() -> None:
    figure = figures.average_precision_chart(["a", "b", "c"], np.array([0.9, np.nan, 0.3]), np.array([0.1, 0.0, 0.2]))
    assert line(figure, "average precision")[0] == [0.3, 0.9]
    assert [text.get_text() for text in figure.axes[0].get_yticklabels()] == ["c", "a"]
    assert "1 labels without a positive" in figure.get_label()


# --- retrieval --------------------------------------------------------------------------------------------------------------------


def test_retrieval_figures_draw_their_values() -> None:
    figure = figures.threshold_curve(np.array([0.2, 0.1, 0.3]), np.array([0.6, 0.5, 0.4]), 0.2, "MAP@5", "cosine")
    assert line(figure, "MAP@5") == ([0.1, 0.2, 0.3], [0.5, 0.6, 0.4])
    assert line(figure, "chosen: 0.2 (MAP@5 0.6)")[0] == [0.2, 0.2]
    known, unknown = np.array([0.9, 0.8, 0.4]), np.array([0.1, 0.5])
    curve = verify_pairs(np.array([True] * 3 + [False] * 2), np.concatenate([known, unknown]))
    assert line(figures.roc_curve(curve, "known against unknown"), f"known against unknown (area {5 / 6:.3f})")[1] == list(
        curve.true_accept
    )
    figure = figures.score_histograms(known, unknown, 0.45, "cosine")
    tallest = [drawn.get_xy()[:, 1].max() for drawn in figure.axes[0].patches]
    assert tallest == pytest.approx([1 / 3, 1 / 2])  # shares of each group, whose values are all in bins of their own
    drawing.png_bytes(figure)
    drawing.png_bytes(figures.score_histograms(known[:0], np.array([0.5]), 0.5, "cosine"))  # one kind of query, one value


# --- all figures ------------------------------------------------------------------------------------------------------------------


def test_labels_in_any_script_are_drawn_without_a_warning() -> None:
    figure = figures.confusion_matrix(np.arange(len(HOSTILE)), np.arange(len(HOSTILE))[::-1], HOSTILE)
    drawing.png_bytes(figure)  # warnings are errors here
    names = [text.get_text() for text in figure.axes[0].get_xticklabels()]
    assert names[5] == "#5 □"
    assert max(map(len, names)) <= 28
    drawing.png_bytes(figures.average_precision_chart(HOSTILE, np.linspace(0, 1, len(HOSTILE)), np.zeros(len(HOSTILE))))
    drawing.png_bytes(figures.training_curves(history([1e-3] * 2, **{"$x_{$": [0.1, 0.2]}), "$x_{$"))


def test_figures_are_the_same_bytes_each_time(tmp_path: Path) -> None:
    for name in "ab":
        drawing.save_figure(figures.training_curves(history([1e-3, 1e-3, 1e-4], accuracy=[0.1, 0.2, 0.3])), tmp_path / name)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
