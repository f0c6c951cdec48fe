"""scripts/prepare.py --kaggle, with a recorded client in place of Kaggle's."""

import os
import shutil
import sys
from pathlib import Path

import pytest

from lib.errors import FlukeError
from scripts import prepare
from tests.scripts.test_prepare import images, table

CLIENT = """#!{python}
import shutil, sys
from pathlib import Path
assert sys.argv[1:5] == ["competitions", "download", "leaves", "-p"], sys.argv
if Path({archive!r}).exists():
    shutil.copy({archive!r}, sys.argv[5])
else:
    print("Downloading 12%", end="\\r", file=sys.stderr)
    print("403 - Forbidden - You must accept this competition's rules")
    sys.exit(1)
"""


@pytest.fixture
def archive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The path of the archive that an executable `kaggle` hands out, once it is there."""
    bin_ = tmp_path / "bin"
    bin_.mkdir()
    (bin_ / "kaggle").write_text(CLIENT.format(python=sys.executable, archive=str(tmp_path / "server/leaves.zip")))
    (bin_ / "kaggle").chmod(0o755)
    monkeypatch.setenv("PATH", f"{bin_}{os.pathsep}{os.environ['PATH']}")
    return tmp_path / "server/leaves.zip"


def test_a_contest_is_downloaded_unpacked_and_described(archive: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = tmp_path / "files"
    images(files, *[f"train/{i}.png" for i in range(8)], *[f"test/{i}.png" for i in range(8, 10)])
    shutil.make_archive(str(files / "train"), "zip", files, "train")  # an archive within the archive
    shutil.make_archive(str(files / "test"), "gztar", files, "test")
    shutil.rmtree(files / "train")
    shutil.rmtree(files / "test")
    table(files / "train.csv", "image label", [(f"{i}.png", "ab"[i % 2]) for i in range(8)])
    table(files / "sample_submission.csv", "image label", [(f"{i}.png", "a") for i in range(8, 10)])
    shutil.make_archive(str(archive.with_suffix("")), "zip", files)
    for _ in range(2):
        text = prepare.main([str(tmp_path / "leaves"), "--kaggle", "leaves", "--out", str(tmp_path / "recipe.yaml")])
        assert 'image_dir: "train"' in text
        left = {path.name for path in (tmp_path / "leaves").iterdir()}
        assert left == {"train", "test", "train.csv", "sample_submission.csv"}
        (tmp_path / "recipe.yaml").unlink()
        archive.unlink(missing_ok=True)  # the second time nothing is downloaded
    assert "has files already; nothing is downloaded" in capsys.readouterr().out


def test_what_the_client_says_and_a_damaged_archive_are_sentences(archive: Path, tmp_path: Path) -> None:
    command = [str(tmp_path / "leaves"), "--kaggle", "leaves", "--out", str(tmp_path / "recipe.yaml")]
    with pytest.raises(
        FlukeError, match="Kaggle's client says: 403 - Forbidden - You must accept this competition's rules; the comm"
    ):
        prepare.main(command)
    archive.parent.mkdir()
    archive.write_bytes(b"PK cut short")
    with pytest.raises(FlukeError, match=r"leaves.zip: can't be unpacked .*; delete it to download it again"):
        prepare.main(command)
    assert (tmp_path / "leaves/leaves.zip").exists()
