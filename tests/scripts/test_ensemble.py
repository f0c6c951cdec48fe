"""Combining scores, and whether what it is said to be worth is true."""

import importlib
import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy.special import expit, softmax
from sklearn.metrics import f1_score, log_loss

from lib.errors import FlukeError
from lib.metrics.registry import METRICS
from lib.scores import averaging, combination, decisions, stacking
from lib.scores.alignment import align_scores
from lib.scores.score_file import Scores, load_scores, save_scores
from lib.tables.target import ONE_LABEL, SEVERAL_LABELS
from scripts import ensemble

accuracy = METRICS["accuracy"].function


def members(n=1500, classes=6, skills=(1.6, 1.2, 0.8), seed=0):
    """Logits of models that see the truth through noise of their own, and the truth."""
    rng = np.random.default_rng(seed)
    targets = rng.choice(classes, size=n, p=np.arange(1, classes + 1) / (classes * (classes + 1) / 2))
    truth = np.eye(classes)[targets]
    return [(2 * skill * truth + rng.normal(size=(n, classes))).astype(np.float32) for skill in skills], targets


def labels(n=800, classes=5, skills=(1.5, 1.0), seed=0):
    """The same with several labels per image."""
    rng = np.random.default_rng(seed)
    targets = (rng.random((n, classes)) < np.linspace(0.1, 0.5, classes)).astype(int)
    return [(2 * skill * (targets - 0.7) + rng.normal(size=targets.shape)).astype(np.float32) for skill in skills], targets


# --- pools, by hand ---------------------------------------------------------------------------------------------------------------

P = np.array([[0.7, 0.2, 0.1]]), np.array([[0.1, 0.6, 0.3]]), np.array([[0.5, 0.1, 0.4]])
LOGITS = [np.log(p).astype(np.float32) for p in P]
THIRDS = np.full(3, 1 / 3)


def test_pools_by_hand():
    p = {name: softmax(pool(LOGITS, THIRDS, ONE_LABEL), axis=1)[0] for name, pool in averaging.AVERAGES.items()}
    np.testing.assert_allclose(p["mean_prob"], [1.3 / 3, 0.9 / 3, 0.8 / 3], rtol=1e-5)
    product = np.array([0.7 * 0.1 * 0.5, 0.2 * 0.6 * 0.1, 0.1 * 0.3 * 0.4]) ** (1 / 3)
    np.testing.assert_allclose(p["geometric"], product / product.sum(), rtol=1e-5)
    np.testing.assert_allclose(p["mean"], p["geometric"], rtol=1e-5)  # softmax: the same up to a constant a row
    np.testing.assert_allclose(p["rank"], np.array([3 + 1 + 3, 2 + 3 + 1, 1 + 2 + 2]) / 18, rtol=1e-5)
    np.testing.assert_allclose(p["vote"], 0.999 * np.array([2, 1, 0]) / 3 + 0.001 * p["mean_prob"], rtol=1e-4)


@pytest.mark.parametrize("name", ["mean_prob", "vote", "geometric"])
def test_a_sure_model_keeps_its_order(name):
    """The tenth class has 1e-12 of the probability, and a label's surest rows 1 - 1e-10: lists and average precision need them."""
    sure = np.linspace(40, 0, 20, dtype=np.float32)[None]
    assert (np.diff(averaging.AVERAGES[name]([sure, sure], np.full(2, 0.5), False)) < 0).all()
    label = np.linspace(-30, 30, 20, dtype=np.float32)[:, None]
    if name != "vote":
        assert (np.diff(averaging.AVERAGES[name]([label, label], np.full(2, 0.5), True), axis=0) > 0).all()


def test_weights_weigh_and_ties_of_votes_go_to_the_surer_side():
    weights = np.array([0.5, 0.5, 0])
    p = softmax(averaging.mean_probabilities(LOGITS, weights, ONE_LABEL), axis=1)[0]
    np.testing.assert_allclose(p, [0.4, 0.4, 0.2], rtol=1e-5)
    tie = [np.log(np.array([[0.6, 0.3, 0.1]])), np.log(np.array([[0.1, 0.8, 0.1]]))]
    assert np.argsort(-averaging.majority_vote(tie, np.array([0.5, 0.5]), ONE_LABEL))[0].tolist() == [1, 0, 2]


