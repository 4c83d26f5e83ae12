"""The tuner takes the cheapest index that finds enough, counts recall by score, and says why."""

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest

from recsys.config import IndexConfig
from recsys.errors import DataError
from recsys.retrieval.index import tuner
from recsys.retrieval.index.effort import Effort
from recsys.retrieval.index.fast_lists import tuning as fast_lists
from recsys.retrieval.index.index import PostIndex
from recsys.retrieval.index.space import Space
from recsys.retrieval.index.tuner import LIST_FACTORS, ExactAnswers, Trial, choose, measure, tune

RNG = np.random.default_rng(6)
CENTRES = RNG.normal(size=(40, 16))
POSTS = (CENTRES[RNG.integers(0, 40, 6000)] + 0.4 * RNG.normal(size=(6000, 16))).astype(np.float32)
USERS = (CENTRES[RNG.integers(0, 40, 120)] + 0.4 * RNG.normal(size=(120, 16))).astype(np.float32)
TINY = IndexConfig(kind="fast_lists")


def quiet(done, total):
    pass


@pytest.fixture(scope="module", params=["faiss", "fast_lists"])
def tuned(request):
    return tune(POSTS, USERS, 50, IndexConfig(kind=request.param), quiet)


def test_above_the_limit_the_settings_default_is_faiss():
    tuned = tune(POSTS, USERS, 50, IndexConfig(exact_below=1000), quiet)
    assert {trial.index.kind for trial in tuned.trials} == {"exact", "faiss"}


def test_a_factory_string_is_tuned_too():
    tuned = tune(POSTS, USERS, 50, IndexConfig(kind="faiss", factory="IVF80,PQ16x4fsr,RFlat"), quiet)
    assert tuned.chosen.name.startswith("IVF80,PQ16x4fsr,RFlat, ")
    assert tuned.chosen.recall_lower_bound >= 0.95


def test_small_catalogues_are_searched_exactly_and_the_reason_is_told():
    tuned = tune(POSTS, USERS, 50, IndexConfig(exact_below=6001), quiet)
    assert tuned.chosen.index.is_exact
    assert "6,000 posts are fewer than 6,001" in tuned.why


def test_with_fewer_posts_than_results_the_search_is_exact():
    assert tune(POSTS[:50], USERS, 50, IndexConfig(exact_below=0), quiet).chosen.index.is_exact


def test_a_thorough_tuner_tries_lists_of_a_small_catalogue_and_still_takes_the_scan():
    tuned = tune(POSTS, USERS, 50, IndexConfig(exact_below=6001), quiet, thorough=True)
    assert tuned.chosen.index.is_exact
    assert len(tuned.trials) > 20


def test_the_chosen_lists_reach_the_target_on_other_users_too(tuned):
    others = (CENTRES[RNG.integers(0, 40, 200)] + 0.4 * RNG.normal(size=(200, 16))).astype(np.float32)
    truth = ExactAnswers.of(PostIndex.exact(POSTS), others, 50)
    assert not tuned.chosen.index.is_exact
    assert truth.recall(POSTS, tuned.chosen.index.search(others, 50)[1]).mean() >= TINY.target_recall


@pytest.mark.parametrize("kind", ["faiss", "fast_lists"])
def test_an_index_finds_enough_at_every_moment_it_is_tuned_for(kind):
    """Two numbers of a vector are how fresh a post is; what users make of it fades."""
    rng = np.random.default_rng(8)
    posts = np.hstack([POSTS, rng.exponential(1.0, (len(POSTS), 2)).astype(np.float32)])

    def users(n, weight):
        taste = CENTRES[rng.integers(0, 40, n)] + 0.4 * rng.normal(size=(n, 16))
        return np.hstack([taste, np.full((n, 2), weight)]).astype(np.float32)

    def found(tuned, weight):
        others = users(200, weight)
        return ExactAnswers.of(exact, others, 50).recall(posts, tuned.chosen.index.search(others, 50)[1]).mean()

    exact, settings = PostIndex.exact(posts), IndexConfig(kind=kind)
    at_first, later = users(120, 30.0), users(120, 1.0)
    of_one = tune(posts, at_first, 50, settings, quiet)
    assert found(of_one, 30.0) > 0.95 > 0.9 > found(of_one, 1.0)
    of_both = tune(posts, np.stack([at_first, later]), 50, settings, quiet)
    assert not of_both.chosen.index.is_exact
    assert min(found(of_both, weight) for weight in (30.0, 10.0, 1.0)) > 0.95


@pytest.mark.parametrize("tuned", [True, False])
@pytest.mark.parametrize("kind", ["faiss", "fast_lists"])
def test_lists_are_shaped_by_users_of_every_moment(kind, tuned, monkeypatch):
    shaping, fit = [], Space.fit
    monkeypatch.setattr(Space, "fit", lambda vectors, users: shaping.append(users) or fit(vectors, users))
    moments = np.stack([USERS, USERS * 2, USERS * 3])
    tune(POSTS, moments, 50, IndexConfig(kind=kind, tuned=tuned), quiet)
    np.testing.assert_array_equal(shaping[0], moments[:, 0::2].reshape(-1, 16))


