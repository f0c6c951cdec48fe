"""Figures draw the data they were given; pages hold everything, load nothing and let no label run."""

import base64
import io
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from sklearn.metrics import confusion_matrix, recall_score

from lib.metrics import registry
from lib.metrics.verification import verify_pairs
from lib.reports import figures, html
from lib.tables.target import ONE_LABEL

NASTY = [
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    'it\'s & "quoted"',
    "كلب",
    "חתול",
    "狗",
    "$x_{$",
    "_private",
    "a\nb\x00",
    "=cmd()",
    "{{ 7 * 7 }}",
    "long " * 30,
]


def history(lr: list[float], **columns: list[float | None]) -> list[dict[str, float | None]]:
    rows = [{"epoch": i + 1, "train_loss": 2 / (i + 1), "val_loss": 3 / (i + 1), "lr": rate} for i, rate in enumerate(lr)]
    return [row | {name: values[i] for name, values in columns.items()} for i, row in enumerate(rows)]


def line(figure: figures.Figure, label: str) -> tuple[list[float], list[float]]:
    lines = [line for ax in figure.axes for line in ax.lines if line.get_label() == label]
    assert len(lines) == 1, [line.get_label() for ax in figure.axes for line in ax.lines]
    return list(lines[0].get_xdata()), list(lines[0].get_ydata())


# --- figures ----------------------------------------------------------------------------------------------------------------------


def test_curves_draw_the_history() -> None:
    figure = figures.curves(history([1e-3] * 3, accuracy=[0.5, 0.9, 0.8], macro_f1=[0.4, 0.7, 0.75]), also=["macro_f1"])
    assert line(figure, "training") == ([1, 2, 3], [2, 1, 2 / 3])
    assert line(figure, "validation") == ([1, 2, 3], [3, 1.5, 1])
    assert line(figure, "accuracy") == ([1, 2, 3], [0.5, 0.9, 0.8])
    assert line(figure, "macro_f1") == ([1, 2, 3], [0.4, 0.7, 0.75])
    assert line(figure, "best: 0.9 (epoch 2)") == ([2], [0.9])
    assert [ax.get_yscale() for ax in figure.axes] == ["linear", "linear", "log"]
    assert "best accuracy 0.9 in epoch 2" in figure.get_label()


def test_best_epoch_follows_the_direction() -> None:
    rows = history([1e-3] * 3, eer=[0.3, 0.1, 0.2])
    assert line(figures.curves(rows, "eer", greater=False), "best: 0.1 (epoch 2)") == ([2], [0.1])
    assert line(figures.curves(rows, "loss"), "best: 1 (epoch 3)") == ([3], [1])


@pytest.mark.parametrize(
    ("lr", "drops"),
    [
        ([1e-3, 1e-3, 1e-4, 1e-4, 1e-5], [2, 4]),
        ([1e-3, 5e-4, 5e-4], [1]),
        (list(0.5 * (1 + np.cos(np.pi * np.arange(12) / 12))), []),  # cosine falls by more than a quarter at its end
        ([1e-5, 5e-4, 1e-3, 1e-3], []),  # warm-up rises
        ([1e-3], []),
    ],
)
def test_learning_rate_drops_are_marked_where_they_are(lr: list[float], drops: list[int]) -> None:
    assert figures.learning_rate_drops(np.array(lr)) == drops
    figure = figures.curves(history(lr, accuracy=[0.5] * len(lr)))
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
def test_curves_of_little(rows: list[dict[str, float | None]], tmp_path: Path) -> None:
    figures.save_figure(figures.curves(rows), tmp_path / "curves.png")
    with Image.open(tmp_path / "curves.png") as picture:
        assert picture.size[0] > 500


def shares(figure: figures.Figure) -> np.ma.MaskedArray:
    return figure.axes[0].images[0].get_array()