def test_pools_of_several_labels_by_hand():
    a, b = np.array([[0.9, 0.4], [0.2, 0.3]]), np.array([[0.4, 0.45], [0.1, 0.8]])
    both, halves = [np.log(p / (1 - p)) for p in (a, b)], np.array([0.5, 0.5])
    p = {name: expit(pool(both, halves, SEVERAL_LABELS)) for name, pool in averaging.AVERAGES.items()}
    np.testing.assert_allclose(p["mean_prob"], (a + b) / 2, rtol=1e-5)
    np.testing.assert_allclose(p["geometric"], np.sqrt(a * b), rtol=1e-5)
    np.testing.assert_allclose(p["rank"], np.array([[2, 1.5], [1, 1.5]]) / 3, rtol=1e-5)  # of the rows within a label
    assert (p["vote"] >= 0.5).tolist() == [[True, False], [False, True]]  # one of two votes: by the mean probability


def test_a_specialist_shares_out_the_first_models_mass():
    first, specialist = np.log(np.array([[0.1, 0.3, 0.2, 0.4]])), np.log(np.array([[0.9, 0.1]])) + 5
    p = softmax(ONE_LABEL.extend(first, specialist, np.array([2, 1])), axis=1)
    np.testing.assert_allclose(p, [[0.1, 0.05, 0.45, 0.4]], rtol=1e-5)
    sure = np.log(np.array([[0.98, 0.01, 0.005, 0.005]]))  # an image of another class: the specialist can't overrule
    assert ONE_LABEL.extend(sure, specialist, np.array([2, 1])).argmax() == 0
    np.testing.assert_allclose(SEVERAL_LABELS.extend(first, specialist, np.array([2, 1]))[0, [2, 1]], specialist[0], rtol=1e-6)


# --- fitted weights ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sharpness", [1, 4])  # 4: overconfident, where log-loss likes to be watered down by noise
@pytest.mark.parametrize("method", ["greedy", "optimal"])
def test_useless_and_harmful_members_get_no_weight(method, sharpness):
    for seed in range(8):
        z, targets = members(n=600, seed=seed)
        rng = np.random.default_rng(100 + seed)
        useless = rng.normal(size=z[0].shape).astype(np.float32)
        harmful = z[0][rng.permutation(len(targets))] * 2  # sure of itself, and of another row
        everyone = [sharpness * m for m in [useless, *z, harmful]]
        weights = combination.fit_method(method, everyone, targets, ONE_LABEL, accuracy).weights
        assert weights.sum() == pytest.approx(1)
        assert weights[[0, 4]].tolist() == [0, 0]
        assert (weights > 0).sum() >= 2


@pytest.mark.parametrize("metric", ["accuracy", "macro_f1", "map@5"])
def test_greedy_never_scores_below_the_best_member(metric):
    score = METRICS[metric].function
    for seed in range(10):
        z, targets = members(n=200, skills=(1.4, 0.3, 1.0, 0.1), seed=seed)
        fitted = combination.fit_combination("greedy", z, targets, score, combination.inner_folds(targets))
        assert score(fitted(z), targets) >= max(score(m, targets) for m in z)
    z, targets = labels()
    score = METRICS["macro_map"].function
    fitted = combination.fit_combination("greedy", z, targets, score, combination.inner_folds(targets))
    assert score(fitted(z), targets) >= max(score(m, targets) for m in z)


def test_greedy_takes_the_steps_of_a_plain_search():
    z, targets = members(n=1000, skills=(1.2, 1.2, 1.1), seed=3)
    counts, reached = [0, 0, 0], max(accuracy(m, targets) for m in z)
    counts[int(np.argmax([accuracy(m, targets) for m in z]))] = 1
    while True:
        tried = []
        for i in range(3):
            bag = [softmax(z[m], axis=1) for m in range(3) for _ in range(counts[m] + (m == i))]
            tried.append(float((np.mean(bag, axis=0).argmax(axis=1) == targets).mean()))
        if max(tried) <= reached:
            break
        reached = max(tried)
        counts[int(np.argmax(tried))] += 1
    assert sum(counts) > 2
    found = stacking.greedy_weights(z, targets, accuracy, False)
    np.testing.assert_allclose(found, np.array(counts) / sum(counts))


def test_optimal_weights_are_the_best_of_a_grid():
    z, targets = members(n=800, skills=(1.2, 1.0, 0.3), seed=1)
    p = [softmax(m, axis=1).astype(np.float64) for m in z]
    grid = [(a, b, 1 - a - b) for a in np.linspace(0, 1, 41) for b in np.linspace(0, 1 - a, 41)]

    def loss(weights):
        return -np.log(sum(w * q for w, q in zip(weights, p))[np.arange(800), targets]).mean()

    weights = stacking.simplex_weights(z, targets)
    assert weights.min() >= 0
    assert loss(weights) <= min(map(loss, grid)) + 1e-5
    many, several = labels()
    w = stacking.simplex_weights(many, several)
    losses = [log_loss(several.ravel(), (a * expit(many[0]) + (1 - a) * expit(many[1])).ravel()) for a in np.linspace(0, 1, 101)]
    assert w[0] == pytest.approx(np.argmin(losses) / 100, abs=0.02)


