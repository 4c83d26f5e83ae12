"""Off-policy estimates are compared with values that are computed exactly."""

import shutil
from itertools import permutations

import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from recsys.config import WorldConfig
from recsys.evaluation.metrics.off_policy import importance_weights, inverse_propensity, self_normalised
from recsys.lookup import lookup
from recsys.offline.lake.lake import Lake
from recsys.types import HOUR
from recsys.world.behaviour.sessions import SCROLL_ON, outcome_table
from recsys.world.world import World
from recsys.world.writing.simulate import simulate

N_WORLDS = 400
"""The standard error of a 95% coverage is 1.5 points with 200 worlds, 1.1 with 400."""
N_CANDIDATES, SLATE = 6, 3
ORDERS = np.array(list(permutations(range(N_CANDIDATES), SLATE)))
ROW_OF_ORDER = np.full((N_CANDIDATES,) * SLATE, -1)
ROW_OF_ORDER[tuple(ORDERS.T)] = np.arange(len(ORDERS))
LOGGED = {"random": 0.3, "popularity": 0.3, "personalised": 0.4}
TARGETS = {"random": np.ones_like, "newest first": lambda age_h: 1 / (1 + age_h / 6)}
"""Target policies: Plackett-Luce with weights from the candidates' ages."""
ESTIMATORS = [inverse_propensity, self_normalised]


def small_world(folder, seed, mixture):
    """A world of about 450 requests, each shown three of six candidates."""
    policy = {**mixture, "n_candidates": N_CANDIDATES, "slate_size": SLATE}
    config = WorldConfig(seed=seed, n_users=100, n_posts=400, n_authors=20, n_impressions=1000, n_days=4, policy=policy)
    lake = Lake(str(folder / "lake"))
    simulate(config, lake, folder / "world" / "truth", 1, lambda done, total: None)
    return World.open(folder / "world"), lake, folder / "world" / "truth"


def requests_of(world, lake, truth_folder):
    """Per target and request with six candidates: weight of the slate, clicks, true value of the target.

    The value is that of answering the request with three of its candidates in the target's order, given what its
    session had shown before.
    """
    requests = lake.read("requests", ["request_id", "user_id", "now", "candidates", "session_id"])
    request_id = requests["request_id"].to_numpy()
    actions = lake.read("actions", ["event_id", "request_id", "type"]).to_pandas().drop_duplicates("event_id")
    clicks = np.bincount(lookup(request_id, actions[actions.type == "click"].request_id), minlength=len(request_id))
    shown = shown_before(world, requests, truth_folder)

    full = pc.equal(pc.list_value_length(requests["candidates"]), N_CANDIDATES)
    requests, kept = requests.filter(full), full.to_numpy()
    user = lookup(world.population.users.id, requests["user_id"].to_numpy())
    candidates = world.post_rows(requests["candidates"].combine_chunks().flatten().to_numpy()).reshape(-1, N_CANDIDATES)
    now = requests["now"].cast("int64").to_numpy()
    propensity, order = slates(world, lake, request_id[kept], candidates)
    values = values_of_orders(world, user, candidates, now, shown[kept])
    age_h = np.maximum(now[:, None] - world.population.posts.created_at[candidates], 0) / HOUR
    found = {}
    for name, weigh in TARGETS.items():
        probability = plackett_luce(weigh(age_h))
        weight = importance_weights(probability[np.arange(len(order)), order], propensity)
        found[name] = weight, clicks[kept], (probability * values).sum(axis=1)
    return found


def slates(world, lake, request_id, candidates):
    """Propensity of each request's slate, and its row in ORDERS, (R,) each."""
    returned = lake.read("returned", ["request_id", "position", "post_id", "propensity"]).to_pandas()
    returned = returned[returned.request_id.isin(request_id)].sort_values(["request_id", "position"])
    assert (returned.request_id.to_numpy().reshape(-1, SLATE) == np.sort(request_id)[:, None]).all()
    posts = world.post_rows(returned.post_id.to_numpy()).reshape(-1, SLATE)[np.argsort(np.argsort(request_id))]
    chances = returned.propensity.to_numpy(np.float64).reshape(-1, SLATE)[np.argsort(np.argsort(request_id))]
    place = (candidates[:, None, :] == posts[:, :, None]).argmax(axis=2)
    assert (np.take_along_axis(candidates, place, axis=1) == posts).all()
    return chances.prod(axis=1), ROW_OF_ORDER[tuple(place.T)]


