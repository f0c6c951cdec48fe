"""Bad input and faults, through the real scripts: one sentence each, exit code 2, no traceback; what was saved survives.

Here those of a training; test_errors_after.py has the scripts that come after it. tests/README.md is written from both:
PYTHONPATH=. python tests/faults/test_before_training.py
"""

import errno
import html
import json
import os
import shutil
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
import pytest
import safetensors.torch
import torch

from lib import files
from lib.config.recipe import Model, Train
from lib.errors import FlukeError
from lib.models import network
from lib.models.weights import load_network
from lib.training import accelerator
from scripts import train_classifier, train_embedding, tune

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.usefixtures("no_report")
README = Path(__file__).with_name("README.md")


class Case(NamedTuple):
    """One kind of bad input."""

    what: str
    """For the README."""
    says: str
    """Words of the sentence that the user needs."""
    change: dict[str, Any] | Callable[[Path], dict[str, Any] | None]
    """Fields of the recipe, or what is done to the contest's folder (and fields)."""
    script: Any = train_classifier


# --- what is done to the contest --------------------------------------------------------------------------------------------------


def rows(change: Callable[[pd.DataFrame], Any], file: str = "train.csv") -> Callable[[Path], None]:
    """Change a table in place, or return another."""

    def apply(root: Path) -> None:
        table = pd.read_csv(root / file, dtype=str, keep_default_na=False)
        found = change(table)
        (table if found is None else found).to_csv(root / file, index=False)

    return apply


def cell(row: int, column: str, value: str, file: str = "train.csv") -> Callable[[Path], None]:
    return rows(lambda table: table.__setitem__(column, table[column].mask(table.index == row, value)), file)


def raw(file: str, data: bytes) -> Callable[[Path], None]:
    return lambda root: (root / file).parent.mkdir(exist_ok=True) or ((root / file).write_bytes(data) and None)


def bomb() -> bytes:
    """A PNG of a few bytes whose header promises 3.6 gigapixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 1000)) + chunk(b"IEND", b"")


def given(change: Callable[[Path], Any], **fields: Any) -> Callable[[Path], dict[str, Any]]:
    """A change of the contest's folder, and fields with it."""
    return lambda root: fields | (change(root) or {})


def recipe(text: str) -> Callable[[Path], dict[str, Any]]:
    """The recipe's file says this."""
    return lambda root: {"argv": ["--cfg", str(root / "recipe.yaml")]} | (raw("recipe.yaml", text.encode())(root) or {})


def space(text: str) -> Callable[[Path], dict[str, Any]]:
    """tune.py is given this search space."""
    return lambda root: raw("space.yaml", text.encode())(root) or {"argv": ["--space", str(root / "space.yaml"), "--minutes", "1"]}


def sample(text: str, *rows: str) -> Callable[[Path], dict[str, Any]]:
    """This is the sample submission, and the test images stand in a table of their own."""
    lines = "\n".join(["image", *(rows or ("2_000.png", "2_001.png"))]) + "\n"
    return given(
        lambda root: raw("sample_submission.csv", text.encode("latin-1"))(root) or raw("test.csv", lines.encode())(root),
        data_test_csv="test.csv",
    )


def rename(old: str, *new: str) -> Callable[[Path], None]:
    """Copies of an image under other names, in folders that are made."""

    def apply(root: Path) -> None:
        for name in new:
            (root / "images" / name).parent.mkdir(exist_ok=True)
            shutil.copy(root / "images" / old, root / "images" / name)

    return apply


def link_out(root: Path) -> None:
    (root / "secret.png").write_bytes((root / "images" / "1_000.png").read_bytes())
    (root / "images" / "1_000.png").unlink()
    os.symlink("../secret.png", root / "images" / "1_000.png")


def weights(name: str, value: Any) -> Callable[[Path], dict[str, Any]]:
    """A weights file of the given kind in the contest's folder."""

    def apply(root: Path) -> dict[str, Any]:
        path = root / name
        if isinstance(value, bytes):
            path.write_bytes(value)
        elif path.suffix == ".safetensors":
            safetensors.torch.save_file(value(), path)
        else:
            torch.save(value(), path)
        return {"model_weights": path}

    return apply


class Pickle:
    """More than tensors: to load it would be to run it."""

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return print, ("run",)


def other_network() -> dict[str, torch.Tensor]:
    return network.make_backbone(Model("test_convnext"), pretrained=False).state_dict()


IMAGE = "images/1_000.png"
CUT = b"\xff\xd8\xff\xe0\x00\x10JFIF\x00\x01"
LAST = {"train_epochs": 1}

