"""The recipe: one dataclass a section. What its fields may say together, lib/config/constraints.py holds.

A field is declared once, here: its type, its default and, in the string below it, what it means. `--help` prints those strings.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal, Optional, Union, get_type_hints

Transform = Union[str, dict[str, dict[str, Any]]]


@dataclass
class Data:
    """The contest's files, what a row means, and how an image becomes a tensor."""

    root: str = "."
    """Folder that every other path of this section is relative to (itself relative to the current folder)."""
    train_csv: Optional[str] = "train.csv"
    """Table of training images, CSV or Parquet; null with `train_dir`."""
    train_dir: Optional[str] = None
    """Instead of a table: a folder with one sub-folder of images a class."""
    image_dir: str = "."
    """Folder that the image names of the tables are relative to; nothing outside it is ever read."""
    test_csv: Optional[str] = None
    """Table of test images (the sample submission will do); null takes the sample submission, or every image of `test_dir`."""
    test_dir: Optional[str] = None
    """Folder of the test images where it is not `image_dir`."""
    sample_submission: Optional[str] = None
    """The contest's sample submission: its columns, rows and order are what is written. Null: no submission."""
    image_column: str = "image"
    """Column of image names, with or without extension or folder."""
    label_column: str = "label"
    """Column of labels; they stay strings ("01", "NA" and "1e5" survive)."""
    label_separator: Optional[str] = None
    """What separates several labels of one image (" ", "|", ...). Null: one label an image (softmax)."""
    new_label: Optional[str] = None
    """Label that means "an individual not seen before" (new_whale); train_embedding and retrieve treat it apart."""
    new_rows: Literal["drop", "negatives"] = "drop"
    """train_embedding: training rows of `new_label` are left out of training, or serve as negatives to all others. Validation asks
    about all that training doesn't use."""
    mirror_identities: bool = False
    """train_embedding: each individual's mirror images are another individual, where left and right flank differ (first place of
    the 2019 whale contest). With False, RandomHorizontalFlip in `augment` says that both are the same, and without it nothing is
    flipped."""
    drop_images: list[str] = field(default_factory=list)
    """Image names to leave out of training and validation."""
    only_classes: list[str] = field(default_factory=list)
    """Learn only these classes; []: all (one label an image). For a second model of those that the first confuses: train_classifier
    and kfold split as they would without, and score held-out rows of other classes too, so that scripts/ensemble.py can join the
    two; they write no submission of their own."""
    min_images: int = 1
    """Leave out classes with fewer images than this (one label an image)."""
    max_images: Optional[int] = None
    """Leave out classes with more images than this (one label an image)."""
    largest_classes: Optional[int] = None
    """Keep this many classes, those with most images (one label an image)."""
    take: dict[str, int] = field(default_factory=dict)
    """Keep only the first n rows of a class: {new_whale: 18}. Such a class is exempt from the four filters above."""
    on_unreadable: Literal["error", "drop"] = "error"
    """What to do with training images that are missing or can't be decoded: stop, or leave them out and say so. Test rows are never
    dropped: a contest wants an answer for each."""
    check: Literal["decode", "header"] = "decode"
    """How images are checked at the start: decode every one, or read only its header, which is some ten times as fast but meets a
    file that is cut off only when its turn comes."""
    size: int = 224
    """Training image side in pixels."""
    eval_size: Optional[int] = None
    """Side in pixels for validation and test; null: `size`. A size 15 to 30% larger than `size` often scores better, for
    RandomResizedCrop shows the network larger objects than evaluation does (Touvron et al. 2019, FixRes)."""
    fit: Literal["squash", "crop", "pad"] = "squash"
    """How an image becomes square: squash both sides, resize the short side and crop the centre, or pad the short side with
    grey."""
    augment: list[Transform] = field(default_factory=lambda: ["RandomHorizontalFlip"])
    """torchvision.transforms.v2 transforms for training, in order, by name: `- RandomRotation: {degrees: 10}`; within RandomApply,
    RandomChoice and RandomOrder `transforms: [...]` in the same way. Unless one of them does the scaling (RandomResizedCrop,
    Resize, RandomShortestSize, ...), the image is first brought to `size` as `fit` says. A `size` left out is `data.size`."""
    workers: int = 2
    """Processes that decode and augment; 0 does it in the main process. Changes no number."""
    cache_dir: Optional[str] = None
    """Folder for a packed cache of decoded images, scaled down to `cache_size`; null: decode each time. Pays for large
    photographs."""
    cache_size: Optional[int] = None
    """Short side in pixels of cached images; null: 1.15 times the larger of `size` and `eval_size`."""


