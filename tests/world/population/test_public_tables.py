"""The public tables of users and posts, and the hidden truth beside them."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from recsys.offline.lake.schemas import POST_LABELS
from recsys.types import DAY
from recsys.world.population.population import start_of

from ..writing.test_simulate import binomial_band


def test_shares_of_missing_hidden_and_repeated_rows_follow_the_settings(small):
    posts, users, config = small.table("posts"), small.table("users"), small.config
    repeats = int((posts.duplicate_group != posts.post_id).sum())
    # Neither spam nor violations repeat or are repeated, and a changed copy is not repeated to the letter.
    fine = 1 - config.spam_share - config.violation_share
    unchanged = 1 - config.edited_share
    for name, count, n, share in (
        ("missing topic", posts.topic.isna().sum(), len(posts), config.missing_topic),
        ("missing country", users.country.isna().sum(), len(users), config.missing_country),
        ("hidden", (~posts.visible).sum(), len(posts), config.hidden_share),
        ("repeated", repeats, len(posts), config.duplicate_share * fine**2 * unchanged),
    ):
        low, high = binomial_band(n, share)
        assert low < count < high, name


def test_nothing_is_missing_hidden_or_repeated_when_its_share_is_zero(flat):
    posts, users = flat.table("posts"), flat.table("users")
    assert posts.topic.notna().all()
    assert users.country.notna().all()
    assert posts.visible.all()
    assert (posts.duplicate_group == posts.post_id).all()
    assert (flat.table("truth/posts")["copy"] == "original").all()


def test_a_repost_has_text_topic_and_language_of_its_original(simulated):
    posts = simulated(duplicate_share=0.2, edited_share=0.2, missing_topic=0).table("posts").set_index("post_id")
    repeats = posts[posts.duplicate_group != posts.index]
    first = posts.loc[repeats.duplicate_group]
    assert len(repeats) > 200
    assert (first.duplicate_group == first.index).all(), "a repeat of a repeat names the first of all"
    assert (first.created_at.to_numpy() <= repeats.created_at.to_numpy()).all()
    for column in ("text", "topic", "language"):
        assert (first[column].to_numpy() == repeats[column].to_numpy()).all(), column


def words(text):
    """The set of lower-case words of a text."""
    return set(text.lower().replace("…", "").split())


def test_a_changed_copy_keeps_topic_language_and_most_words_and_its_original_is_in_the_truth_only(simulated):
    world = simulated(edited_share=0.2, missing_topic=0)
    posts = world.table("posts").merge(world.table("truth/posts"), on="post_id", suffixes=("", "_true"))
    posts = posts.set_index("post_id", drop=False)
    changed = posts[posts["copy"].isin(["recased", "shortened", "edited"])]
    first = posts.loc[changed.duplicate_group_true]
    assert (changed.duplicate_group == changed.post_id).all()
    assert (first.index != changed.index).all()
    for column in ("topic", "language"):
        assert (first[column].to_numpy() == changed[column].to_numpy()).all(), column
    kept = [
        len(words(copy) & words(text)) / len(words(copy)) for copy, text in zip(changed.text, first.text, strict=True)
    ]
    assert (changed.text.to_numpy() != first.text.to_numpy()).mean() > 0.97, "recasing may restore the original case"
    assert min(kept) >= 0.5
    recased = (changed["copy"] == "recased") & ~changed.duplicated("duplicate_group_true", keep=False)
    assert all(
        copy.casefold() == text.casefold()
        for copy, text in zip(changed.text[recased], first.text[recased.to_numpy()], strict=True)
    )


def test_spam_and_violations_are_labelled_and_start_with_their_phrases(small):
    population, posts = small.world().population, small.table("posts")
    labels = posts.labels.map(lambda names: tuple(names))
    assert set(labels) == {(), *((name,) for name in POST_LABELS)}
    assert [POST_LABELS.index(name[0]) + 1 if name else 0 for name in labels] == population.posts.label.tolist()
    spam = labels == ("spam",)
    assert set(posts.author_id[spam]).isdisjoint(posts.author_id[~spam]), "spammers write nothing else"
    assert posts.text[spam].str.contains(r"\d|FREE|GRATIS|GRATUIT").all()


def test_the_truth_about_users_and_posts_equals_the_population(small):
    population = small.world().population
    users, posts = small.table("truth/users"), small.table("truth/posts")
    assert (users.user_id == population.users.id).all()
    assert (users.bot == population.users.bot).all()
    assert (posts.post_id == population.posts.id).all()
    assert (posts.quality == population.posts.quality).all()
    known = small.table("posts")
    recorded = known.topic.notna()
    assert (known.topic == posts.topic)[recorded].all()
    assert posts.topic.notna().all()


def test_users_and_posts_lie_under_their_date_of_creation(small):
    for table in ("users", "posts"):
        files = small.lake.files(table)
        assert [path.split("date=")[1][:10] for path in files] == [f"2026-01-0{day}" for day in (4, 5, 6, 7, 8)]
        for day, path in enumerate(files, start=-1):
            times = pq.read_table(path, columns=["created_at"], partitioning=None)["created_at"]
            days = (times.cast(pa.int64()).to_numpy() - start_of(small.config)) // DAY
            assert (np.maximum(days, -1) == day).all()
