"""Thresholds against the contest's formula, cross-fitting, and shares of new individuals."""

import numpy as np
import pytest

from lib.errors import FlukeError
from lib.metrics.retrieval import reciprocal_ranks
from lib.retrieval.calibration import estimate_new_share
from lib.retrieval.evaluation import AnswerRule, metrics_per_query
from lib.retrieval.ranking import rank_with_new
from lib.retrieval.thresholds import LabelledScores, crossfit_thresholds, fit_threshold, new_share_costs, threshold_curve


def random_case(rng):
    q, m, k = rng.integers(2, 8), rng.integers(1, 8), int(rng.integers(1, 7))
    names = np.array([rng.permutation(list("abcdefgh"))[:m] for _ in range(q)])
    scores = -np.sort(-rng.integers(0, 6, (q, m)) / 6.0, axis=1)  # with ties
    short = rng.integers(0, m + 1, q) if rng.random() < 0.3 else np.full(q, m)
    scores[np.arange(m) >= short[:, None]] = -np.inf
    scores[0, 0] = max(scores[0, 0], 0.5)
    truth = rng.choice(list("abcdefgh"), q)
    known = rng.random(q) < 0.5
    known[:2] = True, False
    return names, scores, truth, known, k


def brute_map(names, scores, truth, known, k, threshold, share):
    """The contest's formula on the lists that are handed in: the mean over queries of sum of precision(i) * relevant(i)."""
    values = {True: [], False: []}
    answers = rank_with_new(names, scores, threshold, "new", k)
    for row, answer in enumerate(answers):
        right = truth[row] if known[row] else "new"
        precision, hits = 0.0, 0
        for place, name in enumerate(answer[:k], start=1):
            if name == right and name not in answer[: place - 1]:
                hits += 1
                precision += hits / place
        values[bool(known[row])].append(precision)
    return (1 - share) * np.mean(values[True]) + share * np.mean(values[False])


def test_the_sweep_is_the_contests_formula_at_every_threshold_on_1000_random_cases():
    rng = np.random.default_rng(0)
    for _ in range(1000):
        names, scores, truth, known, k = random_case(rng)
        curve = threshold_curve(LabelledScores(scores, names == truth[:, None], known), k)
        share = float(rng.uniform())
        want = [brute_map(names, scores, truth, known, k, t, share) for t in curve.thresholds]
        np.testing.assert_allclose(curve.map_at_k(share), want, atol=1e-12)
        observed = 1 - known.mean()
        plain = reciprocal_ranks(
            np.where(known, truth, "new"), rank_with_new(names, scores, float(curve.thresholds[0]), "new", k), k
        ).mean()
        np.testing.assert_allclose(curve.map_at_k(observed)[0], plain, atol=1e-12)
        best = fit_threshold(curve, "map@k", share)
        grid = [brute_map(names, scores, truth, known, k, t, share) for t in np.linspace(-0.5, 1.5, 49)]
        assert brute_map(names, scores, truth, known, k, best, share) >= max(grid) - 1e-12


def separated_queries(n_known, n_new, rng, gap=2.0, k=5):
    """Return queries whose best scores differ by `gap` standard deviations between known and new; mostly right at rank 1."""
    scores = -np.sort(-rng.normal(size=(n_known + n_new, k)), axis=1)
    known = np.arange(n_known + n_new) < n_known
    scores[known, 0] = np.maximum(scores[known, 0] + gap, scores[known, 1])
    right = np.zeros(scores.shape, bool)
    right[np.arange(n_known), np.where(rng.random(n_known) < 0.8, 0, 1)] = True
    return LabelledScores(scores, right, known)


def overlapping_queries(rng, n):
    """Return n queries, two in five of new individuals; of the known ones one in four gets a wrong name."""
    known = np.arange(n) % 5 < 3
    scores = -np.sort(-rng.normal(size=(n, 5)), axis=1)
    scores[:, 0] += 0.7 * known
    right = np.zeros((n, 5), bool)
    right[:, 0] = known & (rng.random(n) < 0.75)
    return LabelledScores(scores, right, known)


def score_of(queries, thresholds):
    """Return MAP@5 of queries, each at its own threshold."""
    scores, right, known = queries
    names = np.where(right, "own", np.char.add("other", np.arange(5).astype(str)))
    return metrics_per_query(np.full(len(known), "own"), names, scores, known, AnswerRule(thresholds, "new"))["map@5"].mean()


def test_crossfitted_thresholds_score_as_on_fresh_queries():
    """100 times 60 queries: at the threshold fitted on them they score higher than fresh ones; at crossfitted ones the same."""
    rng = np.random.default_rng(0)
    fresh = overlapping_queries(rng, 5000)
    optimistic, crossfitted = [], []
    for seed in range(100):
        queries = overlapping_queries(rng, 60)
        best = lambda curve: fit_threshold(curve, "map@k", 0.4)  # noqa: E731
        own = best(threshold_curve(queries))
        expected = score_of(fresh, own)
        optimistic.append(score_of(queries, own) - expected)
        crossfitted.append(score_of(queries, crossfit_thresholds(queries, best, seed=seed)) - expected)
    error = np.std(crossfitted) / 10
    assert np.mean(optimistic) > 0.015
    assert abs(np.mean(crossfitted)) < min(3 * error, 0.012)