def test_votes_are_weighted_by_score_and_a_loss_can_be_no_weight():
    z, targets = members()
    scores = np.array([accuracy(m, targets) for m in z])
    np.testing.assert_allclose(combination.fit_method("weighted", z, targets, ONE_LABEL, accuracy).weights, scores / scores.sum())
    with pytest.raises(FlukeError, match="better when higher"):
        combination.fit_method("weighted", z, targets, ONE_LABEL, lambda a, b: -1.0)


# --- honesty ----------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["stack_lr", "stack_gb", "greedy", "weighted"])
def test_on_pure_noise_the_honest_score_is_chance(method):
    """Members that know nothing: fitted, they look better than 1/4; judged, they don't."""
    rng = np.random.default_rng(1)
    noise, targets = [rng.normal(size=(600, 4)).astype(np.float32) for _ in range(4)], np.arange(600) % 4
    fitted, honest, report = combination.evaluate_combination(
        method,
        list("abcd"),
        noise,
        targets,
        "accuracy",
        combination.inner_folds(targets),
        offsets="accuracy" if method == "greedy" else None,
    )
    assert report["score"] == accuracy(honest, targets)
    assert report["score"] < 0.25 + 1.96 * np.sqrt(0.25 * 0.75 / 600)
    if method != "weighted":
        assert accuracy(fitted(noise), targets) > report["score"] + 0.02


def test_stacks_learn_what_no_weights_can():
    """One member mixes two classes up, the other way round: a stack sees it."""
    z, targets = members(n=600, skills=(1.5,))
    swapped = [z[0][:, [1, 0, 2, 3, 4, 5]]]
    folds = combination.inner_folds(targets)
    for method in ("stack_lr", "stack_gb"):
        report = combination.evaluate_combination(method, ["a"], swapped, targets, "accuracy", folds)[2]
        assert report["gain_interval"][0] > 0
        assert "fitted_score" not in report  # a stack's score on its own training rows says nothing


def test_what_is_fitted_on_a_stack_is_fitted_on_rows_it_has_not_seen():
    """On noise a stack is sure of its own training rows; on others it ought to be told to be unsure."""
    rng = np.random.default_rng(2)
    noise, targets = [rng.normal(size=(300, 3)).astype(np.float32)], np.arange(300) % 3
    fitted = combination.fit_combination("stack_gb", noise, targets, accuracy, combination.inner_folds(targets), temperature=True)
    assert fitted.adjust.temperature > 3


def test_what_is_fitted_on_a_stack_is_fitted_on_other_groups():
    """Photographs of a sighting are alike, and its label is chance: told apart by row, the stack would seem to know them."""
    rng = np.random.default_rng(0)
    groups = np.repeat(np.arange(60), 6)
    targets = rng.integers(0, 4, 60)[groups]
    z = [(rng.normal(size=(60, 4))[groups] + 0.1 * rng.normal(size=(360, 4))).astype(np.float32) for _ in range(3)]
    folds = combination.inner_folds(targets, groups=groups)
    temperature = {}
    for how, own in (("rows", combination.inner_folds(targets)), ("groups", folds)):
        temperature[how] = combination.fit_combination("stack_gb", z, targets, accuracy, own, temperature=True).adjust.temperature
    assert temperature["rows"] < 1.5 < 4 < temperature["groups"]
    judged = [
        combination.evaluate_combination("stack_gb", list("abc"), z, targets, "log_loss", of, groups, temperature=True)[2]["score"]
        for of in (folds, folds % 2)  # of two folds one is left to fit on: it is cut anew, by groups
    ]
    assert max(judged) < np.log(4) + 0.1


def test_one_group_alone_can_not_judge_a_fit():
    z, targets = members(n=20)
    alone = np.zeros(20, int)
    for method, also in (("greedy", {}), ("stack_lr", {}), ("mean", {"temperature": True})):
        with pytest.raises(FlukeError, match="judged on other rows: two of them"):
            combination.evaluate_combination(
                method, list("abc"), z, targets, "accuracy", combination.inner_folds(targets, groups=alone), alone, **also
            )


