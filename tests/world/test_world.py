"""The answers of `World` agree with its logs and with brute force."""

import numpy as np
import pytest

from recsys.errors import DataError
from recsys.types import DAY
from recsys.world.world import World


@pytest.fixture(scope="module")
def world(small):
    return small.world()


@pytest.fixture
def now(small):
    return small.written.logs_end


def test_only_impressions_of_the_simulation_have_a_truth(world, small):
    truth = small.table("truth/impressions").head(3)
    request, position, post = (truth[name].to_numpy() for name in ("request_id", "position", "post_id"))
    assert world.has_truth(request, position, post).all()
    assert not world.has_truth(request, position, post[[1, 2, 0]]).any()
    assert not world.has_truth(request - (1 << 50), position, post).any()


def test_true_click_probabilities_are_read_from_the_truth_table(world, small):
    truth = small.table("truth/impressions").sample(200, random_state=0)
    probability, relevant = world.true_click_probability(truth.request_id.to_numpy(), truth.position.to_numpy())
    np.testing.assert_array_equal(probability, truth.click_probability)
    np.testing.assert_array_equal(relevant, truth.relevance)


@pytest.mark.parametrize(
    ("request_id", "position"),
    [(10**9, 0), (2, -1), (1, 10), (1, 13)],
    ids=["no such request", "unknown position", "beyond the slate", "far beyond"],
)
def test_an_impression_without_truth_is_refused(world, request_id, position):
    with pytest.raises(DataError, match="1 impressions have no truth"):
        world.true_click_probability(np.array([request_id]), np.array([position], np.int32))


def test_a_folder_without_a_world_or_truth_is_refused(small, tmp_path):
    with pytest.raises(DataError, match=r"no world in .*; run `recsys simulate`"):
        World.open(tmp_path)
    alone = World(small.config, tmp_path / "truth")
    with pytest.raises(DataError, match=r"no truth in .*truth; run `recsys simulate`"):
        alone.true_click_probability(np.array([1]), np.array([0], np.int32))


def test_the_redrawn_population_equals_the_logged_one(world, small):
    population = world.population
    posts, users = small.table("posts"), small.table("users")
    assert (population.posts.id == posts.post_id).all()
    assert (population.posts.created_at == posts.created_at).all()
    assert (population.users.id[population.posts.author] == posts.author_id).all()
    assert population.posts.texts == posts.text.tolist()
    assert (population.users.created_at == users.set_index("user_id").created_at[population.users.id]).all()
    assert world.user_row(int(population.users.id[7])) == 7
    assert world.post_rows(posts.post_id[[5, 3]].to_numpy()).tolist() == [5, 3]
    with pytest.raises(DataError, match="user 3 is not in this world"):
        world.user_row(3)


def test_a_world_with_another_choice_model_or_population_is_refused(simulated, monkeypatch):
    folder = simulated(n_impressions=1000).folder / "world"
    World.open(folder)
    monkeypatch.setattr("recsys.world.behaviour.choice.MEDIA_DWELL", (0.0, -0.6, 0.5, -0.3))
    with pytest.raises(DataError, match=r"drawn by another version of this program.*run `recsys simulate` again"):
        World.open(folder)
    monkeypatch.undo()
    monkeypatch.setattr("recsys.world.population.people.FIRST_USER_ID", 7)
    with pytest.raises(DataError, match="drawn by another version"):
        World.open(folder)


@pytest.mark.parametrize(("n_posts", "k"), [(250, 8), (2000, 2)], ids=["long slate", "many posts per topic"])
@pytest.mark.parametrize("user", [0, 17, 299])
def test_the_best_slate_takes_the_post_with_the_most_clicks_at_every_position(simulated, user, n_posts, k):
    world = simulated(n_posts=n_posts, n_impressions=1000, fatigue=0.8).world()
    now = world.population.start + 2 * DAY
    allowed = np.random.default_rng(user).random(n_posts) < 0.6
    fit = set(np.flatnonzero(allowed & (world.population.posts.created_at <= now)).tolist())
    slate = world.best_slate(user, now, allowed, k).tolist()
    assert len(set(slate)) == len(slate) == k
    assert set(slate) <= fit
    for n in range(k):
        clicks = [world.expected_clicks(user, np.array([*slate[:n], p], np.int32), now) for p in fit - set(slate[:n])]
        assert world.expected_clicks(user, np.array(slate[: n + 1], np.int32), now) >= max(clicks) - 1e-12


@pytest.mark.parametrize("user", [0, 17, 299])
def test_the_most_relevant_posts_are_those_with_the_highest_true_relevance(world, now, user):
    n = world.population.n_posts
    allowed = (np.arange(n) % 3 != 0) & (world.population.posts.created_at <= now)
    fit = np.flatnonzero(allowed).astype(np.int32)
    relevance = world.true_probability(user, fit, now).relevance
    best = world.most_relevant(user, now, np.arange(n) % 3 != 0, 20)
    np.testing.assert_allclose(relevance[np.searchsorted(fit, best)], np.sort(relevance)[::-1][:20])
    assert len(world.most_relevant(user, now, allowed, n)) == len(fit)


def test_fatigue_spreads_the_best_slate_over_topics(simulated):
    def n_topics(fatigue):
        world = simulated(n_posts=250, n_impressions=1000, taste=1.0, fatigue=fatigue).world()
        allowed = np.ones(250, bool)
        slates = [world.best_slate(user, world.population.start + 2 * DAY, allowed, 8) for user in range(0, 300, 20)]
        return np.mean([len(set(world.population.posts.topic[slate])) for slate in slates])

    assert n_topics(0.8) > n_topics(0) + 1


def test_the_best_slate_of_few_posts_contains_them_all(world, now):
    allowed = np.zeros(world.population.n_posts, bool)
    assert len(world.best_slate(3, now, allowed, 5)) == 0
    allowed[[4, 9]] = True
    assert set(world.best_slate(3, now, allowed, 5)) == {4, 9}


@pytest.mark.parametrize("who", ["a person", "a bot"])
def test_expected_clicks_equal_the_mean_of_simulated_responses(simulated, who):
    """One slate with six posts of one topic, answered many times."""
    world = simulated(n_impressions=1000, bot_share=0.05).world()
    now = world.population.start + 4 * DAY
    user = 11 if who == "a person" else int(np.flatnonzero(world.population.users.bot)[0])
    one_topic = np.flatnonzero(world.population.posts.topic == np.argmax(world.truth.users["taste_end"][11]))[-6:]
    slate = np.concatenate([one_topic, np.arange(1000, 1004)]).astype(np.int32)
    rng, n = np.random.default_rng(1), 6000
    clicks = np.zeros(n)
    for i in range(n):
        clicks[i] = sum(act.type == "click" for act in world.respond(user, slate, now, rng).actions)
    assert abs(clicks.mean() - world.expected_clicks(user, slate, now)) < 4 * clicks.std() / np.sqrt(n)
