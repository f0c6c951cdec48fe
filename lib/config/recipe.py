"""The sections of a recipe and their fields.

A field is declared once, here: its type with its range, its default, and in the string below it what it means. `--help` and
recipes/schema.json show those strings. A field that no recipe of this repository sets says who needs it. Constraints between
several fields stand in lib/config/constraints.py.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import field
from typing import Annotated, Any, Literal, get_type_hints

from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass
from pydantic_core import CoreSchema, core_schema

from lib.config.traits import LOSSES


class OneOf:
    """Restrict a text field to the names of a registry."""

    def __init__(self, names: Iterable[str]):
        self.names = list(names)

    def __get_pydantic_core_schema__(self, source: Any, handler: Any) -> CoreSchema:
        return core_schema.literal_schema(self.names)


Natural = Annotated[int, Field(ge=0)]
Count = Annotated[int, Field(ge=1)]
Side = Annotated[int, Field(ge=8)]
Positive = Annotated[float, Field(gt=0)]
NonNegative = Annotated[float, Field(ge=0)]
Share = Annotated[float, Field(ge=0, le=1)]
ShareBelowOne = Annotated[float, Field(ge=0, lt=1)]
OpenShare = Annotated[float, Field(gt=0, lt=1)]
WholeNumber = Annotated[float, Field(ge=1, multiple_of=1)]
Loss = Annotated[str, OneOf(LOSSES)]
Precision = Literal["fp32", "bf16", "fp16"]
Transform = str | dict[str, dict[str, Any]]
AUTO_BATCH = 32
"""Images that `train.batch_size: auto` stands for, times `train.accumulate`, in an optimizer step."""

# Strict: "3", 3.7 and true are no integers; an integer is a float. No field has a use for .inf or .nan.
SECTION = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False, use_attribute_docstrings=True)


@dataclass(config=SECTION)
class Data:
    """The contest's files, the meaning of a row, and how an image becomes a tensor."""

    root: str = "."
    """Folder that every other path of this section is relative to (itself relative to the current folder)."""
    train_csv: str | None = "train.csv"
    """Table of training images, CSV or Parquet; null with `train_dir`."""
    train_dir: str | None = None
    """Instead of a table: a folder with one sub-folder of images per class."""
    join_csv: str | None = None
    """A second table whose columns count as columns of `train_csv` and `test_csv` (drivers, patients, metadata): for labels,
    groups, `train_where`, `test_where`, `id_column`. With `train_dir`, for groups by image name. Of a column that both have, the
    first's is taken."""
    join_key: str | Annotated[list[str], Field(min_length=2, max_length=2)] | None = None
    """Column that names the rows of both tables, or [column of the table, column of `join_csv`]; null: the two columns with most
    values in common, of which that of `join_csv` has each value once."""
    image_dir: str = "."
    """Folder that the image names of the tables are relative to; nothing outside it and `trusted_roots` is ever read."""
    trusted_roots: list[str] = field(default_factory=list)
    """Folders outside `image_dir` into which links may lead: a Hugging Face, DVC or git-annex cache."""
    extra_csv: str | None = None
    """Table of images for training only (external data, pseudo-labels), with the columns of `train_csv` (image and label with
    `train_dir`): trainings use them, and never hold them out or score them. Rows of a group, or near copies, of held-out images are
    left out. Images that the training table has are refused. train_embedding: also individuals that the table lacks; they are
    trained on, but are no answers, because the gallery has the table's rows."""
    extra_dir: str | None = None
    """Folder that the image names of `extra_csv` are relative to; null: `image_dir`. Without `extra_csv`: a folder of class folders
    with images for training only."""
    test_csv: str | None = None
    """Table of test images, or the sample submission; null: the sample submission, else every image of `test_dir`."""
    test_dir: str | list[str] | None = None
    """Folder of the test images where it is not `image_dir`, or several folders among which they lie."""
    sample_submission: str | None = None
    """The contest's sample submission, whose columns, rows and order the submission has; null: no submission is written."""
    image_column: str = "image"
    """Column of image names, with or without extension or folder. Or columns that make up the names:
    `"{experiment}/Plate{plate}/{well}"`."""
    test_image_column: str | None = None
    """Column of image names of `test_csv` where it isn't called as that of `train_csv`; null: `image_column`."""
    label_column: str = "label"
    """Column of labels; they stay strings ("01", "NA" and "1e5" survive). Of lists in text files without column names, the first
    column of train.txt is train_1."""
    label_columns: list[str] = field(default_factory=list)
    """Instead of `label_column`: one-hot columns by name or pattern (`"ETT*"`); a row's labels are the columns whose cell is above
    0. One label per row, or with `label_separator` any number."""
    row_pattern: str | None = None
    """For a row per image and label (`ID_12_epidural`): a regular expression that finds both in the cells of `image_column` and in
    the sample's ids, by its groups `image` and `label`, else its first two: `^(.+?)_(epidural|any)$`. A table of this form is read
    as one with a row per image and, in place of `label_column`, a column of its cells per label; a sample is filled accordingly.
    Where one of the sample's labels is `label_column` itself, only its rows are filled, and others stay as they are: of several
    targets, each run takes the submission of the one before as its `sample_submission`."""
    label_pattern: str | None = None
    """Instead of `label_column` and class folders: a regular expression that finds the label in an image's name, folders included;
    its group `label`, else its first group: `^(cat|dog)`."""
    class_map: dict[str, str | None] = field(default_factory=dict)
    """Other names for labels, which merges classes of one name; null leaves a class out: {Cover: "0", UERD: "1", Test: null}."""
    train_where: dict[str, str | list[str]] = field(default_factory=dict)
    """Rows of `train_csv` to train on, by columns: {split: train}."""
    test_where: dict[str, str | list[str]] = field(default_factory=dict)
    """Rows of `test_csv` (null: of `train_csv`) to predict, by columns: {split: [test, query]}."""
    id_column: str | None = None
    """Column of `test_csv` whose values the sample submission lists instead of image names; null: looked for where the sample's
    ids are no image names. Images of one id are answered together (`predict.pool`)."""
    image_pattern: str | None = None
    """Files of a row whose cell in `image_column` is no file name: `"{name}-*.jpg"` takes all images of a pet or product, which
    stay on one side of a split and are answered together."""
    channels: Annotated[int, Field(ge=1, le=64)] | Annotated[list[str], Field(min_length=1)] = 3
    """Channels of an image: 3, read as RGB; 1, read as grey; 4 bands of a file; another number, of .npy arrays (channels first or
    last). Or the grey files of an image, one per channel: `["{name}_red.png", "{name}_green.png"]`, {name} being the cell of
    `image_column`. The network takes so many (timm's in_chans, which adapts pretrained weights); channel i is normalized as
    channel i modulo 3 of RGB, one alone by the mean of the three."""
    pixel_columns: list[str] = field(default_factory=list)
    """Instead of image files: columns of the tables that hold the pixels, by name or pattern. `["pixel*"]`: a number per pixel;
    `[pixels]`, `[band_1, band_2]`: lists of numbers, a column per channel. Values other than 0 to 255 are scaled by the range of
    `train_csv`. Without an `image_column`, rows are named by their numbers, from 1."""
    pixel_shape: Annotated[list[Count], Field(min_length=2, max_length=2)] | None = None
    """Height and width of the pictures of `pixel_columns`; null: square."""
    max_megapixels: Positive = 100.0
    """Images of this many megapixels or more are refused. Where larger ones are allowed, JPEGs are decoded at a fraction of their
    size, pyramids (TIFF) at the page that is large enough, and others whole before they are averaged, which takes 3 bytes of memory
    per pixel and worker; a `cache_dir` decodes each once."""
    label_separator: Annotated[str, Field(min_length=1)] | None = None
    """Separator between the labels of one image (" ", "|", ...); null: one label per image (softmax)."""
    task: Literal["label", "ordinal", "number"] = "label"
    """What `label_column` holds. label: labels without an order. ordinal: one of ordered classes (grades), for quadratic_kappa; by
    a softmax and, of all rows out of fold, cut points on the expected class, or by a loss of numbers or cumulative. number: a
    number (regression)."""
    order: list[str] = field(default_factory=list)
    """Classes in their order, lowest first; of two classes the second is the positive one. []: sorted as text, with data.task
    ordinal as numbers ("10" after "2")."""
    number_columns: list[str] = field(default_factory=list)
    """data.task number: columns of several numbers per image; []: label_column alone."""
    new_label: str | None = None
    """Label for an unknown identity (new_whale), which train_embedding and retrieve treat apart."""
    new_rows: Literal["drop", "negatives"] = "drop"
    """train_embedding: leave training rows of `new_label` out of training, or use them as negatives of all other images. Validation
    queries are all rows that training doesn't use."""
    mirror_identities: bool = False
    """train_embedding: the mirrored images of an identity are another identity, for animals whose left and right flank differ
    (first place of the 2019 whale contest). With false, RandomHorizontalFlip in `augment` means that both are the same identity,
    and without it no image is flipped."""
    drop_images: list[str] = field(default_factory=list)
    """Image names to leave out of training and validation."""
    only_classes: list[str] = field(default_factory=list)
    """Train on these classes only; []: all (one label per image). For a second model of the classes that the first one confuses
    (report 5): train_classifier and kfold keep the split of all classes and score held-out rows of other classes too, so that
    scripts/ensemble.py can combine the two; they write no submission themselves."""
    min_images: Natural = 1
    """Leave out classes with fewer images than this (one label per image)."""
    take: dict[str, Count] = field(default_factory=dict)
    """Keep only the first n rows of a class: {new_whale: 18}. `min_images` and `only_classes` don't apply to such a class."""
    on_unreadable: Literal["error", "drop"] = "error"
    """Training images that are missing or can't be decoded: stop, or leave them out and log them (for archives with broken files).
    Test rows are never dropped, because a contest wants an answer for each: with drop, damaged ones are decoded as far as they
    go."""
    duplicates: Literal["identical", "near", "off"] = "identical"
    """identical: training images whose files have the same bytes stay on one side of a split, because a network knows the ones that
    it was trained on by heart; `folds.csv` is not changed, only compared. duplicates.csv lists them, those with several labels
    first. near: so do resized, recompressed, mirrored and lightly cropped copies (up to 5% at each side); takes a millisecond per
    image, and may take two photographs of one object for one where nothing else differs. off: don't look."""
    check: Literal["decode", "header"] = "decode"
    """Check of the images at the start: decode every image, or read only its header, which is about ten times as fast (for large
    contests) but finds a truncated file only when it is used."""
    box_columns: list[str] = field(default_factory=list)
    """Columns of a box per row: x, y, width, height (see `box_form`) and perhaps its angle in radians, clockwise. Only this part of
    the image, upright by its EXIF orientation, is read. Numbers up to 1 are shares of its sides, else pixels; blank: the whole
    image. Tables to predict may lack the columns."""
    box_form: Literal["size", "corners"] = "size"
    """The third and fourth of `box_columns`. size: width and height. corners: x and y of the other corner."""
    detections: str | None = None
    """Instead of `box_columns`: MegaDetector's JSON for all images, relative to `root`. The most confident animal of each image is
    its box."""
    detection_confidence: Share = 0.2
    """detections: confidence below which an image counts as one without an animal, and is read whole."""
    size: Side = 224
    """Side of training images in pixels."""
    eval_size: Side | None = None
    """Side in pixels for validation and test; null: `size`. A size 15 to 30% larger than `size` often scores better, because
    RandomResizedCrop enlarges the objects in training (Touvron et al. 2019, FixRes)."""
    fit: Literal["squash", "crop", "pad"] = "squash"
    """How an image becomes square: squash both sides, resize the short side and crop the centre, or pad the short side with
    grey."""
    augment: list[Transform] = field(default_factory=lambda: ["RandomHorizontalFlip"])
    """torchvision.transforms.v2 transforms for training, in order, by name: `- RandomRotation: {degrees: 10}`; within RandomApply,
    RandomChoice and RandomOrder `transforms: [...]` in the same way. Unless one of them sets the size (RandomResizedCrop, Resize,
    RandomShortestSize, ...), the image is first brought to `size` as `fit` says. A transform's missing `size` is `data.size`."""
    workers: Natural | None = None
    """Worker processes of each training process that decode and augment; 0: the training process does it; null: the machine's cores
    divided among its training processes. The numbers are the same for any value."""
    cache_dir: str | None = None
    """Folder for a packed cache of decoded images, scaled down to `cache_size`, which saves time with large photographs; null: no
    cache. Runs and folds share it, a changed file is decoded anew, and it may be deleted at any time. Transforms that count in
    pixels see the scaled image."""
    cache_size: Side | None = None
    """Short side of cached images in pixels; null: as large as training and evaluation need it (1.15 times the larger of `size` and
    `eval_size`; twice `size` for crops down to a quarter of the image). Set it larger where runs of several sizes share a cache."""