def plackett_luce(weights):
    """Probability of each of ORDERS under these candidate weights, (R, 120)."""
    chosen = weights[:, ORDERS]
    left = weights.sum(axis=1)[:, None, None] - np.cumsum(chosen, axis=2) + chosen
    return (chosen / left).prod(axis=2)


def shown_before(world, requests, truth_folder):
    """Posts of each topic that a request's session had shown before it, (R, T)."""
    truth = pq.read_table(truth_folder / "impressions", columns=["request_id", "post_id"])
    topic = world.population.posts.topic[world.post_rows(truth["post_id"].to_numpy())]
    place = lookup(requests["request_id"].to_numpy(), truth["request_id"].to_numpy())
    shown = np.zeros((len(requests), len(world.truth.topics)), np.int64)
    np.add.at(shown, (place, topic), 1)
    session = requests["session_id"].to_numpy()
    first = np.flatnonzero(np.diff(session, prepend=-1))
    before = np.cumsum(shown, axis=0) - shown
    return before - np.repeat(before[first], np.diff(np.append(first, len(session))), axis=0)


def values_of_orders(world, user, candidates, now, shown):
    """True expected clicks of each of ORDERS of each request's candidates, (R, 120)."""
    relevance = np.empty((len(user), SLATE, N_CANDIDATES))
    seen = np.empty((len(user), SLATE))
    positions, topic = np.arange(SLATE), world.population.posts.topic
    for i, (who, posts, at) in enumerate(zip(user.tolist(), candidates, now.tolist(), strict=True)):
        # Row j of `relevance`: every candidate when j more posts on its topic were shown. One call computes all rows.
        before = shown[i][topic[posts]] + np.arange(SLATE)[:, None]  # (SLATE, N_CANDIDATES)
        position = np.tile(np.arange(N_CANDIDATES, dtype=np.int32), SLATE)
        table = outcome_table(world.truth, who, np.tile(posts, SLATE), position, at, before.ravel())
        relevance[i] = table[:, 1].reshape(SLATE, N_CANDIDATES)
        seen[i] = table[:SLATE, 0]
    seen *= np.where(world.population.users.bot[user], 1.0, SCROLL_ON)[:, None] ** positions
    on = world.population.posts.topic[candidates][:, ORDERS]
    value = np.zeros((len(user), len(ORDERS)))
    for k in positions:
        earlier = (on[:, :, :k] == on[:, :, k : k + 1]).sum(axis=2)
        value += seen[:, k, None] * relevance[np.arange(len(user))[:, None], earlier, ORDERS[:, k]]
    return value


@pytest.fixture(scope="module")
def worlds(tmp_path_factory):
    """Per target and world: weights, clicks and true values of the requests."""
    folder, found = tmp_path_factory.mktemp("worlds"), []
    for seed in range(N_WORLDS):
        found.append(requests_of(*small_world(folder / str(seed), seed, LOGGED)))
        shutil.rmtree(folder / str(seed))
    return {name: [of[name] for of in found] for name in TARGETS}


def errors(worlds, estimator):
    """Error of the estimate in each world, and the half-width of its interval."""
    estimates = [(estimator(clicks, weight), value.mean()) for weight, clicks, value in worlds]
    return np.array([(estimate.value - true, estimate.high - estimate.value) for estimate, true in estimates]).T


def coverage(worlds, estimator):
    """Share of worlds whose interval contains the true value."""
    off, half = errors(worlds, estimator)
    return (abs(off) <= half).mean()


def bias(worlds, estimator):
    """Mean error over the worlds, in its own standard errors."""
    off, _ = errors(worlds, estimator)
    return off.mean() / off.std() * len(off) ** 0.5


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_intervals_have_their_nominal_coverage_of_the_true_value(worlds, estimator, target):
    assert 0.91 <= coverage(worlds[target], estimator) <= 0.98


@pytest.mark.parametrize("target", TARGETS)
def test_weights_remove_the_bias_of_the_unweighted_mean(worlds, target):
    unweighted = [(np.ones(len(clicks)), clicks, value) for _, clicks, value in worlds[target]]
    assert abs(bias(worlds[target], inverse_propensity)) < 3
    assert abs(bias(unweighted, inverse_propensity)) > 5


def test_weights_of_one_target_are_wrong_for_another_target(worlds):
    mixed = [
        (weight, clicks, value)
        for (weight, clicks, _), (*_, value) in zip(worlds["random"], worlds["newest first"], strict=True)
    ]
    assert abs(bias(mixed, inverse_propensity)) > 5