def test_a_gain_in_log_loss_is_a_gain():
    z, targets = members()
    report = combination.evaluate_combination("optimal", list("abc"), z, targets, "log_loss", combination.inner_folds(targets))[2]
    least = min(member["score"] for member in report["members"])
    assert report["gain"] == pytest.approx(least - report["score"])
    assert 0 < report["gain_interval"][0] < report["gain"] < report["gain_interval"][1]


def test_a_class_with_one_row_and_a_label_without_any_are_no_obstacle():
    z, targets = members(n=200, classes=4)
    targets[targets == 0] = 1
    targets[7] = 0
    for method, offsets in (("stack_lr", "macro_f1"), ("stack_gb", None), ("greedy", "macro_f1")):
        report = combination.evaluate_combination(
            method, list("abc"), z, targets, "macro_f1", combination.inner_folds(targets), offsets=offsets
        )[2]
        assert np.isfinite(report["score"])
    many, several = labels(n=200)
    several[:, 2] = 0
    for method in ("stack_lr", "optimal"):
        report = combination.evaluate_combination(
            method, list("ab"), many, several, "macro_map", combination.inner_folds(several), thresholds=True
        )[2]
        assert np.isfinite(report["score"])


def test_inner_folds_share_out_every_class():
    targets = np.repeat(np.arange(4), [2, 5, 10, 103])
    folds = combination.inner_folds(targets)
    for c in range(4):
        counts = np.bincount(folds[targets == c], minlength=5)
        assert counts.max() - counts.min() <= 1
    assert (combination.inner_folds(targets) == folds).all()
    assert not (combination.inner_folds(targets, seed=1) == folds).all()


def test_crossfit_never_shows_a_row_to_its_own_fit():
    z = [np.arange(10, dtype=np.float32)[:, None]]
    folds = np.array([0, 1, 2, 0, 1, 2, 0, 1, 2, 2])
    seen = []

    def fit_on(rows):
        seen.append(set(rows))
        return lambda held: held[0] * 0 + len(seen)

    out = combination.crossfit(fit_on, z, folds)
    for k in range(3):
        assert seen[k] == set(np.flatnonzero(folds != k))
        assert (out[folds == k] == k + 1).all()


def test_too_many_classes_for_offsets_are_refused():
    with pytest.raises(FlukeError, match="--offsets accuracy: for at most 500 classes, not 501"):
        decisions.fit_adjustment(np.zeros((4, 501), np.float32), np.arange(4), offsets="accuracy")


def test_too_many_classes_for_a_stack_are_refused():
    z = [np.zeros((4, 501), np.float32)]
    with pytest.raises(FlukeError, match="at most 500 classes, not 501"):
        combination.fit_method("stack_lr", z, np.arange(4), ONE_LABEL, accuracy)


# --- temperature, offsets, thresholds ---------------------------------------------------------------------------------------------


def test_temperature_is_found_again():
    rng = np.random.default_rng(0)
    z = rng.normal(size=(20000, 5)) * 2
    targets = (z + rng.gumbel(size=z.shape)).argmax(axis=1)  # drawn from softmax(z): calibrated
    assert decisions.fit_temperature(z * 3, targets) == pytest.approx(3, rel=0.05)
    several = (rng.random(z.shape) < expit(z)).astype(int)
    assert decisions.fit_temperature(z / 2, several) == pytest.approx(0.5, rel=0.05)


def test_offsets_undo_a_tilt_and_equal_a_brute_search():
    z, targets = members(n=1000, classes=3, skills=(1.0,), seed=2)
    for metric, score in (("accuracy", accuracy), ("macro_f1", METRICS["macro_f1"].function)):
        found = decisions.fit_offsets(z[0] + np.array([0, 1.5, 0]), targets, metric)
        tilted = score(z[0] + np.array([0, 1.5, 0]), targets)
        assert score(z[0] + np.array([0, 1.5, 0]) + found, targets) > tilted + 0.03
    two, targets = [m[:, :2] for m in z], (targets > 0).astype(int)
    grid = [np.array([o, 0]) for o in np.linspace(-4, 4, 81)]
    found = accuracy(two[0] + decisions.fit_offsets(two[0], targets, "accuracy"), targets)
    assert found == pytest.approx(max(accuracy(two[0] + o, targets) for o in grid), abs=0.002)


