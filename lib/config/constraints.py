"""What a recipe's fields may say, alone and together, where their types don't tell."""

from __future__ import annotations

from collections.abc import Iterator

from lib.config.recipe import Recipe
from lib.errors import FlukeError


def check_constraints(recipe: Recipe) -> None:
    """All of it, before anything slow begins. Raises FlukeError naming every field that is wrong."""
    if faults := [sentence for holds, sentence in _constraints(recipe) if not holds]:
        raise FlukeError("The recipe can't be: " + "; ".join(faults) + ".")


def _constraints(recipe: Recipe) -> Iterator[tuple[bool, str]]:
    """Whether each rule holds, and the sentence that says it."""
    d, m, o, p, t, f = recipe.data, recipe.model, recipe.objective, recipe.optim, recipe.train, recipe.folds
    yield (
        (d.train_csv is None) != (d.train_dir is None),
        "set exactly one of data.train_csv and data.train_dir (the other to null)",
    )
    yield (
        d.size >= 8 and (d.eval_size is None or d.eval_size >= 8),
        "data.size and data.eval_size are sides in pixels, 8 at least",
    )
    yield d.workers >= 0, "data.workers can't be negative"
    yield d.label_separator is None or d.label_separator != "", "data.label_separator is empty; null means one label an image"
    yield d.cache_size is None or d.cache_size >= 8, "data.cache_size is a short side in pixels, 8 at least, or null"
    yield all(n >= 1 for n in d.take.values()), "data.take keeps at least 1 row of each class it names"
    yield d.label_separator is None or d.train_dir is None, "data.label_separator needs data.train_csv, not train_dir"
    yield (
        d.label_separator is None
        or (d.min_images <= 1 and d.max_images is None and d.largest_classes is None and not d.take and not d.only_classes),
        "data.only_classes, min_images, max_images, largest_classes and take are for one label an image (no data.label_separator)",
    )
    yield 0 <= m.dropout < 1, "model.dropout is a probability below 1"
    yield (
        all(n >= 1 for n in (*m.hidden, 1 if m.embedding_dim is None else m.embedding_dim)),
        "model.hidden and model.embedding_dim are widths, 1 at least",
    )
    yield 0 <= o.label_smoothing < 1, "objective.label_smoothing is a share below 1"
    yield o.gamma >= 0 and o.mixup >= 0 and o.cutmix >= 0, "objective.gamma, mixup and cutmix can't be negative"
    yield 0 <= o.mix_prob <= 1, "objective.mix_prob is a share"
    yield p.lr > 0 and p.head_lr > 0, "optim.lr and optim.head_lr are positive"
    yield p.weight_decay >= 0 and p.momentum >= 0, "optim.weight_decay and optim.momentum can't be negative"
    yield p.layer_decay is None or 0 < p.layer_decay <= 1, "optim.layer_decay lies in (0, 1]"
    yield 0 <= p.min_lr <= 1, "optim.min_lr is a share of optim.lr"
    yield 0 < p.factor < 1, "optim.factor lies between 0 and 1"
    yield p.warmup_epochs >= 0 and p.freeze_epochs >= 0, "epochs of optim can't be negative"
    drops = p.step_epochs if isinstance(p.step_epochs, list) else [p.step_epochs]
    yield bool(drops) and all(drop > 0 for drop in drops), "optim.step_epochs are epochs above 0"
    yield p.clip_norm is None or p.clip_norm > 0, "optim.clip_norm is positive or null"
    yield t.epochs >= 1 and t.batch_size >= 1 and t.accumulate >= 1, "train.epochs, batch_size and accumulate are 1 at least"
    yield t.patience is None or t.patience >= 1, "train.patience is 1 at least, or null"
    yield t.ema is None or 0 < t.ema < 1, "train.ema is a decay between 0 and 1, or null"
    yield t.limit_rows is None or t.limit_rows >= 2, "train.limit_rows is 2 at least, or null"
    yield t.max_minutes is None or t.max_minutes > 0, "train.max_minutes is positive, or null"
    yield t.save_minutes is None or t.save_minutes > 0, "train.save_minutes is positive, or null"
    yield t.keep_last >= 1, "train.keep_last is 1 at least"
    yield (
        f.holdout > 0 and (f.holdout < 1 or f.holdout == int(f.holdout)),
        "folds.holdout is a share below 1 or a whole number of rows",
    )
    yield 0 <= f.unknown < 1, "folds.unknown is a share below 1"
    yield all(f > 0 for f in (*t.sampler_factors.values(), *o.class_factors.values())), "factors of single classes are positive"
    yield (
        not o.logit_adjustment or (t.sampler != "weighted" and o.class_weights == "none"),
        "objective.logit_adjustment makes up for class shares, as train.sampler weighted and class_weights do: take one of them",
    )
    yield not t.sampler_factors or t.sampler == "weighted", "train.sampler_factors need train.sampler weighted"
    yield t.images_per_class >= 1, "train.images_per_class is 1 at least"
    yield (
        o.margin_power >= 0 and o.sub_centers >= 1,
        "objective.margin_power can't be negative, objective.sub_centers is 1 at least",
    )
    yield o.scale is None or o.scale > 0, "objective.scale is positive, or null"
    flips = any("RandomHorizontalFlip" in str(entry) for entry in d.augment)
    yield (
        not (d.mirror_identities and flips),
        "data.mirror_identities and RandomHorizontalFlip in data.augment contradict each other",
    )
    tta = recipe.predict.tta
    yield "mirror" not in tta or d.mirror_identities, "predict.tta mirror needs data.mirror_identities; hflip averages"
    opposed = d.mirror_identities and bool({"hflip", "hvflip"} & set(tta))
    yield not opposed, "predict.tta hflip contradicts data.mirror_identities; take mirror"
    yield t.seed >= 0 and 0 <= f.seed < 2**32, "train.seed and folds.seed can't be negative (folds.seed: below 2**32)"
    yield f.n >= 2, "folds.n is 2 at least"
    yield f.group_column is None or f.group_csv is None, "set one of folds.group_column and folds.group_csv, not both"
    yield f.group_column is None or d.train_dir is None, "folds.group_column needs data.train_csv; train_dir: folds.group_csv"
    yield (
        f.csv is None or (f.group_column or f.group_csv) is None,
        "folds.csv stands alone: unset folds.group_column and group_csv",
    )
    yield recipe.predict.batch_size is None or recipe.predict.batch_size >= 1, "predict.batch_size is 1 at least, or null"
    yield recipe.predict.topk >= 1, "predict.topk is 1 at least"
    pairs = {"triplet", "multi_similarity", "contrastive", "supcon"} & {o.name, *o.also}
    yield (
        d.new_rows == "drop" or bool(pairs),
        "data.new_rows negatives are for losses over pairs: name triplet, multi_similarity, contrastive or supcon",
    )
    r = recipe.retrieval
    yield r.neighbours >= 1 and r.n >= 1, "retrieval.neighbours and retrieval.n are 1 at least"
    yield all(value >= 1 for value in r.search.values()), "retrieval.search sets its parameters to 1 at least"
    yield r.temperature > 0, "retrieval.temperature is positive"
    yield 0 <= r.centre_weight <= 1, "retrieval.centre_weight is a share"
    yield r.expand >= 0 and r.expand_alpha >= 0, "retrieval.expand and expand_alpha can't be negative"
    yield (
        r.metric == "cosine" or not (r.centre_weight or r.expand),
        "retrieval.centre_weight and expand need retrieval.metric cosine",
    )
    yield r.threshold == "auto" or abs(r.threshold) < float("inf"), "retrieval.threshold is a finite score, or auto"
    yield r.new_share == "estimate" or 0 < r.new_share < 1, "retrieval.new_share lies between 0 and 1, or is estimate"
    yield 0 < r.far < 1, "retrieval.far lies between 0 and 1"
