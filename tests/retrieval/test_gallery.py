"""The gallery against brute-force numpy, names and thresholds against loops, and bad input against one sentence."""

import json
import subprocess
import sys

import faiss
import numpy as np
import pytest

from lib.errors import FlukeError
from lib.metrics.retrieval import reciprocal_ranks
from lib.metrics.verification import verify_pairs
from lib.retrieval.evaluation import mean_metrics, metrics_per_query
from lib.retrieval.gallery import build_gallery, open_gallery
from lib.retrieval.open_set import (
    crossfit_thresholds,
    estimate_new_share,
    fit_probability,
    fit_threshold,
    new_share_costs,
    pair_scores,
    threshold_curve,
)
from lib.retrieval.ranking import Ranking, add_centres, expand_queries, rank_identities, rank_with_new

FACTORIES = ["Flat", "SQ8", "IVF8,Flat", "HNSW16", "PCA12,IVF8,SQ8", "PCA12,Flat", "IVF8,Flat,RFlat"]


@pytest.fixture(autouse=True)
def one_thread():
    faiss.omp_set_num_threads(1)


def unit(x):
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def made(n=400, d=16, classes=60, seed=0):
    """Embeddings around class centres, ids with gaps, names, labels."""
    rng = np.random.default_rng(seed)
    of = rng.integers(classes, size=n)
    x = (rng.normal(size=(classes, d))[of] + 0.5 * rng.normal(size=(n, d))).astype(np.float32)
    return x, np.arange(n) * 7 + 3, [f"{i}.jpg" for i in range(n)], [f"w_{i:02}" for i in of]


def brute(x, queries, ids, k, metric):
    if metric == "cosine":
        scores = unit(queries.astype(np.float64)) @ unit(x.astype(np.float64)).T
    else:
        scores = -((queries[:, None].astype(np.float64) - x[None]) ** 2).sum(axis=2)
    order = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    return np.take_along_axis(scores, order, 1), np.asarray(ids)[order]


# --- the gallery ------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("metric", ["cosine", "l2"])
def test_exact_search_is_brute_force(metric):
    x, ids, names, labels = made()
    queries = made(seed=1)[0][:50]
    gallery = build_gallery(x, ids, names, labels, "model", metric)
    scores, found = gallery.search(queries, 10, "model")
    want_scores, want_ids = brute(x, queries, ids, 10, metric)
    assert scores.dtype == np.float32
    assert found.dtype == np.int64
    np.testing.assert_allclose(scores, want_scores, atol=1e-4)
    np.testing.assert_array_equal(found, want_ids)
    assert (np.asarray(labels)[gallery.rows(found)] == gallery.labels[gallery.rows(found)]).all()


def test_rows_of_the_new_label_are_nobody():
    x, ids, names, labels = made(30)
    labels[3] = labels[7] = "new_whale"
    gallery = build_gallery(x, ids, names, labels, "m", new_label="new_whale")
    assert sorted(gallery.ids) == sorted(set(ids) - {ids[3], ids[7]})
    assert "new_whale" not in gallery.labels
    assert gallery.index.ntotal == 28


def test_gallery_smaller_than_k_fills_up_and_equal_scores_go_by_id():
    x = np.ones((3, 4), np.float32)
    scores, ids = build_gallery(x, [9, 5, 7], list("abc"), list("xyz"), "m").search(x[:2], 5, "m")
    np.testing.assert_array_equal(ids, [[5, 7, 9, -1, -1]] * 2)
    assert np.isneginf(scores[:, 3:]).all()
    np.testing.assert_allclose(scores[:, :3], 1, atol=1e-6)


@pytest.mark.parametrize("factory", FACTORIES)
def test_added_rows_are_found_and_removed_ones_are_not_and_the_rest_keep_their_ids(factory):
    x, ids, names, labels = made()
    gallery = build_gallery(x[:300], ids[:300], names[:300], labels[:300], "m", factory=factory)
    gallery.tune({"nprobe": 8} if "IVF" in factory else {"efSearch": 400} if "HNSW" in factory else {})
    gallery.add(x[300:], ids[300:], names[300:], labels[300:], "m")
    assert (gallery.search(x, 1, "m")[1][:, 0] == ids).mean() > 0.97
    gone = ids[::3]
    gallery.remove(gone)
    found = gallery.search(x, 5, "m")[1]
    assert not np.isin(found, gone).any()
    kept = ~np.isin(ids, gone)
    assert (found[kept, 0] == ids[kept]).mean() > 0.97
    assert gallery.index.ntotal == len(gallery.ids) == kept.sum()
    np.testing.assert_array_equal(gallery.labels[gallery.rows(ids[kept])], np.asarray(labels)[kept])


