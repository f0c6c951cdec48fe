"""What a newcomer meets in the first hour, from a zip of photographs on."""

import re
from pathlib import Path

import numpy as np
from PIL import Image

from lib.config.schema import PATH
from scripts import prepare


def test_editors_find_the_schema_of_a_recipe_that_lies_elsewhere(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for name in ("cat/1.png", "cat/2.png", "dog/1.png", "dog/2.png"):
        (tmp_path / "photos" / "train" / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (24, 24, 3), dtype=np.uint8)).save(tmp_path / "photos" / "train" / name)
    out = tmp_path / "mine" / "first.yaml"
    prepare.main([str(tmp_path / "photos"), "--out", str(out)])
    named = re.match(r"# yaml-language-server: \$schema=(\S+)\n", out.read_text())
    assert named is not None
    assert (out.parent / named[1]).resolve() == PATH.resolve()