def test_thresholds_reach_the_best_f1_of_each_label():
    z, targets = labels(n=300)
    z, targets = np.round(z[1], 1), targets.copy()  # with ties
    targets[:, 3] = 0
    found = decisions.fit_thresholds(z, targets)
    assert found[3] == 0
    for c in (0, 1, 2, 4):
        tried = [f1_score(targets[:, c], z[:, c] >= t) for t in np.unique(z[:, c])]
        assert f1_score(targets[:, c], z[:, c] >= found[c]) == pytest.approx(max(tried))
    shifted = decisions.fit_adjustment(z, targets, temperature=True, thresholds=True)(z)
    used = np.delete(np.arange(5), 3)
    assert ((shifted >= 0) == (z >= found))[:, used].all()  # a decision at 1/2, whatever the temperature


# --- the script -------------------------------------------------------------------------------------------------------------------


def write_runs(root: Path, z, targets, multi=False, test=True, names=None):
    classes = tuple("abcdefgh"[: z[0].shape[1]])
    for k, m in enumerate(z):
        half = len(m) // 2
        for name, rows in (("oof.npz", np.arange(half)), ("scores_test.npz", np.arange(half, len(m)))):
            if name == "oof.npz" or test:
                true = [tuple(classes[c] for c in np.flatnonzero(targets[r])) if multi else (classes[targets[r]],) for r in rows]
                known = true if name == "oof.npz" else None
                save_scores(
                    root / f"r{k}" / name,
                    Scores(
                        rows,
                        [f"{r}.jpg" for r in rows],
                        classes,
                        m[rows],
                        known,
                        SEVERAL_LABELS if multi else ONE_LABEL,
                        {"run": f"r{k}"},
                    ),
                )
    return [str(root / f"r{k}") for k in range(len(z))]


def recipe(run: str, sample: str, **predict):
    path = Path(run) / "sample.csv"
    path.write_text(sample)
    fields = {"data": {"root": run, "sample_submission": "sample.csv"}, "predict": predict}
    (Path(run) / "recipe.yaml").write_text(json.dumps(fields))


@pytest.mark.parametrize("method", ["mean", "rank", "weighted", "greedy", "optimal", "stack_lr"])
def test_script_from_runs_to_submission(tmp_path, method, capsys):
    z, targets = members(n=600)
    runs = write_runs(tmp_path, z, targets)
    recipe(runs[0], "image,label\n" + "".join(f"{r},a\n" for r in range(599, 299, -1)))
    found = ensemble.main(["--runs", *runs, "--method", method, "--out", str(tmp_path / "ens")])
    out = tmp_path / "ens"
    assert {p.name for p in out.iterdir()} == {"ensemble.json", "oof.npz", "scores_test.npz", "submission.csv", "recipe.yaml"}
    assert json.loads((out / "ensemble.json").read_text())["score"] == found["score"]
    assert found["score"] == accuracy(load_scores(out / "oof.npz").logits, targets[:300])
    assert found["score"] > accuracy(z[0][:300], targets[:300]) - 0.02
    widened, own = (found["score"] - found[name][0] for name in ("test_interval", "interval"))
    assert widened == pytest.approx(own * np.sqrt(2))  # as many test images as rows
    test = load_scores(out / "scores_test.npz")
    assert accuracy(test.logits, targets[300:]) == pytest.approx(found["score"], abs=0.04)
    lines = (out / "submission.csv").read_text().splitlines()
    assert lines[0] == "image,label"
    assert lines[1] == f"599,{test.classes[test.logits[-1].argmax()]}"
    printed = capsys.readouterr().out
    for words in (runs[2], "95% interval", "on rows that nothing was fitted on", f"{found['disagreement'][0][1]:.1%}", "gain"):
        assert words in printed
    again = ensemble.main(["--runs", str(out), runs[1], "--method", "mean", "--out", str(tmp_path / "twice")])
    assert again["members"][0]["score"] == found["score"]  # an ensemble is a run


def test_script_with_several_labels_and_thresholds(tmp_path):
    z, targets = labels(n=600)
    runs = write_runs(tmp_path, z, targets, multi=True)
    recipe(runs[0], "image,labels\n" + "".join(f"{r}.jpg,a\n" for r in range(300, 600)), separator="|")
    plain = ensemble.main(["--runs", *runs, "--method", "mean", "--metric", "macro_f1", "--out", str(tmp_path / "a")])
    tuned = ensemble.main(
        ["--runs", *runs, "--method", "mean", "--metric", "macro_f1", "--thresholds", "--out", str(tmp_path / "b")]
    )
    assert tuned["score"] > plain["score"]
    assert tuned["fitted_score"] >= tuned["score"]
    test = load_scores(tmp_path / "b" / "scores_test.npz")
    row = np.flatnonzero((test.logits >= 0).sum(axis=1) > 1)[0]
    line = (tmp_path / "b" / "submission.csv").read_text().splitlines()[1 + row]
    assert line == f"{300 + row}.jpg," + "|".join(c for c, given in zip(test.classes, test.logits[row] >= 0) if given)