@pytest.mark.parametrize("factory", FACTORIES)
def test_reopened_memory_mapped_it_answers_alike_and_can_still_be_changed(factory, tmp_path):
    x, ids, names, labels = made()
    labels[0] = "ñandú, the 1st"
    gallery = build_gallery(x, ids, names, labels, "m", factory=factory)
    gallery.save(tmp_path)
    again = open_gallery(tmp_path)
    for before, after in zip(gallery.search(x[:40], 6, "m"), again.search(x[:40], 6, "m")):
        np.testing.assert_array_equal(before, after)
    np.testing.assert_array_equal(again.labels, labels)
    again.remove(ids[:10])
    again.add(x[:5], ids[:5], names[:5], labels[:5], "m")
    again.save(tmp_path)
    third = open_gallery(tmp_path)
    assert sorted(third.ids) == sorted([*ids[10:], *ids[:5]])
    np.testing.assert_array_equal(third.search(x, 3, "m")[1], again.search(x, 3, "m")[1])
    assert len(list(tmp_path.iterdir())) == 3  # nothing of the first generation is left


def test_reopening_maps_the_vectors_instead_of_reading_them(tmp_path):
    n, d = 40_000, 256  # 41 MB
    x = np.random.default_rng(0).normal(size=(n, d)).astype(np.float32)
    build_gallery(x, np.arange(n), [""] * n, ["w"] * n, "m").save(tmp_path)
    code = (
        "import sys, pathlib; from lib.retrieval.gallery import open_gallery\n"
        "def rss(): return next(int(l.split()[1]) for l in open('/proc/self/status') if l.startswith('VmRSS'))\n"
        "before = rss(); g = open_gallery(pathlib.Path(sys.argv[1])); print(rss() - before)"
    )
    out = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=True).stdout
    assert int(out) < 10_000  # kB