@dataclass(config=SECTION)
class Model:
    """Backbone, pooling and head."""

    name: str = "resnet18"
    """Any model of timm (`python -c "import timm; print(timm.list_models())"`), hf-hub:OWNER/NAME, or local-dir:FOLDER with the
    files of such a repository. A model of fixed input size (ViT, Swin) is built for `data.size`."""
    pretrained: bool = True
    """Start from timm's pretrained weights, which are downloaded; ignored with `weights`."""
    weights: str | None = None
    """Local file to start from: .safetensors, .pth/.bin/.ckpt read with weights_only, or a run's best/model.safetensors. Weights of
    another image size, within a larger checkpoint, or under names that timm can convert are found, which the log says. Tensors of
    another head are left out and named there."""
    head_from: str | None = None
    """Finished run of probe.py of the same backbone and classes (runs/probe/NAME): the head of a classifier starts as the probe's
    linear one (logistic regression, or ridge regression), fitted on this run's training rows, because the probe has seen the others
    too. The log says what it scores before the first epoch. Needs `hidden: []`; null: a new head."""
    kwargs: dict[str, Any] = field(default_factory=dict)
    """Other arguments of timm.create_model, such as {drop_path_rate: 0.1}."""
    pool: Literal["default", "avg", "max", "gem"] = "default"
    """Pooling of the feature map: the backbone's own, average, max, or generalized mean with learned p (Radenovic et al. 2018)."""
    hidden: list[Count] = field(default_factory=list)
    """Widths of hidden layers between features and logits, each Linear, BatchNorm, ReLU: [128, 32]."""
    dropout: ShareBelowOne = 0.0
    """Dropout probability before the last layer."""
    embedding_dim: Count | None = None
    """Width of the embedding (Linear, then BatchNorm) in train_embedding; null: the backbone's features through BatchNorm alone."""


