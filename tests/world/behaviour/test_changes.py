"""Changes from a given day on: new users come, the taste for a topic flips, a field breaks."""

import filecmp

import numpy as np
import pyarrow.parquet as pq
import pytest

from recsys.config import WorldConfig, load
from recsys.errors import ConfigError
from recsys.types import DAY
from recsys.world.population.population import draw_population, start_of
from recsys.world.population.vocabulary import TOPICS

from ..conftest import SMALL

WORLD = {"n_users": 1000, "n_impressions": 60_000}
SHIFT = {"kind": "covariate_shift", "day": 2, "country": "BR", "language": "es", "share": 0.3}
FLIP = {"kind": "concept_shift", "day": 2, "topic": "football"}


def broken(field, how="missing", day=2, **others):
    return {"kind": "broken_feature", "day": day, "field": field, "how": how} | others


@pytest.fixture(scope="module")
def before(simulated):
    return simulated(**WORLD)


def day_of(world, times):
    return (times - start_of(world.config)) // DAY


# Covariate shift: a new group of users.


def test_a_new_country_makes_its_share_of_requests_from_its_day_on(simulated):
    world = simulated(**WORLD, changes=[SHIFT], activity_tail=0.3, missing_country=0, bot_share=0)
    users = world.table("users")
    new = users[users.country == "BR"]
    assert len(new) == 300
    assert (new.language == "es").all()
    assert (day_of(world, new.created_at) >= 2).all()
    sessions = world.table("requests").drop_duplicates("session_id")
    of_new, day = sessions.user_id.isin(new.user_id), day_of(world, sessions.now)
    assert not of_new[day < 2].any()
    assert 0.1 < of_new[day == 2].mean() < 0.3, "they join during the day"
    assert of_new[day == 3].mean() == pytest.approx(0.3, abs=4 * np.sqrt(0.3 * 0.7 / (day == 3).sum()))


def test_new_users_read_their_language_and_the_others_stay_the_same(simulated, before):
    world = simulated(**WORLD, changes=[SHIFT])
    users, posts = world.table("users"), world.table("posts").set_index("post_id")
    new = users.user_id[(users.language == "es") & (day_of(world, users.created_at) == 2)]
    shown = world.table("impressions").merge(world.table("requests")[["request_id", "now"]], on="request_id")
    spanish = posts.language[shown.post_id].to_numpy() == "es"
    assert spanish[shown.user_id.isin(new)].mean() > 0.5 > spanish.mean()
    day = day_of(world, shown.now)
    assert spanish[day == 3].mean() > spanish[day < 2].mean() + 0.05
    first, shifted = (w.table("users").sort_values("user_id").head(600) for w in (before, world))
    assert first.language.equals(shifted.language)
    assert (shifted.country.dropna() != "BR").all()


def test_a_country_that_exists_or_is_listed_twice_is_refused():
    for changes, name in (([SHIFT | {"country": "DE"}], "DE"), ([SHIFT | {"share": 0.1}] * 2, "BR")):
        with pytest.raises(ConfigError, match=rf"country {name} is not new; choose one besides US, GB, DE"):
            draw_population(WorldConfig.model_validate(SMALL | {"changes": changes}))


def test_covariate_shifts_must_leave_other_users():
    changes = [SHIFT | {"country": country, "share": 0.45} for country in ("BR", "AR")]
    with pytest.raises(ConfigError, match="covariate shifts and joining_share together must leave a tenth"):
        draw_population(WorldConfig.model_validate(SMALL | {"changes": changes}))


def test_nearly_all_users_may_join_without_a_covariate_shift():
    population = draw_population(WorldConfig.model_validate(SMALL | {"joining_share": 0.95, "n_authors": 10}))
    assert (population.users.created_at >= population.start).mean() == pytest.approx(0.95)


def test_each_of_two_covariate_shifts_comes_on_its_day():
    changes = [SHIFT | {"day": 3, "country": "AR", "share": 0.2}, SHIFT | {"day": 1}]
    config = WorldConfig.model_validate(SMALL | {"changes": changes})
    population = draw_population(config)
    joined = (population.users.created_at - population.start) // DAY
    assert (np.unique(population.users.country[joined >= 0], return_counts=True)[1] >= 1).all()
    for row, day, share in ((8, 1, 0.3), (9, 3, 0.2)):
        of = population.users.country == row
        assert of.sum() == share * config.n_users
        assert (joined[of] >= day).all()
        assert (joined[of] <= day + 1).all()


# Concept shift: the taste for a topic flips.


def slope_on_taste(world, topic, days):
    """Slope of true logit on first-day taste for a topic, over its impressions on some days, without bots."""
    truth = world.table("truth/impressions").merge(
        world.table("requests")[["request_id", "user_id", "now"]], on="request_id"
    )
    posts, bots = world.table("truth/posts"), world.table("truth/users")
    truth = truth.merge(posts[["post_id", "topic"]], on="post_id").merge(bots, on="user_id")
    rows = truth[(truth.topic == topic) & ~truth.bot & day_of(world, truth.now).isin(days)]
    users = world.world().population.users
    taste = users.taste_start[rows.user_id - users.id[0], TOPICS.index(topic)]
    return np.polyfit(taste, np.log(rows.relevance / (1 - rows.relevance)), 1)[0]


def test_the_slope_on_taste_changes_sign_from_the_day_on(simulated, before):
    world = simulated(**WORLD, changes=[FLIP])
    for days, flipped in (([0, 1], False), ([2, 3], True)):
        usual, now = (slope_on_taste(w, "football", days) for w in (before, world))
        assert usual > 0.5
        assert (now < -0.5) if flipped else (now == usual), days