def test_thresholds_are_no_gain_of_combining(tmp_path):
    """Two runs alike whose labels never reach 1/2: combining them gains nothing, though thresholds gain all."""
    z, targets = labels(n=600)
    runs = write_runs(tmp_path, [z[0] - 8, z[0] - 8], targets, multi=True)
    argv = ["--runs", *runs, "--method", "mean", "--metric", "macro_f1", "--thresholds", "--out", str(tmp_path / "a")]
    found = ensemble.main(argv)
    assert found["members"][0]["score"] == pytest.approx(found["score"])
    assert found["score"] > 0.5
    assert found["gain"] == pytest.approx(0)


def test_groups_of_any_run_hold_for_all(tmp_path):
    z, targets = members(n=400)
    runs = write_runs(tmp_path, z, targets)
    grouped = load_scores(tmp_path / "r1" / "oof.npz")
    save_scores(tmp_path / "r1" / "oof.npz", replace(grouped, groups=[f"s{row // 8}" for row in grouped.rows]))
    argv = ["--method", "weighted", "--runs"]
    first = ensemble.main([*argv, *runs, "--out", str(tmp_path / "a")])
    turned = ensemble.main([*argv, *runs[::-1], "--out", str(tmp_path / "b")])
    assert load_scores(tmp_path / "a" / "oof.npz").groups == [f"s{row // 8}" for row in grouped.rows]
    assert first["inner_folds"] == turned["inner_folds"] == "5, random, of whole groups"
    assert [m["interval"] for m in first["members"]] == [m["interval"] for m in turned["members"]][::-1]


def test_script_writes_the_five_best_labels(tmp_path):
    z, targets = members(n=200)
    runs = write_runs(tmp_path, z, targets)
    recipe(runs[0], "Image,Id\n" + "".join(f"{r}.jpg,a b c d e\n" for r in range(100, 200)))
    ensemble.main(["--runs", *runs, "--metric", "map@5", "--method", "vote", "--out", str(tmp_path / "ens")])
    test = load_scores(tmp_path / "ens" / "scores_test.npz")
    best = [test.classes[c] for c in np.argsort(-test.logits[0], kind="stable")[:5]]
    assert (tmp_path / "ens" / "submission.csv").read_text().splitlines()[1] == "100.jpg," + " ".join(best)


def test_script_with_a_specialist(tmp_path):
    """A run that knows three classes, better than the first run does, helps; whatever it says of other images."""
    z, targets = members(n=1200, skills=(0.8, 1.8))
    runs = write_runs(tmp_path, z, targets)
    for name in ("oof.npz", "scores_test.npz"):
        whole = load_scores(tmp_path / "r1" / name)
        save_scores(tmp_path / "r1" / name, replace(whole, classes=("f", "d", "e"), logits=whole.logits[:, [5, 3, 4]]))
    found = ensemble.main(["--runs", *runs, "--method", "mean_prob", "--out", str(tmp_path / "ens")])
    assert found["gain_interval"][0] > 0 or found["best_member"] == runs[1]
    assert found["members"][1]["score"] > found["members"][0]["score"] + 0.02


def test_script_combines_test_scores_alone_where_nothing_is_fitted(tmp_path):
    z, targets = members(n=40)
    runs = write_runs(tmp_path, z, targets)
    for run in runs:
        (Path(run) / "oof.npz").unlink()
    found = ensemble.main(["--runs", *runs, "--method", "mean", "--out", str(tmp_path / "ens")])
    assert "score" not in found
    np.testing.assert_allclose(
        load_scores(tmp_path / "ens" / "scores_test.npz").logits, np.mean([m[20:] for m in z], axis=0), rtol=1e-5
    )
    for extra in (["--method", "greedy"], ["--method", "mean", "--temperature"]):
        with pytest.raises(FlukeError, match="needs out-of-fold scores"):
            ensemble.main(["--runs", *runs, *extra, "--out", str(tmp_path / "other")])


def test_the_first_runs_own_folds_are_the_inner_folds(tmp_path):
    z, targets = members(n=100)
    runs = write_runs(tmp_path, z, targets, test=False)
    (tmp_path / "r0" / "folds.csv").write_text("image,fold\n" + "".join(f"{r}.jpg,{r % 3}\n" for r in range(50)))
    found = ensemble.main(["--runs", *runs, "--out", str(tmp_path / "ens")])
    assert found["inner_folds"] == str(tmp_path / "r0" / "folds.csv")