@dataclass
class Model:
    """Backbone, pooling and head."""

    name: str = "resnet18"
    """Any model of timm (`python -c "import timm; print(timm.list_models())"`)."""
    pretrained: bool = True
    """Start from timm's pretrained weights (downloaded). Ignored when `weights` is given."""
    weights: Optional[str] = None
    """Local file to start from: .safetensors, or .pth/.bin read with weights_only; timm's names, or a run's best/model.safetensors.
    Tensors of another head are left out, by name, and said."""
    kwargs: dict[str, Any] = field(default_factory=dict)
    """Other arguments of timm.create_model, such as {drop_path_rate: 0.1}."""
    pool: Literal["default", "avg", "max", "gem"] = "default"
    """Pooling of the feature map: the backbone's own, average, max, or generalised mean with learned p (Radenovic et al. 2018)."""
    hidden: list[int] = field(default_factory=list)
    """Widths of hidden layers between features and logits, each Linear, BatchNorm, ReLU: [128, 32]."""
    dropout: float = 0.0
    """Dropout probability before the last layer."""
    embedding_dim: Optional[int] = None
    """Width of the embedding (Linear, then BatchNorm) in train_embedding; null: the backbone's features through BatchNorm alone."""


@dataclass
class Objective:
    """What is optimised."""

    name: Literal[
        "cross_entropy",
        "focal",
        "bce",
        "asymmetric",
        "arcface",
        "subcenter_arcface",
        "cosface",
        "triplet",
        "multi_similarity",
        "contrastive",
        "supcon",
        "proxy_anchor",
    ] = "cross_entropy"
    """One label an image: cross_entropy, focal (Lin et al. 2017). Several: bce, focal (on BCE), asymmetric (Ridnik et al. 2021).
    The rest are for train_embedding, from pytorch-metric-learning."""
    label_smoothing: float = 0.0
    """Share of the target spread over all classes (train_classifier: cross_entropy, focal on softmax)."""
    gamma: float = 2.0
    """Focusing exponent of focal; 0 makes it cross-entropy (or BCE)."""
    alpha: float = 1.0
    """Factor of focal."""
    class_weights: Literal["none", "balanced"] = "none"
    """balanced: a class's loss counts n / (classes * images of the class), from the training rows alone (scikit-learn's formula).
    With several labels: positives count negatives/positives of their label."""
    class_weight_power: float = 1.0
    """Exponent that tempers balanced class weights: 1 full, 0.5 square root, 0 none."""
    class_factors: dict[str, float] = field(default_factory=dict)
    """Further weight for single classes, multiplied in (with several labels: for their positives): {Shirts: 2.0}; to draw them more
    often, `train.sampler_factors`."""
    logit_adjustment: float = 0.0
    """tau of logit adjustment for long tails (Menon et al. 2021): tau * log(class share) is added to the logits in training
    only. Instead of class weights and weighted sampling, not besides."""
    mixup: float = 0.0
    """alpha of MixUp (torchvision v2); 0: off."""
    cutmix: float = 0.0
    """alpha of CutMix (torchvision v2); 0: off. With both, each batch draws one of them."""
    mix_prob: float = 1.0
    """Share of the batches that are mixed."""
    margin: Optional[float] = None
    """arcface, subcenter_arcface: additive angle in degrees (default 28.6); cosface: of the cosine (0.35); triplet: of the distance
    between unit vectors (0.2); contrastive: of negatives (1)."""
    margin_power: float = 0.0
    """arcface, cosface: a class of n images has margin * (n / n of the smallest class) ** -margin_power (Ha et al. 2020: 0.25)."""
    scale: Optional[float] = None
    """arcface, cosface, cross_entropy on embeddings: factor on the cosines (default 64, 64, 16). With few classes less is better:
    20 to 30."""
    sub_centers: int = 3
    """subcenter_arcface: centres a class."""
    miner: Literal["hard", "semihard"] = "hard"
    """triplet: the hardest positive and negative of each image, or negatives that are farther than the positive but within the
    margin."""
    also: dict[str, float] = field(default_factory=dict)
    """train_embedding: further objectives and their weights, added to `name`: {triplet: 0.5}."""


