"""Bad input to the scripts that come after training, and to runs that go on: one sentence each (see test_errors.py)."""

import dataclasses
import hashlib
import json
import shlex
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch

from lib.config.recipe import Model
from lib.models.network import make_backbone
from lib.models.weights import read_spec
from lib.run_folder import RunFolder
from lib.scores import score_file
from lib.scores.score_file import Scores
from lib.tables.target import SEVERAL_LABELS
from scripts import catalogue, ensemble, kfold, predict, retrieve, train_classifier, train_embedding
from tests.faults.test_before_training import Case, cell, is_one_sentence, raw, rows

pytestmark = pytest.mark.usefixtures("no_report")
BEST = Path("best") / "model.safetensors"
TINY = {"train_epochs": 1, "data_root": "own", "folds_n": 2}
METRIC = {"train_metric": "recall@1", "objective_name": "arcface", "folds_unknown": 0.25, "data_new_label": "01"}


@pytest.fixture(scope="module")
def made(contest: Path, arguments: Callable[..., list[str]], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a contest and finished runs on it, named from within: single, cv, cv_emb, emb (with a gallery), narrow.

    They were made in the folder `work` beside it, which their kept embeddings are of."""
    root = tmp_path_factory.mktemp("made") / "work"
    shutil.copytree(contest, root / "own")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("lib.pipelines.run_result.write_run_page", lambda *_: None)
        patch.chdir(root)
        train_classifier.main(arguments(Path("single"), **TINY))
        kfold.main(arguments(Path("cv"), **TINY))
        kfold.main([*arguments(Path("cv_emb"), **TINY, **METRIC), "--kind", "embedding"])
        train_embedding.main(arguments(Path("emb"), **TINY, **METRIC, model_embedding_dim=8))
        train_embedding.main(arguments(Path("narrow"), **TINY, **METRIC, model_embedding_dim=4))
        retrieve.main(["--run", "emb"])
    return root.rename(root.with_name("kept"))


@pytest.fixture
def work(made: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of them that a test may spoil, the current folder."""
    root = made.with_name("work")
    shutil.rmtree(root, ignore_errors=True)
    shutil.copytree(made, root)
    monkeypatch.chdir(root)
    return root


Change = Callable[[Path], Any]


def both(*changes: Change) -> Change:
    """One change after the other."""

    def apply(root: Path) -> None:
        for change in changes:
            change(root)

    return apply


def gone(*names: str) -> Change:
    def apply(root: Path) -> None:
        for name in names:
            shutil.rmtree(root / name) if (root / name).is_dir() else (root / name).unlink()

    return apply


def copy(old: str, new: str) -> Change:
    return lambda root: (shutil.copytree if (root / old).is_dir() else shutil.copy)(root / old, root / new)


def said(name: str, **values: Any) -> Change:
    """Other values in a JSON file."""
    return lambda root: (root / name).write_text(json.dumps(json.loads((root / name).read_text()) | values))


def text(name: str, old: str, new: str) -> Change:
    return lambda root: (root / name).write_text((root / name).read_text().replace(old, new))


def scored(name: str, change: Callable[[Scores], dict[str, Any]]) -> Change:
    """Other values in a file of scores, which is written unchecked."""

    def apply(root: Path) -> None:
        found = score_file.load_scores(root / name)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(score_file, "_validate", lambda *_: None)
            score_file.save_scores(root / name, dataclasses.replace(found, **change(found)))

    return apply


def arrays(name: str, pack: Callable[..., None] = np.savez, **changes: Callable[[np.ndarray], np.ndarray]) -> Change:
    """Other arrays in an npz file."""

    def apply(root: Path) -> None:
        with np.load(root / name) as file:
            content = dict(file)
        pack(root / name, **content | {key: change(content[key]) for key, change in changes.items()})

    return apply


def network(name: str, spec: dict[str, Any] | str | None = None, fill: float | None = None, **tensors: Any) -> Change:
    """Weights with another description (None: with none), filled with a number, or of other tensors."""

    def apply(root: Path) -> None:
        found = read_spec(root / name)
        assert found is not None
        about = spec if isinstance(spec, str) else json.dumps(found.to_dict() | (spec or {}))
        state = safetensors.torch.load_file(root / name) | tensors
        state = {key: value if fill is None else value * fill for key, value in state.items()}
        safetensors.torch.save_file(state, root / name, metadata=None if spec == "" else {"fluke": about})

    return apply


def with_classes(name: str, *classes: str) -> Change:
    """Scores of these classes alone."""
    return scored(name, lambda s: {"classes": classes, "logits": np.zeros((len(s.rows), len(classes)), np.float32), "labels": None})


def unfinished(**values: Any) -> Change:
    """A run's resumable state with other values, and the hashes that belong to it."""

    def apply(root: Path) -> None:
        last = max((root / "single" / "last").glob("e*"))
        said(str((last / "state.json").relative_to(root)), **values)(root)
        renew(last, "state.json")
        (root / "single" / "metrics.json").unlink()

    return apply


def renew(last: Path, name: str) -> None:
    manifest = json.loads((last / "manifest.json").read_text())
    data = (last / name).read_bytes()
    manifest["files"][name] = [len(data), hashlib.sha256(data).hexdigest()]
    (last / "manifest.json").write_text(json.dumps(manifest))


def other_state(root: Path) -> None:
    """A state whose weights are another network's."""
    unfinished()(root)
    last = max((root / "single" / "last").glob("e*"))
    safetensors.torch.save_file(model_state(), last / "model.safetensors")
    renew(last, "model.safetensors")


def model_state() -> dict[str, Any]:
    return make_backbone(Model("test_convnext"), pretrained=False).state_dict()


def after(script: Any, argv: str, what: str, says: str, change: Change = lambda _: None) -> tuple[Case, str]:
    return Case(what, says, change, script), argv


TRAIN = "TRAIN"  # stands for the arguments that the runs were made with
S, C = "--runs single twin", "--runs cv cv"
TWIN = copy("single", "twin")
ASK = "--run emb --out asked"
GALLERY = f"{ASK} --gallery emb/retrieval/gallery"
HELD = "emb/retrieval/gallery/"
VAL, TEST = "twin/scores_val.npz", "twin/scores_test.npz"


def wide(root: Path) -> None:
    """Two runs of 501 classes."""
    names = tuple(map(str, range(501)))
    logits = np.zeros((3, 501), np.float32)
    for run in ("w1", "w2"):
        found = Scores(np.arange(3), [*"abc"], names, logits, [("0",), ("1",), ("2",)])
        score_file.save_scores(root / run / "scores_val.npz", found)


def several(root: Path) -> None:
    """Runs of several labels per image, with weights."""
    for name in ("scores_val.npz", "scores_test.npz"):
        scored(f"single/{name}", lambda s: {"target": SEVERAL_LABELS})(root)
    network(f"single/{BEST}", {"multi": True})(root)


AFTER = [
    # a run that is there
    after(train_classifier, f"--out single {TRAIN}", "a run in the way", "single: holds a run already; --resume goes on with it"),
    after(
        train_classifier,
        f"--out single --resume {TRAIN} --optim.lr 3",
        "another recipe with --resume",
        "single is a run of another recipe; these may not change: optim.lr (now 3.0, was 0.001)",
    ),
    after(
        train_classifier, f"--out cv --resume {TRAIN}", "a k-fold run to be trained once", "cv belongs to a k-fold run; kfold.py"
    ),
    after(kfold, f"--out single --resume {TRAIN}", "a run to be made k-fold", "single: a run, but no k-fold run"),
    after(
        train_classifier,
        f"--out single --resume {TRAIN}",
        "a run whose recipe is torn",
        "single/recipe.yaml: not YAML",
        raw("single/recipe.yaml", b"data: ["),
    ),
    after(
        train_classifier,
        f"--out single --resume {TRAIN}",
        "a finished run whose metrics are torn",
        "metrics.json: not readable as JSON",
        raw("single/metrics.json", b"{"),
    ),
    after(
        train_classifier,
        f"--out single --resume {TRAIN} --train.epochs 2",
        "a state of another network",
        "state of another network or recipe",
        other_state,
    ),
    after(train_classifier, f"--out new {TRAIN}", "no folder for states", "can't be written (Not a dir", raw("new/last", b"")),
    # k-fold
    after(kfold, f"--out new {TRAIN} --only 0 7", "a fold that isn't there", "--only 7: with folds.n 2, folds are 0 to 1"),
    after(kfold, f"--out new {TRAIN} --folds.n 49", "more folds than images", "own/train.csv has only 48 images"),
    after(
        kfold,
        f"--out new {TRAIN} --folds.n 3 --folds.csv ../cv/folds.csv",
        "own folds of another number",
        "folds.n 3 needs the folds 0 to 2 (found: 0, 1)",
    ),
    after(
        kfold,
        f"--out cv --resume {TRAIN}",
        "a k-fold run whose folds were changed",
        "1 images had another fold, or none, when this run began (1_000.png)",
        both(gone("cv/cv.json"), lambda root: cell(0, "fold", "7", "cv/folds.csv")(root)),
    ),
    after(
        kfold,
        f"--out cv --resume {TRAIN}",
        "a fold's weights of the other kind",
        "this k-fold run is of kind embedding; go on with --kind embedding",
        both(gone("cv/cv.json"), network(f"cv/fold0/{BEST}", {"kind": "embedding"})),
    ),
    after(
        kfold,
        f"--out cv --resume {TRAIN}",
        "a fold's scores that are another fold's",
        "hold each of the 48 training rows once",
        both(gone("cv/cv.json", "cv/fold0/scores_val.npz"), copy("cv/fold1/scores_val.npz", "cv/fold0/scores_val.npz")),
    ),
    after(
        kfold,
        f"--out cv --resume {TRAIN}",
        "a fold without its scores",
        "cv/fold0/scores_val.npz: No such file",
        gone("cv/cv.json", "cv/fold0/scores_val.npz"),
    ),
    after(
        kfold,
        f"--out cv --resume {TRAIN}",
        "a fold without its weights",
        f"cv/fold0/{BEST}: no such file",
        gone("cv/cv.json", f"cv/fold0/{BEST}"),
    ),
    after(
        kfold,
        f"--out cv --resume {TRAIN}",
        "a fold with foreign weights",
        "weights without a description",
        both(gone("cv/cv.json"), network(f"cv/fold0/{BEST}", "")),
    ),
    # ensemble
    after(ensemble, "--runs single none", "a run that isn't there", "none: no such run folder"),
    after(ensemble, "--runs single own", "a folder that is no run", "own: holds no scores"),
    after(
        ensemble,
        "--runs cv",
        "a k-fold run without all its folds",
        "a k-fold run without oof.npz",
        gone("cv/oof.npz", "cv/cv.json"),
    ),
    after(ensemble, "--runs cv_emb", "k-fold runs of embeddings", "cv_emb: a k-fold run of embeddings, not of classes"),
    after(ensemble, "--runs emb", "runs of embeddings", "emb: holds embeddings, not logits of classes"),
    after(ensemble, f"{S} --out single", "a run where the ensemble would go", "is there already, and not empty", TWIN),
    after(ensemble, f"{S} --metric loss", "a metric of training alone", "--metric loss: is computed in training only", TWIN),
    after(
        ensemble, f"{S} --thresholds", "thresholds for one label per image", "--thresholds: doesn't fit one label per image", TWIN
    ),
    after(
        ensemble,
        "--runs single --offsets accuracy",
        "offsets for several labels",
        "--offsets: doesn't fit several labels per image",
        several,
    ),
    after(
        ensemble,
        "--runs w1 w2 --method stack_lr",
        "a stack of many classes",
        "for at most 500 classes (found 501); use greedy",
        wide,
    ),
    after(
        ensemble,
        S,
        "a fit without out-of-fold scores",
        "--method greedy needs out-of-fold scores (found test scores only)",
        both(gone("single/scores_val.npz"), TWIN),
    ),
    after(ensemble, S, "test scores that one run lacks", "twin: no test scores (scores_test.npz)", both(TWIN, gone(TEST))),
    after(ensemble, S, "scores that are torn", "not a scores file, or torn", both(TWIN, raw(VAL, b"PK"))),
    after(ensemble, S, "a folder for scores", "Is a directory", both(TWIN, gone(VAL), lambda root: (root / VAL).mkdir())),
    after(
        ensemble, S, "scores that are compressed", "a compressed or forged archive", both(TWIN, arrays(VAL, np.savez_compressed))
    ),
    after(
        ensemble,
        S,
        "scores that are NaN",
        "12 of 12 rows hold NaN or infinity",
        both(TWIN, arrays(VAL, logits=lambda values: values * np.float32("nan"))),
    ),
    after(
        ensemble,
        S,
        "scores without labels",
        "single: has no labels; evaluation needs",
        both(TWIN, scored("single/scores_val.npz", lambda s: {"labels": None})),
    ),
    after(
        ensemble,
        "--runs single",
        "labels that no class is called",
        "12 labels",
        scored("single/scores_val.npz", lambda s: {"labels": [(name,) for name in s.names]}),
    ),
    after(
        ensemble,
        "--runs single",
        "scores of no row",
        "single: has no labels; evaluation needs",
        scored("single/scores_val.npz", lambda s: {"rows": s.rows[:0], "names": [], "labels": [], "logits": s.logits[:0]}),
    ),
    after(
        ensemble,
        S,
        "one label per image and several",
        "twin: several labels per image, but single: one label per image",
        both(TWIN, scored(VAL, lambda s: {"target": SEVERAL_LABELS})),
    ),
    after(
        ensemble, S, "scores of other rows", "single 12: 12 only in twin", both(TWIN, scored(VAL, lambda s: {"rows": s.rows + 100}))
    ),
    after(
        ensemble,
        S,
        "scores of other images",
        "name 12 rows differently",
        both(TWIN, scored(VAL, lambda s: {"names": [f"x{n}" for n in s.names]})),
    ),
    after(
        ensemble,
        S,
        "scores with other labels",
        "have different labels for ",
        both(TWIN, scored(VAL, lambda s: {"labels": [("ant",) for _ in s.names]})),
    ),
    after(
        ensemble,
        S,
        "a specialist named first",
        "twin knows 1 classes that single doesn't (dog); name twin first",
        both(TWIN, with_classes(VAL, "01", "ant", "bee", "cat", "dog")),
    ),
    after(ensemble, S, "runs of other contests", "have no class in common", both(TWIN, with_classes(VAL, "dog", "cow"))),
    after(
        ensemble,
        S,
        "runs with some classes in common",
        "have different classes: 1 only in the first (dog)",
        both(TWIN, with_classes(VAL, "ant", "dog")),
    ),
    after(
        ensemble,
        S,
        "test scores of other classes",
        "out-of-fold and test scores have different classes",
        both(TWIN, with_classes(TEST, "ant", "bee")),
    ),
    # predict
    after(predict, "--run none", "a run to predict with that isn't there", "--run none: no such folder or file; is it a run?"),
    after(predict, f"--run single/{BEST}", "weights alone, and no table", "has no recipe that names the test images"),
    after(
        predict, "--run single --out single", "a run where the predictions would go", "holds recipe.yaml and scores_test.npz and"
    ),
    after(
        predict,
        "--run single --out own/train.csv/x",
        "a folder for predictions that can't be written",
        "can't be written (Not a directory)",
    ),
    after(
        predict,
        "--run single --out new",
        "weights that are torn",
        "not a safetensors file, or truncated",
        raw(f"single/{BEST}", b"half"),
    ),
    after(predict, "--run single --out new", "foreign weights", "weights without a description", network(f"single/{BEST}", "")),
    after(
        predict,
        "--run single --out new",
        "a torn description of weights",
        "its description can't be read",
        network(f"single/{BEST}", "{"),
    ),
    after(
        predict,
        "--run single --out new",
        "weights of another network than they say",
        "tensors don't match its own description",
        network(f"single/{BEST}", {"classes": ["a", "b"]}),
    ),
    after(
        predict,
        "--run single --out new",
        "weights that are NaN",
        "the scores of 13 images hold NaN or infinity",
        network(f"single/{BEST}", fill=float("nan")),
    ),
    after(
        predict,
        "--run cv_emb --out new",
        "a k-fold run of embeddings to predict with",
        "those of several folds can't be averaged; name one",
    ),
    after(
        predict,
        "--run emb --out new --sample own/sample_submission.csv",
        "a submission of embeddings",
        "retrieve.py writes their submission",
    ),
    after(
        predict, "--run cv --out new", "folds without weights", "fold1 of its 2 folds have no weights yet", gone(f"cv/fold1/{BEST}")
    ),
    after(
        predict,
        "--run cv --out new",
        "folds whose classes differ",
        "its classes or image size are not those of cv/fold0",
        network(f"cv/fold1/{BEST}", {"size": 64}),
    ),
    after(
        predict,
        "--run single --out new",
        "a recipe without test images",
        "its recipe has no test images",
        text("single/recipe.yaml", "sample_submission: sample_submission.csv", "sample_submission: null"),
    ),
    after(
        predict,
        "--run single --out new",
        "thresholds of other labels",
        "thresholds.json: expected a probability for each of the 4 labels",
        both(several, raw("single/thresholds.json", b'{"dog": 0.5}')),
    ),
    # retrieve
    after(retrieve, "--topk 0", "no names", "--topk 0: a query gets at least 1 name"),
    after(retrieve, "--evaluate a --remove b", "two commands at once", "--evaluate and --remove: one at a time"),
    after(retrieve, "", "no run at all", "runs: no embedding run there"),
    after(
        retrieve,
        "--run none",
        "an embedding that isn't there",
        "--run none: lacks recipe.yaml, best/model.safetensors, scores_val.npz",
    ),
    after(retrieve, "--run single", "a classifier to retrieve with", "--run single: a classifier, not an embedding"),
    after(retrieve, f"{ASK} --pair own/train.csv none.png", "a pair that is no images", "none.png: no such file"),
    after(retrieve, f"{ASK} --data.sample_submission null", "no images to answer", "The recipe names no test images"),
    after(
        retrieve,
        f"{ASK} --evaluate own/blind.csv",
        "an evaluation without labels",
        "has no column 'label' (data.label_column); --queries",
        raw("own/blind.csv", b"image\n2_000.png\n"),
    ),
    after(retrieve, f"{ASK} --data.label_separator |", "several labels per image, for retrieval", "label_separator"),
    after(
        retrieve,
        "--run emb narrow --combine mean --out asked",
        "the mean of embeddings of two widths",
        "the runs' embeddings differ in width (emb: 8, narrow: 4); use concat",
    ),
    after(
        retrieve, "--run emb emb --retrieval.centre_weight 0.5 --out asked", "class centres of two runs", "no class centres here"
    ),
    after(
        retrieve,
        ASK,
        "held-out scores that don't say which rows are queries",
        "doesn't say which rows were held out",
        scored("emb/scores_val.npz", lambda s: {"source": {}}),
    ),
    after(
        retrieve,
        ASK,
        "another table than the run's",
        "of its rows aren't in own/train.csv as they were",
        lambda root: rows(lambda table: table.iloc[::-1], "own/train.csv")(root),
    ),
    after(retrieve, f"{ASK} --retrieval.factory Foo", "an unknown index", "retrieval.factory Foo: no FAISS index of 8 dimensions"),
    after(retrieve, f"{ASK} --retrieval.factory IVF999,Flat", "an index of too many cells", "can't be trained on "),
    after(
        retrieve,
        ASK + " --retrieval.search '{nprobe: 4}'",
        "a search parameter that the index lacks",
        "can't be set on a Flat index",
    ),
    after(retrieve, f"{ASK} --gallery none", "a gallery that isn't there", "none/gallery.json: no such file"),
    after(retrieve, GALLERY, "a gallery without a description", "not a gallery's description", raw(HELD + "gallery.json", b"{}")),
    after(retrieve, GALLERY, "a gallery without its index", "index-1.faiss: missing or damaged", gone(HELD + "index-1.faiss")),
    after(
        retrieve,
        GALLERY,
        "a gallery with repeated rows",
        "1 row ids are negative or repeated",
        arrays(HELD + "rows-1.npz", ids=lambda ids: ids * 0),
    ),
    after(
        retrieve,
        GALLERY,
        "a gallery whose labels lack a row",
        "expected one of each per row",
        arrays(HELD + "rows-1.npz", labels=lambda labels: labels[1:]),
    ),
    after(
        retrieve,
        GALLERY,
        "a gallery whose rows are others",
        "row ids are not in the gallery",
        arrays(HELD + "rows-1.npz", ids=lambda ids: ids + 1000),
    ),
    after(
        retrieve, GALLERY, "a gallery of files of two", "its files don't belong together", said(HELD + "gallery.json", dimension=5)
    ),
    after(
        retrieve,
        f"{GALLERY} --retrieval.metric l2",
        "a gallery of another distance",
        "was built for cosine, not for retrieval.metric l2",
    ),
    after(retrieve, GALLERY.replace("--run emb", "--run narrow"), "a gallery of another network", "The gallery was embedded by "),
    after(
        retrieve,
        GALLERY.replace("--run emb", "--run narrow"),
        "a gallery of embeddings of another width",
        "queries: embeddings of shape (13, 4); expected (rows, 8)",
        lambda root: said(HELD + "gallery.json", model=mark(root / "narrow"))(root),
    ),
    after(
        retrieve,
        ASK,
        "kept embeddings of other rows",
        "embeddings for ",
        lambda root: [
            scored(str(path.relative_to(root)), lambda s: {"rows": s.rows + 7})(root)
            for path in (root / "emb" / "embeddings").iterdir()
        ],
    ),
    after(
        retrieve,
        "--run emb",
        "a gallery that was changed, to be built again",
        "was changed (history.jsonl says how), which building it again would undo",
        raw(HELD + "changes.txt", b"removed\n"),
    ),
    after(retrieve, f"{GALLERY} --remove nobody", "an unknown individual to remove", "1 names are no individual or image of emb"),
    after(retrieve, f"{GALLERY} --remove ant bee cat", "all individuals to remove", "The gallery would be empty"),
    after(
        retrieve,
        f"{GALLERY} --add own/test.csv",
        "images without labels to add",
        "has no column 'label' (data.label_column) of names",
        raw("own/test.csv", b"image\n2_000.png\n"),
    ),
    after(
        retrieve,
        f"{GALLERY} --add own/test.csv",
        "new individuals without names to add",
        "every row is labelled 01",
        raw("own/test.csv", b"image,label\n2_000.png,01\n"),
    ),
    after(
        retrieve,
        f"{GALLERY} --add own/train.csv",
        "images to add that the gallery has already",
        "of its images are in the gallery already",
    ),
    after(retrieve, "--run emb --where 'a == 1'", "a condition without a gallery", "--where: narrows a saved gallery"),
    after(
        retrieve, f"{GALLERY} --where 'site == 1'", "a condition on a column that isn't there", "the gallery has no column 'site'"
    ),
    after(retrieve, f"{GALLERY} --where 'label =='", "a condition that is none", "is no condition"),
    after(retrieve, "--model resnet10t --gallery emb/retrieval/gallery", "a model beside a gallery", "--model: builds a gallery"),
    after(retrieve, "--run emb --camtrap own", "a folder that is no Camtrap DP package", "has no observations.csv"),
    after(retrieve, f"{ASK} --retrieval.encounter_column trip", "a column of encounters that isn't there", "has no column 'trip'"),
    after(
        retrieve, f"{ASK} --retrieval.orientation_column side", "a column of viewpoints that isn't there", "has no column 'side'"
    ),
    after(
        catalogue, f"--gallery {HELD} --run emb --rename nobody x", "an unknown individual to rename", "has no individual nobody"
    ),
    after(catalogue, f"--gallery {HELD} --run emb --rename ant bee", "a name that is in use", "has an individual bee already"),
    after(catalogue, f"--gallery {HELD} --run emb --move ant none.png", "an unknown image to move", "has no image none.png"),
    after(catalogue, f"--gallery {HELD} --run emb --undo", "nothing to undo", "no change is left to undo"),
    after(
        catalogue,
        f"--gallery {HELD} --run emb --undo",
        "a damaged history",
        "history.jsonl: not a gallery's history",
        raw(HELD + "history.jsonl", b"{}\n"),
    ),
]


def mark(run: Path) -> str:
    from lib.config import command_line
    from lib.pipelines import embed

    return embed.fingerprint(
        RunFolder(run), command_line.parse(command_line.make_parser(""), ["--cfg", str(run / "recipe.yaml")]).recipe
    )


@pytest.mark.parametrize(("case", "argv"), AFTER, ids=[case.what for case, _ in AFTER])
def test_bad_input_after_training_is_one_sentence(case: Case, argv: str, work: Path, arguments: Callable[..., list[str]]) -> None:
    assert callable(case.change)
    case.change(work)
    told = [part for word in shlex.split(argv) for part in (arguments(work, **TINY)[2:] if word == TRAIN else [word])]
    is_one_sentence(case, told)