def test_bad_input_is_one_sentence_and_nothing_is_overwritten(tmp_path):
    z, targets = members(n=100)
    runs = write_runs(tmp_path, z, targets)
    out = tmp_path / "ens"
    ensemble.main(["--runs", *runs, "--out", str(out)])
    before = {p.name: p.read_bytes() for p in out.iterdir()}

    def refused(sentence, *options, where=out):
        with pytest.raises(FlukeError, match=sentence) as error:
            ensemble.main(["--runs", *runs, "--out", str(where), *options])
        assert "\n" not in str(error.value)
        assert {p.name: p.read_bytes() for p in out.iterdir()} == before
        assert not (tmp_path / "new").exists()

    new = tmp_path / "new"
    refused("is there already, and not empty")
    refused("--thresholds are for several labels", "--thresholds", where=new)
    refused("Unknown metric 'acuracy'; did you mean accuracy", "--metric", "acuracy", where=new)
    refused("macro_map doesn't fit one label per image", "--metric", "macro_map", where=new)
    refused("--metric loss: is known in training only", "--metric", "loss", where=new)
    refused("did you mean greedy", "--method", "gredy", where=new)
    refused("better when higher", "--method", "weighted", "--metric", "log_loss", where=new)
    recipe(runs[0], "image,label\nelsewhere.jpg,a\n")
    refused("no prediction: 'elsewhere.jpg'", where=new / "never")
    (Path(runs[0]) / "recipe.yaml").unlink()
    (tmp_path / "r1" / "fold0").mkdir()
    (tmp_path / "r1" / "oof.npz").unlink()
    refused(r"a k-fold run without oof\.npz", where=new)


def test_nothing_is_overwritten(tmp_path):
    z, targets = members(n=60)
    runs, out = write_runs(tmp_path, z, targets), tmp_path / "answers"
    out.mkdir()
    (out / "scores_test.npz").write_bytes(b"of predict.py")
    with pytest.raises(FlukeError, match="answers: is there already, and not empty"):
        ensemble.main(["--runs", *runs, "--out", str(out)])
    assert (out / "scores_test.npz").read_bytes() == b"of predict.py"


def test_methods_of_the_command_line_are_those_there_are():
    assert ensemble.METHODS == combination.METHODS


@pytest.mark.parametrize("options", [["--help"], ["--runs", "nowhere"], ["--runs", "a", "--metod", "mean"]])
def test_help_and_errors_are_answered_before_scikit_learn_is_imported(options):
    code = f"""
import sys
from lib.errors import FlukeError
from scripts import ensemble
try:
    ensemble.main({options!r})
except (FlukeError, SystemExit) as stop:
    print(stop)
assert not {{"sklearn", "scipy", "torch", "pandas"}} & set(sys.modules)
"""
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[2], capture_output=True)


def test_groups_stay_together_where_a_fit_is_judged(tmp_path):
    """Six photographs a sighting, told apart by sighting alone: a stack that sees some of them knows the others' label."""
    rng = np.random.default_rng(0)
    groups = np.repeat(np.arange(60), 6)
    targets = rng.integers(0, 4, 60)[groups]
    z = [(rng.normal(size=(60, 4))[groups] + 0.1 * rng.normal(size=(360, 4))).astype(np.float32) for _ in range(3)]
    runs = write_runs(tmp_path, [np.concatenate([m, m]) for m in z], np.concatenate([targets, targets]), test=False)
    apart = ensemble.main(["--runs", *runs, "--method", "stack_gb", "--out", str(tmp_path / "apart")])
    for run in runs:
        found = load_scores(Path(run) / "oof.npz")
        save_scores(Path(run) / "oof.npz", replace(found, groups=[f"sighting {g}" for g in groups]))
    whole = ensemble.main(["--runs", *runs, "--method", "stack_gb", "--out", str(tmp_path / "whole")])
    assert apart["score"] > 0.8  # the leak
    assert whole["score"] < 0.5  # the truth: nothing can be known
    assert whole["inner_folds"] == "5, random, of whole groups"
    widths = [np.ptp(found["members"][0]["interval"]) for found in (apart, whole)]
    assert widths[1] > 1.8 * widths[0]
    assert load_scores(tmp_path / "whole" / "oof.npz").groups[:7] == ["sighting 0"] * 6 + ["sighting 1"]


