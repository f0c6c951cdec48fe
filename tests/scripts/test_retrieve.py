"""Retrieval end to end on painted individuals: answers, threshold, files, changes to the gallery, and messages for bad input."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import timm

from lib.config import command_line
from lib.errors import FlukeError
from lib.pipelines import embed
from lib.retrieval.gallery import open_gallery
from lib.run_folder import RunFolder
from lib.scores import score_file
from lib.tables.loading import load_train
from scripts import retrieve, train_classifier, train_embedding
from tests.conftest import paint

KNOWN, SINGLE, NEW = "abcdefgh", "ijkl", "yz"  # one letter each, for `paint` makes the hue of the sum of letters
FILES = {"gallery", "ranks.parquet", "retrieval.html", "submission.csv", "threshold.json", "threshold_curve.npz"}


@pytest.fixture(scope="module")
def animals(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight individuals with six images, four with one, a few that are new; 2 test images of each and of two new individuals."""
    root = tmp_path_factory.mktemp("individuals")
    labels = [*KNOWN * 6, *SINGLE, *["new"] * 5]
    truth = [*KNOWN * 2, *SINGLE * 2, *NEW * 4]
    names, test = paint(root / "images", labels, 1), paint(root / "images", truth, 2)
    pd.DataFrame({"image": names, "label": labels}).to_csv(root / "train.csv", index=False)
    pd.DataFrame({"image": test, "label": ["new a b c d"] * len(test)}).to_csv(root / "sample_submission.csv", index=False)
    pd.DataFrame({"image": test, "label": truth}).to_csv(root / "truth.csv", index=False)
    return root


@pytest.fixture(scope="module")
def train(animals: Path, arguments: Callable[..., list[str]]) -> Callable[..., Path]:
    def make(out: Path, **fields: object) -> Path:
        defaults = {"data_root": animals, "data_new_label": "new", "model_embedding_dim": 16, "objective_name": "arcface"}
        defaults |= {"objective_scale": 16, "data_augment": "[]", "optim_lr": 0.01, "train_epochs": 3, "folds_unknown": 0.3}
        train_embedding.main(arguments(out, **(defaults | fields)))
        return out

    return make


