"""What a newcomer meets in the first hour, from a zip of photographs on."""

import re
import resource
import signal
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from lib.config.schema import PATH
from lib.errors import FlukeError
from lib.files import atomic_write
from scripts import kfold, prepare, probe, train_classifier


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


@pytest.mark.parametrize("script", [train_classifier, kfold])
def test_a_dry_run_checks_the_sample_submission(script: object, arguments: Callable[..., list[str]], tmp_path: Path) -> None:
    """Of all test images, though it predicts few."""
    (tmp_path / "sample.csv").write_text("image,label\nnone.png,ant\n")
    argv = arguments(tmp_path / "run", data_sample_submission=tmp_path / "sample.csv", data_test_dir="images", train_limit_rows=8)
    with pytest.raises(FlukeError, match=r"sample.csv.*none.png"):
        script.main(argv)  # type: ignore[attr-defined]


def test_after_a_dry_run_comes_the_whole_run(
    arguments: Callable[..., list[str]], tmp_path: Path, capsys: pytest.CaptureFixture[str], no_report: None
) -> None:
    recipe = tmp_path / "mine.yaml"
    recipe.write_text("train: {epochs: 9}\n")
    train_classifier.main(["--cfg", str(recipe), *arguments(tmp_path / "dry", train_epochs=1, train_limit_rows=8)])
    said = capsys.readouterr().out
    assert "dry run (train.limit_rows): the sample submission fits; none is written" in said
    assert f"next: accelerate launch scripts/train_classifier.py --cfg {recipe} --out runs/first" in said
    assert not (tmp_path / "dry" / "submission.csv").exists()


def test_a_probes_page_says_what_was_fitted(arguments: Callable[..., list[str]], tmp_path: Path) -> None:
    probe.main(["--models", "test_resnet", *arguments(tmp_path / "probe", folds_n=2)])
    page = next((tmp_path / "probe").rglob("report.html")).read_text(encoding="utf-8")
    assert re.search(r"32 px, [^<]+ head on frozen features, on ", page), re.findall("32 px[^<]*", page)
    assert "epochs on" not in page
    assert ">from<" not in page


def test_a_limit_of_file_sizes_is_one_sentence(tmp_path: Path) -> None:
    """As `ulimit -f` and FAT32 have one; safetensors raises an error of its own."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))
    try:
        for write in (lambda path: path.write_bytes(b"x" * 5000), lambda path: save_file({"x": torch.zeros(2000)}, path)):
            with (
                pytest.raises(FlukeError, match=r"w: files can't be so large here .* \(what was saved before is intact\)"),
                atomic_write(tmp_path / "w") as temporary,
            ):
                write(temporary)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, ignored)
    assert list(tmp_path.iterdir()) == []