@dataclass(config=SECTION)
class Objective:
    """The loss."""

    name: Loss = "cross_entropy"
    """One label per image: cross_entropy, focal (Lin et al. 2017). Several labels: bce, focal (on BCE), asymmetric (Ridnik et al.
    2021). Numbers: mse, l1, huber (of a distance of one standard deviation), binned (cross-entropy of `bins`). Ordered classes:
    cross_entropy and focal; mse, l1 and huber on the place in the order; cumulative (proportional odds, McCullagh 1980).
    train_embedding: cross_entropy and the others, from pytorch-metric-learning."""
    bins: Annotated[int, Field(ge=2)] = 32
    """binned: number of bins, evenly spaced from the lowest to the highest number of the training rows. A number is spread over its
    two neighbouring bins, and the prediction is the expected value, which never leaves that range. Its `loss` on held-out rows is
    mse's."""
    label_smoothing: ShareBelowOne = 0.0
    """Share of the target spread over all classes (train_classifier: cross_entropy, focal on softmax)."""
    gamma: NonNegative = 2.0
    """focal: focusing exponent; 0 makes it cross-entropy (or BCE). The paper's class balance alpha is `class_weights`."""
    class_weights: Literal["none", "balanced"] = "none"
    """balanced: the loss of a class has weight n / (classes * images of the class), from the training rows alone (scikit-learn's
    formula). With several labels, the positives of a label have weight negatives / positives."""
    class_weight_power: float = 1.0
    """Exponent of balanced class weights: 1 full, 0.5 square root, 0 none."""
    logit_adjustment: NonNegative = 0.0
    """tau of logit adjustment (Menon et al. 2021), which adds tau * log(class share) to the logits in training only. For metrics
    such as macro F1 on imbalanced classes, instead of class weights and weighted sampling."""
    mixup: NonNegative = 0.0
    """alpha of MixUp (torchvision v2); 0: off."""
    cutmix: NonNegative = 0.0
    """alpha of CutMix (torchvision v2); 0: off. With both, each batch draws one of them."""
    mix_prob: Share = 1.0
    """Share of the batches that are mixed."""
    margin: float | None = None
    """arcface, subcenter_arcface: additive angle in degrees (default 28.6); cosface: of the cosine (0.35); triplet: of the distance
    between unit vectors (0.2); contrastive: of negatives (1)."""
    margin_power: NonNegative = 0.0
    """arcface, cosface: a class of n images has margin * (n / n of the smallest class) ** -margin_power (Ha et al. 2020: 0.25)."""
    scale: Positive | None = None
    """arcface, cosface, cross_entropy on embeddings: factor of the cosines (default 64, 64, 16); 20 to 30 is better with few
    classes."""
    sub_centers: Count = 3
    """subcenter_arcface: centres per class."""
    miner: Literal["hard", "semihard"] = "hard"
    """triplet: the hardest positive and negative of each image, or negatives that are farther than the positive but within the
    margin (where hard mining collapses; Schroff et al. 2015)."""
    also: dict[Loss, float] = field(default_factory=dict)
    """train_embedding: further losses and their weights, added to `name`: {triplet: 0.5}."""