def test_recall_is_that_of_the_worst_moment():
    recall = np.array([1.0, 0.9, 0.8, 1.0, 0.97, 0.97, 0.97, 0.97])
    mean, lower_bound = tuner._Moments(None, 2).worst(recall)
    assert mean == pytest.approx(0.925)
    assert lower_bound == pytest.approx(0.925 - tuner.STANDARD_ERRORS * recall[:4].std(ddof=1) / 2)
    assert tuner._Moments(None, 1).worst(recall)[0] == pytest.approx(recall.mean())


def test_no_cheaper_trial_reaches_the_target(tuned):
    assert tuned.chosen.recall > tuned.chosen.recall_lower_bound >= TINY.target_recall
    lists = [trial for trial in tuned.trials if not trial.index.is_exact]
    cheaper = [trial for trial in lists if trial.cost_ms < tuned.chosen.cost_ms]
    assert cheaper
    assert all(trial.recall_lower_bound < TINY.target_recall for trial in cheaper)
    assert tuned.chosen.name in tuned.why


def test_the_same_vectors_give_the_same_choice(tuned):
    again = tune(POSTS, USERS, 50, IndexConfig(kind=tuned.chosen.index.kind), quiet)
    assert again.figures() == tuned.figures()


def test_the_settings_can_name_the_kind():
    assert tune(POSTS, USERS, 50, IndexConfig(kind="exact", exact_below=0), quiet).chosen.index.is_exact
    named = tune(POSTS, USERS, 50, IndexConfig(kind="fast_lists", tuned=False, code_bytes=8, nprobe_share=0.5), quiet)
    assert named.chosen.index.segment.code_bytes == 8
    assert named.chosen.index.effort.lists == named.chosen.index.segment.n_lists // 2
    assert [trial.index.is_exact for trial in named.trials] == [False]


def test_lists_take_no_more_memory_than_they_may_but_the_shortest_codes_are_always_tried():
    def tried(max_bytes):
        tuned = tune(POSTS, USERS, 50, TINY.model_copy(update={"max_bytes": max_bytes}), quiet)
        lists = [trial for trial in tuned.trials if not trial.index.is_exact]
        return [(trial.index.segment.code_bytes, trial.bytes_per_vector) for trial in lists]

    assert {code_bytes for code_bytes, _ in tried(1.0)} == {16}
    free = tried(200.0)
    assert {code_bytes for code_bytes, _ in free} == {16, 24, 32}
    limit = min(taken for code_bytes, taken in free if code_bytes == 32) - 0.01
    limited = tried(limit)
    assert {code_bytes for code_bytes, _ in limited} == {16, 24}
    assert all(taken <= limit for code_bytes, taken in limited if code_bytes > 16)


@pytest.mark.parametrize(("per_centre_byte", "tried"), [(-0.1, 3), (0.3, 2)])
def test_the_tuner_goes_on_to_more_lists_until_they_cost_more(per_centre_byte, tried, monkeypatch):
    monkeypatch.setattr(fast_lists, "_PER_CENTRE_BYTE", per_centre_byte)
    for name in ("_PER_LANE", "_PER_CODE_BYTE"):
        monkeypatch.setattr(fast_lists, name, 0.0)
    trials = tune(POSTS, USERS, 50, TINY, quiet).trials
    numbers = {trial.index.segment.n_lists for trial in trials if not trial.index.is_exact}
    assert sorted(numbers) == [round(factor * math.sqrt(len(POSTS))) for factor in LIST_FACTORS][:tried]


def test_configurations_with_too_high_fixed_cost_are_skipped(monkeypatch):
    monkeypatch.setattr(fast_lists, "_LEAST_PER_RESCORED", 1e6)
    trials = tune(POSTS, USERS, 50, TINY, quiet).trials
    refines = {trial.index.effort.refine for trial in trials if not trial.index.is_exact}
    assert max(refines) <= tuner._HOPELESS * min(refines) * 1.01
    assert len(refines) > 1


def test_more_lists_than_can_be_cheaper_are_not_even_made(monkeypatch):
    made, grouped = [], fast_lists.InvertedFile.grouped
    monkeypatch.setattr(
        fast_lists.InvertedFile,
        "grouped",
        lambda posts, n_lists, report: made.append(n_lists) or grouped(posts, n_lists),
    )
    monkeypatch.setattr(fast_lists, "_PER_CENTRE_BYTE", 1e3)
    tune(POSTS, USERS, 50, TINY, quiet)
    assert made == [round(math.sqrt(len(POSTS)))]