def test_thresholds_do_not_spoil_the_order_within_a_label(tmp_path):
    z, targets = labels(n=600)
    runs = write_runs(tmp_path, z, targets, multi=True, test=False)
    argv = ["--runs", *runs, "--method", "mean", "--metric", "macro_map"]
    plain = ensemble.main([*argv, "--out", str(tmp_path / "a")])
    tuned = ensemble.main([*argv, "--thresholds", "--temperature", "--out", str(tmp_path / "b")])
    assert tuned["score"] == plain["score"] == pytest.approx(tuned["fitted_score"], abs=1e-6)
    assert ensemble.main(["--runs", *runs, "--thresholds", "--out", str(tmp_path / "c")])["metric"] == "macro_f1"


@pytest.mark.parametrize("metric", ["micro_f1", "samples_f1"])
def test_thresholds_for_the_contests_metric(metric):
    """Rare labels that nobody can tell: each one's best F1 is to give it always, which costs all labels together dearly."""
    rng = np.random.default_rng(0)
    targets = (rng.random((400, 8)) < np.geomspace(0.5, 0.02, 8)).astype(int)
    z = rng.normal(size=(400, 8)) + np.where(np.arange(8) < 3, 2.5, 0) * targets
    measure = METRICS[metric].function
    of_each = measure(z - decisions.fit_thresholds(z, targets), targets)
    together = measure(z - decisions.fit_thresholds(z, targets, metric), targets)
    assert together > of_each + 0.05
    report = combination.evaluate_combination(
        "mean", ["a"], [z], targets, metric, combination.inner_folds(targets), thresholds=True
    )[2]
    assert report["fitted_score"] == pytest.approx(together, abs=1e-6)
    assert report["score"] > of_each


def test_label_lists_of_an_ensemble_have_tuned_thresholds(tmp_path, capsys):
    z, targets = labels(n=600)
    runs = write_runs(tmp_path, [m - 3 for m in z], targets, multi=True)  # few reach a probability of 1/2
    recipe(runs[0], "image,labels\n" + "".join(f"{r}.jpg,a\n" for r in range(300, 600)), separator="|")
    ensemble.main(["--runs", *runs, "--method", "mean", "--out", str(tmp_path / "ens")])
    given = [line.split(",")[1].split("|") for line in (tmp_path / "ens" / "submission.csv").read_text().splitlines()[1:]]
    classes = load_scores(tmp_path / "ens" / "scores_test.npz").classes
    answers = np.array([[c in row for c in classes] for row in given])
    untuned = expit(load_scores(tmp_path / "ens" / "scores_test.npz").logits) >= 0.5
    truth = targets[300:]
    assert f1_score(truth, answers, average="macro") > f1_score(truth, untuned, average="macro", zero_division=0) + 0.1
    assert "thresholds of the labels: probability " in capsys.readouterr().out


# --- a specialist, trained --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("script", ["train_classifier", "kfold"])
def test_a_specialist_is_split_like_the_first_run_and_scored_on_every_held_out_row(
    tmp_path: Path, arguments: Callable[..., list[str]], script: str, capsys: pytest.CaptureFixture[str]
) -> None:
    main = importlib.import_module(f"scripts.{script}").main
    first, second = tmp_path / "first", tmp_path / "second"
    fields = {"train_epochs": 1, "folds_n": 2, "data_min_images": 5}
    main(arguments(first, **fields))
    main(arguments(second, data_only_classes="[ant, bee]", **fields))
    name = "oof.npz" if script == "kfold" else "scores_val.npz"
    general, specialist = load_scores(first / name), load_scores(second / name)
    assert sorted(specialist.rows) == sorted(general.rows)
    assert set(specialist.labels or []) == {("ant",), ("bee",), ("cat",)}
    assert specialist.classes == ("ant", "bee")
    result = json.loads((second / ("cv.json" if script == "kfold" else "metrics.json")).read_text())
    assert result["rows"] == sum(label != ("cat",) for label in specialist.labels or [])  # measured on its own classes only
    assert not (second / "submission.csv").exists()
    assert "images of other classes are scored in validation but not trained on" in capsys.readouterr().out
    found = ensemble.main(["--runs", str(first), str(second), "--method", "mean_prob", "--out", str(tmp_path / "both")])
    assert len(found["members"]) == 2
    assert (tmp_path / "both" / "submission.csv").exists()
    p, q = (softmax(m, axis=1) for m in (general.logits, averaging.extend_members(align_scores([general, specialist]))[1]))
    np.testing.assert_allclose(q[:, :2].sum(axis=1), p[:, :2].sum(axis=1), atol=1e-6)  # the mass is the first one's
    np.testing.assert_allclose(q[:, 2], p[:, 2], atol=1e-6)