@dataclass(config=SECTION)
class Optim:
    """Optimizer, learning rates, schedule, frozen parts."""

    name: str = "adamw"
    """Any optimizer of timm.optim.create_optimizer_v2 (adamw, adam, sgd, lamb, lion, ...). As in timm, sgd is SGD with Nesterov
    momentum, and momentum is SGD with plain momentum."""
    lr: Positive = 1e-3
    """Highest learning rate of the schedule."""
    weight_decay: NonNegative = 0.05
    """Weight decay, which biases and one-dimensional parameters don't have."""
    momentum: NonNegative = 0.9
    """Momentum of the optimizers that have one (sgd, momentum, rmsprop, ...)."""
    kwargs: dict[str, Any] = field(default_factory=dict)
    """Other arguments of the optimizer, such as {betas: [0.9, 0.98], eps: 1.0e-6}."""
    head_lr: Positive = 1.0
    """Factor on `lr` for head and loss (all that is not the backbone): 10 in report 5, 100 in report 3."""
    layer_decay: Annotated[float, Field(gt=0, le=1)] | None = None
    """Factor on `lr` from each layer group of the backbone to the one before it (timm's groups); null: one rate for all groups."""
    freeze_epochs: Natural = 0
    """First epochs, in which the backbone keeps its weights and BatchNorm statistics and only the head learns."""
    freeze: list[str] = field(default_factory=list)
    """Backbone parts that never learn, by the beginning of their names (conv_stem, bn1, blocks.0; "" is the whole backbone). Their
    BatchNorm statistics stay too, and no gradient is computed below them: 35 instead of 25 images/s (benchmarks/quality). With [""]
    the backbone runs once for all epochs, where `data.augment` and `predict.tta` are [], MixUp is off and `eval_size` is `size`."""
    schedule: Literal["cosine", "onecycle", "step", "plateau", "constant"] = "cosine"
    """Learning rate after warm-up, as a function of the optimizer step (plateau: of the validation metric)."""
    warmup_epochs: NonNegative = 0.0
    """Epochs of linear warm-up from a hundredth of the rate; fractions are allowed. onecycle: the epochs in which the rate rises
    (0: 30% of all)."""
    min_lr: Share = 0.0
    """Last rate of cosine and lowest rate of plateau, as a share of `lr` (report 5: 0.05)."""
    step_epochs: Positive | Annotated[list[Positive], Field(min_length=1)] = 3.0
    """step: epochs between drops of the rate, or a list of the epochs after which it drops: [15, 30]."""
    factor: OpenShare = 0.1
    """step, plateau: factor of the rate at a drop."""
    plateau_patience: Natural = 5
    """plateau: epochs without improvement of `train.metric` before a drop (as in ReduceLROnPlateau)."""
    clip_norm: Positive | None = None
    """Norm to which gradients are clipped; null: no clipping."""


