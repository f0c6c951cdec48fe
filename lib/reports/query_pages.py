"""The pages of a retrieval's queries: PER_PAGE on each, so that any number of them opens at once.

A single page is one file. Of several the further ones lie in a folder beside the first, with a list of all queries, and each image
once as a file.
"""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from lib.files import atomic_write, write_text
from lib.reports.html import Answer, Page, Query, render
from lib.reports.thumbnails import placeholder, thumbnail, thumbnail_bytes
from lib.tables.image_path import box_of

PER_PAGE = 100
SIDE = 224
"""Pixels of a picture: what networks see, and enough to compare marks side by side."""
LIST = "all.html"


def write_query_pages(path: Path, page: Page, queries: Sequence[Query], score: str) -> None:
    """Write pages that show each query image beside its answers; `score` names the unit of their scores ("cosine similarity").

    `path` is the first, with all that `page` holds; further ones are in the folder <stem>_pages beside it, which is replaced.
    Mistakes come first, the most confident first; without true names, the least certain queries come first.
    """
    ordered = sorted(queries, key=_sort_key)
    parts = [ordered[i : i + PER_PAGE] for i in range(0, len(ordered), PER_PAGE)] or [[]]
    folder = path.with_name(f"{path.stem}_pages")
    names = [path.name, *(f"page-{number:04d}.html" for number in range(2, len(parts) + 1))]
    about = {"total": len(ordered), "known": sum(query.truth is not None for query in ordered), "score": score}
    kept = {folder / name for name in names[1:]}
    if len(parts) > 1:
        files = _write_pictures(folder, [image for query in ordered for image in _images_of(query)])
        kept |= {folder / LIST, *(folder / name for name in files.values())}
        pictures = {"files": True, "ids": {}, "picture_source": "data: 'self' file:", "images": files}
        addresses = [f"../{names[0]}", *names[1:]]
        further = Page(page.title, subtitle=page.subtitle)
        for number, part in enumerate(parts[1:], 2):
            more = {"pages": addresses, "number": number, "list_of_all": LIST}
            write_text(folder / names[number - 1], render("retrieval.html.j2", further, queries=part, **pictures, **more, **about))
        listed = [(addresses[i // PER_PAGE], i % PER_PAGE + 1, query) for i, query in enumerate(ordered)]
        write_text(folder / LIST, render("queries.html.j2", further, listed=listed, first=addresses[0]))
        pictures["images"] = {image: f"{folder.name}/{name}" for image, name in files.items()}
    else:
        images = {image: thumbnail(image, SIDE) for image in dict.fromkeys(i for query in ordered for i in _images_of(query))}
        pictures = {"files": False, "images": images, "ids": {image: f"i{number}" for number, image in enumerate(images)}}
    for stale in folder.glob("*") if folder.exists() else ():
        if stale not in kept:
            stale.unlink()
    addresses = [names[0], *(f"{folder.name}/{name}" for name in names[1:])]
    more = {"pages": addresses, "number": 1, "list_of_all": f"{folder.name}/{LIST}"}
    write_text(path, render("retrieval.html.j2", page, queries=parts[0], **pictures, **more, **about))


def _write_pictures(folder: Path, images: Sequence[Path]) -> dict[Path, str]:
    """Write each of the images once as a small file into `folder`; return their names."""
    unique = list(dict.fromkeys(images))

    def write(image: Path) -> str:
        content = thumbnail_bytes(image, SIDE)
        digest = hashlib.blake2b(os.fsencode(image) + repr(box_of(image)).encode(), digest_size=12).hexdigest()
        name = f"{digest}.jpg" if content is not None else "none.svg"
        with atomic_write(folder / name) as temporary:
            temporary.write_bytes(content or placeholder())
        return name

    folder.mkdir(parents=True, exist_ok=True)
    with ThreadPoolExecutor() as pool:  # Pillow decodes outside of Python's lock
        return dict(zip(unique, pool.map(write, unique)))


def _images_of(query: Query) -> Iterator[Path]:
    yield query.image
    yield from (answer.image for answer in query.answers if answer.image is not None)


def _sort_key(query: Query) -> tuple[int, float]:
    """Sort mistakes first (most confident first), then queries without a true name (least certain first), then correct ones."""
    best = query.answers[0] if query.answers else Answer("", -math.inf)
    certainty = best.score if best.probability is None else best.probability
    if query.truth is None:
        return 1, certainty
    return (2, certainty) if query.rank == 1 else (0, -certainty)
