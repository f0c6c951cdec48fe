"""Points that match are joined by lines on the pages of retrieve.py and discover.py, where they lie in both pictures."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lib.reports import html, query_pages
from lib.reports.review_page import Pair, Side, write_review_page
from tests.reports.test_browser import BROWSER, KEYS, Ask, ask  # noqa: F401

pytestmark = pytest.mark.skipif(BROWSER is None, reason="no Chromium here")
POINTS = [[0.5, 0.5, 0.25, 0.5], [0.75, 0.25, 0.75, 0.75]]


@pytest.fixture
def photographs(tmp_path: Path) -> list[Path]:
    """One picture twice as wide as high, and one twice as high as wide."""
    for name, size in (("a.jpg", (200, 100)), ("b.jpg", (100, 200))):
        Image.fromarray(np.zeros((size[1], size[0], 3), np.uint8)).save(tmp_path / name)
    return [tmp_path / "a.jpg", tmp_path / "b.jpg"]


def test_lines_of_the_review_page_begin_and_end_on_the_photographs(
    ask: Ask,  # noqa: F811
    photographs: list[Path],
    tmp_path: Path,
) -> None:
    sides = [Side(path.name, path, f"new_{i}", 1) for i, path in enumerate(photographs)]
    write_review_page(tmp_path / "review.html", [Pair(*sides, True, 0.5, POINTS), Pair(*sides, True, 0.5)])
    found = ask(
        tmp_path / "review.html",
        KEYS
        + """
        const frame = page.querySelector("#lines").getBoundingClientRect();
        const lines = () => [...page.querySelectorAll("#lines line")];
        const at = (line, end) => [+line.getAttribute("x" + end) + frame.left, +line.getAttribute("y" + end) + frame.top];
        view.draw();
        const boxes = ["#a", "#b"].map((side) => page.querySelector(side).getBoundingClientRect());
        const drawn = lines().map((line) => [at(line, 1), at(line, 2)]);
        const state = page.querySelector("#state").textContent;
        press("p"); const hidden = lines().length; press("p"); const again = lines().length;
        press("ArrowRight");
        return { drawn, boxes: boxes.map((b) => [b.left, b.top, b.width, b.height]), hidden, again, without: lines().length, state,
                 button: page.querySelector("#points").hidden };
        """,
    )
    for line, (x, y, u, v) in zip(found["drawn"], POINTS, strict=True):
        for end, point, (left, top, width, height) in zip(line, ((x, y), (u, v)), found["boxes"]):
            longer = max(width, height)
            expected = left + width / 2 + (point[0] - 0.5) * longer, top + height / 2 + (point[1] - 0.5) * longer
            assert end == pytest.approx(expected, abs=1)
    assert found["boxes"][0][2] == pytest.approx(2 * found["boxes"][0][3], rel=0.02)  # the pictures were there
    assert (found["hidden"], found["again"], found["without"], found["button"]) == (0, 2, 0, True)
    assert found["state"] == "in one cluster; one individual: 50%; 2 points match"


@pytest.mark.parametrize("per_page", [100, 1])
def test_lines_of_the_retrieval_page_join_two_pictures(
    ask: Ask,  # noqa: F811
    photographs: list[Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    per_page: int,
) -> None:
    monkeypatch.setattr(query_pages, "PER_PAGE", per_page)
    answers = [html.Answer("w_1", 0.9, 0.8, photographs[1], POINTS), html.Answer("w_2", 0.5, 0.1, photographs[1])]
    queries = [html.Query(f"q{i}", photographs[0], answers) for i in range(2)]
    query_pages.write_query_pages(tmp_path / "retrieval.html", html.Page("t"), queries, "cosine similarity")
    found = ask(
        tmp_path / "retrieval.html",
        """
        const query = page.querySelector(".query"), figures = query.querySelectorAll(".points figure");
        const ends = ["x1", "y1", "x2", "y2"];
        const [first, second] = figures[0].querySelectorAll("image, use");
        return { figures: figures.length, said: figures[0].textContent.trim(), second: second.getAttribute("x"),
                 lines: [...figures[0].querySelectorAll("line")].map((line) => ends.map((name) => +line.getAttribute(name))) };
        """,
    )
    assert (found["figures"], found["said"], found["second"]) == (1, "w_1: 2 points match", "232")
    assert np.allclose(found["lines"], [[224 * x, 224 * y, 232 + 224 * u, 224 * v] for x, y, u, v in POINTS], atol=0.1)