@dataclass(config=SECTION)
class Train:
    """The training loop."""

    epochs: Natural = 10
    """Passes over the training rows. 0 (train_embedding): none, the backbone's features as they are."""
    batch_size: Count | Literal["auto"] = 32
    """Images per batch over all processes together, of which each takes an equal share: one process and several train alike.
    auto: the largest power of two that fits the GPU's memory, at most the 32 * `accumulate` images of an optimizer step, whose
    number stays: `accumulate` is divided accordingly. recipe.yaml of the run holds both numbers."""
    accumulate: Count = 1
    """Batches summed into one optimizer step (for batches that exceed the GPU's memory)."""
    sampler: Literal["shuffle", "weighted", "pk"] = "shuffle"
    """shuffle: every row once per epoch, except for those of a last, smaller batch. weighted: rows drawn with replacement, rare
    classes more often. pk: batches of classes with `images_per_class` images each, every class in every epoch (train_embedding)."""
    images_per_class: Count = 4
    """pk: K, the images of a class in a batch; a class with fewer images gives all of them."""
    singles: Literal["once", "repeat", "drop"] = "once"
    """pk: a class with one image comes once, as a negative; or `images_per_class` times, each with its own augmentation; or not at
    all (for contests in which many identities have one image)."""
    sampler_power: float = 1.0
    """weighted: a row is drawn in proportion to (images of its class) ** -power; 1 makes classes equally frequent, 0.5 is a
    compromise for strongly imbalanced classes."""
    sampler_factors: dict[str, Positive] = field(default_factory=dict)
    """weighted: draw single classes more often by these factors: {Tshirts: 2.0} (train_classifier; report 2 proposes it for classes
    that are confused)."""
    metric: str = "auto"
    """Validation metric that selects the best epoch and drives plateau and early stopping: the contest's, because submissions are
    written for it. --help lists all with their formulas. auto: accuracy, macro_map (several labels) or map@5 (embeddings). `loss`
    is allowed too. Of several labels, macro_f1, micro_f1 and samples_f1 use the threshold 0.5; f1_macro, f2_samples and the like
    use thresholds as the submission does, fitted on other rows."""
    keep: Literal["best", "last"] = "best"
    """Epoch whose weights are kept: the one with the best `metric` on the held-out rows, a score too high by about the scatter
    between epochs (0.02 to 0.03 with 220 rows), or the last one, whose score has no such bias."""
    patience: Count | None = None
    """Stop after this many epochs without a better metric; null: never."""
    ema: OpenShare | None = None
    """Decay per step of an exponential moving average of the weights, which is then evaluated and kept; null: none. The decay is
    at most 1 - (1 + step) ** -2/3 (timm's warm-up): 0.99 at step 1,000, 0.995 at 2,800, 0.998 at 11,000."""
    seed: Natural = 0
    """Seed of order, augmentation, dropout and new weights; another one gives a second run for an ensemble (report 4: nine)."""
    limit_rows: Annotated[int, Field(ge=2)] | None = None
    """Dry run: use only this many training, validation and test rows each, and write no submission."""
    max_minutes: Positive | None = None
    """Stop training in time to validate, predict and write within this many minutes of the start (Kaggle: 9 hours = 540)."""
    save_minutes: Positive | None = 10.0
    """Minutes between saves of resumable state within an epoch (for machines that can be reclaimed at any time); null: save only at
    the end of epochs."""
    precision: Precision | Literal["auto"] = "auto"
    """Arithmetic of the forward pass, in training and inference (autocast; weights stay float32). auto: bf16 on a GPU that computes
    in it (Ampere and later), fp16 with a loss scale on other CUDA GPUs, fp32 elsewhere; recipe.yaml holds what was chosen, and
    --resume keeps it where the device can. Accelerate's mixed_precision overrides it, unless that is "no"."""
    validate_every: Count = 1
    """Epochs from one validation to the next; the last epoch is always validated. `patience` and plateau see validated epochs."""
    sync_batchnorm: bool | None = None
    """Normalize over the images of all processes in BatchNorm (SyncBatchNorm); null: on GPUs. With false, and on CPUs, each process
    normalizes its own share, so that several processes train differently from one with models that have BatchNorm."""
    grad_checkpointing: bool = False
    """Compute the backbone's activations twice instead of keeping them: for models and sizes that exceed the GPU's memory."""
    compile: bool = False
    """torch.compile the backbone for training, for long runs on a GPU: it takes a minute or more at the start, and on a CPU gains
    nothing and needs a C++ compiler."""
    log_with: list[str] = field(default_factory=list)
    """Trackers of Accelerate (tensorboard, wandb, mlflow, trackio, ...), which the extra `tracking` installs; []: none."""

    @property
    def images_per_batch(self) -> int:
        """`batch_size` as a number; a run resolves auto before it uses it, and other scripts take AUTO_BATCH."""
        return AUTO_BATCH if self.batch_size == "auto" else self.batch_size


