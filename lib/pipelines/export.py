"""Write a trained network for programs without Fluke: ONNX and torch.export, checked on real images, with its classes."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from lib.errors import FlukeError, one_line
from lib.files import write_json, write_text
from lib.images.augmentation import ResizeToSquare
from lib.images.decoding import decode
from lib.models.network import Network
from lib.models.weights import load_network
from lib.pipelines.predict import find_networks
from lib.process import announce
from lib.tables.loading import load_test, load_train
from lib.training.accelerator import keep_memory

TOLERANCE = 1e-4
"""Largest difference between the outputs of the export and of the run."""
CHECKED = 8
"""Real images that the export is checked on."""

EXAMPLE = '''"""Answer images with the exported network: python example.py photo.jpg ... (needs onnxruntime and Pillow)."""

import json
import sys
from pathlib import Path

import numpy as np
import onnxruntime
from PIL import Image, ImageOps

HERE = Path(__file__).parent
about = json.loads((HERE / "model.json").read_text())
session = onnxruntime.InferenceSession(HERE / "model.onnx")
side = about["size"]
for name in sys.argv[1:]:
    image = ImageOps.exif_transpose(Image.open(name)).convert("RGB")
    if about["fit"] == "crop":
        short = min(image.size)
        left, top = ((length - short) // 2 for length in image.size)
        image = image.crop((left, top, left + short, top + short))
    if about["fit"] == "pad":
        image = ImageOps.pad(image, (side, side), Image.Resampling.BILINEAR, (128, 128, 128))
    image = image.resize((side, side), Image.Resampling.BILINEAR)
    pixels = np.asarray(image).transpose(2, 0, 1)[None]
    (output,) = session.run(None, {"image": pixels})
    best = np.argsort(-output[0])[:5]
    print(name, *(f"{about['classes'][i]} {output[0, i]:.3f}" for i in best) if about["classes"] else output[0][:5], sep="  ")
'''


class Answer(nn.Module):
    """uint8 images (B, 3, size, size) -> probabilities (B, C), or embeddings or numbers (B, D), float32."""

    def __init__(self, network: Network):
        super().__init__()
        self.network, self.several = network, network.spec.target.several
        self.raw = network.spec.target.outputs == "embeddings" or network.spec.target.numeric

    def forward(self, image: Tensor) -> Tensor:
        output: Tensor = self.network(image)["output"]
        if self.raw:
            return output
        return output.sigmoid() if self.several else output.softmax(1)


def export_network(run: Path, out: Path) -> dict[str, Any]:
    """Write model.onnx, model.pt2, model.json and example.py to `out`; returns what model.json holds.

    Normalization and softmax or sigmoid are inside; the image is given as uint8 at the network's size. Both exports are compared
    with the run's network on real images. Raises FlukeError for a k-fold run, a head that can't be
    exported, and outputs that differ.
    """
    try:
        import onnx  # noqa: F401
        import onnxruntime
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise FlukeError(f'Export needs {error.name}; install it with pip install -e ".[export]".') from None
    keep_memory()
    files, recipe = find_networks(run)
    if len(files) != 1:
        raise FlukeError(f"{run}: holds {len(files)} networks; name one of them, such as {files[0].parent.parent}.")
    network = load_network(files[0]).float().eval()
    spec, model = network.spec, Answer(network).eval()
    if network.channels != 3:
        raise FlukeError(f"{run}: takes images of {network.channels} channels (data.channels); only networks of RGB are exported.")
    images = _real_images(recipe, spec.size, spec.fit)
    out.mkdir(parents=True, exist_ok=True)
    batch = torch.export.Dim("batch", min=1, max=4096)
    try:
        with torch.inference_mode(), warnings.catch_warnings(action="ignore"):
            expected = model(images).numpy()
            program = torch.export.export(model, (images[:2],), dynamic_shapes={"image": {0: batch}}, strict=False)
            torch.export.save(program, out / "model.pt2")
            torch.onnx.export(
                program, (), out / "model.onnx", input_names=["image"], output_names=["output"], external_data=False, verbose=False
            )
    except Exception as error:  # exporters raise many kinds for operations that they lack
        raise FlukeError(f"{run}: {spec.model.name} can't be exported ({one_line(error, 200)}).") from None
    session = onnxruntime.InferenceSession(out / "model.onnx")
    found = {"model.onnx": session.run(None, {session.get_inputs()[0].name: images.numpy()})[0]}
    with torch.inference_mode():
        found["model.pt2"] = torch.export.load(out / "model.pt2").module()(images).numpy()
    differences = {name: float(np.abs(np.asarray(values) - expected).max()) for name, values in found.items()}
    refuse_differences(out, differences)
    about = {
        "run": str(run),
        "model": spec.model.name,
        "size": spec.size,
        "fit": spec.fit,
        "input": "image: uint8 (batch, 3, size, size), RGB, resized bilinearly with antialiasing",
        "output": _describe_output(model),
        "classes": list(spec.classes),
        "largest_difference": differences,
        "checked_on": len(images),
    }
    write_json(out / "model.json", about)
    write_text(out / "example.py", EXAMPLE)
    megabytes = (out / "model.onnx").stat().st_size / 1e6
    print(f"model.onnx: {megabytes:.1f} MB")
    print(f"checked on {len(images)} images: largest difference {max(differences.values()):.1e} (at most {TOLERANCE:g})")
    names = ("model.onnx", "model.pt2", "model.json", "example.py")
    announce([out / name for name in names], f"python {out / 'example.py'} photo.jpg")
    return about


def refuse_differences(out: Path, differences: dict[str, float]) -> None:
    """Raise FlukeError when an exported file's outputs differ from the run's by more than TOLERANCE, or aren't finite."""
    if wrong := [f"{name} by {value:.1e}" for name, value in differences.items() if not value <= TOLERANCE]:
        raise FlukeError(f"{out}: the outputs of {' and '.join(wrong)} differ from the run's; don't use them.")


def _describe_output(model: Answer) -> str:
    target = model.network.spec.target
    if target.outputs == "embeddings":
        return "unit vectors: their inner product is the cosine similarity"
    if target.numeric:
        return "the predicted numbers"
    return "probability of each label" if target.several else "probabilities of the classes"


def _real_images(recipe: Any, size: int, fit: Any) -> Tensor:
    """Return some of the run's images as the network takes them, (n, 3, size, size) uint8; noise where they are gone."""
    resize = ResizeToSquare(size, fit)
    try:
        train = load_train(recipe.data, recipe.folds)
        table = load_test(recipe.data, train.classes, train.target) or train
        return torch.stack([resize(decode(path)).contiguous() for path in table.paths[:CHECKED]])
    except (FlukeError, AttributeError):
        print("note: the run's images can't be read any more; the export is checked on noise")
        return torch.randint(256, (CHECKED, 3, size, size), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