def test_a_thorough_tuner_tries_also_what_the_model_takes_for_hopeless(monkeypatch):
    monkeypatch.setattr(fast_lists, "_PER_CENTRE_BYTE", 1e3)
    monkeypatch.setattr(fast_lists, "_LEAST_PER_RESCORED", 1e6)
    trials = tune(POSTS, USERS, 50, TINY, quiet, thorough=True).trials
    tried = {
        (trial.index.segment.n_lists, trial.index.segment.code_bytes, trial.index.effort.refine)
        for trial in trials
        if not trial.index.is_exact
    }
    numbers = [round(factor * math.sqrt(len(POSTS))) for factor in LIST_FACTORS]
    assert tried == set(itertools.product(numbers, fast_lists.CODE_BYTES, fast_lists.REFINES))


@pytest.mark.parametrize("thorough", [False, True])
def test_progress_only_grows_and_ends_when_all_is_done(thorough):
    told = []
    tune(POSTS, USERS, 50, TINY, lambda done, total: told.append(done / total), thorough=thorough)
    assert told == sorted(told)
    assert told[-1] == 1
    assert len(told) > 1


def test_build_time_is_reported_per_code_length(monkeypatch):
    clock = itertools.count()
    monkeypatch.setattr(tuner.time, "perf_counter", lambda: next(clock))
    trials = tune(POSTS, USERS, 50, TINY, quiet).trials
    # A second each for what all share, the lists, and the codes.
    assert {trial.build_s for trial in trials} == {0, 3}


def test_measured_times_decide_where_all_trials_have_them():
    index = PostIndex.exact(POSTS)
    slow, fast, bad = (
        Trial(index, recall, recall, cost, 64.0) for recall, cost in ((0.97, 1.0), (0.96, 2.0), (0.9, 0.1))
    )
    assert choose([slow, fast, bad], 6000, 50, TINY).chosen is slow
    timed = [replace(trial, p50_ms=ms) for trial, ms in ((slow, 0.9), (fast, 0.4), (bad, 0.1))]
    assert choose(timed, 6000, 50, TINY).chosen.p50_ms == 0.4


def test_recall_counts_ties_whichever_post_was_found():
    posts = np.array([[2.0], [1.0], [1.0], [0.5]], np.float32)
    user = np.ones((1, 1), np.float32)
    truth = ExactAnswers.of(PostIndex.exact(posts), user, 2)
    assert truth.recall(posts, np.array([[0, 1]])) == truth.recall(posts, np.array([[0, 2]])) == 1.0
    assert truth.recall(posts, np.array([[0, 0]])) == 0.5
    assert truth.recall(posts, np.array([[0, 3]])) == truth.recall(posts, np.array([[0, -1]])) == 0.5


def test_measuring_leaves_the_trial_as_it_is_but_for_its_times(tuned):
    timed = measure(tuned.chosen, USERS[:5], 50, None)
    assert timed.p50_ms > 0
    assert timed.p99_ms >= timed.p50_ms
    assert timed.recall == tuned.chosen.recall


def test_three_users_are_not_enough_to_tune_with():
    with pytest.raises(DataError, match="at least 4 queries of a moment, got 3"):
        tune(POSTS, USERS[:3], 50, TINY, quiet)
    with pytest.raises(DataError, match="at least 4 queries of a moment, got 1"):
        tune(POSTS, USERS[:4, None], 50, TINY, quiet)
    with pytest.raises(DataError, match=r"\(moments, queries, 16\), got \(16,\)"):
        tune(POSTS, USERS[0], 50, TINY, quiet)


@pytest.mark.parametrize("place", [0, 1, 6, 7])
@pytest.mark.parametrize(("bad", "rule"), [(np.nan, "must be finite"), (1e39, "must be finite")])
def test_users_that_are_not_finite_are_refused(place, bad, rule):
    users = USERS[:8].astype(np.float64)
    users[place, 3] = bad
    for kind, tuned in itertools.product(("faiss", "fast_lists"), (True, False)):
        with pytest.raises(DataError, match=rule):
            tune(POSTS, users, 50, IndexConfig(kind=kind, tuned=tuned), quiet)


def test_users_of_another_size_are_refused():
    with pytest.raises(DataError, match=r"must have shape \(queries, 16\)"):
        tune(POSTS, USERS[:, :9], 50, TINY, quiet)
    with pytest.raises(DataError, match=r"must have shape \(queries, 16\)"):
        PostIndex.build(POSTS, USERS[:, :9], TINY)
    with pytest.raises(DataError, match="at least one query, got 0"):
        PostIndex.build(POSTS, USERS[:0], TINY)


def test_nothing_but_the_scan_is_good_enough_where_lists_find_too_little():
    tuned = tune(POSTS, USERS, 50, TINY.model_copy(update={"target_recall": 0.9999}), quiet)
    assert len(tuned.trials) > 20
    assert tuned.chosen.index.is_exact


def test_an_effort_of_more_lists_than_there_are_visits_all(tuned):
    index = tuned.chosen.index
    _, rows = index.search(USERS[:5], 50, effort=Effort(10**6, 50))
    assert ExactAnswers.of(PostIndex.exact(POSTS), USERS[:5], 50).recall(POSTS, rows).min() >= 0.96
