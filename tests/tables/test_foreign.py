"""Files that aren't what their names say are told by their first bytes."""

import gzip
import zipfile
from pathlib import Path

import pytest
from PIL import Image

from lib.errors import FlukeError
from lib.images.decoding import decode
from lib.tables.readers import read_columns

TABLE = "image,label\na.png,ant\nb.png,bee\n"
POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a21\nsize 12345\n"
PAGE = b"\n<!DOCTYPE html>\n<html><head><title>Log in</title></head></html>\n"


def archive(path: Path, write: str = TABLE) -> bytes:
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("train.csv", write)
    return path.read_bytes()


@pytest.mark.parametrize(("kind", "said"), [
    ("zip", "is a ZIP archive"), ("gzip", "is a gzip archive; unpack it"), ("utf-16", "is UTF-16 text; save it as UTF-8"),
    ("utf-16-le", "is UTF-16 text; save it as UTF-8"), ("png", "is a PNG image, not a table"),
    ("pointer", "is a Git LFS pointer; fetch the file itself"), ("page", "is a web page"),
    ("latin-1", r"not UTF-8 text \(byte 0xe9\)"),
])  # fmt: skip
def test_a_table_that_is_something_else(tmp_path: Path, kind: str, said: str) -> None:
    path = tmp_path / "train.csv"
    Image.new("RGB", (4, 4)).save(tmp_path / "a.png")
    made = {"zip": archive(tmp_path / "t.zip"), "gzip": gzip.compress(TABLE.encode()), "png": (tmp_path / "a.png").read_bytes()}
    made |= {"pointer": POINTER, "page": PAGE}
    path.write_bytes(made[kind] if kind in made else TABLE.replace("ant", "fourmi\u00e9").encode(kind))
    with pytest.raises(FlukeError, match=rf"train.csv: {said}"):
        read_columns(path, {"image": "image"})


def test_nuls_of_a_file_that_was_not_copied_whole(tmp_path: Path) -> None:
    """Without the check the last label would be "be" and NULs, a class of its own."""
    path = tmp_path / "train.csv"
    path.write_bytes(TABLE.encode()[:-2] + bytes(50))
    with pytest.raises(FlukeError, match=f"train.csv: holds NUL bytes, from byte {len(TABLE) - 2} on"):
        read_columns(path, {"image": "image"})
    path.write_text(TABLE)
    assert read_columns(path, {"label": "label"})[0] == {"label": ["ant", "bee"]}


@pytest.mark.parametrize(
    ("content", "said"), [(POINTER, "is a Git LFS pointer"), (PAGE, "is a web page"), (b"GIF9", "begins with")]
)
def test_an_image_that_is_something_else(tmp_path: Path, content: bytes, said: str) -> None:
    (tmp_path / "a.jpg").write_bytes(content)
    with pytest.raises(FlukeError, match=f"a.jpg: .*{said}"):
        decode(tmp_path / "a.jpg")