CASES = [
    # the command line and the recipe's file
    Case("an option that isn't there", "Unknown option --train.epoch; did you mean --train.epochs?", {"train_epoch": 3}),
    Case("a value of another type", "--train.epochs: expected a whole number >= 0 (found three)", {"train_epochs": "three"}),
    Case("a recipe that isn't there", "none.yaml: can't be read (No such file", {"argv": ["--cfg", "none.yaml"]}),
    Case("a recipe that isn't YAML", "recipe.yaml: not YAML: ", recipe("data: [")),
    Case("a recipe without sections", "expected sections (data, model, ", recipe("- data\n")),
    Case("a field that isn't there", "unknown field data.sise (did you mean data.size?)", recipe("data: {sise: 64}")),
    Case("a section that is no mapping", "section data holds fields (root, ", recipe("data: 64")),
    Case("a field given twice", "recipe.yaml, line 1: 'size' is given twice", recipe("data: {size: 32, size: 64}")),
    Case("a list for a field's name", "a list or a mapping can't be a key", recipe("? [data]\n: 1\n")),
    Case("a recipe with anchors", "*a refers to another place; write its value out", recipe("data: &a {size: 32}\nmodel: *a\n")),
    Case("a recipe nested too deep", "the YAML is nested a thousand levels deep", recipe("[" * 5000)),
    Case(
        "a field that was removed, with another value than its default",
        "data.max_images was removed, and only null is still accepted (found 5)",
        recipe("data: {max_images: 5}"),
    ),
    Case(
        "extra rows for training that are images of the training table",
        "too, where each is held out sooner or later: line 2 '1_000.png'; remove these rows",
        lambda root: {"data_extra_csv": "more.csv"} | (raw("more.csv", b"image,label\n1_000.png,ant\n")(root) or {}),
    ),
    Case(
        "names of images as answers of a classifier",
        "predict.submission matches: names of images are answers of retrieve.py, after train_embedding",
        {"predict_submission": "matches"},
    ),
    Case(
        "a joined table whose keys come twice",
        "1 values of label come more than once: 'ant' (line 2, 3); keep one row of each",
        lambda root: (
            {"data_join_csv": "kinds.csv", "data_join_key": "label", "folds_group_column": "kind"}
            | (raw("kinds.csv", b"label,kind\nant,a\nant,b\n")(root) or {})
        ),
    ),
    Case(
        "pixels in cells that are no square picture",
        "3 pixels are no picture of 1 x 1 (data.pixel_columns); set data.pixel_shape",
        lambda root: (
            {"data_pixel_columns": '["p*"]', "data_sample_submission": "null", "data_cache_dir": root / "cache"}
            | (raw("train.csv", b"label,p0,p1,p2\nant,1,2,3\nbee,4,5,6\n")(root) or {})
        ),
    ),
    Case(
        "infinity for a number of rows",
        "--folds.holdout: expected a number > 0 and < 1 or a whole number >= 1",
        {"folds_holdout": ".inf"},
    ),
    Case("a loss to add that isn't there", "(found tripplet; did you mean triplet?)", {"objective_also": "{tripplet: 0.5}"}),
    # tables
    Case(
        "a label column that isn't there",
        "has no column 'lable' (data.label_column) among image, label; did you mean label?",
        {"data_label_column": "lable"},
    ),
    Case(
        "an image column that isn't there",
        "has no column 'file' (data.image_column) among image, label",
        {"data_image_column": "file"},
    ),
    Case("a group column that isn't there", "has no column 'animal' (folds.group_column)", {"folds_group_column": "animal"}),
    Case("a table that isn't there", "tain.csv: No such file or directory", {"data_train_csv": "tain.csv"}),
    Case("an empty table", "has no header (the file is empty or its first line is blank)", raw("train.csv", b"")),
    Case("a table without rows", "has a header but no rows", raw("train.csv", b"image,label\n")),
    Case("a table that isn't text", "not UTF-8 text", raw("train.csv", b"image,label\n\xff\xfe,a\n")),
    Case(
        "a table with an open quote",
        "line 2: not readable as CSV (unexpected end of data); check for an unclosed quote",
        raw("train.csv", b'image,label\n"1_000.png,a\n'),
    ),
    Case("a header with an open quote", "line 1: not readable as CSV", raw("train.csv", b'"image,label\n')),
    Case(
        "a row with another number of fields",
        "1 rows don't have the header's 2 fields: line 2 (3)",
        raw("train.csv", b"image,label\na.png,b,c\n"),
    ),
    Case("two columns of one name", "has several columns 'label'", raw("train.csv", b"image,label,label\na.png,b,c\n")),
    Case(
        "a Parquet file that is none",
        "not readable as Parquet",
        lambda root: raw("t.parquet", b"PAR1")(root) or {"data_train_csv": "t.parquet"},
    ),
    Case("a blank label", "1 rows have a blank label: line 5", cell(3, "label", " ")),
    Case("a blank image name", "1 rows have a blank image name: line 5", cell(3, "image", "")),
    Case(
        "an image with two rows",
        "1 images have more than one row: line 2 '1_000.png' 'ant' = line 3",
        cell(1, "image", "1_000.png"),
    ),
    Case("one class alone", "1 of 1 classes are left", rows(lambda table: table.assign(label="ant"))),
    Case("no class left by the filters", "0 of 4 classes are left, too few to train on", {"data_min_images": 100}),
    Case("a class to take from that isn't there", "data.take: ", {"data_take": "{dog: 3}"}),
    Case("an image to drop that isn't there", "data.drop_images: ", {"data_drop_images": "[none.png]"}),
    Case(
        "neither a table nor a folder of classes",
        "set exactly one of data.train_csv and data.train_dir",
        {"data_train_csv": "null"},
    ),
    Case(
        "a folder without class folders",
        "is not a folder of class folders (no folders at all)",
        {"data_train_csv": "null", "data_train_dir": "images"},
    ),
    Case(
        "a folder of test images without any",
        "holds no images (only folders: deep)",
        given(lambda root: (root / "test" / "deep").mkdir(parents=True), data_test_dir="test", data_sample_submission="null"),
    ),
    # images
    Case(
        "images that aren't there",
        "2 of 48 images can't be read: line 2 'x.png' (no such file), line 3 'y.png'",
        lambda root: cell(0, "image", "x.png")(root) or cell(1, "image", "y.png")(root),
    ),
    Case("an image folder that isn't there", "not a folder that can be read", {"data_image_dir": "imges"}),
    Case("an image that is cut off", "1 of 48 images can't be read: line 2 '1_000.png' (", raw(IMAGE, CUT)),
    Case("an empty image", "it is empty", raw(IMAGE, b"")),
    Case("an SVG named .png", "not an image in a supported format", raw(IMAGE, b"<svg xmlns='http://www.w3.org/2000/svg'/>")),
    Case(
        "PostScript named .png",
        "not an image in a supported format",
        raw(IMAGE, b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n"),
    ),
    Case("a decompression bomb", "(60000 x 60000 pixels); images must be below 100 megapixels (data.max", raw(IMAGE, bomb())),
    Case(
        "a file of a channel that isn't there",
        "images can't be read: line 2 '1_000.png' (no file 1_000.png_blue.png)",
        {"data_channels": '["{name}", "{name}_blue.png"]'},
    ),
    Case("images of another number of channels", "has 3 channels, but data.channels is 4", {"data_channels": 4}),
    Case(
        "an image cut off that only training meets (data.check: header)",
        "can't be decoded",
        lambda root: {"data_check": "header", "data_workers": 1} | (raw(IMAGE, (root / IMAGE).read_bytes()[:900])(root) or {}),
    ),
    Case("a test image that isn't there", "every test row needs its image", cell(0, "image", "none.png", "sample_submission.csv")),
    Case("a name with '..'", "use a relative name without '..'", cell(0, "image", "../images/1_000.png")),
    Case("an absolute name", "use a relative name without '..'", cell(0, "image", "/etc/passwd")),
    Case("a link that leads out of the image folder", "is a link that leads out of its folder", link_out),
    Case(
        "a class of which no image can be read, to be dropped",
        "no image is left of '01'",
        lambda root: (
            {"data_on_unreadable": "drop"}
            | {k: v for i in range(44, 48) for k, v in (raw(f"images/1_{i:03d}.png", b"")(root) or {}).items()}
        ),
    ),
    Case(
        "a name without extension that fits several images",
        "1 image names match several files: '1_000' (1_000.jpg, 1_000.png)",
        lambda root: rename("1_000.png", "1_000.jpg")(root) or cell(0, "image", "1_000")(root),
    ),
    Case(
        "a named pipe for an image",
        "1 of 48 images can't be read: line 2 '1_000.png' (not a regular file)",
        lambda root: (root / IMAGE).unlink() or os.mkfifo(root / IMAGE),
    ),
    Case(
        "a file's name that isn't UTF-8",
        "holds file names that aren't UTF-8; rename them",
        lambda root: (root / "images" / os.fsdecode(b"\xff.png")).touch(),
    ),
    Case(
        "a cache of images that can't be decoded (data.check: header)",
        "1 of 48 images can't be cached: ",
        lambda root: (
            {"data_check": "header", "data_cache_dir": root / "cache"}
            | (raw("images/1_001.png", (root / IMAGE).read_bytes()[:900])(root) or {})
        ),
    ),
    Case(
        "a cache that can't be written",
        "can't be written (Not a directory)",
        lambda root: {"data_cache_dir": root / "train.csv" / "c"},
    ),
    # test rows and submission
    Case(
        "a label in the test only",
        "1 labels are not among the 4 classes: 'dog'",
        lambda root: (
            raw("test.csv", b"image,label\n2_000.png,dog\n")(root)
            or {"data_test_csv": "test.csv", "data_sample_submission": "null"}
        ),
    ),
    Case("a sample submission that isn't there", "No such file or directory", {"data_sample_submission": "sample.csv"}),
    Case(
        "a sample submission of other classes",
        "are not the 4 classes (not classes: 'dog'",
        rows(lambda table: table.rename(columns={"label": "dog"}).assign(cow="0"), "sample_submission.csv"),
    ),
    Case(
        "a sample submission that isn't there, besides a test table",
        "none.csv: No such file or directory",
        given(sample(""), data_sample_submission="none.csv"),
    ),
    Case(
        "a sample submission that isn't text", "sample_submission.csv: not UTF-8 text (byte 0xff)", sample("image,label\n\xff,a\n")
    ),
    Case("a sample submission with an open quote", "line 2: not readable as CSV", sample('image,label\n"2_000.png,a\n')),
    Case(
        "a sample submission of one column",
        "its header has 1 columns; a sample submission has image names",
        sample("image\n2_000.png\n"),
    ),
    Case(
        "a sample submission with a row too long",
        "1 rows don't have the header's 2 fields: line 2 (3)",
        sample("image,label\na,b,c\n"),
    ),
    Case("a sample submission with a column twice", "has several columns 'label'; a sample", sample("image,label,label\na,b,c\n")),
    Case("a sample submission without rows", "no rows; a sample submission lists the images", sample("image,label\n")),
    Case("a sample submission with a blank name", "1 rows have a blank image: line 2", sample("image,label\n ,a\n")),
    Case("a sample submission with an image twice", "1 images come more than once: 'a'", sample("image,label\na,b\na,b\n")),
    Case(
        "a sample submission that asks for other images",
        "1 of its 2 images have no prediction: 'x.png'",
        sample("image,label\n2_000.png,a\nx.png,a\n"),
    ),
    Case(
        "a sample submission whose names fit several images",
        "1 of its images match several test images: '2_000.png' ('a/2_000.png', 'b/2_000.png')",
        lambda root: (
            rename("2_000.png", "a/2_000.png", "b/2_000.png")(root)
            or sample("image,label\n2_000.png,a\n", "a/2_000.png", "b/2_000.png")(root)
        ),
    ),
    Case(
        "a sample submission with two names for one image",
        "1 test images match several of its images: '2_000.png'",
        sample("image,label\n2_000.png,a\n2_000.jpg,a\n"),
    ),
    Case(
        "a sampler's factor for no class",
        "train.sampler_factors names 'kat', no class; did you mean cat?",
        {"train_sampler": "weighted", "train_sampler_factors": "{kat: 2}"},
    ),
    Case(
        "a sampler's factors without the sampler",
        "train.sampler_factors needs train.sampler weighted",
        {"train_sampler_factors": "{cat: 2}"},
    ),
    Case(
        "a factor of nothing",
        "--train.sampler_factors.cat: expected a number > 0 (found 0)",
        {"train_sampler": "weighted", "train_sampler_factors": "{cat: 0}"},
    ),
    Case(
        "negatives for a loss that has none",
        "data.new_rows negatives needs a loss over pairs",
        {"objective_name": "arcface", "data_new_rows": "negatives"},
        train_embedding,
    ),
    Case(
        "a classifier's metric for embeddings",
        "Metric loss doesn't fit retrieval",
        {"objective_name": "arcface", "train_metric": "loss"},
        train_embedding,
    ),
    Case(
        "a softmax's smoothing for embeddings",
        "objective.label_smoothing, class_weights and logit_adjustment are for train_classifier",
        {"objective_name": "arcface", "objective_label_smoothing": 0.1},
        train_embedding,
    ),
    Case(
        "labels that hold the submission's separator",
        "2 labels contain the separator",
        given(rows(lambda table: table.assign(label=["a b", "c d"] * 24)), predict_submission="topk"),
    ),
    # splits
    Case("more held out than there is", "would hold out 48 of the 48 images", {"folds_holdout": 48}),
    Case(
        "own folds without fold 0",
        "0 of 48 rows are in fold 0",
        lambda root: (
            rows(lambda t: t.assign(label="1"))(root)
            or (shutil.copy(root / "train.csv", root / "f.csv") and rows(lambda t: t.assign(label=["a", "b"] * 24))(root))
            or {"folds_csv": "f.csv"}
        ),
    ),
    Case("own folds that aren't numbers", "some folds are not numbers from 0 on", {"folds_csv": "train.csv"}),
    Case(
        "own folds of one column",
        "needs two columns (found: ['image']); put image names in one",
        given(raw("f.csv", b"image\n1_000.png\n"), folds_csv="f.csv"),
    ),
    Case(
        "own folds with an image twice",
        "1 images come more than once: 'a'; keep one row per image",
        given(raw("f.csv", b"image,fold\na,0\na,1\n"), folds_csv="f.csv"),
    ),
    Case(
        "own folds without some images",
        "has no row for 47 of 48 images: '1_001.png'",
        given(raw("f.csv", b"image,fold\n1_000.png,0\n"), folds_csv="f.csv"),
    ),
    Case(
        "own folds that leave one row to train on",
        "training rows: 1 are too few for 1 process",
        lambda root: (
            rows(lambda table: table.assign(label=["0"] * 47 + ["1"]))(root)
            or given(lambda root: shutil.copy(root / "train.csv", root / "f.csv") and None, folds_csv="f.csv")(root)
        ),
    ),
    Case(
        "a class an image: nobody to hold out",
        "no row can be held out, because no class has a second image",
        rows(lambda table: table.assign(label=table["image"])),
    ),
    # network and objective
    Case("a network that timm doesn't have", "timm has no such model; did you mean resnet50?", {"model_name": "resnet5O"}),
    Case(
        "an argument that the network doesn't take",
        "model.name test_resnet: can't be built with kwargs",
        {"model_kwargs": "{no_such: 1}"},
    ),
    Case("weights of another network", "not weights of test_resnet", weights("w.safetensors", other_network)),
    Case("weights that aren't there", "no such file", {"model_weights": "none.pth"}),
    Case(
        "weights that are cut off", "not a weights file that can be read safely", weights("w.safetensors", b"\x10\0\0\0\0\0\0\0{}")
    ),
    Case(
        "weights with a pickle in them",
        "not a weights file that can be read safely (a pickle with more than tensors",
        weights("w.pth", lambda: {"w": Pickle()}),
    ),
    Case("a head of a run that is no probe", "no finished run of probe.py", {"model_head_from": "none"}),
    Case(
        "a fitted head behind hidden layers",
        "model.head_from needs model.hidden []",
        {"model_head_from": "none", "model_hidden": "[8]"},
    ),
    Case("weights without names", "model.weights", weights("w.pth", lambda: [torch.zeros(2)])),
    Case("weights that are numbers", "holds no named tensors; save a state_dict", weights("w.pth", lambda: {"a": 3})),
    Case(
        "images of a size that the network can't take",
        "test_vit3: takes images of a multiple of 16 px (40)",
        {"model_name": "test_vit3", "data_size": 40},
    ),
    Case(
        "training images of another size than evaluation's, for a network that takes one",
        "data.eval_size 64: pit_ti_224 takes images of one size; set it to null",
        {"model_name": "pit_ti_224", "data_eval_size": 64},
    ),
    Case("arguments of the network that leave no features", "not a vector per image", {"model_kwargs": "{features_only: true}"}),
    Case("a name without its source", "Use 'hf-hub:owner/name' to load", {"model_name": "owner/name"}),
    Case("a folder as weights", "a folder; name a file in it, of a run best/model.safetensors", {"model_weights": "."}),
    Case(
        "GeM pooling of a network without a feature map",
        "model.pool gem: test_vit has no feature map",
        {"model_name": "test_vit", "data_size": 160, "model_pool": "gem"},
    ),
    Case("an objective for several labels", "objective.name bce is not for one label per image", {"objective_name": "bce"}),
    Case("an objective for embeddings", "objective.name arcface is not for one label per image", {"objective_name": "arcface"}),
    Case("an objective for classifiers", "objective focal is not for embeddings", {"objective_name": "focal"}, train_embedding),
    Case(
        "class shares corrected twice",
        "objective.logit_adjustment, objective.class_weights and train.sampler weighted all correct class shares",
        {"train_sampler": "weighted", "objective_logit_adjustment": 1},
    ),
    Case(
        "no step at all",
        "--optim.step_epochs: expected a number > 0 or a non-empty list",
        {"optim_schedule": "step", "optim_step_epochs": "[]"},
    ),
    Case("momentum that Nesterov can't do without", "optim.name sgd: Nesterov", {"optim_name": "sgd", "optim_momentum": 0}),
    Case(
        "a crop larger than the picture",
        "CenterCrop: 40 px is larger than the image (32 px)",
        {"data_augment": "[{CenterCrop: {size: 40}}]"},
    ),
    Case(
        "logit adjustment for several labels",
        "logit_adjustment and label_smoothing are for one label per image",
        {"data_label_separator": "|", "objective_name": "bce", "objective_logit_adjustment": 1},
    ),
    Case(
        "several labels per image, for embeddings",
        "an embedding has one identity per image; set it to null",
        given(cell(0, "label", "ant|bee"), data_label_separator="|", objective_name="arcface"),
        train_embedding,
    ),
    Case(
        "one individual alone, for embeddings",
        "1 individuals to train on; an embedding needs at least two",
        given(rows(lambda table: table.assign(label=["a", "new"] * 24)), data_new_label="new", objective_name="arcface"),
        train_embedding,
    ),
    Case(
        "a metric that the held-out images don't define",
        "train.metric auroc is undefined on these 12 validation rows",
        {"train_metric": "auroc", "folds_unknown": 0, "objective_name": "arcface"},
        train_embedding,
    ),
    Case(
        "P x K batches where no class has two images",
        "train.sampler pk: no class has two training images",
        given(
            rows(lambda table: table.assign(label=[str(i // 2) for i in range(48)])),
            train_sampler="pk",
            train_singles="drop",
            objective_name="arcface",
            folds_holdout=24,
            folds_unknown=0,
        ),
        train_embedding,
    ),
    Case(
        "MixUp of embeddings",
        "objective.mixup and cutmix mix labels, which embeddings can't",
        {"objective_name": "arcface", "objective_mixup": 0.5},
        train_embedding,
    ),
    Case("a metric that doesn't fit", "doesn't fit one label per image; these do: ", {"train_metric": "macro_map"}),
    Case("a metric that isn't there", "Unknown metric 'acuracy'; did you mean accuracy?", {"train_metric": "acuracy"}),
    Case("a part to freeze that isn't there", "is no part of test_resnet; its parts are", {"optim_freeze": "[steem]"}),
    Case("an optimiser that isn't there", "optim.name adamx: timm knows", {"optim_name": "adamx"}),
    Case(
        "an optimizer's value out of range", "--optim.weight_decay: expected a number >= 0 (found -1)", {"optim_weight_decay": -1}
    ),
    # the loop
    Case(
        "a transform that isn't there",
        "RandomFlip is not a transform of torchvision.transforms.v2",
        {"data_augment": "[RandomFlip]"},
    ),
    Case("a transform's argument that isn't there", "has no argument degree", {"data_augment": "[{RandomRotation: {degree: 3}}]"}),
    Case("a transform's value that it can't use", "can't be used with", {"data_augment": "[{RandomRotation: {degrees: many}}]"}),
    Case(
        "two transforms in one entry", "is not a transform; write its name, or {", {"data_augment": "[{Grayscale: {}, Resize: {}}]"}
    ),
    Case(
        "a transform that the network does itself",
        "Normalize: images stay uint8 until the network normalizes them",
        {"data_augment": "[Normalize]"},
    ),
    Case(
        "random noise to erase with",
        "value 'random' suits normalized images only",
        {"data_augment": "[{RandomErasing: {value: random}}]"},
    ),
    Case(
        "an interpolation that isn't there",
        "interpolation must be one of nearest, ",
        {"data_augment": "[{RandomRotation: {degrees: 3, interpolation: best}}]"},
    ),
    Case(
        "no list of transforms to choose from", "transforms must be a list of", {"data_augment": "[{RandomApply: {transforms: 3}}]"}
    ),
    Case("a transform that leaves no colour picture", "returns torch.uint8 (1, 32, 32)", {"data_augment": "[Grayscale]"}),
    Case("P x K batches for a classifier", "train.sampler pk is for train_embedding", {"train_sampler": "pk"}),
    Case("one image a batch", "BatchNorm can't compute statistics; set at least 2", {"train_batch_size": 1}),
    Case("a tracker that isn't installed", "train.log_with wandb: not installed; pip install -e", {"train_log_with": "[wandb]"}),
    Case("a tracker that isn't there", "train.log_with tensorbord: Accelerate knows", {"train_log_with": "[tensorbord]"}),
    Case(
        "a batch size of nothing for predictions",
        "--predict.batch_size: expected a whole number >= 1 or null (found 0)",
        {"predict_batch_size": 0},
    ),
    Case("a learning rate without measure", "The loss is no longer finite in epoch 1; no epoch was finished", {"optim_lr": 1e30}),
    Case(
        "a learning rate without measure, and one batch an epoch",
        "rows of scores hold NaN or infinity",
        {"optim_lr": 1e30, "train_batch_size": 36},
    ),
    Case("a negative seed", "--folds.seed: expected a whole number >= 0", {"folds_seed": -1}),
    Case("a hidden layer without width", "--model.hidden: expected a whole number >= 1 (found 0)", {"model_hidden": "[0]"}),
    Case(
        "faults of several fields",
        "--model.dropout: expected a number >= 0 and < 1 (found 1); --train.epochs: expected",
        {"model_dropout": 1, "train_epochs": -1},
    ),
    # the search space
    Case("a space without fields", "space.yaml: expected fields with their domains", space(""), tune),
    Case("a field to tune that isn't there", "unknown field optim.lrr; did you mean optim.lr?", space("optim.lrr: [1, 2]"), tune),
    Case("a choice that the field doesn't allow", "optim.lr: expected a number > 0", space("optim.lr: [0.1, fast]"), tune),
    Case("an empty range", "optim.lr: the range is empty (low 0.2, high 0.1)", space("optim.lr: {low: 0.2, high: 0.1}"), tune),
    Case("a range of names", "model.name isn't a number", space("model.name: {low: 1, high: 2}"), tune),
    Case("a field to tune that changes the rows", "folds.seed can't be tuned", space("folds.seed: [1, 2]"), tune),
    # the run's folder
    Case("a folder for the run that can't be written", "can't be written (", lambda root: {"": str(root / "train.csv" / "run")}),
    Case("nothing to resume", "--resume: no unfinished run runs/run-*", lambda root: {"": "--resume"}),
]


@pytest.fixture
def own(contest: Path, tmp_path: Path) -> Path:
    """A copy of the contest that a test may spoil."""
    return Path(shutil.copytree(contest, tmp_path / "own"))


def command(case: Case, own: Path, arguments: Callable[..., list[str]]) -> list[str]:
    fields = case.change if isinstance(case.change, dict) else case.change(own) or {}
    out, more = (fields := dict(fields)).pop("", None), fields.pop("argv", [])
    argv = arguments(own.parent / "run" if out in (None, "--resume") else Path(out), data_root=own, **(LAST | fields)) + more
    return [*argv[2:], "--resume"] if out == "--resume" else argv


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.what)
def test_bad_input_is_one_sentence(case: Case, own: Path, arguments: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(own.parent)
    is_one_sentence(case, command(case, own, arguments))


def is_one_sentence(case: Case, argv: list[str]) -> None:
    with pytest.raises(FlukeError) as caught:
        case.script.main(argv)
    sentence = str(caught.value)
    assert case.says in sentence
    assert "\n" not in sentence
    assert "Traceback" not in sentence
    assert sentence.endswith((".", "?"))
    assert len(sentence) < 1500


@pytest.mark.parametrize(
    "what", ["a label column that isn't there", "an image cut off that only training meets (data.check: header)"]
)
def test_exit_code_2_and_no_traceback(what: str, own: Path, arguments: Callable) -> None:
    case = next(case for case in CASES if case.what == what)
    argv = command(case, own, arguments)
    found = subprocess.run(
        [sys.executable, str(ROOT / "scripts" / "train_classifier.py"), *argv], capture_output=True, text=True, cwd=own
    )
    assert found.returncode == 2
    assert case.says in found.stderr
    assert found.stderr.splitlines()[-1].startswith("error: ")
    assert "Traceback" not in found.stderr + found.stdout


# --- faults while running ---------------------------------------------------------------------------------------------------------

FAULTS: list[tuple[str, str]] = []


def fault(what: str, happens: str) -> Callable[[Any], Any]:
    """Enter a test into the README."""
    FAULTS.append((what, happens))
    return lambda test: test


@fault("out of GPU memory", "says which train.batch_size and train.accumulate to try")
def test_out_of_memory(arguments: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    monkeypatch.setattr(network.Network, "_pooled_features", full)
    with pytest.raises(
        FlukeError, match=r"Out of GPU memory with train.batch_size 8 on 1 process; try --train.batch_size 4 --train.accumulate 2"
    ):
        train_classifier.main(arguments(tmp_path / "run"))
    with pytest.raises(FlukeError, match="one image is too large"), accelerator.explain_step_errors(Train(batch_size=2), 2):
        full()


@fault("out of GPU memory in validation or prediction", "says that predict.batch_size wants lowering")
def test_out_of_memory_while_predicting(arguments: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = network.Network.forward

    def full(network: network.Network, images: torch.Tensor, targets: torch.Tensor | None = None) -> dict[str, torch.Tensor]:
        if not network.training:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        return real(network, images, targets)

    monkeypatch.setattr(network.Network, "forward", full)
    with pytest.raises(FlukeError, match=r"^validate: out of GPU memory with 12 images at once; lower predict.batch_size.$"):
        train_classifier.main(arguments(tmp_path / "run"))


@pytest.mark.slow
@fault(
    "the disk is full while the best weights are written",
    "one sentence; the best so far and the states before it are intact, and --resume goes on",
)
def test_full_disk_keeps_the_best(arguments: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    argv = arguments(tmp_path / "run", train_epochs=3, train_metric="loss", optim_lr=1e-4)
    calls, real = [0], safetensors.torch.save_file

    def filling(tensors: Any, path: Path, *rest: Any, **more: Any) -> None:
        calls[0] += Path(path).parent.name == "best"
        if calls[0] == 2:
            Path(path).write_bytes(b"half")
            raise safetensors.SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")
        real(tensors, path, *rest, **more)

    with (
        monkeypatch.context() as patch,
        pytest.raises(
            FlukeError, match=r"best/model.safetensors: the disk is full; free some space \(what was saved before is intact\)"
        ),
    ):
        patch.setattr(safetensors.torch, "save_file", filling)
        train_classifier.main(argv)
    best = tmp_path / "run" / "best"
    assert os.listdir(best) == ["model.safetensors"]
    load_network(best / "model.safetensors")
    train_classifier.main([*argv, "--resume"])
    assert (tmp_path / "run" / "submission.csv").exists()


@fault("pretrained weights that can't be downloaded", "says so, and what to do instead")
def test_no_network(arguments: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = network.timm.create_model

    def offline(name: str, pretrained: bool, **more: Any) -> Any:
        if pretrained:
            raise OSError("We couldn't connect to the hub.\nCheck your connection.")
        return real(name, pretrained=pretrained, **more)

    monkeypatch.setattr(network.timm, "create_model", offline)
    with pytest.raises(FlukeError, match=r"can't be downloaded \(We couldn't connect to the hub.\); set model.weights to a local"):
        train_classifier.main(arguments(tmp_path / "run", model_pretrained=True))


@fault("the disk is full while a resumable state is written", "one sentence; nothing half written is left, and --resume goes on")
def test_full_disk_keeps_the_states(arguments: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: Any, path: Path) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    argv = arguments(tmp_path / "run", **LAST)
    with monkeypatch.context() as patch, pytest.raises(FlukeError, match="the disk is full; free some space and go on with"):
        patch.setattr(torch, "save", full)
        train_classifier.main(argv)
    assert os.listdir(tmp_path / "run" / "last") == []
    train_classifier.main([*argv, "--resume"])
    assert (tmp_path / "run" / "submission.csv").exists()


@fault("the disk has no room for the run", "said before the first step")
def test_no_room_is_said_first(arguments: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(files.shutil, "disk_usage", lambda _: usage._replace(free=10**6))
    with pytest.raises(FlukeError, match="too little disk space .1 MB free, about .* MB needed"):
        train_classifier.main(arguments(tmp_path / "run"))
    assert not (tmp_path / "run" / "recipe.yaml").exists()


@fault("images that can't be read, with data.on_unreadable: drop", "left out, counted, named and noted in log.txt")
def test_unreadable_images_are_dropped_and_said(own: Path, arguments: Callable, tmp_path: Path) -> None:
    (own / IMAGE).write_bytes(CUT)
    cell(1, "image", "none.png")(own)
    train_classifier.main(arguments(tmp_path / "run", data_root=own, data_on_unreadable="drop", **LAST))
    log = (tmp_path / "run" / "log.txt").read_text()
    assert "1 of 48 images can't be read: line 3 'none.png' (no such file)" in log
    assert "1 of 47 images can't be read: line 2 '1_000.png' (" in log


NASTY = ["<script>alert(1)</script>", "=cmd|' /C calc'!A0", 'a,"b"', "two\nlines", "\"'; DROP TABLE", "海豚 🐬", "-1+1", "NA"]


@fault(
    "labels with HTML, formulas, quotes, commas, newlines and other scripts",
    "come out of the submission as they went in, and as text on the page",
)
def test_nasty_labels_survive_the_whole_run(own: Path, arguments: Callable, tmp_path: Path) -> None:
    rows(lambda table: table.assign(label=NASTY * 6))(own)
    train_classifier.main(arguments(tmp_path / "run", data_root=own, **LAST))
    run = tmp_path / "run"
    assert json.loads((run / "classes.json").read_text(encoding="utf-8")) == sorted(NASTY)
    written = pd.read_csv(run / "submission.csv", dtype=str, keep_default_na=False)
    assert set(written["label"]) <= set(NASTY)
    assert len(written) == 13
    for page in run.rglob("*.html"):
        assert NASTY[0] not in page.read_text(encoding="utf-8")
        assert html.escape("<script>alert", quote=False) in page.read_text(encoding="utf-8")


# Tested elsewhere: the README lists them with the rest.
ELSEWHERE = [
    (
        "SIGKILL at any point (in a step, validation, a write, between fsync and rename), then --resume",
        "weights, metrics, scores and submission are identical, bit for bit (test_resume.py; on two processes test_launch.py)",
    ),
    ("SIGTERM or Ctrl-C", "state is saved within seconds, the sentence says how to go on, exit code 75 (test_resume.py)"),
    ("one of two processes killed", "the job ends within a minute; --resume goes on with it (test_launch.py)"),
    (
        "a torn or foreign resumable state",
        "recognised by its hashes; the one before it is taken, and said (test_resume.py, test_files.py)",
    ),
    ("a pickle in a resumable state", "refused, not run (test_files.py)"),
    ("another number of processes with --resume", "refused in one sentence (test_launch.py)"),
    ("another recipe with --resume", "refused; the fields that differ are named (test_resume.py)"),
    ("a run in the way, without --resume", "refused; nothing is touched (test_resume.py)"),
    ("a second writer of a run", "refused; a killed writer's lock is gone at once (test_files.py, test_resume.py)"),
    ("a loss that is no longer finite", "stops with a sentence; the best weights are kept (test_resume.py)"),
    ("a fault on every process of a launch", "said once, before the launcher's own trace (test_launch.py)"),
    (
        "an unknown option or field, a wrong value",
        "one sentence with the nearest right name, before torch is loaded (test_command_line.py)",
    ),
    (
        "a recipe that is missing, binary, no YAML, with a key twice, with anchors, nested a thousand deep",
        "one sentence (test_command_line.py)",
    ),
]


def make_readme() -> str:
    """The text of tests/README.md."""
    from tests.faults import test_discovery
    from tests.faults.test_after_training import AFTER

    cases = [*CASES, *(case for case, _ in [*AFTER, *test_discovery.CASES])]
    lines = [
        "# Bad input and faults, and what happens",
        "",
        "Written by `PYTHONPATH=. python tests/faults/test_before_training.py` from the tests; a test holds it up to date.",
        "",
    ]
    lines += [
        f"## {len(cases)} kinds of bad input",
        "",
        "Each ends a real script with exit code 2 and one sentence, with these words in it:",
        "",
    ]
    lines += [
        "| script | bad input | the sentence says |",
        "|---|---|---|",
        *(
            f"| {case.script.__name__.rpartition('.')[2]} | {case.what} | {case.says.replace('|', chr(92) + '|')} |"
            for case in cases
        ),
    ]
    lines += ["", f"## {len(FAULTS) + len(ELSEWHERE)} faults", "", "| fault | what happens |", "|---|---|"]
    return "\n".join([*lines, *(f"| {what} | {happens} |" for what, happens in FAULTS + ELSEWHERE)]) + "\n"


def test_readme_is_up_to_date() -> None:
    assert README.read_text(encoding="utf-8") == make_readme(), "run: PYTHONPATH=. python tests/faults/test_before_training.py"


if __name__ == "__main__":
    README.write_text(make_readme(), encoding="utf-8")