def test_confusion_is_the_normalised_matrix() -> None:
    rng = np.random.default_rng(0)
    truth, predicted = rng.integers(0, 4, (2, 200))  # of 5: the last class has no image
    figure = figures.confusion(truth, predicted, list("abcde"))
    counts = confusion_matrix(truth, predicted, labels=range(5))
    np.testing.assert_allclose(shares(figure)[:4].filled(9), counts[:4] / counts[:4].sum(axis=1, keepdims=True))
    assert shares(figure).mask[4].all()
    assert [text.get_text() for text in figure.axes[0].get_yticklabels()][3:] == [f"d ({counts[3].sum()})", "e (0)"]
    drawn = {(text.get_position()[1], text.get_position()[0]): text.get_text() for text in figure.axes[0].texts}
    assert drawn[1, 2].endswith(f"\n{counts[1, 2]}")


def test_confusion_of_many_classes_shows_the_most_confused() -> None:
    truth = np.repeat(np.arange(4000), 3)
    predicted = truth.copy()
    predicted[np.flatnonzero(truth == 7)] = 3001
    predicted[np.flatnonzero(truth == 1234)[:2]] = 8
    figure = figures.confusion(truth, predicted, [f"w{i}" for i in range(4000)])
    names = [text.get_text() for text in figure.axes[0].get_xticklabels()]
    assert len(names) == 40
    assert {"w7", "w3001", "w1234", "w8"} <= set(names)
    assert shares(figure)[names.index("w1234"), names.index("w8")] == pytest.approx(2 / 3)
    assert "40 most confused of 4,000" in figure.get_label()


def test_confusion_shares_count_what_is_not_shown() -> None:
    figure = figures.confusion(np.array([0, 0, 0, 0, 3]), np.array([1, 1, 1, 2, 3]), list("abcd"), most=2)
    assert [text.get_text() for text in figure.axes[0].get_xticklabels()] == ["a", "b"]
    assert shares(figure)[0].tolist() == [0, 0.75]


def test_reliability_agrees_with_the_metric() -> None:
    rng = np.random.default_rng(1)
    logits = rng.normal(size=(500, 4)) * 2
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    targets = np.array([rng.choice(4, p=row) for row in probabilities])  # calibrated: the error then depends on the bins
    figure = figures.reliability(probabilities.max(axis=1), logits.argmax(axis=1) == targets)
    error = registry.compute_metrics(ONE_LABEL, logits, targets)["ece"]
    assert f"calibration error {error:.3f}." in figure.get_label()
    assert sum(bar.get_height() for bar in figure.axes[1].patches) == 500


def test_average_precisions_leave_out_what_is_undefined() -> None:
    figure = figures.average_precisions(["a", "b", "c"], np.array([0.9, np.nan, 0.3]), np.array([0.1, 0.0, 0.2]))
    assert line(figure, "average precision")[0] == [0.3, 0.9]
    assert [text.get_text() for text in figure.axes[0].get_yticklabels()] == ["c", "a"]
    assert "1 labels without a positive" in figure.get_label()


def test_retrieval_figures_draw_their_values() -> None:
    figure = figures.threshold_curve(np.array([0.2, 0.1, 0.3]), np.array([0.6, 0.5, 0.4]), 0.2, "MAP@5", "cosine")
    assert line(figure, "MAP@5") == ([0.1, 0.2, 0.3], [0.5, 0.6, 0.4])
    assert line(figure, "chosen: 0.2 (MAP@5 0.6)")[0] == [0.2, 0.2]
    known, new = np.array([0.9, 0.8, 0.4]), np.array([0.1, 0.5])
    curve = verify_pairs(np.array([True] * 3 + [False] * 2), np.concatenate([known, new]))
    assert line(figures.roc(curve, "known against new"), f"known against new (area {5 / 6:.3f})")[1] == list(curve.true_accept)
    figures.png_bytes(figures.score_histograms(known, new, 0.45, "cosine"))
    figures.png_bytes(figures.score_histograms(known[:0], np.array([0.5]), 0.5, "cosine"))  # one kind, one value


def test_labels_in_any_script_are_drawn_without_a_warning() -> None:
    figure = figures.confusion(np.arange(len(NASTY)), np.arange(len(NASTY))[::-1], NASTY)
    figures.png_bytes(figure)  # warnings are errors here
    names = [text.get_text() for text in figure.axes[0].get_xticklabels()]
    assert names[5] == "#5 □"
    assert max(map(len, names)) <= 28
    figures.png_bytes(figures.average_precisions(NASTY, np.linspace(0, 1, len(NASTY)), np.zeros(len(NASTY))))
    figures.png_bytes(figures.curves(history([1e-3] * 2, **{"$x_{$": [0.1, 0.2]}), "$x_{$"))


