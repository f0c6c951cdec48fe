"""Made animals: each a pattern of spots on a body, photographed under perspective, light, blur, occlusion and clutter."""

from pathlib import Path

import cv2
import numpy as np
from PIL import Image

SIDE = 224


def body(rng: np.random.Generator) -> np.ndarray:
    """A flank (SIDE, SIDE) float32 with some 60 irregular spots, whose place and shape are the individual's."""
    canvas = np.full((SIDE, SIDE), 170, np.float32)
    for _ in range(60):
        centre = rng.integers(10, SIDE - 10, 2).tolist()
        axes = rng.integers(4, 12, 2).tolist()
        cv2.ellipse(
            canvas, centre, axes, float(rng.uniform(0, 180)), 0, float(rng.uniform(200, 360)), float(rng.uniform(30, 120)), -1
        )
    return cv2.GaussianBlur(canvas, (0, 0), 1)


def photograph(flank: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A picture (SIDE, SIDE) uint8 of a flank before clutter of its own."""
    clutter = cv2.resize(rng.uniform(0, 255, (24, 24)).astype(np.float32), (SIDE, SIDE), interpolation=cv2.INTER_CUBIC)
    corners = np.array([[0, 0], [SIDE, 0], [SIDE, SIDE], [0, SIDE]], np.float32)
    shown = corners * 0.72 + SIDE * 0.14 + rng.uniform(-30, 30, (4, 2)).astype(np.float32)
    transform = cv2.getPerspectiveTransform(corners, shown)
    seen = cv2.warpPerspective(flank, transform, (SIDE, SIDE))
    inside = cv2.warpPerspective(np.ones_like(flank), transform, (SIDE, SIDE)) > 0.5
    image = np.where(inside, seen, clutter)
    x, y = rng.integers(30, SIDE - 100, 2)
    image[y : y + 70, x : x + 70] = rng.uniform(0, 255)  # a branch, another animal
    image = cv2.GaussianBlur(image, (0, 0), float(rng.uniform(0.4, 1.2)))
    shade = np.linspace(rng.uniform(0.6, 1.2), rng.uniform(0.6, 1.2), SIDE)[None]
    return np.clip(image * shade + rng.normal(0, 4, image.shape), 0, 255).astype(np.uint8)


def paint_spots(folder: Path, individuals: int, photographs: int, seed: int = 0) -> tuple[list[Path], np.ndarray]:
    """Write PNG files; return them and the individual of each."""
    folder.mkdir(parents=True, exist_ok=True)
    paths, labels = [], []
    for individual in range(individuals):
        flank = body(np.random.default_rng((seed, individual)))
        for number in range(photographs):
            paths.append(folder / f"{individual:03}_{number}.png")
            Image.fromarray(photograph(flank, np.random.default_rng((seed, individual, number)))).convert("RGB").save(paths[-1])
            labels.append(f"s{individual:03}")
    return paths, np.array(labels)
