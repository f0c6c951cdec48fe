"""Fields of a recipe that contradict each other."""

import shlex

import pytest

from lib.config import command_line
from lib.errors import FlukeError

CONTRADICTIONS = {
    "--data.train_csv null": "set exactly one of data.train_csv and data.train_dir",
    "--data.train_dir train": "set exactly one of data.train_csv and data.train_dir",
    "--data.label_separator ' ' --data.train_csv null --data.train_dir d": "data.label_separator needs data.train_csv",
    "--data.label_separator ' ' --data.min_images 2": "data.only_classes, min_images and take are for one label per image",
    "--data.label_separator ' ' --data.take '{a: 1}'": "data.only_classes, min_images and take are for one label per image",
    "--data.label_separator ' ' --data.only_classes '[a]'": "data.only_classes, min_images and take are for one label per image",
    "--folds.group_column g --folds.group_pattern a": "set one of folds.group_pattern, group_column and group_csv",
    "--data.label_columns [a] --data.label_pattern a": "set one of data.label_columns and data.label_pattern",
    "--data.image_pattern a": "data.image_pattern needs data.train_csv, and holds {name}",
    "--data.train_csv null --data.train_dir d --data.train_where '{a: b}'": "data.train_where needs data.train_csv",
    "--folds.group_column g --data.train_csv null --data.train_dir d": "folds.group_column needs data.train_csv",
    "--folds.csv f.csv --folds.group_column g": "folds.csv excludes folds.group_column",
    "--folds.csv f.csv --folds.group_csv g.csv": "folds.csv excludes folds.group_column",
    "--objective.logit_adjustment 1 --train.sampler weighted": "all correct class shares; use one",
    "--objective.logit_adjustment 1 --objective.class_weights balanced": "all correct class shares; use one",
    "--train.sampler_factors '{a: 2}'": "train.sampler_factors needs train.sampler weighted",
    "--data.mirror_identities true": "data.mirror_identities excludes RandomHorizontalFlip in data.augment",
    "--predict.tta '[mirror]'": "predict.tta mirror needs data.mirror_identities",
    "--data.mirror_identities true --data.augment '[]' --predict.tta '[hvflip]'": "data.mirror_identities excludes hflip",
    "--data.new_rows negatives --objective.name arcface": "data.new_rows negatives needs a loss over pairs",
    "--retrieval.metric l2 --retrieval.centre_weight 0.3": "need retrieval.metric cosine",
    "--retrieval.metric l2 --retrieval.expand 1": "need retrieval.metric cosine",
}


@pytest.mark.parametrize("options", CONTRADICTIONS)
def test_contradiction_is_refused_unless_it_is_a_change_to_a_recipe_read_later(options: str) -> None:
    argv, parser = shlex.split(options), command_line.make_parser("a script")
    with pytest.raises(FlukeError, match=f"^The recipe contradicts itself: .*{CONTRADICTIONS[options]}.*\\.$"):
        command_line.parse(parser, argv)
    command_line.parse(parser, argv, check=False)


@pytest.mark.parametrize(
    "options",
    [
        "--data.train_csv null --data.train_dir d --folds.group_csv g.csv",
        "--data.mirror_identities true --data.augment '[]' --predict.tta '[mirror]'",
        "--data.new_rows negatives --objective.name arcface --objective.also '{triplet: 0.3}'",
        "--data.new_rows negatives --objective.name supcon",
        "--train.sampler weighted --train.sampler_factors '{a: 2}' --objective.class_weights balanced",
    ],
)
def test_fields_that_agree(options: str) -> None:
    command_line.parse(command_line.make_parser("a script"), shlex.split(options))
