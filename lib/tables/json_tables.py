"""Tables in JSON: COCO's images and annotations, lists of records, records by line, and columns.

COCO's form is that of FGVC, iNaturalist and iWildCam contests: `images` joined with `annotations` on the image's id, and
`category_name` from `categories`.
"""

from __future__ import annotations

import json
from functools import lru_cache
from pathlib import Path
from typing import Any

from lib.errors import FlukeError, first_few

Record = dict[str, Any]

IMAGE_IDS = ("image_id", "imageId")
"""Keys of an image's id in annotations, and in images without `id` (herbarium 2022, iMaterialist)."""
MOST_VALUES = 200
"""Values of a list that become a cell; longer ones are pixels or outlines."""


def read_records(path: Path) -> list[dict[str, str]]:
    """Return the rows of a JSON file as text by column, null as ""; short lists of values are separated by blanks, and longer
    ones, lists of lists and objects are left out.

    An image with several annotations of different categories is one row per annotation. Raises FlukeError.
    """
    changed = path.stat()
    return _read(path, changed.st_mtime_ns, changed.st_size)


@lru_cache(maxsize=4)  # the header and the columns of a table are asked for one after the other
def _read(path: Path, mtime: int, size: int) -> list[dict[str, str]]:
    return [{key: _text(value) for key, value in record.items() if _is_cell(value)} for record in parse(path)]


def parse(path: Path) -> list[Record]:
    """Return the rows of a JSON file with their values as they are. Raises FlukeError."""
    raw = path.read_bytes()
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError:
        text = raw.decode("latin-1")
    try:
        if path.suffix.lower() in (".jsonl", ".ndjson"):
            content: Any = [json.loads(line) for line in text.splitlines() if line.strip()]
        else:
            content = json.loads(text)
    except json.JSONDecodeError as error:
        raise FlukeError(f"{path}: not readable as JSON ({error}); save it again.") from None
    return _records(path, content)


def _records(path: Path, content: Any) -> list[Record]:
    if isinstance(content, dict) and isinstance(content.get("images"), list):
        return _join_coco(path, content)
    if isinstance(content, dict) and content and all(isinstance(column, dict) for column in content.values()):
        rows = dict.fromkeys(row for column in content.values() for row in column)  # pandas writes {column: {row: value}}
        return [{name: column.get(row) for name, column in content.items()} for row in rows]
    if isinstance(content, dict) and content and all(isinstance(column, list) for column in content.values()):
        return [dict(zip(content, values)) for values in zip(*content.values())]
    if isinstance(content, list) and all(isinstance(record, dict) for record in content):
        return content
    found = f"an object with {first_few(map(repr, content), 4)}" if isinstance(content, dict) else f"a {type(content).__name__}"
    raise FlukeError(f"{path}: is no table ({found}); a list of records, COCO's images and annotations, or columns are.")


def _join_coco(path: Path, content: dict[str, Any]) -> list[Record]:
    try:
        names = {}
        for category in content.get("categories", []):
            number = _first(category, "id", "category_id")
            names[number] = category.get("name", category.get("scientificName", number))
        of_image: dict[Any, list[Record]] = {}
        for annotation in content.get("annotations", []):
            joined = {key: value for key, value in annotation.items() if key not in ("id", *IMAGE_IDS)}
            if "category_id" in annotation:
                joined["category_name"] = names.get(annotation["category_id"], annotation["category_id"])
            of_category = of_image.setdefault(str(_first(annotation, *IMAGE_IDS)), [])
            if all(other.get("category_id") != joined.get("category_id") for other in of_category):  # boxes of one kind are one row
                of_category.append(joined)
        return [
            image | joined for image in content["images"] for joined in of_image.get(str(_first(image, "id", *IMAGE_IDS)), [{}])
        ]
    except (KeyError, TypeError, AttributeError) as error:
        raise FlukeError(f"{path}: looks like COCO's images and annotations, but lacks {error}; check the file.") from None


def _first(record: Record, *keys: str) -> Any:
    """Return the value of the first of `keys` that the record has. Raises KeyError."""
    return record[next((key for key in keys if key in record), keys[0])]


def _is_cell(value: Any) -> bool:
    if isinstance(value, list):
        return len(value) <= MOST_VALUES and all(isinstance(part, str | int | float) for part in value)
    return value is None or isinstance(value, str | int | float)


def _text(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, list):
        return " ".join(map(_text, value))
    return str(value).lower() if isinstance(value, bool) else str(value)
