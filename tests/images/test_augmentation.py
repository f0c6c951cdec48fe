"""Transforms: resizing, and augmentation that the recipe names."""

import pickle

import numpy as np
import pytest
import torch

from lib.config.recipe import Data
from lib.errors import FlukeError
from lib.images import augmentation
from lib.images.augmentation import ResizeToSquare, cache_side, decode_side, make_eval_transform, make_train_transform
from tests.images.made_files import smooth

LISTS: list[list[object]] = [
    ["AutoAugment"],
    [{"AutoAugment": {"policy": "cifar10", "interpolation": "bilinear"}}],
    [{"RandAugment": {"num_ops": 3, "magnitude": 9}}],
    ["TrivialAugmentWide"],
    [{"AugMix": {"severity": 2}}],
    [{"RandomErasing": {"p": 1.0, "scale": [0.02, 0.2], "value": [124, 116, 104]}}],
    [{"GaussianBlur": {"kernel_size": 5, "sigma": [0.1, 2.0]}}],
    ["GaussianNoise"],
    [{"RandomRotation": {"degrees": [-180, 180], "interpolation": "bilinear"}}, {"CenterCrop": {"size": 24}}],
    [{"RandomRotation": {"degrees": 45, "expand": True, "fill": 128}}],
    [{"ColorJitter": {"brightness": 0.4, "hue": [-0.1, 0.1]}}],
    [{"RandomPerspective": {"p": 1.0}}],
    [{"RandomAffine": {"degrees": 10, "translate": [0.1, 0.1], "scale": [0.8, 1.2], "shear": 5}}],
    [{"ElasticTransform": {"alpha": 20.0}}],
    ["RandomPhotometricDistort"],
    [{"RandomResizedCrop": {"scale": [0.3, 1.0], "interpolation": "bicubic"}}, "RandomHorizontalFlip"],
    [{"Resize": {"size": 40}}, "RandomCrop"],
    [{"RandomCrop": {"padding": 4}}, "RandomVerticalFlip"],
    ["RandomZoomOut"],
    [{"RandomApply": {"p": 0.5, "transforms": [{"GaussianBlur": {"kernel_size": 5}}, "RandomInvert"]}}],
    [{"RandomChoice": {"transforms": [{"RandomSolarize": {"threshold": 128}}, "RandomEqualize", "Identity"], "p": [1, 2, 1]}}],
    [{"RandomOrder": {"transforms": [{"RandomPosterize": {"bits": 3}}, "RandomAutocontrast"]}}],
    [],
]


@pytest.mark.parametrize("augment", LISTS, ids=str)
def test_augmented_images_have_their_size_and_depend_on_torchs_seed_alone(augment: list) -> None:
    data = Data(size=32, augment=augment)
    state = torch.get_rng_state()
    transform = make_train_transform(data)
    assert torch.equal(torch.get_rng_state(), state), "building the transforms advanced the run's random numbers"
    image = torch.from_numpy(smooth(50, 70)).permute(2, 0, 1)
    before = image.clone()

    def draws(one_transform: augmentation.Transform) -> list[torch.Tensor]:
        results = []
        for seed in range(6):
            np.random.seed(np.random.randint(1000))  # detects a transform that draws from NumPy's generator
            torch.manual_seed(seed)
            results.append(one_transform(image))
        return results

    first, again = draws(transform), draws(pickle.loads(pickle.dumps(transform)))
    for a, b in zip(first, again):
        assert a.dtype == torch.uint8
        assert a.shape == (3, 32, 32)
        assert torch.equal(a, b)
    assert (len({a.numpy().tobytes() for a in first}) > 1) == bool(augment), "six seeds gave one image"
    assert torch.equal(image, before), "the decoded image was changed in place"


@pytest.mark.parametrize(
    ("augment", "message"),
    [
        (["RandomRotatoin"], r"RandomRotatoin is not a transform .*did you mean RandomRotation\?"),
        ([{"RandomRotation": {"degree": 3}}], r"has no argument degree but .*interpolation, expand.*; did you mean degrees\?"),
        (["RandomRotation"], r"RandomRotation can't be used with {} \(.*'degrees'\); its arguments are degrees"),
        (
            [{"RandomRotation": {"degrees": 3, "interpolation": "bilinaer"}}],
            "interpolation must be one of nearest.* not 'bilinaer'",
        ),
        ([{"RandomResizedCrop": {"scale": [1.0, 0.8]}}], r"RandomResizedCrop can't be used with .*\(min, max\)"),
        ([{"RandomPosterize": {"bits": 12, "p": 0.001}}], "RandomPosterize can't be used .*bits"),
        ([{"RandomApply": {"p": 0.001, "transforms": [{"ColorJitter": {"hue": 3}}]}}], "ColorJitter can't be used"),
        ([{"RandomChoice": {"transforms": ["Identity", {"RandomCrop": {"size": 999}}]}}], "RandomCrop can't be used"),
        ([{"RandomApply": {"transforms": "ColorJitter"}}], "transforms must be a list"),
        (["Normalize"], "Normalize: .*the network normalizes"),
        (["ToTensor"], "ToTensor: .*the network normalizes"),
        (["MixUp"], "objective.mixup"),
        (["Grayscale"], r"Grayscale returns torch.uint8 \(1, 32, 32\)"),
        (["FiveCrop"], "FiveCrop returns tuple"),
        ([{"RandomErasing": {"value": "random"}}], "0 to 255"),
        ([{"Lambda": {"lambd": "print"}}], "Lambda can't be used"),
        (["torch"], "torch is not a transform"),
        (["functional"], "functional is not a transform"),
        (["__builtins__"], "is not a transform"),
        ([{"A": {}, "B": {}}], "is not a transform; write its name"),
    ],
)
def test_invalid_augmentation_is_refused_in_one_line(augment: list, message: str) -> None:
    with pytest.raises(FlukeError, match=message) as error:
        make_train_transform(Data(size=32, augment=augment))
    assert str(error.value).startswith("data.augment: ")
    assert "\n" not in str(error.value)


