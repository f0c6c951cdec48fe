"""Retrieval end to end on painted individuals: answers, threshold, files, changes to the gallery, and messages for bad input."""

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import timm
from accelerate import Accelerator

from lib.config import command_line
from lib.errors import FlukeError
from lib.models.weights import load_network
from lib.pipelines import embed, retrieval_session
from lib.pipelines import retrieve as retrieve_pipeline
from lib.pipelines.retrieval_session import EmbeddedTable, RetrievalSession
from lib.reports import figures
from lib.retrieval.gallery import open_gallery
from lib.retrieval.result import RetrievalResult
from lib.run_folder import RetrievalFolder, RunFolder
from lib.scores import score_file
from lib.tables.loading import load_train
from scripts import retrieve, train_classifier, train_embedding
from tests.conftest import paint

KNOWN, SINGLE, NEW = "abcdefgh", "ijkl", "yz"  # one letter each, for `paint` makes the hue of the sum of letters
FILES = {"gallery", "ranks.csv", "ranks.parquet", "retrieval.html", "submission.csv", "threshold.json", "threshold_curve.npz"}


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
    assert 0 < about["share"] < 1
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


def test_runs_that_held_out_different_rows(run: Path, train: Callable[..., Path], animals: Path, tmp_path: Path, capsys) -> None:
    other = train(tmp_path / "c", folds_seed=5, train_epochs=1)
    one = str(animals / "images" / pd.read_csv(animals / "truth.csv")["image"][0])
    for how in ("mean", "concat"):
        thresholds = []
        for queries in ([], ["--queries", one]):
            argv = ["--run", str(run), str(other), "--combine", how, "--out", str(tmp_path / how), "--retrieval.new_share", "0.3"]
            retrieve.main([*argv, *queries])
            thresholds.append(json.loads((tmp_path / how / "threshold.json").read_text())["threshold"])
        assert "held out different rows" in capsys.readouterr().out
        assert thresholds[0] == thresholds[1]  # not that of the photographs that are asked


def test_a_query_that_is_in_the_gallery_is_not_answered_by_itself(run: Path, animals: Path, tmp_path: Path, capsys) -> None:
    shutil.copy(animals / "images" / pd.read_csv(animals / "train.csv")["image"][0], tmp_path / "copy.png")
    retrieve.main(["--run", str(run), "--queries", str(tmp_path / "copy.png"), "--out", str(tmp_path / "out")])
    assert "1 of the queries are images of the gallery; a query isn't answered by itself" in capsys.readouterr().out
    found = pd.read_parquet(tmp_path / "out" / "ranks.parquet")
    assert (found["score"] < 0.99999).all()
    assert pd.read_csv(animals / "train.csv")["image"][0] not in found["image"].tolist()


def test_a_gallery_is_asked_without_run_table_and_images(run: Path, answers: pd.DataFrame, animals: Path, tmp_path: Path) -> None:
    """The run, the training table and the images are gone; pictures of the gallery are shown where they still exist."""
    shutil.copytree(run, tmp_path / "run")
    shutil.copytree(run / "retrieval" / "gallery", tmp_path / "gallery")
    recipe = tmp_path / "gallery" / "networks" / "0" / "recipe.yaml"
    recipe.write_text(recipe.read_text().replace(str(animals), str(tmp_path / "gone")))
    queries = answers["query"].unique()
    shutil.copytree(animals / "images", tmp_path / "photos")
    asked = [tmp_path / "photos" / name for name in queries[:2]]
    (tmp_path / "more").mkdir()
    shutil.copy(tmp_path / "photos" / queries[2], tmp_path / "more")
    retrieve.main(["--gallery", str(tmp_path / "gallery"), "--queries", *map(str, asked), str(tmp_path / "more")])
    found = pd.read_parquet(tmp_path / "gallery" / "answers" / "ranks.parquet")
    assert {Path(query).name: names for query, names in lists(found).items()} == {
        name: lists(answers)[name] for name in queries[:3]
    }
    threshold = json.loads((tmp_path / "gallery" / "answers" / "threshold.json").read_text())["threshold"]
    assert threshold == json.loads((run / "retrieval" / "threshold.json").read_text())["threshold"]
    retrieve.main(["--gallery", str(tmp_path / "gallery"), "--queries", str(asked[0]), "--retrieval.new_share", "0.01"])
    fitted = json.loads((tmp_path / "gallery" / "answers" / "threshold.json").read_text())
    assert fitted["share"] == 0.01  # again, on the held-out queries that the folder keeps
    assert fitted["threshold"] <= threshold