@dataclass
class Optim:
    """Optimiser, learning rates, schedule, freezing."""

    name: str = "adamw"
    """Any optimiser of timm.optim.create_optimizer_v2 (adamw, adam, sgd, lamb, lion, ...). As in timm sgd is Nesterov's, and
    momentum is the plain one."""
    lr: float = 1e-3
    """Learning rate at the top of the schedule."""
    weight_decay: float = 0.05
    """Weight decay; biases and one-dimensional parameters are spared."""
    momentum: float = 0.9
    """Momentum, for optimisers that have one."""
    head_lr: float = 1.0
    """Factor on `lr` for head and objective (everything that is not the backbone): 10 in report 5, 100 in report 3."""
    layer_decay: Optional[float] = None
    """Factor on `lr` from each layer group of the backbone to the one before it (timm's groups); null: the same rate everywhere."""
    freeze_epochs: int = 0
    """Epochs in which the backbone keeps its weights and BatchNorm statistics and only the head learns."""
    freeze: list[str] = field(default_factory=list)
    """Backbone parts that never learn, by the beginning of their names (conv_stem, bn1, blocks.0; "" is all of it): their BatchNorm
    statistics stay, and no gradient is computed below them, which saves time."""
    schedule: Literal["cosine", "onecycle", "step", "plateau", "constant"] = "cosine"
    """Learning rate after warm-up, as a function of the optimiser step; plateau: of the validation metric."""
    warmup_epochs: float = 0.0
    """Epochs of linear warm-up from a hundredth of the rate; fractions allowed. For onecycle: the rising part (0: 30% of the
    job)."""
    min_lr: float = 0.0
    """Last rate of cosine and lowest of plateau, as a share of `lr` (report 5: 0.05)."""
    step_epochs: Union[float, list[float]] = 3.0
    """step: epochs between drops, or a list of the epochs after which the rate drops: [15, 30]."""
    factor: float = 0.1
    """step and plateau: what the rate is multiplied with at a drop."""
    plateau_patience: int = 5
    """plateau: epochs without improvement of `train.metric` before a drop (as in ReduceLROnPlateau)."""
    clip_norm: Optional[float] = None
    """Gradient norm is clipped to this; null: not at all."""


@dataclass
class Train:
    """The loop."""

    epochs: int = 10
    """Passes over the training rows."""
    batch_size: int = 32
    """Images a batch over all processes together, so that one process and several train alike; each takes an equal share."""
    accumulate: int = 1
    """Batches summed into one optimiser step."""
    sampler: Literal["shuffle", "weighted", "pk"] = "shuffle"
    """shuffle: every row once an epoch. weighted: rows drawn with replacement, rare classes more often. pk: batches of classes with
    `images_per_class` images each (train_embedding), every class seen in every epoch."""
    images_per_class: int = 4
    """pk: K, the images of a class in a batch; a class with fewer gives what it has."""
    singles: Literal["once", "repeat", "drop"] = "once"
    """pk: a class with one image comes once, as a negative; or `images_per_class` times, each with its own augmentation; or not at
    all."""
    sampler_power: float = 1.0
    """weighted: a row is drawn in proportion to (images of its class) ** -power; 1 makes classes equally frequent."""
    sampler_factors: dict[str, float] = field(default_factory=dict)
    """weighted: draw single classes more often by these factors: {Tshirts: 2.0}, report 2's wish for classes that are confused
    (train_classifier)."""
    metric: str = "auto"
    """Validation metric that chooses the best epoch, drives plateau and early stopping; auto: accuracy, macro_map (several labels)
    or map@5 (embeddings). `loss` may be named too. The F1 of several labels takes a probability of 1/2 for a yes; submissions have
    thresholds of their own, whose F1 `ensemble.py --thresholds` tells."""
    keep: Literal["best", "last"] = "best"
    """Whose weights are kept: of the epoch with the best `metric` on the held-out rows, which flatters that score by as much as
    epochs scatter (0.02 to 0.03 with 220 rows), or of the last one, whose score is honest."""
    patience: Optional[int] = None
    """Stop after this many epochs without a better metric; null: never."""
    ema: Optional[float] = None
    """Decay a step of an exponential moving average of the weights, which is what is evaluated and kept; null: none. It is reached
    from below (timm's warm-up, 1 - (1 + step) ** -2/3): 0.99 after 1,000 steps, 0.995 after 2,800, 0.998 after 11,000; a shorter
    job sees no more than that, whatever stands here."""
    seed: int = 0
    """Seed of order, augmentation, dropout and new weights: each draw is a function of (seed, epoch, row or step)."""
    limit_rows: Optional[int] = None
    """Dry run: use only this many training, validation and test rows each. No submission is written."""
    max_minutes: Optional[float] = None
    """Stop training in time to validate, predict and write within this many minutes of the start (Kaggle: 9 hours = 540)."""
    save_minutes: Optional[float] = 10.0
    """Save resumable state at least this often, in mid-epoch too; null: at the end of epochs only."""
    keep_last: int = 2
    """Resumable states kept."""
    channels_last: bool = True
    """Memory format of images and weights; doubles depthwise networks on a CPU."""
    compile: bool = False
    """torch.compile the network (a minute or more at the start; needs a C++ compiler on a CPU)."""
    log_with: list[str] = field(default_factory=lambda: ["tensorboard"])
    """Trackers of Accelerate: tensorboard, wandb, mlflow, ..., each of which has to be installed. []: none."""


