"""Pages in a real browser: they load nothing, raise nothing, sort and filter, and show hostile labels as text.

A page is opened from disk in a frame of a page of ours, whose script clicks and types; the results are read from the printed DOM.
"""

import csv
import html as escaping
import io
import json
import os
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from lib.reports import html
from lib.reports.class_results import HeldOutScores, class_results
from lib.reports.review_page import Pair, Side, write_review_page
from lib.tables.table import Table
from lib.tables.target import ONE_LABEL
from tests.reports import HOSTILE

BROWSER = next((found for name in ("chromium", "chromium-browser", "google-chrome") if (found := shutil.which(name))), None)
pytestmark = pytest.mark.skipif(BROWSER is None, reason="no Chromium here")

FRAME = """<!doctype html><meta charset="utf-8">
<iframe src="{page}" style="width:{width}px;height:900px"></iframe><pre id="out"></pre>
<script>
document.querySelector("iframe").addEventListener("load", () => {{
  const frame = document.querySelector("iframe"), page = frame.contentDocument, view = frame.contentWindow;
  let out;
  try {{ out = (() => {{ {script} }})(); }} catch (error) {{ out = String(error); }}
  document.querySelector("#out").textContent = JSON.stringify(out);
}});
</script>"""

Ask = Callable[..., Any]


@pytest.fixture
def ask(tmp_path: Path) -> Ask:
    """Return a function that evaluates a script, with `page` and `view` of the opened page, and returns its JSON value."""

    def run(page: Path, script: str, width: int = 1200, dark: bool = False) -> Any:
        frame = tmp_path / "frame.html"
        frame.write_text(FRAME.format(page=page.as_uri(), width=width, script=script), encoding="utf-8")
        command = [str(BROWSER), "--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking"]
        command += ["--allow-file-access-from-files", "--enable-logging=stderr", f"--user-data-dir={tmp_path / 'profile'}"]
        command += [f"--blink-settings=preferredColorScheme={0 if dark else 1}"]
        command += ["--virtual-time-budget=20000", "--dump-dom", frame.as_uri()]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, env={**os.environ, "HOME": str(tmp_path)})
        assert "CONSOLE" not in done.stderr, [line for line in done.stderr.splitlines() if "CONSOLE" in line]
        found = re.search(r'<pre id="out">(.*?)</pre>', done.stdout, re.DOTALL)
        assert found is not None, done.stderr[-500:]
        return json.loads(escaping.unescape(found[1]))

    return run


def write_run(folder: Path, classes: list[str], images: int = 3) -> Path:
    """Write the page of a classifier with `images` per class that is wrong on a fifth of them."""
    rng = np.random.default_rng(0)
    targets = np.repeat(np.arange(len(classes)), images)
    answers = np.where(rng.random(len(targets)) < 0.2, rng.integers(0, len(classes), len(targets)), targets)
    logits = rng.normal(0, 0.5, (len(targets), len(classes))).astype(np.float32)
    logits[np.arange(len(targets)), answers] += 4
    photo = folder / "photo.jpg"
    Image.fromarray(rng.integers(0, 256, (200, 300, 3), dtype=np.uint8)).save(photo)
    labels = [(classes[t],) for t in targets]
    names = [f"{i}.jpg" for i in range(len(targets))]
    table = Table(np.arange(len(targets)), names, [photo] * len(names), labels, tuple(classes), None, ONE_LABEL)
    shown = class_results(HeldOutScores(table, logits))
    path = folder / "report.html"
    headline = html.Headline("accuracy", float(np.mean(answers == targets)), len(targets), (0.7, 0.9))
    html.write_page(path, html.Page("run", headline, {}, shown.figures, shown.tables), shown.mistakes)
    return path


def test_a_page_sorts_and_filters_and_loads_nothing(ask: Ask, tmp_path: Path) -> None:
    page = write_run(tmp_path, [f"class {i:02d}" for i in range(20)], images=10)
    found = ask(
        page,
        """
        const table = [...page.querySelectorAll("h2")].find((h) => h.textContent === "Classes").parentElement;
        const heads = [...table.querySelectorAll("thead th")].map((h) => h.textContent);
        const column = heads.indexOf("recall");
        const shown = () => [...table.querySelectorAll("tbody tr")].filter((row) => !row.hidden);
        const values = () => shown().map((row) => row.cells[column].textContent);
        const button = table.querySelectorAll("thead button")[column];
        button.click(); const up = values(); button.click(); const down = values();
        const box = table.querySelector("input[type=search]");
        const type = (text) => { box.value = text; box.dispatchEvent(new view.Event("input")); return values(); };
        return { up, down, named: type("07").length, low: type("recall<0.8"), all: type("").length,
                 loaded: view.performance.getEntriesByType("resource").map((entry) => entry.name),
                 focusable: button.tabIndex, hint: box.placeholder };
        """,
    )
    up = [float(value) for value in found["up"]]
    assert up == sorted(up)
    down = [float(value) for value in found["down"]]
    assert down == sorted(down, reverse=True)
    assert found["named"] >= 1
    assert [float(value) for value in found["low"]] == [value for value in down if value < 0.8]
    assert 0 < len(found["low"]) < 20 == found["all"]
    assert found["loaded"] == []
    assert found["focusable"] == 0  # reached by the Tab key