def test_a_crash_while_saving_leaves_the_old_gallery(tmp_path, monkeypatch):
    x, ids, names, labels = made()
    gallery = build_gallery(x, ids, names, labels, "m")
    gallery.save(tmp_path)
    gallery.remove(ids[:100])
    monkeypatch.setattr("lib.retrieval.gallery.write_json", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        gallery.save(tmp_path)
    assert len(open_gallery(tmp_path).ids) == len(ids)


@pytest.mark.parametrize("metric", ["cosine", "l2"])
@pytest.mark.parametrize("factory", ["Flat", "IVF8,Flat", "HNSW8"])
def test_vectors_come_back(factory, metric):
    x, ids, names, labels = made()
    got = build_gallery(x, ids, names, labels, "m", metric, factory).vectors(ids[[5, 2, 9]])
    np.testing.assert_allclose(got, (unit(x) if metric == "cosine" else x)[[5, 2, 9]], atol=1e-6)


def test_bad_input_is_one_sentence():
    x, ids, names, labels = made(30)
    gallery = build_gallery(x, ids, names, labels, "resnet a1")
    nan = x.copy()
    nan[[4, 8]] = np.nan
    cases = [
        ("2 of 30 embeddings hold NaN.*4, 8", lambda: build_gallery(nan, ids, names, labels, "m")),
        ("2 of 30", lambda: gallery.search(nan, 5, "resnet a1")),
        ("topk 0", lambda: gallery.search(x, 0, "resnet a1")),
        ("shape .30, 8..*16", lambda: gallery.search(x[:, :8], 5, "resnet a1")),
        ("'resnet a1'.*'resnet b2'", lambda: gallery.search(x, 5, "resnet b2")),
        ("'resnet a1'.*'resnet b2'", lambda: gallery.add(x, ids + 1, names, labels, "resnet b2")),
        ("empty", lambda: build_gallery(x[:0], [], [], [], "m")),
        ("labelled new_whale", lambda: build_gallery(x, ids, names, ["new_whale"] * 30, "m", new_label="new_whale")),
        ("1 row ids .*twice: 3", lambda: build_gallery(x, [3, 3, *ids[2:]], names, labels, "m")),
        ("30 row ids are in the gallery already: 3, 10", lambda: gallery.add(x, ids, names, labels, "resnet a1")),
        ("not in the gallery: 4", lambda: gallery.remove([4])),
        ("would be empty", lambda: gallery.remove(ids)),
        ("30 embeddings for 29", lambda: build_gallery(x, ids[1:], names[1:], labels[1:], "m")),
        ("expected one each", lambda: build_gallery(x, ids, names, labels[1:], "m")),
        ("factory IVF64,Flat: can't be trained on 30", lambda: build_gallery(x, ids, names, labels, "m", factory="IVF64,Flat")),
        ("factory PQ8: can't be trained on 30", lambda: build_gallery(x, ids, names, labels, "m", factory="PQ8")),
        ("factory Blat: no FAISS index", lambda: build_gallery(x, ids, names, labels, "m", factory="Blat")),
        ("search nprobe: 4 can't be set on a Flat", lambda: gallery.tune({"nprobe": 4})),
        ("topk 0", lambda: rank_identities(np.ones((1, 1)), np.ones((1, 1), int), 0)),
        ("No validation query is of new", lambda: threshold_curve([[1.0]], [[True]], [True])),
        ("No validation query is of known", lambda: threshold_curve([[1.0]], [[False]], [False])),
    ]
    for sentence, action in cases:
        with pytest.raises(FlukeError, match=sentence) as caught:
            action()
        assert "\n" not in str(caught.value)
    assert (gallery.search(x, 1, "resnet a1")[1][:, 0] == ids).all()  # unharmed


def test_damaged_and_mixed_files_are_one_sentence(tmp_path):
    x, ids, names, labels = made()
    gallery = build_gallery(x, ids, names, labels, "m")
    gallery.save(tmp_path)
    index, rows, about = (tmp_path / name for name in ("index-1.faiss", "rows-1.npz", "gallery.json"))
    whole = {path: path.read_bytes() for path in (index, rows, about)}

    def refused(path, content):
        path.write_bytes(content)
        with pytest.raises(FlukeError, match=r"damaged|description|belong|readable") as caught:
            open_gallery(tmp_path)
        assert "\n" not in str(caught.value)
        path.write_bytes(whole[path])

    for path in (index, rows):
        for length in (0, 3, 40, len(whole[path]) // 2, len(whole[path]) - 1):
            refused(path, whole[path][:length])
        refused(path, b"\x00" * len(whole[path]))
    refused(about, b"{}")
    refused(about, b"[1]")
    refused(about, whole[about].replace(b'"cosine"', b'"l3"'))
    refused(about, json.dumps(json.loads(whole[about]) | {"generation": "../1"}).encode())
    other = tmp_path / "other"
    build_gallery(x[:50], ids[:50], names[:50], labels[:50], "m").save(other)
    smaller = (other / "index-1.faiss").read_bytes()
    refused(index, smaller)
    refused(index, smaller + bytes(len(whole[index]) - len(smaller)))
    refused(index, bytes(100) + whole[index][100:])
    refused(rows, (other / "rows-1.npz").read_bytes())
    np.savez(tmp_path / "pickled.npz", ids=ids, names=np.array([object()] * len(ids)), labels=labels)
    refused(rows, (tmp_path / "pickled.npz").read_bytes())
    assert len(open_gallery(tmp_path).ids) == 400


# --- from neighbours to names -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["best", "mean_n", "vote"])
def test_identities_are_ranked_as_a_loop_ranks_them(method):
    rng = np.random.default_rng(0)
    for _ in range(100):
        q, k, n_classes = rng.integers(1, 5), rng.integers(1, 12), rng.integers(1, 6)
        scores = rng.integers(0, 5, (q, k)) / 5.0  # with ties
        classes = rng.integers(-1, n_classes, (q, k))
        got = rank_identities(scores, classes, 4, method, n=2, temperature=0.1)
        for row in range(q):
            values = {}
            for who in set(classes[row].tolist()) - {-1}:
                own = sorted(scores[row][classes[row] == who], reverse=True)
                values[who] = {
                    "best": own[0],
                    "mean_n": sum(own[:2]) / len(own[:2]),
                    "vote": 0.1 * np.log(sum(np.exp(s / 0.1) for s in own)),
                }[method]
            want = sorted(values, key=lambda who: (-round(values[who], 9), who))[:4]
            filled = [-1] * (4 - len(want))
            assert got.classes[row].tolist() == want + filled
            np.testing.assert_allclose(got.scores[row][: len(want)], [values[who] for who in want], atol=1e-6)
            assert np.isneginf(got.scores[row][len(want) :]).all()
            for who, column in zip(want, got.matches[row]):
                own = np.where(classes[row] == who, scores[row], -9)
                assert column == own.argmax()
            assert (got.matches[row][len(want) :] == -1).all()


def test_names_of_a_ranking_are_empty_where_it_is_filled_up():
    ranking = rank_identities(np.array([[0.5, 0.4]]), np.array([[1, 1]]), 3)
    assert ranking.names(np.array(["a", "b"])).tolist() == [["b", "", ""]]


def test_centres_blend_in_and_bring_identities_that_no_neighbour_has():
    ranking = rank_identities(np.array([[0.8, 0.6]]), np.array([[0, 1]]), 4)
    centres = np.array([[0.1, 0.5, 0.95, np.nan]])  # class 3 has no centre and no neighbour
    got = add_centres(ranking, centres, 0.5, 4)
    assert got.classes.tolist() == [[2, 3, 1, 0]]
    np.testing.assert_allclose(got.scores, [[0.775, 0.6, 0.55, 0.45]], atol=1e-6)
    assert got.matches.tolist() == [[-1, -1, 1, 0]]
    same = add_centres(ranking, centres, 0.0, 2)
    assert same.classes.tolist() == [[0, 1]]
    assert add_centres(ranking, centres[:, :3], 1.0, 3).classes.tolist() == [[2, 1, 0]]


def test_query_expansion_is_the_papers_sum():
    rng = np.random.default_rng(0)
    queries, neighbours = unit(rng.normal(size=(4, 6))), rng.normal(size=(4, 3, 6))
    scores = rng.uniform(-1, 1, (4, 3))
    got = expand_queries(queries, scores, neighbours, 3.0)
    for row in range(4):
        want = queries[row] + sum(max(s, 0) ** 3 * x for s, x in zip(scores[row], neighbours[row]))
        np.testing.assert_allclose(got[row], want / np.linalg.norm(want), atol=1e-6)


# --- the new label ----------------------------------------------------------------------------------------------------------------


def test_the_new_label_stands_where_its_threshold_places_it():
    names, scores = [["a", "b", "c", "d", "e"]], [[0.9, 0.7, 0.5, 0.3, 0.1]]
    assert rank_with_new(names, scores, 1.0, "new") == [["new", "a", "b", "c", "d"]]
    assert rank_with_new(names, scores, 0.7, "new") == [["a", "b", "new", "c", "d"]]
    assert rank_with_new(names, scores, 0.2, "new") == [["a", "b", "c", "d", "new"]]
    assert rank_with_new(names, scores, 0.0, "new") == [["a", "b", "c", "d", "e"]]
    assert rank_with_new(names, scores, 0.6, None, k=3) == [["a", "b", "c"]]
    assert rank_with_new([["a", "a", "new", "b"]], [[0.9, 0.8, 0.4, 0.3]], 0.5, "new") == [["a", "new", "b"]]
    assert rank_with_new([["a", ""]], [[0.9, -np.inf]], 0.5, "new") == [["a", "new"]]
    close = np.nextafter(np.float32([[0.5, 0.25]]), np.float32([[1.0, 1.0]]))  # the odd one of two neighbours: halves round away
    close[0, 1] = 0.5
    assert rank_with_new([["a", "b"]], close, float(close[0].astype(float).mean()), "new") == [["a", "new", "b"]]


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
        curve = threshold_curve(scores, names == truth[:, None], known, k)
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


def strangers(n_known, n_new, rng, gap=2.0, k=5):
    """Queries whose best score tells known from new by `gap` standard deviations; right at the first place, mostly."""
    scores = -np.sort(-rng.normal(size=(n_known + n_new, k)), axis=1)
    known = np.arange(n_known + n_new) < n_known
    scores[known, 0] = np.maximum(scores[known, 0] + gap, scores[known, 1])
    right = np.zeros(scores.shape, bool)
    right[np.arange(n_known), np.where(rng.random(n_known) < 0.8, 0, 1)] = True
    return scores, right, known


def asked_queries(rng, n):
    """Best scores of n queries, two in five of them strangers', one of four known named wrong: (scores, right, known)."""
    known = np.arange(n) % 5 < 3
    scores = -np.sort(-rng.normal(size=(n, 5)), axis=1)
    scores[:, 0] += 0.7 * known
    right = np.zeros((n, 5), bool)
    right[:, 0] = known & (rng.random(n) < 0.75)
    return scores, right, known


def score_of(queries, thresholds):
    """MAP@5 of such queries, each at its own threshold."""
    scores, right, known = queries
    names = np.where(right, "own", np.char.add("other", np.arange(5).astype(str)))
    return metrics_per_query(np.full(len(known), "own"), names, scores, known, thresholds, "new")["map@5"].mean()


def test_a_threshold_is_judged_on_queries_that_did_not_choose_it():
    """100 times 60 queries: at the threshold fitted on them they score higher than fresh ones do; crossfitted, as those."""
    rng = np.random.default_rng(0)
    fresh = asked_queries(rng, 5000)
    flattered, honest = [], []
    for seed in range(100):
        queries = asked_queries(rng, 60)
        best = lambda curve: fit_threshold(curve, "map@k", 0.4)  # noqa: E731
        own = best(threshold_curve(*queries))
        expected = score_of(fresh, own)
        flattered.append(score_of(queries, own) - expected)
        honest.append(score_of(queries, crossfit_thresholds(*queries, best, seed=seed)) - expected)
    error = np.std(honest) / 10
    assert np.mean(flattered) > 0.015
    assert abs(np.mean(honest)) < min(3 * error, 0.012)


def test_crossfitted_thresholds_keep_groups_whole_and_need_both_kinds():
    rng = np.random.default_rng(0)
    scores, right, known = asked_queries(rng, 60)
    middle = lambda curve: float(np.median(curve.thresholds))  # noqa: E731
    groups = rng.integers(20, size=60)
    found = crossfit_thresholds(scores, right, known, middle, groups=groups)
    assert all(len(set(found[groups == group])) == 1 for group in set(groups.tolist()))
    assert len(set(found.tolist())) == 5
    lonely = np.zeros(60, bool)
    lonely[7] = True  # one known query: its part is judged by the threshold of all
    found = crossfit_thresholds(scores, right, lonely, middle)
    assert found[7] == middle(threshold_curve(scores, right, lonely))


def test_thresholds_by_share_and_by_false_acceptance_do_what_they_say():
    rng = np.random.default_rng(0)
    scores, right, known = strangers(600, 300, rng)
    curve = threshold_curve(scores, right, known)
    far = fit_threshold(curve, "far", 0.3, far=0.1)
    assert 0.09 < (scores[~known, 0] >= far).mean() <= 0.1
    share = fit_threshold(curve, "share", 0.25)
    first_is_new = 0.75 * (scores[known, 0] < share).mean() + 0.25 * (scores[~known, 0] < share).mean()
    assert abs(first_is_new - 0.25) < 0.005


@pytest.mark.parametrize("share", [0.1, 0.3, 0.6])
def test_the_threshold_holds_for_a_share_that_nobody_told(share):
    """Fitted on 70% known validation queries, answering unlabelled queries with another share: at most 0.02 below the best."""
    losses = []
    for seed in range(5):
        rng = np.random.default_rng(seed)
        scores, right, known = strangers(400, 170, rng)
        curve = threshold_curve(scores, right, known)
        test_scores, test_right, test_known = strangers(round(1000 * (1 - share)), round(1000 * share), rng)
        estimate = estimate_new_share(scores[:, 0], known, test_scores[:, 0])
        assert abs(estimate - share) < 0.07
        costs = new_share_costs(
            threshold_curve(test_scores, test_right, test_known), fit_threshold(curve, "map@k", estimate), [share]
        )
        losses.append(costs[0]["loss"])
        assert costs[0]["best_map"] - costs[0]["map"] == pytest.approx(costs[0]["loss"])
    assert np.mean(losses) < 0.02


def test_an_estimated_share_is_the_middle_when_scores_tell_nothing():
    rng = np.random.default_rng(0)
    estimate = estimate_new_share(rng.normal(size=200), np.arange(200) < 100, rng.normal(size=50))
    assert 0.2 < estimate < 0.55


def test_a_made_set_of_single_images_meets_every_step():
    """Half of the individuals have one gallery image; known queries are other images of them, strangers are elsewhere."""
    rng = np.random.default_rng(3)
    centres = unit(rng.normal(size=(80, 32)))
    who = np.concatenate([np.arange(40), np.repeat(np.arange(20, 40), 3)])  # 20 classes with one image, 20 with four
    draw = lambda of: unit(centres[of] + 0.08 * rng.normal(size=(len(of), 32))).astype(np.float32)  # noqa: E731
    gallery = build_gallery(draw(who), np.arange(len(who)), who.astype(str), [f"w{i}" for i in who], "m")
    asked = np.concatenate([np.arange(40), np.arange(40, 80)])
    truth, known = np.array([f"w{i}" for i in asked]), asked < 40
    class_list, classes = np.unique(gallery.labels, return_inverse=True)
    scores, ids = gallery.search(draw(asked), len(who), "m")
    of = classes[gallery.rows(ids)]
    for method in ("best", "mean_n", "vote"):
        ranking = rank_identities(scores, of, 5, method)
        names = ranking.names(class_list)
        curve = threshold_curve(ranking.scores, names == truth[:, None], known)
        threshold = fit_threshold(curve, "map@k", 0.5)
        relevant = (class_list[classes][None] == truth[:, None]).sum(axis=1)
        hits = class_list[of] == truth[:, None]
        each = metrics_per_query(truth, names, ranking.scores, known, threshold, "new", hits[known], relevant[known])
        values = mean_metrics(each, ranking.scores, known)
        assert list(values) == ["map@5", "recall@1", "recall@5", "map@r", "auroc"]
        assert values["map@5"] == pytest.approx(curve.map_at_k(0.5).max())
        assert values["recall@1"] == 1
        assert values["auroc"] > 0.98
        assert values["map@r"] > 0.98
        singles = names[:20, 0] == truth[:20]
        assert singles.all()


def test_evaluation_leaves_out_what_the_queries_do_not_define():
    ranking = Ranking(np.array([[0, -1]]), np.float32([[0.5, -np.inf]]), np.array([[0, -1]]))
    there = np.array([True])
    each = metrics_per_query(["b"], ranking.names(np.array(["a", "b"])), ranking.scores, there, 0.9, "new")
    assert mean_metrics(each, ranking.scores, there) == {
        "map@5": 0.0,
        "recall@1": 0.0,
        "recall@5": 0.0,
    }  # the filled-up place is not the last class
    score = np.array([[0.5]])
    assert mean_metrics(metrics_per_query(["x"], np.array([["a"]]), score, ~there, 0.9, "new"), score, ~there) == {"map@5": 1.0}


# --- probabilities and verification -----------------------------------------------------------------------------------------------


def test_a_probability_is_the_frequency():
    rng = np.random.default_rng(0)
    scores = rng.normal(0.4, 0.1, 40_000)
    right = rng.random(40_000) < 1 / (1 + np.exp(-(20 * scores - 9)))
    fit = fit_probability(scores, right)
    assert fit.slope == pytest.approx(20, rel=0.05)
    assert fit.intercept == pytest.approx(-9, rel=0.05)
    for low in (0.3, 0.4, 0.5):
        near = (scores >= low) & (scores < low + 0.05)
        assert fit(scores[near]).mean() == pytest.approx(right[near].mean(), abs=0.02)
    assert fit(-np.inf) == 0
    even = fit_probability(scores, right, prior=0.5)  # the odds at each score times wrong / right
    shift = np.log((~right).sum() / right.sum())
    assert even.intercept == pytest.approx(fit.intercept + shift, abs=0.15)


@pytest.mark.parametrize("right", [[True, True, False, False], [True] * 4, [False] * 4])
def test_a_probability_of_separable_or_one_sided_answers_is_not_certain(right):
    fit = fit_probability([0.9, 0.8, 0.2, 0.1], right)
    assert np.isfinite(fit).all()
    assert ((fit([0.1, 0.9]) > 0.1) & (fit([0.1, 0.9]) < 0.9)).all()


@pytest.mark.parametrize("metric", ["cosine", "l2"])
def test_pairs_are_all_pairs_except_what_nobody_can_judge(metric):
    x, _, _, labels = made(40, 8, 6)
    labels[:8], groups = ["new"] * 8, np.arange(40) // 3
    same, scores = pair_scores(x, labels, metric, groups, "new")
    want = []
    for a in range(40):
        for b in range(a + 1, 40):
            if groups[a] != groups[b] and not labels[a] == labels[b] == "new":
                value = unit(x)[a] @ unit(x)[b] if metric == "cosine" else -((x[a] - x[b]) ** 2).sum()
                want.append((labels[a] == labels[b], value))
    np.testing.assert_array_equal(same, [s for s, _ in want])
    np.testing.assert_allclose(scores, [v for _, v in want], atol=1e-4)


def test_drawn_pairs_tell_what_all_pairs_tell():
    x, _, _, labels = made(500, 8, 50)
    every, some = (verify_pairs(*pair_scores(x, labels, "cosine", limit=limit)) for limit in (10**6, 8000))
    assert some.equal_error_rate == pytest.approx(every.equal_error_rate, abs=0.02)
    same, _ = pair_scores(x, labels, "cosine", limit=8000)
    assert 0.2 < same.mean() < 0.8