def test_probabilities_of_a_query_are_one_distribution(answers: pd.DataFrame) -> None:
    assert (answers.groupby("query")["probability"].sum() <= 1 + 1e-9).all()


def test_add_and_remove_without_training(run: Path, answers: pd.DataFrame, animals: Path, tmp_path: Path) -> None:
    out = ["--run", str(run), "--out", str(tmp_path)]
    retrieve.main(out)
    truth = pd.read_csv(animals / "truth.csv")
    new = truth[truth["label"].isin([*NEW])]
    new.groupby("label").head(2).to_csv(tmp_path / "more.csv", index=False)
    assert retrieve.main([*out, "--add", str(tmp_path / "more.csv")]) == {"images": 56, "individuals": 14}
    added = open_gallery(tmp_path / "gallery")
    assert added.held_out is not None
    assert not np.isin(added.rows.ids[-4:], added.held_out.ids).any()  # also those of rows that aren't in the gallery
    with pytest.raises(FlukeError, match="4 of its images are in the gallery already"):
        retrieve.main([*out, "--add", str(tmp_path / "more.csv")])
    with pytest.raises(FlukeError, match="was changed"):
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
    before = open_gallery(tmp_path / "gallery").about["open_set"]
    assert retrieve.main([*out, "--remove", *NEW]) == {"images": 52, "individuals": 12}
    assert open_gallery(tmp_path / "gallery").about["open_set"] != before  # fitted for the gallery as it is
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