@dataclass(config=SECTION)
class Folds:
    """Which rows are held out."""

    holdout: OpenShare | WholeNumber = 0.2
    """Held-out rows of train_classifier and train_embedding: a share below 1 or a number of rows (1000)."""
    n: Annotated[int, Field(ge=2)] = 5
    """Folds of kfold."""
    unknown: ShareBelowOne = 0.2
    """train_embedding: share of the identities that are held out whole, as queries whose answer is `data.new_label`; without such a
    label none are."""
    stratify: bool = True
    """Keep the share of every class on each side (of every label: iterative stratification; as near as whole groups allow)."""
    group_column: str | None = None
    """Column of the training table, of `data.join_csv` or of `group_csv`; rows with the same value never sit on both sides (bursts,
    photographs of one lesion)."""
    group_csv: str | None = None
    """A table of groups alone, by image names, relative to `data.root`: its columns are found by the image names and
    `group_column`, or it has just these two. `data.join_csv` joins a table on any key, for labels and filters too."""
    group_pattern: str | None = None
    """Regular expression that finds an image's group in its name, folders included; its first group: `^(\\d+)_(left|right)`."""
    csv: str | None = None
    """Your own folds, such as those of a published solution: a table (image, fold), relative to `data.root`; train_classifier
    validates on fold 0."""
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0
    """Seed of the split."""


