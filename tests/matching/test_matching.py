"""SIFT on made animals, whose spots tell them apart where a network that knows no animals can't."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

cv2 = pytest.importorskip("cv2", reason="the extra matching isn't installed")

import timm  # noqa: E402
import torch  # noqa: E402
from PIL import Image  # noqa: E402
from safetensors.torch import load_file  # noqa: E402
from scipy.sparse import csr_array  # noqa: E402

from lib.matching.geometry import find_inliers, match_keypoints  # noqa: E402
from lib.matching.keypoints import KeptImage, KeypointOptions, Keypoints, find_keypoints, load_keypoints  # noqa: E402
from lib.matching.scoring import _in_square, score_images, score_pair  # noqa: E402
from lib.retrieval import clustering  # noqa: E402
from lib.retrieval.discovery import Images, Known, group_images  # noqa: E402
from lib.retrieval.individual_folds import fold_frozen  # noqa: E402
from lib.retrieval.local_fusion import Fusion, LocalScores, fit_fusion  # noqa: E402
from lib.retrieval.pair_model import find_candidates  # noqa: E402
from lib.retrieval.similarity import normalize  # noqa: E402
from scripts import discover  # noqa: E402
from tests.matching.spots import SIDE, body, paint_spots  # noqa: E402
from tests.retrieval.test_discovery import population  # noqa: E402

OPTIONS = KeypointOptions(side=640, count=512)


@pytest.fixture(scope="module")
def animals(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[Path], np.ndarray]:
    return paint_spots(tmp_path_factory.mktemp("spots"), 8, 4)


def test_matches_of_one_animal_lie_where_the_perspective_says(tmp_path: Path) -> None:
    flank = body(np.random.default_rng(1))
    turned = cv2.warpPerspective(flank, np.array([[0.8, -0.2, 50], [0.2, 0.8, 10], [0, 0.0002, 1.0]]), (SIDE, SIDE))
    paths = [tmp_path / "a.png", tmp_path / "b.png"]
    for path, image in zip(paths, (flank, turned)):
        Image.fromarray(np.clip(image, 0, 255).astype(np.uint8)).convert("RGB").save(path)
    a, b = (find_keypoints(path, OPTIONS) for path in paths)
    found = find_inliers(a, b)
    assert len(found) > 30
    points = (
        np.concatenate([a.points[found[:, 0]], np.ones((len(found), 1))], axis=1)
        @ np.array([[0.8, -0.2, 50], [0.2, 0.8, 10], [0, 0.0002, 1.0]]).T
    )
    assert np.median(np.abs(points[:, :2] / points[:, 2:] - b.points[found[:, 1]])) < 1
    assert score_pair(a, b) == score_pair(a, b)
    nothing = Keypoints(np.empty((0, 2), np.float32), np.empty((0, 128), np.uint8), (SIDE, SIDE))
    assert match_keypoints(a, nothing).shape == (0, 2)
    assert score_pair(a, nothing) == 0
    assert np.isfinite(a.root).all()
    assert np.linalg.norm(a.root, axis=1) == pytest.approx(1, abs=1e-5)


def test_points_are_shown_where_they_are_in_wide_and_in_high_images() -> None:
    points = np.array([[0, 0], [200, 100], [50, 100]], np.float32)
    wide = Keypoints(points, np.empty((3, 128), np.uint8), (200, 100))
    assert _in_square(wide, np.array([0, 1, 2])).tolist() == [[0, 0.25], [1, 0.75], [0.25, 0.75]]
    high = Keypoints(points[:, ::-1], np.empty((3, 128), np.uint8), (100, 200))
    assert _in_square(high, np.array([1])).tolist() == [[0.75, 1]]


def test_keypoints_outside_a_mask_are_left_out_and_the_picture_is_untouched(
    animals: tuple[list[Path], np.ndarray], tmp_path: Path
) -> None:
    path = animals[0][0]
    mask = np.zeros((SIDE, SIDE), np.uint8)
    mask[:, : SIDE // 2] = 255
    Image.fromarray(mask).save(tmp_path / f"{path.stem}.png")
    every = find_keypoints(path, KeypointOptions(640, 10_000))
    inside = find_keypoints(path, KeypointOptions(640, 10_000, tmp_path))
    assert inside.points[:, 0].max() < SIDE // 2 + 1 < every.points[:, 0].max()
    kept = {tuple(point) for point in every.points.tolist()}
    assert {tuple(point) for point in inside.points.tolist()} <= kept  # found in the same picture
    assert len(find_keypoints(path, KeypointOptions(640, 50)).points) == 50


def test_keypoints_are_found_once_per_image(animals: tuple[list[Path], np.ndarray], tmp_path: Path) -> None:
    first = load_keypoints(KeptImage(animals[0][0], "hash", tmp_path), OPTIONS)
    again = load_keypoints(KeptImage(Path("gone.png"), "hash", tmp_path), OPTIONS)
    assert (again.descriptors == first.descriptors).all()
    assert len(list(tmp_path.iterdir())) == 1
    (file,) = tmp_path.iterdir()
    file.write_bytes(b"damaged")
    assert (load_keypoints(KeptImage(animals[0][0], "hash", tmp_path), OPTIONS).points == first.points).all()


def all_pairs(n: int) -> np.ndarray:
    return np.stack(np.triu_indices(n, 1), axis=1)


def top_1(pairs: np.ndarray, values: np.ndarray, labels: np.ndarray, queries: np.ndarray | slice = slice(None)) -> float:
    scores = np.full((len(labels), len(labels)), -np.inf)
    scores[pairs[:, 0], pairs[:, 1]] = scores[pairs[:, 1], pairs[:, 0]] = values
    return float(np.mean((labels[scores.argmax(axis=1)] == labels)[queries]))


def look_at_pixels(paths: list[Path]) -> np.ndarray:
    """Return grey values at 8 x 8 pixels, (n, 64)."""
    return np.stack([np.asarray(Image.open(path).convert("L").resize((8, 8)), np.float64).ravel() for path in paths])


def fused_against_alone(
    features: Callable[[list[Path]], np.ndarray], individuals: int, photographs: int, folder: Path
) -> tuple[float, float]:
    """Return the top-1 by the cosine of whitened features alone, and by the cosine with SIFT."""
    paths, labels = paint_spots(folder / "spots", individuals, photographs)
    folds = [fold for fold, _ in fold_frozen(Images.of(features(paths)), labels)]
    vectors = np.concatenate([fold.images.embeddings for fold in folds], axis=1) / np.sqrt(3)
    every = np.arange(len(paths))
    pairs = find_candidates(Images.of(vectors), every, every, 30)
    local = score_images([KeptImage(path, "", folder / "keypoints") for path in paths], pairs, OPTIONS, 2)
    fusion = fit_fusion(folds, LocalScores(np.sort(pairs, axis=1), local), len(paths))
    assert fusion.ratio > 0
    cosines = np.einsum("pd,pd->p", vectors[pairs[:, 0]], vectors[pairs[:, 1]])
    return top_1(pairs, cosines, labels), top_1(pairs, fusion.score_pairs(cosines, local), labels)


def test_spots_are_matched_where_grey_values_are_lost(tmp_path: Path) -> None:
    alone, fused = fused_against_alone(look_at_pixels, 10, 4, tmp_path)
    assert alone < 0.6
    assert fused >= 0.95


@pytest.mark.slow
def test_sixty_animals_are_told_apart_by_their_spots(shared: Path, tmp_path: Path) -> None:
    """A frozen network of ImageNet alone, and with SIFT, for 30 of 360 photographs among all."""
    paths, labels = paint_spots(tmp_path / "spots", 60, 6)
    network = timm.create_model("tf_efficientnet_lite0", num_classes=0).eval()
    network.load_state_dict(load_file(shared / "weights" / "efficientnet_lite0.safetensors"), strict=False)
    pixels = torch.stack([torch.from_numpy(np.array(Image.open(path).resize((96, 96)))) for path in paths]).permute(0, 3, 1, 2)
    with torch.inference_mode():
        features = np.concatenate([network(part / 127.5 - 1).numpy() for part in pixels.split(32)])
    images = Images.of(normalize(features))
    folds = [replace(fold, images=images) for fold, _ in fold_frozen(Images.of(look_at_pixels(paths)), labels)]
    every, queries = np.arange(360), np.arange(0, 360, 12)
    found = [find_candidates(images, every, every, 8), find_candidates(images, queries, every, 359)]
    pairs = np.unique(np.sort(np.concatenate(found), axis=1), axis=0)
    kept = [KeptImage(path, "", tmp_path / "keypoints") for path in paths]
    local = score_images(kept, pairs, KeypointOptions(640, 256), 2)
    fusion = fit_fusion(folds, LocalScores(pairs, local), 360)
    cosines = np.einsum("pd,pd->p", images.embeddings[pairs[:, 0]], images.embeddings[pairs[:, 1]])
    assert top_1(pairs, cosines, labels, queries) < 0.6
    assert top_1(pairs, fusion.score_pairs(cosines, local), labels, queries) >= 0.95


@pytest.mark.parametrize("says", ["nothing", "something"])
def test_a_local_score_that_adds_nothing_gets_no_weight(says: str) -> None:
    rng = np.random.default_rng(0)
    vectors, labels = population(40, 6, 5, noise=1.0)
    folds = [fold for fold, _ in fold_frozen(Images.of(vectors), labels)]
    pairs = all_pairs(len(labels))
    same = labels[pairs[:, 0]] == labels[pairs[:, 1]]
    values = rng.normal(size=len(pairs)) + (2.0 * same if says == "something" else 0)
    fusion = fit_fusion(folds, LocalScores(pairs, values), 20)
    assert (fusion.ratio > 0) == (says == "something")


def test_the_scores_that_are_fitted_are_those_that_answer() -> None:
    """What is added to sums of cosines, also with a known individual, is what the fitted similarity says of the pairs."""
    vectors = Images.of(np.eye(4)[[0, 0, 1, 1, 2]] * 0.8 + 0.2)
    scores = LocalScores(np.array([[0, 2], [1, 2], [2, 3], [3, 4]]), np.array([3.0, 1.0, 2.0, 5.0]))
    assert scores.find(np.array([[2, 0], [3, 2], [0, 4]])).tolist()[:2] == [3.0, 2.0]
    assert np.isnan(scores.find(np.array([[0, 4]]))).all()
    fusion = Fusion(0.5, (1.0, 0.2), {})
    elements = np.array([0, 0, 1, 2, -1])  # images 0 and 1 are of the known individual 0, image 4 isn't asked
    added = fusion.additions(vectors.embeddings, scores, elements, 1, 3).toarray()
    cosines = np.einsum("pd,pd->p", vectors.embeddings[scores.pairs[:, 0]], vectors.embeddings[scores.pairs[:, 1]])
    similar = fusion.score_pairs(cosines, scores.values) - cosines
    assert added[0, 1] == pytest.approx(similar[0] + similar[1])
    assert added[1, 2] == added[2, 1] == pytest.approx(similar[2])
    assert added[0, 2] == 0
    assert fusion.score_pairs(np.array([0.3]), np.array([np.nan])).tolist() == [0.3]
    known = Known.of(vectors.take(np.array([0, 1])), np.array(["a", "a"]))
    images = vectors.take(np.array([2, 3]))
    merged = group_images(images, known, added=csr_array(added)).merges
    pair = images.embeddings[0] @ images.embeddings[1] + similar[2]
    assert merged.similarities[0] == pytest.approx(pair)
    neighbours = pytest.MonkeyPatch()
    with neighbours.context() as patch:
        patch.setattr(clustering, "DENSE", 0)
        again = group_images(images, known, added=csr_array(added)).merges
    assert again.similarities == pytest.approx(merged.similarities)


def test_discover_groups_by_points_that_match(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lib.retrieval.pseudo_tests.KEPT", (1.0,))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    paths, labels = paint_spots(tmp_path / "spots", 10, 4)
    is_test = np.arange(len(paths)) % 4 == 3
    table = pd.DataFrame({"image": [path.name for path in paths], "label": labels})
    table[~is_test].to_csv(tmp_path / "train.csv", index=False)
    table[is_test].to_csv(tmp_path / "test.csv", index=False)
    torch.manual_seed(0)
    torch.save(timm.create_model("resnet10t").state_dict(), tmp_path / "weights.pth")
    options = [
        "--model",
        "resnet10t",
        "--weights",
        str(tmp_path / "weights.pth"),
        "--data.root",
        str(tmp_path),
        "--data.size",
        "32",
    ]
    options += ["--data.image_dir", "spots", "--data.test_csv", "test.csv", "--data.workers", "0"]
    found = {}
    for local in ("none", "sift"):
        out = tmp_path / local
        result = discover.main([*options, "--out", str(out), "--retrieval.local", local, "--retrieval.local_candidates", "40"])
        clusters = pd.read_csv(out / "clusters.csv", dtype=str).set_index("image")["cluster"]
        found[local] = float((clusters == table.set_index("image")["label"][clusters.index]).mean())
    assert found["sift"] > 0.7 > found["none"]
    assert result["parts"]["all"]["local_ratio"] > 0