def test_individuals_that_were_renamed_since_training_need_no_training(
    run: Path, animals: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    """The answers are those under the old names; class centres too."""
    table = pd.read_csv(animals / "train.csv")
    table.replace({"label": {"a": "zara", "i": "ida"}}).to_csv(animals / "renamed.csv", index=False)
    found = []
    for name in ("train.csv", "renamed.csv"):
        out = tmp_path / name
        retrieve.main(
            ["--run", str(run), "--data.train_csv", name, "--out", str(out), "--retrieval.centre_weight", "0.5", "--topk", "9"]
        )
        found.append(pd.read_parquet(out / "ranks.parquet").set_index(["query", "name"])["score"])
    before = found[0].rename({"a": "zara", "i": "ida"}, level="name")
    pd.testing.assert_series_equal(found[1].sort_index(), before.sort_index(), rtol=1e-5)
    assert "2 individuals have other names than in training (a: zara, i: ida)" in capsys.readouterr().out
    table.replace({"label": {"a": "b"}}).to_csv(animals / "merged.csv", index=False)
    recipe = command_line.parse(command_line.make_parser(""), ["--cfg", str(run / "recipe.yaml")]).recipe
    merged = load_train(replace(recipe.data, train_csv="merged.csv"), recipe.folds)
    assert embed.renamed_since_training(RunFolder(run), merged) == {"a": ""}


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


# --- faults that were planted and went unnoticed ----------------------------------------------------------------------------------


def session_of(run: Path, tmp_path: Path) -> RetrievalSession:
    recipe = command_line.parse(command_line.make_parser(""), ["--cfg", str(run / "recipe.yaml")]).recipe
    return RetrievalSession([RunFolder(run)], [recipe], "concat", Accelerator(cpu=True), RetrievalFolder(tmp_path), None)


def test_pairs_are_verified_on_images_that_the_network_has_not_learnt(run: Path, tmp_path: Path, monkeypatch) -> None:
    session = session_of(run, tmp_path)
    asked = []
    monkeypatch.setattr(retrieval_session, "verify_held_out_pairs", lambda *given: asked.append(given))
    train = load_train(session.recipe.data, session.recipe.folds)
    embeddings = np.arange(len(train), dtype=np.float32)[:, None]
    session.verify_pairs(EmbeddedTable(train, [embeddings], embeddings))
    val = score_file.load_scores(run / "scores_val.npz")
    held_out = np.isin(train.rows, val.rows[len(val.rows) - val.source["queries"] :])
    assert asked[0][0][:, 0].astype(int).tolist() == np.flatnonzero(held_out).tolist()


def test_the_size_of_images_is_part_of_a_networks_fingerprint(run: Path, tmp_path: Path) -> None:
    recipe = session_of(run, tmp_path).recipe
    other = replace(recipe, data=replace(recipe.data, size=recipe.data.size + 32, eval_size=None))
    assert embed.fingerprint(RunFolder(run), recipe) != embed.fingerprint(RunFolder(run), other)


def test_each_answer_has_its_own_probability_and_figures_show_what_they_name(
    run: Path, answers: pd.DataFrame, tmp_path: Path, monkeypatch
) -> None:
    drawn = {}
    for name in ("score_histograms", "threshold_curve"):
        of = getattr(figures, name)
        monkeypatch.setattr(figures, name, lambda *given, of=of, name=name: (drawn.update({name: given}), of(*given))[1])
    write = retrieve_pipeline.write_result

    def keep(session: RetrievalSession, result: RetrievalResult, is_test: bool) -> None:
        drawn["result"] = result
        write(session, result, is_test)

    monkeypatch.setattr(retrieve_pipeline, "write_result", keep)
    retrieve.main(["--run", str(run), "--out", str(tmp_path)])
    result = drawn["result"]
    known, best = result.evaluations[0].queries.in_gallery, result.evaluations[0].queries.best_scores
    assert drawn["score_histograms"][0].tolist() == best[known].tolist()
    assert drawn["score_histograms"][1].tolist() == best[~known].tolist()
    of_name, of_new = result.open_set.answers(result.search.scores)
    table = pd.read_parquet(tmp_path / "ranks.parquet").set_index(["query", "name"])["probability"]
    for q, query in enumerate(result.queries.names):
        assert table[query, "new"] == pytest.approx(of_new[q])
        for j, name in enumerate(result.search.names[q].tolist()):
            if (query, name) in table.index:
                assert table[query, name] == pytest.approx(of_name[q, j])


def test_a_name_that_is_an_individual_and_an_image_is_asked_back(run: Path, answers: pd.DataFrame, tmp_path: Path) -> None:
    gallery = open_gallery(run / "retrieval" / "gallery")
    gallery.rows.names[gallery.rows.labels == "b"] = [f"b{i}" for i in range((gallery.rows.labels == "b").sum())]
    gallery.rows.names[np.flatnonzero(gallery.rows.labels == "b")[0]] = "a"
    (tmp_path / "copy").mkdir()
    gallery.save(tmp_path / "copy")
    there = ["--run", str(run), "--gallery", str(tmp_path / "copy")]
    with pytest.raises(FlukeError, match="--remove a: is an individual and an image; say individual:a or image:a"):
        retrieve.main([*there, "--remove", "a"])
    assert retrieve.main([*there, "--remove", "image:a"])["images"] == len(gallery.rows) - 1
    of_a = int((gallery.rows.labels == "a").sum())
    assert retrieve.main([*there, "--remove", "individual:a"])["images"] == len(gallery.rows) - 1 - of_a


def test_without_training_an_embedding_run_keeps_the_backbones_features(
    animals: Path, arguments: Callable[..., list[str]], tmp_path: Path, capsys
) -> None:
    given = {"data_root": animals, "data_new_label": "new", "train_epochs": 0}
    train_embedding.main(arguments(tmp_path / "run", **given))
    assert "validation, without training: map@5" in capsys.readouterr().out
    kept = load_network(tmp_path / "run" / "best" / "model.safetensors")
    assert kept.width == timm.create_model("test_resnet", num_classes=0).num_features
    retrieve.main(["--run", str(tmp_path / "run")])
    assert (tmp_path / "run" / "retrieval" / "submission.csv").exists()
    with pytest.raises(FlukeError, match=r"train\.epochs 0: is for train_embedding without model\.embedding_dim"):
        train_embedding.main(arguments(tmp_path / "zero", data_root=animals, train_epochs=0, model_embedding_dim=8))
    with pytest.raises(FlukeError, match=r"train\.epochs 0"):
        train_classifier.main(arguments(tmp_path / "zero", data_root=animals, train_epochs=0))