def test_crossfitted_thresholds_keep_groups_whole_and_need_both_kinds():
    rng = np.random.default_rng(0)
    queries = overlapping_queries(rng, 60)
    middle = lambda curve: float(np.median(curve.thresholds))  # noqa: E731
    groups = rng.integers(20, size=60)
    found = crossfit_thresholds(queries, middle, groups=groups)
    assert all(len(set(found[groups == group])) == 1 for group in set(groups.tolist()))
    assert len(set(found.tolist())) == 5
    one_known = queries._replace(in_gallery=np.arange(60) == 7)  # its part gets the threshold of all queries
    assert crossfit_thresholds(one_known, middle)[7] == middle(threshold_curve(one_known))


def test_thresholds_by_share_and_by_false_acceptance_reach_their_rates():
    rng = np.random.default_rng(0)
    queries = separated_queries(600, 300, rng)
    scores, _, known = queries
    curve = threshold_curve(queries)
    far = fit_threshold(curve, "far", 0.3, far=0.1)
    assert 0.09 < (scores[~known, 0] >= far).mean() <= 0.1
    share = fit_threshold(curve, "share", 0.25)
    first_is_new = 0.75 * (scores[known, 0] < share).mean() + 0.25 * (scores[~known, 0] < share).mean()
    assert abs(first_is_new - 0.25) < 0.005


def test_the_open_set_threshold_has_the_best_geometric_mean_of_both_accuracies():
    rng = np.random.default_rng(1)
    queries = separated_queries(300, 100, rng)
    scores, is_right, known = queries
    found = fit_threshold(threshold_curve(queries), "open_set", 0.3)

    def mean_of(threshold: float) -> float:
        named = (scores[known, 0] >= threshold) & is_right[known, 0]
        return float(np.sqrt(named.mean() * (scores[~known, 0] < threshold).mean()))

    assert mean_of(found) == max(mean_of(threshold) for threshold in np.append(scores[:, 0], np.inf))


@pytest.mark.parametrize("share", [0.1, 0.3, 0.6])
def test_the_threshold_holds_for_an_unknown_share(share):
    """Fitted on 70% known validation queries, answering unlabelled queries with another share: at most 0.02 below the best."""
    losses = []
    for seed in range(5):
        rng = np.random.default_rng(seed)
        validation = separated_queries(400, 170, rng)
        curve = threshold_curve(validation)
        test = separated_queries(round(1000 * (1 - share)), round(1000 * share), rng)
        estimate = estimate_new_share(validation.scores[:, 0], validation.in_gallery, test.scores[:, 0])
        assert abs(estimate - share) < 0.07
        costs = new_share_costs(threshold_curve(test), fit_threshold(curve, "map@k", estimate), [share])
        losses.append(costs[0]["loss"])
        assert costs[0]["best_map"] - costs[0]["map"] == pytest.approx(costs[0]["loss"])
    assert np.mean(losses) < 0.02


def test_an_estimated_share_is_the_middle_for_uninformative_scores():
    rng = np.random.default_rng(0)
    estimate = estimate_new_share(rng.normal(size=200), np.arange(200) < 100, rng.normal(size=50))
    assert 0.3 < estimate < 0.7


@pytest.mark.parametrize(("known", "kind"), [(True, "new"), (False, "known")])
def test_a_curve_needs_known_and_new_queries(known, kind):
    with pytest.raises(FlukeError, match=f"No validation query is of {kind}"):
        threshold_curve(LabelledScores(np.array([[1.0]]), np.array([[known]]), np.array([known])))


def test_costs_of_other_shares_are_those_at_the_threshold():
    rng = np.random.default_rng(0)
    for _ in range(50):
        names, scores, truth, known, _ = random_case(rng)
        curve = threshold_curve(LabelledScores(scores, names == truth[:, None], known))
        for threshold in curve.thresholds.tolist():
            for row in new_share_costs(curve, threshold, (0.1, 0.6)):
                want = [brute_map(names, scores, truth, known, 5, t, row["share"]) for t in (threshold, row["best_threshold"])]
                assert (row["map"], row["best_map"]) == pytest.approx(tuple(want))


def test_a_false_acceptance_rate_is_reached_exactly():
    """One of 20 strangers is 5%, though 1 - 0.95 > 0.05 in floats."""
    scores = np.arange(40.0)[:, None]
    queries = LabelledScores(scores, np.zeros((40, 1), bool), np.arange(40) >= 20)
    curve = threshold_curve(queries)
    assert 18 < fit_threshold(curve, "far", 0.5, 0.05) < 19


def test_an_estimated_share_may_be_anything_and_missing_scores_count_as_low():
    rng = np.random.default_rng(0)
    scores, known = np.concatenate([rng.normal(4, 1, 300), rng.normal(0, 1, 300)]), np.arange(600) < 300
    for share in (0.01, 0.95):
        new = rng.random(2000) < share
        asked = np.where(new, rng.normal(0, 1, 2000), rng.normal(4, 1, 2000))
        assert estimate_new_share(scores, known, asked) == pytest.approx(share, abs=0.03)
        asked[new & (rng.random(2000) < 0.5)] = -np.inf
        scores[400:410] = -np.inf
        assert estimate_new_share(scores, known, asked) == pytest.approx(share, abs=0.05)