def test_figures_are_the_same_bytes_each_time(tmp_path: Path) -> None:
    for name in "ab":
        figures.save_figure(figures.curves(history([1e-3, 1e-3, 1e-4], accuracy=[0.1, 0.2, 0.3])), tmp_path / name)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


# --- tables -----------------------------------------------------------------------------------------------------------------------


def test_class_table_is_worst_first() -> None:
    targets = np.array([0, 0, 0, 1, 1, 2])
    answers = np.array([1, 1, 0, 1, 1, 0])
    table = html.class_table(np.eye(4)[answers], targets, list("abcd"), train_images=[9, 8, 7, 6])
    assert list(table["class"]) == ["c", "a", "b", "d"]
    np.testing.assert_allclose(table["recall"][:3], recall_score(targets, answers, average=None)[[2, 0, 1]])
    assert np.isnan(table["recall"][3])
    assert list(table["most often taken for"]) == ["a (1)", "b (2)", "", ""]
    assert list(table["training images"]) == [7, 9, 8, 6]
    pairs = html.confused_pairs(targets, answers, list("abcd"))
    assert pairs.to_numpy().tolist() == [["a", "b", 2, pytest.approx(2 / 3)], ["c", "a", 1, 1.0]]


def test_class_table_of_several_labels() -> None:
    targets = np.array([[1, 0, 0], [1, 1, 0], [0, 1, 0]])
    logits = np.array([[2.0, 1.0, -1.0], [1.0, -1.0, -1.0], [-2.0, -2.0, -1.0]])
    table = html.class_table(logits, targets, list("abc"))
    assert list(table["class"]) == ["b", "a", "c"]
    assert np.isnan(table["average precision"][2])


def test_mistakes_are_the_surest_ones() -> None:
    images = [Path(f"{i}.jpg") for i in range(4)]
    probabilities = np.array([[0.9, 0.1], [0.2, 0.8], [0.01, 0.99], [0.4, 0.6]])
    found = html.confident_mistakes(images, np.array([1, 1, 0, 0]), probabilities, ["cat", "dog"], most=2)
    assert found == [html.Example(images[2], "cat", "dog", 0.99), html.Example(images[0], "dog", "cat", 0.9)]
    assert html.confident_mistakes(images, probabilities.argmax(axis=1), probabilities, ["cat", "dog"]) == []
    several = html.confident_mistakes(images[:2], np.array([[1, 1], [0, 1]]), probabilities[:2], ["cat", "dog"])
    assert several == [html.Example(images[0], "cat, dog", "no dog", pytest.approx(0.9))]


# --- pages ------------------------------------------------------------------------------------------------------------------------