@dataclass
class Folds:
    """Who is held out."""

    holdout: float = 0.2
    """Held-out rows for train_classifier and train_embedding: a share below 1 or a number of rows (1000)."""
    n: int = 5
    """Folds of kfold."""
    unknown: float = 0.2
    """train_embedding: share of the individuals that are held out whole, to be asked about as `data.new_label`; without one,
    nobody."""
    stratify: bool = True
    """Each side gets its share of every class (of every label: iterative stratification; with groups, as near
    as whole groups come)."""
    group_column: Optional[str] = None
    """Column of the training table; rows with the same value never sit on both sides."""
    group_csv: Optional[str] = None
    """Table (image, group) instead of a column, first column image names, second groups; relative to `data.root`."""
    csv: Optional[str] = None
    """Your own folds: a table (image, fold), relative to `data.root`; train_classifier validates on fold 0."""
    seed: int = 0
    """Seed of the split."""


@dataclass
class Predict:
    """Inference and the submission."""

    batch_size: Optional[int] = None
    """Images a batch and process; null: 64, or `train.batch_size` if that is larger."""
    tta: list[Literal["hflip", "vflip", "hvflip", "mirror"]] = field(default_factory=list)
    """Flips whose outputs are averaged with the upright image's; mirror, for `data.mirror_identities`: the mirrored image's
    embedding stands beside the upright one's, so that a similarity is the mean of two."""
    submission: Literal["auto", "label", "topk", "labels", "scores"] = "auto"
    """What the sample's columns hold: one label; `topk` labels, best first; every label over its threshold; or a column of
    probabilities a class (one column, that of class 1, for classes 0 and 1). auto: scores when the columns are the classes, labels
    for several labels an image, topk where the sample's cells are lists, else label."""
    topk: int = 5
    """Labels a row for `submission: topk`."""
    allow_empty: bool = False
    """labels: may a row have no label at all? If not, its most probable one is given."""
    separator: str = " "
    """What separates several labels in a submission."""


@dataclass
class Retrieval:
    """From embeddings to names; the number of names is `predict.topk`, flips are `predict.tta`."""

    metric: Literal["cosine", "l2"] = "cosine"
    """What "near" means: cosine similarity, or minus the squared Euclidean distance of embeddings as they are."""
    factory: str = "Flat"
    """FAISS index, as a faiss.index_factory string: Flat is exact; IVF1024,SQ8 or HNSW32 for a million images."""
    search: dict[str, int] = field(default_factory=dict)
    """Search parameters of that index: {nprobe: 16}, {efSearch: 64}, {k_factor_rf: 4}."""
    neighbours: int = 100
    """Gallery images looked at for each query; more where they are of fewer than `predict.topk` individuals."""
    method: Literal["best", "mean_n", "vote"] = "best"
    """An identity's score: its nearest image's, the mean of its nearest `n` among the neighbours (or of as
    many as are there), or a weighted vote."""
    n: int = 3
    """mean_n: images averaged."""
    temperature: float = 0.07
    """vote: a neighbour counts exp(score / temperature)."""
    centre_weight: float = 0.0
    """Share of the class centres (ArcFace's weights) in an identity's score, beside its images (happywhale 2022). Cosine only."""
    expand: int = 0
    """Query expansion: add this many nearest gallery embeddings to a query and search again; 0: off. Cosine only."""
    expand_alpha: float = 3.0
    """Exponent of their similarity as a weight (Radenovic et al. 2018)."""
    threshold: Union[float, Literal["auto"]] = "auto"
    """Score that a name needs to stand before `data.new_label`; auto: fitted on validation as `threshold_by` says."""
    threshold_by: Literal["map@k", "share", "far"] = "map@k"
    """Fitted for the best MAP@k, for a share of `new_share` new answers, or for a false acceptance rate of `far`."""
    new_share: Union[float, Literal["estimate"]] = "estimate"
    """Share of new individuals among the queries to answer: assumed, or estimated from their scores (never from their labels)."""
    far: float = 0.05
    """threshold_by far: share of new individuals' queries that may be taken for a known one (false acceptance rate)."""


@dataclass
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