@pytest.fixture(scope="module")
def run(train: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train(tmp_path_factory.mktemp("runs") / "a")


@pytest.fixture(scope="module")
def answers(run: Path, animals: Path) -> pd.DataFrame:
    """Return the run's answers to its test images."""
    retrieve.main(["--run", str(run)])
    return pd.read_parquet(run / "retrieval" / "ranks.parquet")


def lists(frame: pd.DataFrame) -> dict[str, list[str]]:
    return {query: part["name"].tolist() for query, part in frame.sort_values("rank", kind="stable").groupby("query")}


def brute_map(truth: dict[str, str], names: dict[str, list[str]]) -> float:
    """Compute MAP@5 by the contest's formula: precision at each rank that is right, over one right label."""
    total = 0.0
    for query, right in truth.items():
        for place, name in enumerate(names[query][:5], 1):
            if name == right:
                total += 1 / place
                break
    return total / len(truth)


def test_every_file_is_written_and_the_submission_is_the_ranks(run: Path, answers: pd.DataFrame, animals: Path) -> None:
    assert {path.name for path in (run / "retrieval").iterdir() if not path.name.startswith(".")} == FILES
    sample, written = (pd.read_csv(path) for path in (animals / "sample_submission.csv", run / "retrieval" / "submission.csv"))
    assert written["image"].tolist() == sample["image"].tolist()
    assert dict(zip(written["image"], written["label"].str.split())) == lists(answers)
    for names in lists(answers).values():
        assert len(set(names)) == len(names) <= 5
        assert set(names) <= {*KNOWN, *SINGLE, "new"}
    label_of = pd.read_csv(animals / "train.csv").set_index("image")["label"]
    named = answers[answers["name"] != "new"]
    assert (label_of[named["image"]].to_numpy() == named["name"].to_numpy()).all()  # the matching image is of that individual
    assert answers["probability"].between(0, 1).all()
    assert all((np.diff(part["score"]) <= 0).all() for _, part in answers.groupby("query"))
    html = (run / "retrieval" / "retrieval.html").read_text()
    assert all(name in html for name in answers["query"].unique())


def test_the_new_label_is_where_the_threshold_places_it(run: Path, answers: pd.DataFrame) -> None:
    about = json.loads((run / "retrieval" / "threshold.json").read_text())
    assert 0.05 <= about["share"] <= 0.7
    assert (answers.loc[answers["name"] == "new", "score"] == about["threshold"]).all()
    with np.load(run / "retrieval" / "threshold_curve.npz") as curve:
        mixed = (1 - about["share"]) * curve["known"] + about["share"] * curve["new"]
        assert curve["thresholds"][mixed.argmax()] == about["threshold"]


def test_gallery_holds_every_named_row_and_finds_the_right_ones(run: Path, answers: pd.DataFrame, animals: Path) -> None:
    gallery = open_gallery(run / "retrieval" / "gallery")
    table = pd.read_csv(animals / "train.csv")
    assert dict(zip(gallery.rows.names.tolist(), gallery.rows.labels.tolist())) == dict(
        table[table["label"] != "new"].to_numpy().tolist()
    )
    first = {query: next(name for name in names if name != "new") for query, names in lists(answers).items()}
    truth = dict(pd.read_csv(animals / "truth.csv").to_numpy().tolist())
    for kind, least in ((KNOWN, 0.5), (SINGLE, 0.5)):  # guessing: 1 in 12
        of_kind = [first[query] == name for query, name in truth.items() if name in kind]
        assert np.mean(of_kind) >= least


def test_evaluate_returns_the_contests_formula_and_writes_nothing(
    run: Path, answers: pd.DataFrame, animals: Path, tmp_path: Path
) -> None:
    before = sorted((path, path.stat().st_mtime_ns) for path in (run / "retrieval").rglob("*"))
    found = retrieve.main(["--run", str(run), "--evaluate", str(animals / "truth.csv")])
    assert sorted((path, path.stat().st_mtime_ns) for path in (run / "retrieval").rglob("*")) == before
    given = dict(pd.read_csv(animals / "truth.csv").to_numpy().tolist())
    truth = {query: "new" if name in NEW else name for query, name in given.items()}
    assert found["map@5"] == pytest.approx(brute_map(truth, lists(answers)), abs=1e-12)
    assert (
        retrieve.main(["--run", str(run), "--queries", str(animals / "truth.csv"), "--out", str(tmp_path), "--topk", "6"]) == found
    )
    named = lists(pd.read_parquet(tmp_path / "ranks.parquet"))
    known = {query: [name for name in named[query] if name != "new"] for query, name in truth.items() if name != "new"}
    assert found["recall@1"] == pytest.approx(np.mean([truth[query] == names[0] for query, names in known.items()]))
    assert found["recall@5"] == pytest.approx(np.mean([truth[query] in names[:5] for query, names in known.items()]))


def test_embeddings_are_cached_until_an_image_changes(
    run: Path, answers: pd.DataFrame, animals: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = pd.read_csv(animals / "truth.csv")
    table.to_csv(tmp_path / "queries.csv", index=False)
    shutil.copytree(animals / "images", tmp_path / "images")
    argv = ["--run", str(run), "--evaluate", str(tmp_path / "queries.csv"), "--image_dir", str(tmp_path / "images")]
    calls, real = [], embed.predict
    monkeypatch.setattr(embed, "predict", lambda *args, **kwargs: calls.append(kwargs["title"]) or real(*args, **kwargs))
    first = retrieve.main(argv)
    assert calls == ["embed queries.csv"]
    assert retrieve.main(argv) == first
    assert calls == ["embed queries.csv"]
    os.utime(tmp_path / "images" / table["image"][0], (1, 1))
    assert retrieve.main(argv) == first
    assert calls == ["embed queries.csv"] * 2
    retrieve.main([*argv, "--predict.tta", "[hflip]"])
    assert calls[2:] == ["embed train.csv", "embed queries.csv"]  # flips change the embeddings of gallery and queries


def test_without_a_new_label_answers_are_names(train: Callable[..., Path], animals: Path, tmp_path: Path) -> None:
    table = pd.read_csv(animals / "train.csv")
    table[table["label"] != "new"].to_csv(animals / "named.csv", index=False)
    out = train(tmp_path / "b", data_train_csv="named.csv", data_new_label="null", train_epochs=1)
    retrieve.main(["--run", str(out), "--topk", "3"])
    frame = pd.read_parquet(out / "retrieval" / "ranks.parquet")
    assert set(frame["name"]) <= {*KNOWN, *SINGLE}
    assert (frame.groupby("query").size() == 3).all()
    assert json.loads((out / "retrieval" / "threshold.json").read_text())["threshold"] is None


def test_topk_larger_than_the_gallery_gives_all_names(run: Path, tmp_path: Path) -> None:
    retrieve.main(["--run", str(run), "--topk", "50", "--out", str(tmp_path)])
    sizes = pd.read_parquet(tmp_path / "ranks.parquet").groupby("query").size()
    assert (sizes == len(KNOWN + SINGLE) + 1).all()


def test_a_pair_is_compared(run: Path, animals: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table = pd.read_csv(animals / "train.csv")
    image = {name: [str(animals / "images" / n) for n in part["image"]] for name, part in table.groupby("label")}
    same = retrieve.main(["--run", str(run), "--pair", image["a"][0], image["a"][0]])
    assert same["score"] == pytest.approx(1, abs=1e-5)
    assert same["same"] is True
    assert "the same individual" in capsys.readouterr().out
    others = [retrieve.main(["--run", str(run), "--pair", image["a"][0], image[name][0]]) for name in "ceg"]
    assert max(other["probability"] for other in others) < same["probability"]
    assert all(other["same"] == (other["score"] >= other["threshold"]) for other in others)
    assert not all(other["same"] for other in others)


def test_several_runs_are_one_embedding(
    run: Path, answers: pd.DataFrame, train: Callable[..., Path], animals: Path, tmp_path: Path
) -> None:
    rng = np.random.default_rng(0)
    parts = [rng.normal(size=(5, d)).astype(np.float32) for d in (3, 7)]
    both = embed.combine_embeddings(parts, "concat", [Path("a"), Path("b")])
    unit = [part / np.linalg.norm(part, axis=1, keepdims=True) for part in parts]
    np.testing.assert_allclose(both @ both.T, (unit[0] @ unit[0].T + unit[1] @ unit[1].T) / 2, atol=1e-6)
    with pytest.raises(FlukeError, match=r"differ in width \(a: 3, b: 7\)"):
        embed.combine_embeddings(parts, "mean", [Path("a"), Path("b")])
    twice = ["--run", str(run), str(run), "--out", str(tmp_path / "twice")]
    for how in ("concat", "mean"):
        retrieve.main([*twice, "--combine", how])
        assert lists(pd.read_parquet(tmp_path / "twice" / "ranks.parquet")) == lists(answers)


def test_runs_that_held_out_different_rows(
    run: Path, train: Callable[..., Path], tmp_path: Path, capsys, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = train(tmp_path / "c", folds_seed=5, train_epochs=1)
    retrieve.main(["--run", str(run), str(other), "--combine", "mean", "--out", str(tmp_path / "mean")])
    assert "held out different rows" in capsys.readouterr().out
    single = []
    for each in (run, other):
        retrieve.main(["--run", str(each), "--out", str(tmp_path / each.name / "alone")])
        single.append(json.loads((tmp_path / each.name / "alone" / "threshold.json").read_text())["threshold"])
    assert json.loads((tmp_path / "mean" / "threshold.json").read_text())["threshold"] == pytest.approx(np.mean(single))
    both = ["--run", str(run), str(other), "--out", str(tmp_path / "both")]
    retrieve.main(both)  # a share of 32 queries says too little
    assert json.loads((tmp_path / "both" / "threshold.json").read_text())["threshold"] == pytest.approx(np.mean(single))
    assert "note: 32 queries are too few to carry the runs' thresholds over" in capsys.readouterr().out
    monkeypatch.setattr("lib.retrieval.open_set.MANY", 10)
    retrieve.main(both)
    first = pd.read_parquet(tmp_path / "both" / "ranks.parquet").query("rank == 1")
    alone = [validate_alone(each, tmp_path / each.name / "alone", threshold) for each, threshold in zip((run, other), single)]
    assert (first["name"] == "new").mean() == pytest.approx(np.mean(alone), abs=1.5 / len(first))


def validate_alone(run: Path, out: Path, threshold: float) -> float:
    """Return the share of the test images whose best score is below the run's threshold, among all named images.

    Individuals that the run held out whole are in the gallery that is asked: their photographs aren't new.
    """
    recipe = command_line.parse(command_line.make_parser(""), ["--cfg", str(run / "recipe.yaml")]).recipe
    train = load_train(recipe.data, recipe.folds)
    val, test = score_file.load_scores(run / "scores_val.npz"), score_file.load_scores(run / "scores_test.npz")
    held = val.logits[~np.isin([label for (label,) in val.labels], ["new"])]
    unit = [part / np.linalg.norm(part, axis=1, keepdims=True) for part in (held, test.logits)]
    assert len(train) == len(val.rows)
    return float(((unit[1] @ unit[0].T).max(axis=1) < threshold).mean())


def test_queries_that_are_in_the_gallery_are_counted(run: Path, animals: Path, tmp_path: Path, capsys) -> None:
    retrieve.main(["--run", str(run), "--evaluate", str(animals / "train.csv"), "--out", str(tmp_path)])
    assert "note: 52 of the queries are in the gallery; each is answered by its other images" in capsys.readouterr().out
    retrieve.main(["--run", str(run), "--queries", str(animals / "images"), "--out", str(tmp_path / "all")])
    ranks = pd.read_parquet(tmp_path / "all" / "ranks.parquet")
    assert not (ranks["query"].map(os.path.basename) == ranks["image"].map(os.path.basename, na_action="ignore")).any()
    shutil.copy(animals / "images" / "1_000.png", tmp_path / "another_name.png")
    retrieve.main(["--run", str(run), "--queries", str(tmp_path / "another_name.png"), "--out", str(tmp_path / "one")])
    assert "1_000.png" not in pd.read_parquet(tmp_path / "one" / "ranks.parquet")["image"].to_list()


def test_add_and_remove_without_training(run: Path, answers: pd.DataFrame, animals: Path, tmp_path: Path) -> None:
    out = ["--run", str(run), "--out", str(tmp_path)]
    retrieve.main(out)
    truth = pd.read_csv(animals / "truth.csv")
    new = truth[truth["label"].isin([*NEW])]
    new.groupby("label").head(2).to_csv(tmp_path / "more.csv", index=False)
    assert retrieve.main([*out, "--add", str(tmp_path / "more.csv")]) == {"images": 56, "individuals": 14}
    with pytest.raises(FlukeError, match="4 of its images are in the gallery already"):
        retrieve.main([*out, "--add", str(tmp_path / "more.csv")])
    with pytest.raises(FlukeError, match="changed by --add or --remove"):
        retrieve.main(out)
    search = [
        "--run",
        str(run),
        "--gallery",
        str(tmp_path / "gallery"),
        "--out",
        str(tmp_path / "other"),
        "--queries",
        str(animals / "truth.csv"),
    ]
    retrieve.main(search)
    best = {
        query: next(n for n in names if n != "new")
        for query, names in lists(pd.read_parquet(tmp_path / "other" / "ranks.parquet")).items()
    }
    assert np.mean([best[query] == name for query, name in new[["image", "label"]].to_numpy()]) > 0.5
    assert retrieve.main([*out, "--remove", *NEW]) == {"images": 52, "individuals": 12}
    retrieve.main([*search, "--topk", "5"])
    assert lists(pd.read_parquet(tmp_path / "other" / "ranks.parquet")) == lists(answers)


def test_newest_embedding_run_is_taken(run: Path, animals: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    for age, name in enumerate(("old", "new")):
        shutil.copytree(run, tmp_path / "runs" / name)
        os.utime(tmp_path / "runs" / name / "environment.json", (1e9 + age, 1e9 + age))
    (tmp_path / "runs" / "classifier").mkdir()
    (tmp_path / "runs" / "classifier" / "environment.json").write_text("{}")
    monkeypatch.chdir(tmp_path)
    retrieve.main(["--topk", "5"])
    assert f"newest embedding run: {Path('runs') / 'new'}" in capsys.readouterr().out
    assert (tmp_path / "runs" / "new" / "retrieval" / "submission.csv").exists()


def test_options_change_the_runs_recipe(train: Callable[..., Path], run: Path, tmp_path: Path) -> None:
    """tta mirror fits a run with mirrored individuals, though not the default recipe, and no other run."""
    mirrored = train(tmp_path / "mirrored", data_mirror_identities=True, train_epochs=1)
    retrieve.main(["--run", str(mirrored), "--predict.tta", "[mirror]"])
    assert open_gallery(mirrored / "retrieval" / "gallery").index.dimension == 32  # both embeddings of 16, side by side
    with pytest.raises(FlukeError, match="mirror needs data.mirror_identities"):
        retrieve.main(["--run", str(run), "--predict.tta", "[mirror]", "--out", str(tmp_path / "out")])


# --- bad input --------------------------------------------------------------------------------------------------------------------


def test_bad_arguments_are_refused(run: Path, animals: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    truth = str(animals / "truth.csv")
    with pytest.raises(FlukeError, match=r"--topk 0: a query gets at least 1 name"):
        retrieve.main(["--run", str(run), "--topk", "0"])
    with pytest.raises(FlukeError, match="--evaluate and --queries: one at a time"):
        retrieve.main(["--run", str(run), "--queries", truth, "--evaluate", truth])
    with pytest.raises(FlukeError, match=r"lacks recipe\.yaml, best/model\.safetensors, scores_val\.npz"):
        retrieve.main(["--run", str(tmp_path / "nothing")])
    with pytest.raises(FlukeError, match=r"retrieval\.centre_weigt; did you mean --retrieval\.centre_weight"):
        retrieve.main(["--run", str(run), "--retrieval.centre_weigt", "1"])
    pd.read_csv(truth)[["image"]].to_csv(tmp_path / "blind.csv", index=False)
    with pytest.raises(FlukeError, match="has no column 'label'"):
        retrieve.main(["--run", str(run), "--evaluate", str(tmp_path / "blind.csv")])
    with pytest.raises(FlukeError, match=r"none\.jpg: no such file"):
        retrieve.main(["--run", str(run), "--pair", "none.jpg", "none.jpg"])
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FlukeError, match="no embedding run there"):
        retrieve.main([])


def test_a_gallery_of_another_model_or_dimension_is_refused(
    run: Path, answers: pd.DataFrame, train: Callable[..., Path], tmp_path: Path
) -> None:
    narrow = train(tmp_path / "narrow", model_embedding_dim=8, train_epochs=1)
    argv = ["--run", str(narrow), "--gallery", str(tmp_path / "theirs"), "--out", str(tmp_path / "out")]
    shutil.copytree(run / "retrieval" / "gallery", tmp_path / "theirs")
    with pytest.raises(FlukeError, match=r"embedded by .* and the queries by .*; embed both with one model"):
        retrieve.main(argv)
    about = json.loads((tmp_path / "theirs" / "gallery.json").read_text())
    mark = embed.fingerprint(
        RunFolder(narrow),
        retrieve.command_line.parse(retrieve.command_line.make_parser(""), ["--cfg", str(narrow / "recipe.yaml")]).recipe,
    )
    (tmp_path / "theirs" / "gallery.json").write_text(json.dumps(about | {"model": mark}))
    with pytest.raises(FlukeError, match=r"embeddings of shape \(32, 8\); expected \(rows, 16\)"):
        retrieve.main(argv)
    assert not (tmp_path / "out").exists()


def test_an_empty_gallery_and_rows_without_names_are_refused(
    run: Path, answers: pd.DataFrame, animals: Path, tmp_path: Path
) -> None:
    shutil.copytree(run / "retrieval" / "gallery", tmp_path / "copy")
    there = ["--run", str(run), "--gallery", str(tmp_path / "copy")]
    with pytest.raises(FlukeError, match="The gallery would be empty"):
        retrieve.main([*there, "--remove", *KNOWN, *SINGLE])
    with pytest.raises(FlukeError, match="1 names are no individual or image"):
        retrieve.main([*there, "--remove", "a", "nobody"])
    table = pd.read_csv(animals / "truth.csv").assign(label="new")
    table.to_csv(tmp_path / "new.csv", index=False)
    with pytest.raises(FlukeError, match="every row is labelled new"):
        retrieve.main([*there, "--add", str(tmp_path / "new.csv")])
    assert len(open_gallery(tmp_path / "copy").rows) == 52


def test_nan_embeddings_and_changed_tables_are_refused(
    run: Path, animals: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(run, copy, ignore=shutil.ignore_patterns("embeddings", "retrieval"))
    with monkeypatch.context() as patch:
        patch.setattr(embed, "predict", lambda networks, images, *rest, **more: [np.full((len(images), 16), np.nan, np.float32)])
        with pytest.raises(FlukeError, match=r"57 of 57 embeddings hold NaN"):
            retrieve.main(["--run", str(copy)])
    pd.read_csv(animals / "train.csv").iloc[::-1].to_csv(animals / "turned.csv", index=False)
    with pytest.raises(FlukeError, match=r"turned\.csv as they were .*; give it that table, or train again"):
        retrieve.main(["--run", str(run), "--data.train_csv", "turned.csv"])


def test_photographs_are_asked_by_their_names(run: Path, answers: pd.DataFrame, animals: Path, tmp_path: Path) -> None:
    queries = answers["query"].unique()[:3].tolist()
    photographs = [str(animals / "images" / name) for name in queries]
    retrieve.main(["--run", str(run), "--queries", *photographs, "--out", str(tmp_path / "few")])
    few = pd.read_parquet(tmp_path / "few" / "ranks.parquet")
    assert few["query"].unique().tolist() == photographs
    images = tmp_path / "folder"
    images.mkdir()
    for name in queries:
        (images / name).write_bytes((animals / "images" / name).read_bytes())
    retrieve.main(["--run", str(run), "--queries", str(images), "--out", str(tmp_path / "all")])
    whole = lists(pd.read_parquet(tmp_path / "all" / "ranks.parquet"))
    assert list(lists(few).values()) == [whole[name] for name in queries]
    for wrong, sentence in (
        (["none.jpg"], "none.jpg: no such file"),
        ([photographs[0], str(animals / "train.csv")], "is no image or folder"),
    ):
        with pytest.raises(FlukeError, match=sentence):
            retrieve.main(["--run", str(run), "--queries", *wrong, "--out", str(tmp_path / "wrong")])


def test_a_saved_gallery_is_asked_without_the_training_table(
    run: Path, answers: pd.DataFrame, animals: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(run / "retrieval" / "gallery", tmp_path / "gallery")

    def unread(*args: object) -> None:
        raise AssertionError("the training table is read")

    monkeypatch.setattr("lib.tables.loading.load_train", unread)
    out = ["--gallery", str(tmp_path / "gallery"), "--out", str(tmp_path / "out")]
    retrieve.main(out)
    for column in ("name", "image"):
        assert pd.read_parquet(tmp_path / "out" / "ranks.parquet")[column].to_list() == answers[column].to_list()
    pages = [(folder / "retrieval.html").read_text() for folder in (tmp_path / "out", run / "retrieval")]
    assert pages[0].count("data:image") == pages[1].count("data:image") > 30
    files = [json.loads((folder / "threshold.json").read_text()) for folder in (tmp_path / "out", run / "retrieval")]
    assert files[0] == files[1]


def test_a_few_queries_get_the_threshold_of_the_many_before_them(run: Path, animals: Path, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr("lib.pipelines.retrieve.MANY", 20)
    retrieve.main(["--run", str(run), "--out", str(tmp_path)])
    many = json.loads((tmp_path / "threshold.json").read_text())
    for photograph in ("2_000.png", "2_031.png"):  # of a known individual, and of a stranger
        asked = ["--queries", str(animals / "images" / photograph)]
        retrieve.main(["--gallery", str(tmp_path / "gallery"), "--out", str(tmp_path / "one"), *asked])
        one = json.loads((tmp_path / "one" / "threshold.json").read_text())
        assert (one["threshold"], one["share"]) == (many["threshold"], many["share"])


def test_a_pretrained_descriptor_answers_without_any_training(
    animals: Path, arguments: Callable[..., list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    monkeypatch.chdir(tmp_path)
    fields = arguments(Path("unused"), data_root=animals, data_new_label="new", folds_unknown=0.3, model_embedding_dim=8)
    fields = fields[: fields.index("--out")] + fields[fields.index("--out") + 2 :]
    metrics = retrieve.main(["--model", "test_resnet.r160_in1k", *fields])
    assert metrics["map@5"] > 0.3
    run = tmp_path / "runs" / "test_resnet.r160_in1k-pretrained"
    assert "validation, without training: map@5" in capsys.readouterr().out
    network = timm.create_model("test_resnet", num_classes=0)
    gallery = open_gallery(run / "retrieval" / "gallery")
    assert gallery.index.dimension == network.num_features
    before = gallery.embeddings(gallery.rows.ids)
    assert retrieve.main(["--model", "test_resnet.r160_in1k", *fields]) == metrics  # the run is there
    np.testing.assert_array_equal(open_gallery(run / "retrieval" / "gallery").embeddings(gallery.rows.ids), before)
    with pytest.raises(FlukeError, match=r"train\.epochs 0: is for train_embedding without model\.embedding_dim"):
        train_embedding.main(arguments(tmp_path / "zero", data_root=animals, train_epochs=0, model_embedding_dim=8))
    with pytest.raises(FlukeError, match=r"train\.epochs 0"):
        train_classifier.main(arguments(tmp_path / "zero", data_root=animals, train_epochs=0))


def test_a_catalogue_with_one_photograph_of_each_is_searched(
    animals: Path, arguments: Callable[..., list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    monkeypatch.chdir(tmp_path)
    table = pd.read_csv(animals / "train.csv").query("label != 'new'").drop_duplicates("label")
    table.to_csv(tmp_path / "single.csv", index=False)
    given = {"data_root": animals, "data_train_csv": tmp_path / "single.csv", "data_new_label": "new", "folds_unknown": 0.4}
    fields = arguments(Path("unused"), **given)
    fields = fields[: fields.index("--out")] + fields[fields.index("--out") + 2 :]
    retrieve.main(["--model", "test_resnet.r160_in1k", *fields, "--retrieval.far", "0.25"])
    assert "by strangers alone, of whom retrieval.far 0.25 reach it" in capsys.readouterr().out
    out = tmp_path / "runs" / "test_resnet.r160_in1k-pretrained" / "retrieval"
    assert len(open_gallery(out / "gallery").rows) == len(table) == 12
    ranks = pd.read_parquet(out / "ranks.parquet")
    assert ranks["query"].nunique() == 32
    assert set(ranks["name"]) >= {"new"}
    assert ranks["probability"].isna().all()