class Page(HTMLParser):
    """What a browser would see: tags with their attributes, and the text outside scripts and styles."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.text = ""
        self.inside = ""
        self.html = path.read_text(encoding="utf-8")
        self.feed(self.html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, {name: value or "" for name, value in attrs}))
        self.inside = tag

    def handle_endtag(self, tag: str) -> None:
        self.inside = ""

    def handle_data(self, data: str) -> None:
        if self.inside not in ("script", "style"):
            self.text += data


def assert_harmless_and_complete(page: Page) -> None:
    """Nothing is loaded, the one script is ours, no label became a tag or an attribute, links lead somewhere."""
    ids = {attrs["id"] for _, attrs in page.tags if "id" in attrs}
    for tag, attrs in page.tags:
        assert tag not in {"link", "iframe", "object", "embed", "base", "form", "audio", "video"}
        assert not [name for name in attrs if name.startswith("on")]
        for name in {"src", "href", "srcset", "xlink:href", "action", "poster", "data"} & set(attrs):
            assert attrs[name].startswith("data:image/") or attrs[name].removeprefix("#") in ids, (tag, name, attrs[name][:80])
        if tag == "img":
            assert attrs["alt"]
    assert [attrs for tag, attrs in page.tags if tag == "script"] == [{}]
    script = re.search(r"<script>(.*?)</script>", page.html, re.DOTALL)
    assert script is not None
    assert script[1] == (html.TEMPLATES / "page.js").read_text(encoding="utf-8")
    policy = next(attrs["content"] for tag, attrs in page.tags if attrs.get("http-equiv") == "Content-Security-Policy")
    assert "default-src 'none'" in policy
    assert "unsafe-inline'; script-src 'sha256-" in policy  # styles only
    assert not re.search(r"url\(|@import|https?://", re.sub(r"data:[^\"]*", "", page.html))


@pytest.fixture
def photos(tmp_path: Path) -> list[Path]:
    paths = [tmp_path / f"{i}.jpg" for i in range(len(NASTY))]
    for i, path in enumerate(paths):
        Image.new("RGB", (300, 200), (20 * i, 90, 120)).save(path)
    return paths


def write_page(path: Path, photos: list[Path]) -> Page:
    n = len(NASTY)
    logits = 4 * np.eye(n)[::-1]
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    html.write_page(
        path,
        NASTY[0],
        html.Headline(NASTY[1], 0.5, 1234, (0.4, 0.6), NASTY[2]),
        {NASTY[1]: float("nan"), "loss": 2.5},
        {NASTY[0]: figures.confusion(np.arange(n), logits.argmax(axis=1), NASTY)},
        {NASTY[1]: html.class_table(logits, np.arange(n), NASTY)},
        html.confident_mistakes(photos, np.arange(n), probabilities, NASTY),
        {NASTY[0]: {NASTY[1]: NASTY[2], "recipe": "a: 1\nb: </pre><script>alert(2)</script>"}},
    )
    return Page(path)


def test_page_shows_every_label_and_runs_none(tmp_path: Path, photos: list[Path]) -> None:
    page = write_page(tmp_path / "report.html", photos)
    assert_harmless_and_complete(page)
    for label in NASTY:
        assert label.replace("\x00", "") in page.text.replace("\x00", "").replace("\ufffd", ""), label
    assert "95% interval 0.4000 to 0.6000, 1,234 rows" in page.text
    assert "undefined" in page.text
    again = write_page(tmp_path / "again.html", photos)
    assert page.html == again.html


def test_page_of_nothing(tmp_path: Path) -> None:
    html.write_page(tmp_path / "report.html", "empty")
    assert_harmless_and_complete(Page(tmp_path / "report.html"))


def test_long_tables_say_what_they_leave_out(tmp_path: Path) -> None:
    table = pd.DataFrame({"class": [f"c{i}" for i in range(30)], "images": range(30), "recall": np.linspace(0, 1, 30)})
    html.write_page(tmp_path / "report.html", "t", tables={"Classes": table}, most=20)
    page = Page(tmp_path / "report.html")
    assert "The first 20 of 30 rows." in page.text
    assert "c19" in page.text
    assert "c20" not in page.text


def test_names_that_are_no_unicode_are_written(tmp_path: Path) -> None:
    html.write_page(tmp_path / "report.html", "caf\udce9.jpg")  # what os.listdir makes of a Latin-1 name
    assert "caf?.jpg" in Page(tmp_path / "report.html").text


def query(photos: list[Path], i: int, truth: str | None, names: list[str], score: float = 0.5) -> html.Query:
    answers = [html.Answer(name, score - 0.01 * j, 0.5, photos[j] if j else None) for j, name in enumerate(names)]
    return html.Query(f"query{i}", photos[i], answers, truth)


def test_retrieval_page_has_mistakes_first(tmp_path: Path, photos: list[Path]) -> None:
    queries = [
        query(photos, 0, "a", ["a", "b", NASTY[0], NASTY[1], NASTY[3]]),
        query(photos, 1, "a", ["b", "a"]),
        query(photos, 2, NASTY[1], ["b", "c"]),
        query(photos, 3, None, []),
    ]
    html.write_retrieval_page(tmp_path / "r.html", "nyala", queries, "cosine similarity")
    page = Page(tmp_path / "r.html")
    assert_harmless_and_complete(page)
    order = [page.text.index(f"query{i}") for i in (1, 2, 3, 0)]
    assert order == sorted(order)
    assert page.text.count("found at rank 2") == page.text.count("not found") == page.text.count("✓ right") == 1
    assert "4 of 4 queries" in page.text
    assert NASTY[0] in page.text
    uses = [attrs["href"] for tag, attrs in page.tags if tag == "use"]
    assert len(uses) > len(set(uses)) == sum(tag == "image" for tag, _ in page.tags)  # each image is inlined once


def test_retrieval_page_stays_small(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    photos = [tmp_path / f"{i}.png" for i in range(40)]
    for path in photos:
        Image.fromarray(rng.integers(0, 256, (150, 150, 3), dtype=np.uint8)).save(path)
    queries = [query(photos, i, "x", ["a", "b", "c"]) for i in range(40)]
    html.write_retrieval_page(tmp_path / "r.html", "t", queries, "cosine similarity", megabytes=0.1)
    assert (tmp_path / "r.html").stat().st_size < 0.15e6
    assert re.search(r"\b([1-9]|[12]\d) of 40 queries", Page(tmp_path / "r.html").text)
    html.write_retrieval_page(tmp_path / "r.html", "t", queries, "cosine similarity", most=3)
    assert "3 of 40 queries" in Page(tmp_path / "r.html").text
    html.write_retrieval_page(tmp_path / "r.html", "t", [], "cosine similarity")
    assert "0 of 0 queries" in Page(tmp_path / "r.html").text


# --- thumbnails -------------------------------------------------------------------------------------------------------------------


def decode(uri: str) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(uri.split(",")[1]))).convert("RGB")


def test_thumbnails_are_small_and_upright(tmp_path: Path) -> None:
    image = Image.new("RGB", (1200, 600), "red")
    image.paste("blue", (600, 0, 1200, 600))
    exif = Image.Exif()
    exif[0x0112] = 6  # turned right: shown, the left side is on top
    image.save(tmp_path / "a.jpg", exif=exif)
    small = decode(html.thumbnail(tmp_path / "a.jpg", 112))
    assert small.size == (56, 112)
    assert small.getpixel((28, 10))[0] > 200
    assert small.getpixel((28, 100))[2] > 200


def test_thumbnails_keep_16_bit_grey(tmp_path: Path) -> None:
    Image.fromarray(np.full((50, 50), 32768, np.uint16)).save(tmp_path / "grey.png")
    assert decode(html.thumbnail(tmp_path / "grey.png", 112)).getpixel((20, 20)) == pytest.approx((127, 127, 127), abs=3)


def test_what_is_no_image_becomes_a_placeholder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Image.new("RGB", (300, 300)).save(tmp_path / "whole.png")
    (tmp_path / "torn.png").write_bytes((tmp_path / "whole.png").read_bytes()[:200])
    (tmp_path / "svg.jpg").write_text('<svg xmlns="http://www.w3.org/2000/svg"/>')
    (tmp_path / "script.eps").write_text("%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n")
    (tmp_path / "empty.jpg").touch()
    for name in ("missing.jpg", "torn.png", "svg.jpg", "script.eps", "empty.jpg", "."):
        assert html.thumbnail(tmp_path / name, 64).startswith("data:image/svg+xml"), name
    monkeypatch.setattr(html, "PIXELS", 80_000)  # as a 50-megapixel PNG would be
    assert html.thumbnail(tmp_path / "whole.png", 64).startswith("data:image/svg+xml")


def test_thumbnails_start_no_other_program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Image.new("RGB", (40, 40)).save(tmp_path / "script.eps")
    started = []
    monkeypatch.setattr("PIL.EpsImagePlugin.Ghostscript", lambda *args, **kwargs: started.append(args))
    html.thumbnail(tmp_path / "script.eps", 64)
    assert not started


def test_real_photographs_make_a_page(shared: Path, tmp_path: Path) -> None:
    photos = sorted((shared / "data" / "large_jpegs").rglob("*.jp*g"))[:6]
    assert photos
    html.write_page(tmp_path / "r.html", "t", examples=[html.Example(photo, "a", "b", 0.9) for photo in photos])
    page = Page(tmp_path / "r.html")
    assert_harmless_and_complete(page)
    assert sum(attrs.get("src", "").startswith("data:image/jpeg") for _, attrs in page.tags) == len(photos)
    assert len(page.html) < 150_000