def test_validation_images_are_not_augmented() -> None:
    data = Data(size=32, eval_size=40, augment=[{"RandomInvert": {"p": 1.0}}])
    train, evaluate = make_train_transform(data), make_eval_transform(data)
    image = torch.full((3, 50, 60), 30, dtype=torch.uint8)
    assert train(image).unique().tolist() == [225]
    assert evaluate(image).unique().tolist() == [30]
    assert evaluate(image).shape == (3, 40, 40)
    assert make_eval_transform(data, 48)(image).shape == (3, 48, 48)


def test_images_are_squashed_cropped_or_padded() -> None:
    thirds = torch.zeros((3, 20, 60), dtype=torch.uint8)  # red, green, blue from left to right
    for channel in range(3):
        thirds[channel, :, 20 * channel : 20 * channel + 20] = 200
    squash, crop, pad = (make_eval_transform(Data(size=30, fit=fit))(thirds) for fit in ("squash", "crop", "pad"))
    assert squash[:, 15, [3, 15, 26]].T.tolist() == [[200, 0, 0], [0, 200, 0], [0, 0, 200]]
    assert crop.permute(1, 2, 0).reshape(-1, 3).unique(dim=0).tolist() == [[0, 200, 0]]
    assert pad[:, :10].unique().tolist() == pad[:, 20:].unique().tolist() == [128]
    assert pad[:, 15, [3, 15, 26]].T.tolist() == [[200, 0, 0], [0, 200, 0], [0, 0, 200]]
    upright = make_eval_transform(Data(size=30, fit="pad"))(thirds.mT)
    assert upright[:, :, :10].unique().tolist() == [128]


@pytest.mark.parametrize("fit", ["squash", "crop", "pad"])
def test_image_of_one_row_does_not_fill_the_memory(fit: str) -> None:
    line = torch.zeros((3, 1, 1_000_000), dtype=torch.uint8)
    assert make_eval_transform(Data(size=32, fit=fit))(line).shape == (3, 32, 32)


def test_decode_side_depends_on_the_first_step() -> None:
    def side(*augment: object) -> int | None:
        return decode_side(make_train_transform(Data(size=100, augment=list(augment))))

    assert decode_side(make_eval_transform(Data(size=100, eval_size=200))) == 230
    assert side("RandomHorizontalFlip", {"CenterCrop": {"size": 90}}) == 115
    assert side({"RandomResizedCrop": {"scale": [0.64, 1.0]}}) == 125
    assert side("RandomHorizontalFlip", "RandomResizedCrop") == 200, "crops below a quarter of the area may be enlarged"
    assert side({"Resize": {"size": 140}}, "RandomCrop") == 161
    assert side({"CenterCrop": {"size": 150}}, "Resize") is None, "150 pixels of the original image"


@pytest.mark.parametrize("method", ["squash", "crop", "pad"])
def test_resizing_is_antialiased(method: str) -> None:
    """A fine checkerboard becomes grey; without a filter it would keep black and white pixels."""
    board = ((np.indices((128, 128)).sum(0) % 2) * 255).astype(np.uint8)
    small = ResizeToSquare(30, method)(torch.from_numpy(board).expand(3, -1, -1).contiguous())
    assert small.float().std() < 8
    assert small.float().mean().item() == pytest.approx(127.5, abs=2)


def test_cached_images_are_as_large_as_crops_and_evaluation_need_them() -> None:
    assert cache_side(Data(size=100)) == 115
    assert cache_side(Data(size=100, eval_size=130)) == 150
    assert cache_side(Data(size=100, augment=["RandomResizedCrop"])) == 200
    assert cache_side(Data(size=100, augment=[{"RandomResizedCrop": {"scale": [0.5, 1.0]}}], eval_size=200)) == 230