@dataclass(config=SECTION)
class Predict:
    """Inference and the submission."""

    batch_size: Count | None = None
    """Images per batch and process; null: 64, or `train.batch_size` if that is larger. Set it lower when memory runs out."""
    tta: list[Literal["hflip", "vflip", "hvflip", "mirror"]] = field(default_factory=list)
    """Flips whose outputs are averaged with those of the image as it is. mirror, for `data.mirror_identities`: the embedding of the
    mirrored image is appended instead, so that a similarity is the mean of two."""
    submission: Literal["auto", "label", "topk", "labels", "scores", "confidence", "numbers", "images", "matches"] = "auto"
    """What the sample's columns hold. label: one label; topk: `topk` labels, best first; labels: every label over its threshold;
    scores: a column of probabilities per class (of two classes one column, that of the second); confidence: one label and its
    probability; numbers: the predicted numbers. retrieve.py also writes names of images: images, the `topk` most similar ones;
    matches, the image itself and all that are similar enough to show the same, by the threshold with the best mean F1 of held-out
    images. auto: what `train.metric` wants, if that is not auto and the columns allow it; else scores when the columns are the
    classes, labels with several labels per image, topk when the sample's cells are lists, else label."""
    index: str | None = None
    """submission images and matches: folder (with its folders) or table of the images whose names are the answers, relative to
    `data.root`, such as landmark retrieval's index; null: the test images themselves, each its own first answer."""
    pool: Literal["mean", "max", "noisy_or"] = "mean"
    """Several images of one row of the sample (a product, a patient): the mean of their probabilities, the largest, or the
    probability that any of them shows it, 1 - product of (1 - p), for several labels or two classes."""
    fill: dict[str, float] = field(default_factory=dict)
    """Values of the sample's columns that are no classes of the training: {UNK: 0.0}."""
    topk: Count = 5
    """Labels per row for `submission: topk` unless `train.metric` says how many (map@3), and names per query in retrieval."""
    allow_empty: bool = False
    """labels: allow rows without any label, in contests that count them; otherwise such a row gets its most probable label."""
    separator: Annotated[str, Field(min_length=1)] = " "
    """Separator between several labels in a submission, where the contest doesn't use a blank."""