def test_hostile_labels_stay_text(ask: Ask, tmp_path: Path) -> None:
    page = write_run(tmp_path, HOSTILE)
    found = ask(
        page,
        """
        return { scripts: page.scripts.length, strange: page.querySelectorAll("[onerror], img:not([src^='data:'])").length,
                 text: page.body.textContent };
        """,
    )
    assert (found["scripts"], found["strange"]) == (1, 0)
    assert "<script>alert(1)</script>" in found["text"]
    assert "{{ 7 * 7 }}" in found["text"]


@pytest.mark.parametrize("classes", [5, 20, 176, 4251])
def test_all_classes_are_searchable_and_fit_a_phone(ask: Ask, tmp_path: Path, classes: int) -> None:
    page = write_run(tmp_path, [f"whale {i:04d}" for i in range(classes)], images=3 if classes < 1000 else 1)
    assert page.stat().st_size < 5e6
    found = ask(
        page,
        """
        const table = [...page.querySelectorAll("h2")].find((h) => h.textContent === "Classes").parentElement;
        const box = table.querySelector("input[type=search]");
        if (box) { box.value = "LAST"; box.dispatchEvent(new view.Event("input")); }
        const rows = [...table.querySelectorAll("tbody tr")];
        const named = rows.filter((row) => !row.hidden && row.cells[1].textContent === "LAST").length;
        return { rows: rows.length, named, wide: page.documentElement.scrollWidth, view: view.innerWidth };
        """.replace("LAST", f"whale {classes - 1:04d}"),
        width=390,
    )
    assert found["rows"] == classes
    assert found["named"] == 1
    assert found["wide"] <= found["view"]  # nothing sticks out of a phone's screen


@pytest.fixture
def review(tmp_path: Path) -> tuple[Path, list[Pair]]:
    """A review page of 100 pairs, one of them with names that no CSV or HTML likes."""
    photo = tmp_path / "photo.jpg"
    Image.fromarray(np.zeros((60, 80, 3), np.uint8)).save(photo)
    names = [(f"a/{i}.jpg", f"b/{i}.jpg") for i in range(99)] + [('x,"y".jpg', "</script><b>.jpg")]
    pairs = [Pair(Side(a, photo, "new_1", 3), Side(b, photo, "w_2", 5), i % 2 == 0, 0.5) for i, (a, b) in enumerate(names)]
    write_review_page(tmp_path / "review.html", pairs)
    return tmp_path / "review.html", pairs


KEYS = """
const press = (key) => page.dispatchEvent(new view.KeyboardEvent("keydown", { key, bubbles: true }));
"""


def test_a_hundred_pairs_are_decided_by_keyboard(ask: Ask, review: tuple[Path, list[Pair]]) -> None:
    found = ask(
        review[0],
        KEYS
        + """
        const keys = [...Array(100).keys()].map((i) => "sdt"[i % 3]);
        keys.forEach(press);
        const all = view.decisions();
        press("u"); press("u"); press("d"); press("d");
        let saved = null;
        view.URL.createObjectURL = (blob) => { saved = blob.size; return "data:text/csv,"; };
        press("w");
        return { all, corrected: view.decisions(), saved, progress: page.querySelector("#progress").textContent,
                 shown: page.querySelector("#name-b").textContent, bold: page.querySelectorAll("b").length };
        """,
    )
    rows = list(csv.reader(io.StringIO(found["all"])))
    answers = ["same", "different", "unsure"]
    expected = [[pair.first.image, pair.second.image, answers[i % 3]] for i, pair in enumerate(review[1])]
    assert rows == [["first", "second", "answer"], *expected]
    expected[98][2] = expected[99][2] = "different"
    assert list(csv.reader(io.StringIO(found["corrected"])))[1:] == expected
    assert found["saved"] == len(found["corrected"].encode())
    assert "100 answered, all done" in found["progress"]
    assert (found["shown"], found["bold"]) == ("</script><b>.jpg", 0)


def test_closing_the_review_page_loses_nothing(ask: Ask, review: tuple[Path, list[Pair]]) -> None:
    first = ask(review[0], KEYS + 'press("s"); press("d"); return view.decisions();')
    again = ask(review[0], 'return { csv: view.decisions(), progress: page.querySelector("#progress").textContent };')
    assert again["csv"] == first
    assert first.count("\n") == 3
    assert again["progress"].startswith("Pair 3 of 100; 2 answered")


def test_a_page_is_readable_in_the_dark(ask: Ask, tmp_path: Path) -> None:
    page = write_run(tmp_path, ["a", "b", "c"])
    script = """
        const colours = (element) => ["color", "backgroundColor"].map((name) => view.getComputedStyle(element)[name]);
        const table = page.querySelector("tbody td");
        return [colours(page.body)[0], colours(page.body)[1], colours(table)[0]];
        """

    def brightness(colour: str) -> float:
        return sum(float(part) for part in re.findall(r"[\d.]+", colour)[:3]) / 3

    light, dark = ([brightness(colour) for colour in ask(page, script, dark=dark)] for dark in (False, True))
    assert light[1] - max(light[0], light[2]) > 100  # dark letters on a light page
    assert min(dark[0], dark[2]) - dark[1] > 100