def test_other_topics_do_not_change(simulated, before):
    world = simulated(**WORLD, changes=[FLIP])
    for topic in ("tennis", "cooking", "politics"):
        for days in ([0, 1], [2, 3]):
            assert slope_on_taste(world, topic, days) == pytest.approx(slope_on_taste(before, topic, days), abs=0.15)


def test_only_taste_flips_and_exactly_at_midnight(simulated):
    world = simulated(**WORLD, changes=[FLIP]).world()
    users, posts = world.population.users, np.arange(300, dtype=np.int32)
    of_topic = world.population.posts.topic[posts] == TOPICS.index("football")
    assert 0 < of_topic.sum() < 300
    midnight, drifted = world.population.start + 2 * DAY, 2 / world.config.n_days
    for user in np.flatnonzero(~users.bot)[:20].tolist():
        taste = users.taste_start[user, 0] * (1 - drifted) + users.taste_end[user, 0] * drifted
        relevant = [world.true_probability(user, posts, now).relevance for now in (midnight - 1, midnight)]
        before, after = (np.log(p / (1 - p)) for p in relevant)
        np.testing.assert_allclose(after - before, np.where(of_topic, -2 * taste, 0), atol=1e-5)


def test_an_unknown_topic_is_refused_with_a_list_of_topics():
    config = WorldConfig.model_validate(SMALL | {"changes": [FLIP | {"topic": "knitting"}]})
    with pytest.raises(ConfigError, match=r"there is no topic 'knitting'; the topics are football, tennis, .*chess"):
        draw_population(config)


# Broken features.


@pytest.mark.parametrize(
    "field",
    ["users.country", "users.language", "posts.topic", "posts.language", "posts.media", "posts.text",
     "impressions.position", "actions.value"],
)  # fmt: skip
def test_a_broken_field_is_null_from_its_day_on_and_nothing_else_changes(simulated, before, field):
    world = simulated(**WORLD, changes=[broken(field)])
    name, column = field.split(".")
    n_broken = 0
    for good, bad in zip(before.lake.files(name), world.lake.files(name), strict=True):
        as_ever, rows = (pq.read_table(path, partitioning=None) for path in (good, bad))
        assert as_ever.drop_columns([column]).equals(rows.drop_columns([column]))
        if bad.split("date=")[1] >= "2026-01-07":
            n_broken += 1
            assert rows[column].null_count == len(rows) > 0
            assert as_ever[column].null_count < len(rows)
        else:
            assert rows[column].equals(as_ever[column])
    assert n_broken == 2


def test_scaled_dwells_are_larger_by_the_factor_from_the_day_on(simulated, before):
    world = simulated(**WORLD, changes=[broken("actions.value", how="scale", factor=60.0)])
    good, bad = before.table("actions"), world.table("actions")
    requests = before.table("requests").set_index("request_id").now
    late = day_of(world, requests[good.request_id]).to_numpy() >= 2
    dwell = (good.type == "dwell").to_numpy()
    np.testing.assert_allclose(bad.value[late & dwell], 60 * good.value[late & dwell], rtol=1e-6)
    np.testing.assert_array_equal(bad.value[~late], good.value[~late])
    assert bad.value[~dwell].isna().all()


def test_the_truth_is_never_broken(simulated, before):
    changes = [broken("posts.topic"), broken("impressions.position"), broken("actions.value", how="scale")]
    world = simulated(**WORLD, changes=changes)
    truth = before.folder / "world" / "truth"
    names = sorted(str(path.relative_to(truth)) for path in truth.rglob("*.parquet"))
    assert len(names) == 6
    _, different, missing = filecmp.cmpfiles(truth, world.folder / "world" / "truth", names, shallow=False)
    assert (different, missing) == ([], [])


# Impossible changes.


def error_of(tmp_path, change):
    path = tmp_path / "config.yaml"
    path.write_text(f"world:\n  n_days: 4\n  changes:\n    - {change}\n")
    with pytest.raises(ConfigError) as caught:
        load(path)
    return str(caught.value)


@pytest.mark.parametrize(
    "kind", ["covariate_shift", "concept_shift, topic: chess", "broken_feature, field: posts.topic"]
)
def test_a_day_beyond_the_period_is_refused(tmp_path, kind):
    message = error_of(tmp_path, f"{{kind: {kind}, day: 4}}")
    assert "the day of a change must be < n_days (4), got 4" in message
    assert str(tmp_path) in message


def test_a_scale_on_a_field_that_is_not_a_number_is_refused(tmp_path):
    message = error_of(tmp_path, "{kind: broken_feature, day: 1, field: posts.text, how: scale}")
    assert "how: scale is for actions.value only, got posts.text" in message


@pytest.mark.parametrize(
    "change",
    ["{kind: earthquake, day: 1}", "{kind: broken_feature, day: 1, field: posts.author_id}",
     "{kind: covariate_shift, day: 1, language: it}", "{kind: concept_shift, day: -1, topic: chess}",
     "{kind: concept_shift, day: 1}", "{kind: covariate_shift, day: 1, share: 1}"],
)  # fmt: skip
def test_an_invalid_change_is_refused_with_its_place(tmp_path, change):
    assert "world.changes.0" in error_of(tmp_path, change)


def test_changes_can_be_set_on_the_command_line():
    config = load(None, ["world.changes=[{kind: concept_shift, day: 3, topic: music}]"])
    assert config.world.changes[0].topic == "music"