@dataclass(config=SECTION)
class Retrieval:
    """From embeddings to names; `predict.topk` and `predict.tta` apply too."""

    metric: Literal["cosine", "l2"] = "cosine"
    """Similarity: cosine, or minus the squared Euclidean distance of the embeddings as they are (for galleries of embeddings whose
    length matters)."""
    factory: str = "Flat"
    """FAISS index, as a faiss.index_factory string: Flat is exact; IVF1024,SQ8 or HNSW32 for a million images."""
    store: str | None = None
    """Where the gallery's vectors lie: null, in its folder with FAISS; the address of a Milvus server or cluster
    (http://HOST:19530; the variable MILVUS_TOKEN may hold user:password); or a file of Milvus Lite (vectors.db). Needs the extra
    `milvus`. `factory` is then Flat or an index type of Milvus (AUTOINDEX, HNSW)."""
    search: dict[str, Count] = field(default_factory=dict)
    """Search parameters of an index that is not exact: {nprobe: 16}, {efSearch: 64}, {k_factor_rf: 4}."""
    part_column: str | None = None
    """discover: column of the training and test tables (dataset, species) that parts the images: clusters never span two parts, and
    each has its own threshold where enough individuals of it are held out; null: one part."""
    encounters: str | None = None
    """discover: table (image, encounter), relative to `data.root`: photographs of one encounter show the same individual."""
    photographs: str | None = None
    """discover: table (image, photograph), relative to `data.root`: images cut out of one photograph show different individuals."""
    orientation_column: str | None = None
    """Column of the training and test tables that says which side of an animal an image shows (left, right). Images of two sides
    are never compared, by retrieve or by discover: only a name or an encounter joins them. Those with a blank cell or "unknown"
    are compared with all. null: all images are compared."""
    encounter_column: str | None = None
    """retrieve: column of the queries' table, or of the table `encounters`; photographs with the same value are asked together: an
    individual's score is the mean over them, in validation over those of a sighting (folds.group_column). Images of the gallery
    with the same value don't answer; null: each photograph alone."""
    local: Literal["none", "sift"] = "none"
    """Score candidate pairs by points that match, too, in discover, and in retrieve for ranking, threshold and probabilities (not
    while training). sift: SIFT keypoints that one homography explains, with the extra `matching`; for patterns of spots or
    stripes. Both scores count by a logistic regression on held-out individuals, local ones not at all where they add nothing."""
    local_candidates: Count = 20
    """local: nearest images by embedding that each image is matched with."""
    local_keypoints: Count = 512
    """local: keypoints of an image, the strongest."""
    local_size: Side = 640
    """local: longer side in pixels to which larger images are scaled down."""
    local_masks: str | None = None
    """local: folder of masks, relative to `data.root`, PNG files under the images' names: keypoints where a mask is black are left
    out, the picture is untouched. null: keypoints are looked for everywhere."""
    neighbours: Count = 100
    """Gallery images searched per query, more where they belong to fewer than `predict.topk` identities; fewer are faster, and vote
    and mean_n count no others."""
    method: Literal["best", "mean_n", "vote"] = "best"
    """Score of an identity: its nearest image's, the mean of its nearest `n` among the neighbours (or of as many as there are), or
    a weighted vote."""
    n: Count = 3
    """mean_n: number of images averaged (2 and 3 are compared in benchmarks/quality)."""
    temperature: Positive = 0.07
    """vote: the weight of a neighbour is exp(score / temperature)."""
    centre_weight: Share = 0.0
    """Share of the similarity to the class centres (ArcFace's weights) in an identity's score, beside its images (first place of
    the 2022 whale and dolphin contest). Cosine only."""
    expand: Natural = 0
    """Query expansion (Radenovic et al. 2018): add this many nearest gallery embeddings to a query, weighted by similarity ** 3,
    and search again; 0: off. For identities with many images (benchmarks/quality compares 1, 2 and 3). Cosine only."""
    threshold: float | Literal["auto"] = "auto"
    """Score below which `data.new_label` comes before a name: auto, fitted on validation as `threshold_by` says, or a number that
    was fitted elsewhere."""
    threshold_by: Literal["map@k", "share", "far", "open_set"] = "map@k"
    """Fit the threshold for the best MAP@k, for a share of `new_share` unknown answers, for a false acceptance rate of `far`, or
    (open_set) for the best geometric mean of the shares of known and of new queries answered right: open_set_accuracy's."""
    new_share: OpenShare | Literal["estimate"] = "estimate"
    """Share of unknown identities among the queries: a number where it is known, or estimated from their scores, never from labels
    (50% where there are no queries yet, as in training)."""
    far: OpenShare = 0.05
    """threshold_by far: share of the queries of unknown identities that may get a name (false acceptance rate), where a wrong name
    costs more than none."""


@dataclass(config=SECTION)
class Recipe:
    """A contest's recipe."""

    data: Data = field(default_factory=Data)
    model: Model = field(default_factory=Model)
    objective: Objective = field(default_factory=Objective)
    optim: Optim = field(default_factory=Optim)
    train: Train = field(default_factory=Train)
    folds: Folds = field(default_factory=Folds)
    predict: Predict = field(default_factory=Predict)
    retrieval: Retrieval = field(default_factory=Retrieval)


SECTIONS: dict[str, type] = get_type_hints(Recipe)

RETIRED: dict[str, Any] = {
    "data.max_images": None,
    "data.largest_classes": None,
    "objective.alpha": 1.0,
    "objective.class_factors": {},
    "train.keep_last": 2,
    "train.channels_last": True,
    "retrieval.expand_alpha": 3.0,
}
"""Removed fields, and the value at which each changed nothing: a recipe that has it at this value still loads."""

ADDED: dict[str, Any] = {"data.duplicates": "off", "train.sync_batchnorm": False}
"""Fields added after runs were made, and the value that those runs had, where it isn't the default of today."""