@pytest.mark.parametrize("target", TARGETS)
def test_weights_are_one_on_average_where_the_logs_support_the_target(worlds, target):
    means = np.array([weight.mean() for weight, *_ in worlds[target]])
    assert abs(means.mean() - 1) < 4 * means.std() / len(means) ** 0.5
    assert means.std() < 0.1


def test_slates_of_a_target_have_probabilities_that_sum_to_one():
    probability = plackett_luce(np.array([[1.0, 2.0, 4.0, 1.0, 1.0, 1.0], [1.0, 1.0, 1.0, 1.0, 1.0, 1.0]]))
    assert probability.sum(axis=1) == pytest.approx(1)
    assert probability[0, ROW_OF_ORDER[2, 1, 0]] == pytest.approx(4 / 10 * 2 / 6 * 1 / 4)
    assert probability[1] == pytest.approx(1 / 120)


def test_a_policy_estimated_from_its_own_logs_has_their_mean():
    clicks = np.array([0.0, 1.0, 1.0, 0.0, 2.0])
    own = inverse_propensity(clicks, importance_weights(np.full(5, 0.2), np.full(5, 0.2)))
    assert own.value == pytest.approx(0.8)
    assert own.effective_sample_size == pytest.approx(5)
    half = 1.96 * clicks.std(ddof=1) / 5**0.5
    assert (own.low, own.high) == pytest.approx((0.8 - half, 0.8 + half), abs=1e-3)


def test_a_deterministic_target_is_valued_by_the_rows_that_agree_with_it():
    target, logged, reward = np.array([1.0, 0.0, 1.0, 0.0]), np.full(4, 0.5), np.array([3.0, 9.0, 1.0, 9.0])
    weight = importance_weights(target, logged)
    assert inverse_propensity(reward, weight).value == pytest.approx(2.0)
    assert self_normalised(reward, weight).value == pytest.approx(2.0)
    assert inverse_propensity(reward, weight).effective_sample_size == pytest.approx(2.0)


def test_self_normalised_estimates_stay_within_the_rewards():
    weight = np.array([10.0, 0.1, 0.1])
    assert inverse_propensity(np.ones(3), weight).value > 3
    assert self_normalised(np.ones(3), weight).value == pytest.approx(1.0)


def test_repeated_rows_of_one_unit_widen_the_interval():
    reward, ones = np.tile([0.0, 1.0, 0.0, 1.0], 25), np.ones(100)
    alone = inverse_propensity(reward, ones)
    together = inverse_propensity(np.repeat(reward[:25], 4), ones, np.repeat(np.arange(25), 4))
    assert together.n_units == 25
    assert together.high - together.low > 1.8 * (alone.high - alone.low)


@pytest.mark.parametrize("propensity", [0.0, -0.1, 1.0001, np.nan, np.inf])
def test_a_logged_propensity_outside_its_range_is_refused(propensity):
    with pytest.raises(ValueError, match=r"logged propensities must lie in \(0, 1\], got"):
        importance_weights([0.5, 0.5], [0.5, propensity])


@pytest.mark.parametrize("probability", [-0.1, 1.5, np.nan])
def test_a_target_probability_outside_its_range_is_refused(probability):
    with pytest.raises(ValueError, match=r"target probabilities must lie in \[0, 1\], got"):
        importance_weights([probability], [0.5])


@pytest.mark.parametrize("weight", [[1.0, -1.0], [1.0, np.nan], [1.0, np.inf]])
def test_a_negative_or_infinite_weight_is_refused(weight):
    with pytest.raises(ValueError, match="weights must be finite and at least 0"):
        inverse_propensity([1.0, 1.0], weight)


def test_different_shapes_are_refused():
    with pytest.raises(ValueError, match="one shape"):
        inverse_propensity([1.0, 1.0], [1.0])
    with pytest.raises(ValueError, match="one shape"):
        importance_weights([1.0, 1.0], [1.0])


def test_one_unit_has_no_interval():
    with pytest.raises(ValueError, match="at least two units"):
        inverse_propensity([1.0, 1.0], [1.0, 1.0], [7, 7])


def test_logs_that_never_did_what_the_target_does_are_refused():
    with pytest.raises(ValueError, match="the logs never did"):
        self_normalised([1.0, 1.0], [0.0, 0.0])
