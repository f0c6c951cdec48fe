"""Test-time augmentation: averages over flips, and both flanks of an animal side by side."""

import math

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from torch import Tensor, nn

from lib.images.dataset import FeatureDataset
from lib.training.inference import InferenceOptions, predict

N, SIDE = 5, 4


class Projection(nn.Module):
    """Outputs that depend on where each pixel is."""

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        weight = torch.randn(3 * SIDE * SIDE, 6, generator=torch.Generator().manual_seed(1))
        return {"output": nn.functional.normalize(x.float().flatten(1) @ weight)}


@pytest.mark.parametrize("flips", [(), ("hflip",), ("hflip", "vflip"), ("mirror",), ("vflip", "mirror")])
def test_flips_are_averaged_and_mirror_images_stand_beside(flips: tuple[str, ...]) -> None:
    images = np.random.default_rng(0).integers(0, 256, (N, 3, SIDE, SIDE), dtype=np.uint8)
    project = lambda x: Projection()(torch.from_numpy(x.copy()))["output"].numpy()  # noqa: E731

    def averaged(x: np.ndarray) -> np.ndarray:
        shown = [x, *[x[..., ::-1] for flip in flips if flip == "hflip"], *[x[:, :, ::-1] for flip in flips if flip == "vflip"]]
        return np.mean([project(each) for each in shown], axis=0)

    expected = averaged(images)
    if "mirror" in flips:  # cosines of both sides are averaged, and stay cosines
        expected = np.hstack([expected, averaged(images[..., ::-1])]) / math.sqrt(2)
    (found,) = predict([Projection()], FeatureDataset(images), Accelerator(cpu=True), InferenceOptions(2, 0, flips))
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, atol=1e-6)
