"""Pages show everything they are given, load no other file and execute no label."""

import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from lib.reports import figures, html, query_pages
from lib.reports.class_tables import Mistake, class_table, confident_mistakes
from lib.reports.query_pages import write_query_pages
from tests.reports import HOSTILE


class ParsedPage(HTMLParser):
    """A parsed page: tags with their attributes, and the text outside scripts and styles."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.text = ""
        self.open_tag = ""
        self.html = path.read_text(encoding="utf-8")
        self.feed(self.html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, {name: value or "" for name, value in attrs}))
        self.open_tag = tag

    def handle_endtag(self, tag: str) -> None:
        self.open_tag = ""

    def handle_data(self, data: str) -> None:
        if self.open_tag not in ("script", "style"):
            self.text += data


def assert_self_contained(page: ParsedPage) -> None:
    """Check that no file is loaded, the only script is page.js, no label became a tag or an attribute, and links have targets."""
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
    paths = [tmp_path / f"{i}.jpg" for i in range(len(HOSTILE))]
    for i, path in enumerate(paths):
        Image.new("RGB", (300, 200), (20 * i, 90, 120)).save(path)
    return paths


def write_hostile_page(path: Path, photos: list[Path]) -> ParsedPage:
    n = len(HOSTILE)
    logits = 4 * np.eye(n)[::-1]
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    page = html.Page(
        title=HOSTILE[0],
        headline=html.Headline(HOSTILE[1], 0.5, 1234, (0.4, 0.6), HOSTILE[2]),
        metrics={HOSTILE[1]: float("nan"), "loss": 2.5},
        figures={HOSTILE[0]: figures.confusion_matrix(np.arange(n), logits.argmax(axis=1), HOSTILE)},
        tables={HOSTILE[1]: class_table(logits, np.arange(n), HOSTILE)},
        facts={HOSTILE[0]: {HOSTILE[1]: HOSTILE[2], "recipe": "a: 1\nb: </pre><script>alert(2)</script>"}},
    )
    html.write_page(path, page, confident_mistakes(photos, np.arange(n), probabilities, HOSTILE))
    return ParsedPage(path)


def test_page_shows_every_label_and_executes_none(tmp_path: Path, photos: list[Path]) -> None:
    page = write_hostile_page(tmp_path / "report.html", photos)
    assert_self_contained(page)
    for label in HOSTILE:
        assert label.replace("\x00", "") in page.text.replace("\x00", "").replace("\ufffd", ""), label
    assert "95% interval 0.4000 to 0.6000, 1,234 rows" in page.text
    assert "undefined" in page.text
    again = write_hostile_page(tmp_path / "again.html", photos)
    assert page.html == again.html


def test_empty_page(tmp_path: Path) -> None:
    html.write_page(tmp_path / "report.html", html.Page("empty"))
    assert_self_contained(ParsedPage(tmp_path / "report.html"))


def test_long_tables_are_cut_with_a_note(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table = pd.DataFrame({"class": [f"c{i}" for i in range(30)], "images": range(30), "recall": np.linspace(0, 1, 30)})
    monkeypatch.setattr(html, "MAX_ROWS", 20)
    html.write_page(tmp_path / "report.html", html.Page("t", tables={"Classes": table}))
    page = ParsedPage(tmp_path / "report.html")
    assert "The first 20 of 30 rows." in page.text
    assert "c19" in page.text
    assert "c20" not in page.text


def test_names_that_are_not_utf8_are_written(tmp_path: Path) -> None:
    html.write_page(tmp_path / "report.html", html.Page("caf\udce9.jpg"))  # a Latin-1 name as os.listdir returns it
    assert "caf?.jpg" in ParsedPage(tmp_path / "report.html").text


def query(photos: list[Path], i: int, truth: str | None, names: list[str], score: float = 0.5) -> html.Query:
    answers = [html.Answer(name, score - 0.01 * j, 0.5, photos[j] if j else None) for j, name in enumerate(names)]
    return html.Query(f"query{i}", photos[i], answers, truth)


def test_retrieval_page_shows_mistakes_first(tmp_path: Path, photos: list[Path]) -> None:
    queries = [
        query(photos, 0, "a", ["a", "b", HOSTILE[0], HOSTILE[1], HOSTILE[3]]),
        query(photos, 1, "a", ["b", "a"]),
        query(photos, 2, HOSTILE[1], ["b", "c"]),
        query(photos, 3, None, []),
    ]
    write_query_pages(tmp_path / "r.html", html.Page("nyala"), queries, "cosine similarity")
    page = ParsedPage(tmp_path / "r.html")
    assert_self_contained(page)
    order = [page.text.index(f"query{i}") for i in (1, 2, 3, 0)]
    assert order == sorted(order)
    assert page.text.count("found at rank 2") == page.text.count("not found") == page.text.count("✓ right") == 1
    assert "4 of 4 queries" in page.text
    assert HOSTILE[0] in page.text
    uses = [attrs["href"] for tag, attrs in page.tags if tag == "use"]
    assert len(uses) > len(set(uses)) == sum(tag == "image" for tag, _ in page.tags)  # each image is stored once


def test_every_query_is_on_a_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    photos = [tmp_path / f"{i}.png" for i in range(40)]
    for path in photos[1:]:  # the first is missing
        Image.fromarray(rng.integers(0, 256, (450, 300, 3), dtype=np.uint8)).save(path)
    queries = [query(photos, i, None, ["a", "b", "c"], i / 40) for i in range(40)]
    monkeypatch.setattr(query_pages, "PER_PAGE", 7)
    write_query_pages(tmp_path / "r.html", html.Page("t", metrics={"auroc": 0.5}), queries, "cosine similarity")
    pages = [tmp_path / "r.html", *sorted((tmp_path / "r_pages").glob("page-*.html"))]
    assert [re.findall(r"query(\d+)</bdi>", page.read_text()) for page in pages] == [
        [str(i) for i in range(start, min(start + 7, 40))] for start in range(0, 40, 7)
    ]
    assert "auroc" in pages[0].read_text()
    for page in [*pages, listed := tmp_path / "r_pages" / "all.html"]:
        links = {attrs["href"] for tag, attrs in ParsedPage(page).tags if tag == "a" and not attrs["href"].startswith("#")}
        assert all((page.parent / link.partition("#")[0]).exists() for link in links)
        pictures = [attrs["src"] for tag, attrs in ParsedPage(page).tags if tag == "img"]
        assert all((page.parent / name).exists() for name in pictures)
    pictures = [attrs["src"] for tag, attrs in ParsedPage(pages[-1]).tags if tag == "img"]
    assert len(pictures) == 3 * 5
    with Image.open(pages[-1].parent / pictures[0]) as picture:
        assert max(picture.size) == 224
    assert '<a href="page-0003.html#q2"><bdi>query15</bdi></a>' in listed.read_text()
    write_query_pages(tmp_path / "r.html", html.Page("t"), queries[:10], "cosine similarity")
    assert {path.name for path in (tmp_path / "r_pages").glob("*.html")} == {"all.html", "page-0002.html"}
    write_query_pages(tmp_path / "r.html", html.Page("t"), [], "cosine similarity")
    assert "0 of 0 queries" in ParsedPage(tmp_path / "r.html").text
    assert not list((tmp_path / "r_pages").glob("*"))


def test_page_with_real_photographs(shared: Path, tmp_path: Path) -> None:
    photos = sorted((shared / "data" / "large_jpegs").rglob("*.jp*g"))[:6]
    assert photos
    html.write_page(tmp_path / "r.html", html.Page("t"), [Mistake(photo, "a", "b", 0.9) for photo in photos])
    page = ParsedPage(tmp_path / "r.html")
    assert_self_contained(page)
    assert sum(attrs.get("src", "").startswith("data:image/jpeg") for _, attrs in page.tags) == len(photos)
    assert len(page.html) < 150_000
