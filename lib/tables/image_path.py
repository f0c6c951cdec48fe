"""Paths of images that carry what their reading needs: several files as channels, another number of channels, a larger size limit.

Whatever takes paths of images takes these: checks, caches, datasets and pages need no further argument.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lib.config.recipe import Data
from lib.errors import FlukeError
from lib.tables.box import Box

MAX_PIXELS = 100_000_000
"""An image of this many pixels or more is refused before it is decoded, unless data.max_megapixels says otherwise."""

if TYPE_CHECKING:
    _Path = Path
else:
    _Path = type(Path())  # Path itself can't be subclassed before Python 3.12


class ImagePath(_Path):
    """A path with the way in which its image is read; paths derived from it are read in the usual way."""

    files: tuple[Path, ...] = ()
    """Of an image in several files: the file of each channel. The path itself is the first."""
    channels: int = 3
    """Channels of the decoded image."""
    max_pixels: int = MAX_PIXELS
    """Least number of pixels that is refused."""
    array: Path | None = None
    """Of an image whose pixels stood in a table: the file of all of these (lib/tables/pixels.py). The path itself is no file."""
    row: int = 0
    """Its position in `array`."""
    damaged: bool = False
    """Whether the file is decoded as far as it goes, and the rest stays grey."""
    box: Box | None = None
    """The part that pages show and local matching reads; a dataset has its boxes beside the paths."""

    def __reduce__(self) -> tuple[Any, ...]:
        about = str(self), self.channels, self.max_pixels, tuple(map(str, self.files)), self.array, self.row, self.damaged
        return (make_image_path, about) if self.box is None else (cut_path, (make_image_path(*about), self.box))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Path) and bool(super().__eq__(other)) and self.box == box_of(other)

    def __hash__(self) -> int:
        return super().__hash__() if self.box is None else hash((super().__hash__(), self.box))


def make_image_path(
    path: str | Path,
    channels: int,
    max_pixels: int,
    files: Sequence[str | Path] = (),
    array: Path | None = None,
    row: int = 0,
    damaged: bool = False,
) -> ImagePath:
    """Return `path` as one that is read so."""
    made = ImagePath(path)
    made.channels, made.max_pixels, made.files = channels, max_pixels, tuple(Path(file) for file in files)
    made.array, made.row, made.damaged = array, row, damaged
    return made


def cut_path(path: Path, box: Box | None) -> Path:
    """Return `path` with the part of its image that is read, None for the whole image."""
    if box is None:
        return path
    made = _copy(path)
    made.box = box
    return made


def salvage_path(path: Path) -> ImagePath:
    """Return `path` as one of a damaged file, which is decoded as far as it goes."""
    made = _copy(path)
    made.damaged = True
    return made


def _copy(path: Path) -> ImagePath:
    fields = ("channels", "max_pixels", "files", "array", "row", "damaged")
    made = make_image_path(path, *(getattr(path, name, getattr(ImagePath, name)) for name in fields))
    made.box = box_of(path)
    return made


def box_of(path: Path) -> Box | None:
    """Return the part of an image that is read; None for the whole image."""
    return getattr(path, "box", None)


def read_as(paths: Sequence[Path], data: Data) -> list[Path]:
    """Return the paths of single files, to be read as the recipe says. Raises FlukeError where an image is several files."""
    if isinstance(data.channels, list):
        raise FlukeError(f"data.channels: images of {len(data.channels)} files each are named by a table; name one.")
    limit = max_pixels(data)
    if data.channels == 3 and limit == MAX_PIXELS:
        return list(paths)
    return [make_image_path(path, data.channels, limit) for path in paths]


def stack_files(channels: Sequence[Sequence[Path]], data: Data) -> list[Path]:
    """Return a path for each image, of which `channels` holds the file of each channel."""
    return [make_image_path(files[0], len(files), max_pixels(data), files) for files in zip(*channels)]


def files_of(path: Path) -> tuple[Path, ...]:
    """Return the files of an image, one for most."""
    return getattr(path, "files", ()) or (path,)


def parts_of(path: Path) -> list[Path]:
    """Return the files of an image, each with the size limit of the image; the path itself where it is one file, or none."""
    if not isinstance(path, ImagePath) or not path.files:
        return [path]
    return [make_image_path(file, 1, path.max_pixels, damaged=path.damaged) for file in path.files]


def count_channels(data: Data) -> int:
    """Return the number of channels of the recipe's images."""
    return len(data.channels) if isinstance(data.channels, list) else data.channels


def max_pixels(data: Data) -> int:
    """Return the number of pixels from which on the recipe refuses an image."""
    return round(data.max_megapixels * 1e6)
