"""With data.mirror_identities an individual's mirror image is a stranger: no photograph and no class centre answers for it."""

import numpy as np
import pytest

from lib.config.recipe import Retrieval
from lib.retrieval.class_centres import make_class_centres
from lib.retrieval.gallery import build_gallery
from lib.retrieval.queries import Queries
from lib.retrieval.rows import GalleryRows
from lib.retrieval.search import search_identities

CLASSES = ("a", "b", "c")


@pytest.mark.parametrize("beside", [False, True], ids=["alone", "both flanks"])
@pytest.mark.parametrize("weight", [0.0, 0.5, 1.0])
def test_a_query_that_shows_a_known_animal_only_mirrored_is_new(beside: bool, weight: float) -> None:
    """`beside`: predict.tta mirror, by which an embedding is that of the image beside that of its mirror image."""
    upright, flipped = np.split(np.eye(6, dtype=np.float32), 2)  # a perfect network: each flank of each animal its own direction

    def embed(one: np.ndarray, other: np.ndarray) -> np.ndarray:
        return np.hstack([one, other]) / np.sqrt(2) if beside else one

    gallery = build_gallery(embed(upright, flipped), GalleryRows(np.arange(3), CLASSES, CLASSES), "m")
    centres = make_class_centres(np.concatenate([upright, flipped]), CLASSES, mirrored=True, mirror_tta=beside)
    asked = np.concatenate([embed(upright, flipped), embed(flipped, upright)])
    found = search_identities(gallery, Queries(asked), Retrieval(centre_weight=weight), 1, centres._replace(line=(0.0, 1.0)))
    assert found.names[:3, 0].tolist() == list(CLASSES)
    assert found.best_scores == pytest.approx([1, 1, 1, 0, 0, 0], abs=1e-6)  # any threshold between calls the mirrored ones new
