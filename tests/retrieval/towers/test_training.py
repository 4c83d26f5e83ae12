"""Training finds the two tastes, from the clicks and nothing else, and gives the same bytes again."""

from dataclasses import fields, replace

import numpy as np
import pytest
import torch
from worlds import rows

from recsys.errors import DataError
from recsys.features.histories import Clicks, histories_at
from recsys.features.users import UserBatch
from recsys.retrieval.towers import training
from recsys.retrieval.towers.inference import Towers, tower_scores
from recsys.retrieval.towers.torch_model import TowerSizes, TowersModel
from recsys.retrieval.towers.training import TrainingData, batch_loss, train_towers
from recsys.types import DAY

from ..tastes import END, SMALL, clicks_of, request, trained, two_tastes


def share_of_taste(cat, towers, taste):
    """Share of a taste's posts among the best 20 for an unknown user who clicked six of them."""
    history = np.flatnonzero((cat.topic == taste) & (cat.created_at < END))[-6:]
    vector = towers.user_vectors(cat, UserBatch.from_context(request(history=history)))
    best = np.argsort(-(vector @ towers.post_vectors(cat).T)[0])[:20]
    return (cat.topic[best] == taste).mean()


@pytest.fixture(scope="module")
def cat():
    return two_tastes()


@pytest.fixture(scope="module")
def towers(cat):
    return trained(cat, clicks_of(cat))


@pytest.mark.parametrize("gap", [0, 250 * DAY], ids=["days", "months"])
def test_the_loss_is_the_corrected_softmax_written_out(cat, monkeypatch, gap):
    """One example at a time, one candidate at a time, with the weights that the module's text promises."""
    monkeypatch.setattr(training, "HIDDEN_USER_SHARE", 0.0)
    config = SMALL.model_copy(update={"author_dropout": 0.0, "post_dropout": 0.0, "n_uniform_negatives": 40})
    # Of each three posts two are reposts. The long log has a gap in its middle.
    cat = replace(
        cat,
        group=(np.arange(400) // 3 * 3).astype(np.int32),
        created_at=cat.created_at + gap * (cat.created_at > END // 2),
    )
    clicks = clicks_of(two_tastes())
    clicks = replace(clicks, time=clicks.time + gap * (clicks.time > END // 2))
    data = TrainingData.build(cat, clicks, config)
    model = TowersModel(TowerSizes.of(cat, int(data.posts.post.max()), 0), config, torch.Generator().manual_seed(1))
    with torch.no_grad():
        model.amplitude.copy_(torch.randn(model.amplitude.shape, generator=torch.Generator().manual_seed(2)) * 0.3)
    batch = np.random.default_rng(3).permutation(len(clicks))[:30]
    loss = batch_loss(model, data, torch.from_numpy(batch), config, torch.Generator().manual_seed(4)).item()

    pool = np.flatnonzero(cat.created_at <= clicks.time[-1])
    drawn = pool[torch.randint(len(pool), (40,), generator=torch.Generator().manual_seed(4)).numpy()]
    positive, now = clicks.post_row[batch], clicks.time[batch]
    towers = model.export(int(clicks.time[-1]), data.posts.post.numpy().astype(np.int32), data.user_place)
    history = histories_at(clicks, clicks.time, clicks.user_row[batch], now, 8)
    users = towers.user_vectors(cat, UserBatch.from_rows(cat, clicks.user_row[batch], history, now))
    posts = towers.post_vectors(cat)
    times_clicked = np.bincount(clicks.post_row, minlength=400)
    losses = []
    for i in range(30):
        others = [(positive[j], 29 * times_clicked[positive[j]] / len(clicks)) for j in range(30) if j != i]
        others += [(post, 40 / len(pool)) for post in drawn]
        others = [
            (post, expected) for post, expected in others
            if cat.created_at[post] <= now[i] and cat.group[post] != cat.group[positive[i]]
        ]  # fmt: skip
        rows_of = rows([positive[i], *(post for post, _ in others)])
        score = np.exp(tower_scores(towers, cat, users[i : i + 1], posts, rows_of, now[i : i + 1]).astype(float))
        total = score[0] + sum(score[1:] / (2 * np.array([expected for _, expected in others])))
        losses.append(np.log(total / score[0]))
    assert loss == pytest.approx(np.mean(losses), rel=1e-4)


def test_posts_clicked_often_have_an_embedding_of_their_own_and_others_none(cat, towers):
    count = np.bincount(clicks_of(cat).post_row, minlength=400)
    assert 0 < (count >= 4).sum() < 400
    np.testing.assert_array_equal(towers.post_place > 0, count >= 4)
    assert not towers.post[0].any()
    assert (np.abs(towers.post[1:]).max(axis=1) > 0).all()


def test_without_their_own_embeddings_posts_still_suit_their_taste(cat, towers):
    bare = replace(towers, post=np.zeros_like(towers.post))
    for taste in (0, 1):
        assert share_of_taste(cat, bare, taste) == 1.0


def test_the_latest_clicks_are_not_learned_from_while_they_tell_when_to_stop(cat, monkeypatch):
    clicks, learned = clicks_of(cat), []
    loss = training.batch_loss

    def noting(model, data, batch, *rest):
        learned.append((torch.is_grad_enabled(), batch.max()))
        return loss(model, data, batch, *rest)

    monkeypatch.setattr(training, "batch_loss", noting)
    trained(cat, clicks, SMALL.model_copy(update={"held_share": 0.1, "epochs": 1}))
    cut = len(clicks) - len(clicks) // 10
    first = learned[: next(n for n, (learns, _) in enumerate(learned) if not learns)]
    assert max(place for _, place in first) < cut
    assert max(place for learns, place in learned if learns) == len(clicks) - 1, "then all are learned from"


def test_all_clicks_are_learned_from_for_the_passes_that_predicted_the_latest_best(cat):
    """Where nothing links users to posts, more passes only learn the noise by heart."""
    config = SMALL.model_copy(update={"held_share": 0.3, "epochs": 30, "learning_rate": 0.05})
    clicks, told = clicks_of(cat, shuffled=True), []
    towers = train_towers(cat, clicks, config, lambda done, total: told.append((done, total)))
    passes = told[-1][0] // len(clicks)
    assert told[-1] == (passes * len(clicks), passes * len(clicks))
    assert passes < 10
    same = train_towers(cat, clicks, config.model_copy(update={"held_share": 0.0, "epochs": passes}), lambda *_: None)
    np.testing.assert_array_equal(towers.topic, same.topic)


@pytest.mark.parametrize("same", [True, False])
def test_a_stopped_training_goes_on_from_its_checkpoint_on_the_same_data_only(cat, tmp_path, same):
    config, clicks = SMALL.model_copy(update={"epochs": 4}), clicks_of(cat)

    def stop_in_the_third(done, total):
        if done > 0.6 * total:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_towers(cat, clicks, config, stop_in_the_third, tmp_path)
    seen = []
    other = cat if same else replace(cat, topic=(1 - cat.topic).astype(np.int32))
    towers = train_towers(other, clicks, config, lambda done, total: seen.append(done / total), tmp_path)
    assert (min(seen) > 0.5) is same
    expected = train_towers(other, clicks, config, lambda done, total: None)
    for column in fields(Towers):
        np.testing.assert_array_equal(getattr(towers, column.name), getattr(expected, column.name))


def test_hidden_authors_teach_what_an_unknown_author_is(cat, towers):
    start = (
        TowersModel(TowerSizes.of(cat, 0, 0), SMALL, torch.Generator().manual_seed(SMALL.seed))
        .author[0]
        .detach()
        .numpy()
    )
    never = trained(cat, clicks_of(cat), SMALL.model_copy(update={"author_dropout": 0.0, "epochs": 1}))
    np.testing.assert_array_equal(never.author[0], start)
    assert np.abs(towers.author[0] - start).max() > 0.01


@pytest.mark.parametrize("taste", [0, 1])
def test_a_user_who_clicked_one_topic_gets_that_topic(cat, towers, taste):
    assert share_of_taste(cat, towers, taste) == 1.0


def test_nothing_is_found_where_nothing_links_users_to_topics(cat):
    towers = trained(cat, clicks_of(cat, shuffled=True))
    # Followed authors no longer tell the taste either: whatever is on top is on top for both.
    assert abs(share_of_taste(cat, towers, 0) - (1 - share_of_taste(cat, towers, 1))) < 0.3


def test_clicks_on_fresh_posts_teach_freshness(cat, towers):
    assert (towers.amplitude[1:].sum(axis=1) > 0).all()
    vectors = towers.post_vectors(cat)
    vector = towers.user_vectors(cat, UserBatch.from_context(request(history=[390, 392])))
    score = (vector @ vectors.T)[0]
    cooking = np.flatnonzero(cat.topic == 0)
    assert score[cooking[-20:]].min() > score[cooking[:20]].max()


def test_the_same_seed_gives_the_same_bytes_and_another_seed_others(cat):
    config = SMALL.model_copy(update={"epochs": 1})
    clicks = clicks_of(cat)
    torch.manual_seed(1)
    first = trained(cat, clicks, config)
    torch.manual_seed(2)
    again, other = trained(cat, clicks, config), trained(cat, clicks, config.model_copy(update={"seed": 9}))
    for column in fields(Towers):
        np.testing.assert_array_equal(getattr(first, column.name), getattr(again, column.name))
    assert not np.array_equal(first.post_output, other.post_output)


def test_torch_settings_are_left_as_they_were(cat, towers):
    assert not torch.are_deterministic_algorithms_enabled()
    assert torch.utils.deterministic.fill_uninitialized_memory


def test_progress_counts_every_example_of_every_pass(cat):
    seen = []
    clicks = clicks_of(cat)
    train_towers(cat, clicks, SMALL.model_copy(update={"epochs": 2}), lambda done, total: seen.append((done, total)))
    assert seen[-1] == (2 * len(clicks), 2 * len(clicks))
    assert seen == sorted(seen)


def test_posts_after_the_last_click_teach_nothing(cat):
    config = SMALL.model_copy(update={"epochs": 2})
    clicks, later = clicks_of(cat), cat.created_at > END
    other = replace(
        cat, topic=np.where(later, 1 - cat.topic, cat.topic), tokens=np.where(later[:, None], 7, cat.tokens)
    )
    np.testing.assert_array_equal(trained(cat, clicks, config).word, trained(other, clicks, config).word)


def test_long_logs_train_too(cat):
    """Past the span that float32 holds, the same arithmetic runs in float64."""
    longer = replace(cat, created_at=cat.created_at * 20)
    clicks = clicks_of(cat)
    towers = train_towers(longer, replace(clicks, time=clicks.time * 20), SMALL, lambda done, total: None)
    for column in fields(Towers):
        assert np.isfinite(getattr(towers, column.name)).all()
    assert share_of_taste(cat, towers.with_reference(END + DAY), 0) == 1.0


def test_no_click_at_all_is_refused(cat):
    nothing = Clicks(rows([]), rows([]), np.array([], np.int64))
    with pytest.raises(DataError, match="at least 2 clicks to learn from, got 0"):
        trained(cat, nothing)


def test_clicks_of_unknown_users_or_of_posts_that_did_not_exist_are_no_examples(cat):
    clicks = Clicks(rows([-1, 0, 1]), rows([0, 399, -1]), np.array([END, END, END]))
    with pytest.raises(DataError, match="got 0"):
        trained(cat, clicks)


def test_clicks_out_of_order_are_refused(cat):
    clicks = clicks_of(cat)
    with pytest.raises(DataError, match="in order of time"):
        trained(cat, Clicks(clicks.user_row, clicks.post_row, clicks.time[::-1]))


def test_a_loss_that_is_no_number_is_refused_with_the_remedy(cat):
    with pytest.raises(DataError, match=r"must stay finite.*lower retrieval.towers.learning_rate"):
        trained(cat, clicks_of(cat), SMALL.model_copy(update={"learning_rate": 1e30, "epochs": 3}))


def test_attention_is_learned_where_it_is_asked_for_and_stays_zero_elsewhere(cat, towers):
    assert not towers.attention.any()
    asking = trained(cat, clicks_of(cat), SMALL.model_copy(update={"history": "attention"}))
    assert np.abs(asking.attention).max() > 0.01
    assert share_of_taste(cat, asking, 0) > 0.9


def test_pairs_of_words_tell_apart_what_words_alone_do_not(cat):
    """Posts of both tastes say the same two words; whose they are and about what is not known, nor who follows whom."""
    tokens = np.full_like(cat.tokens, -1)
    tokens[:, :2] = np.where(cat.topic[:, None] == 0, [1, 2], [2, 1])
    nothing = np.full_like(cat.topic, -1)
    alone = {"follows": nothing[:0], "follows_start": np.zeros_like(cat.follows_start)}
    silent = replace(cat, topic=nothing, author=nothing, tokens=tokens, **alone)
    history = np.flatnonzero((cat.topic == 0) & (cat.created_at < END))[-6:]

    def share(ngrams):
        settings = SMALL.model_copy(update={"text_ngrams": ngrams, "min_post_clicks": 1000})
        towers = trained(silent, clicks_of(cat), settings)
        vector = towers.user_vectors(silent, UserBatch.from_context(request(history=history)))
        best = np.argsort(-(vector @ towers.post_vectors(silent).T)[0])[:20]
        return (cat.topic[best] == 0).mean()

    assert share(2) > 0.9
    assert share(1) < 0.75


def test_a_user_who_clicked_often_has_an_embedding_that_knows_the_taste_where_nothing_else_does(cat):
    clicks = clicks_of(cat)
    silent = replace(cat, follows=cat.follows[:0], follows_start=np.zeros_like(cat.follows_start))
    few = clicks.user_row == 7
    few[np.flatnonzero(few)[5:]] = False
    kept = (clicks.user_row != 7) | few
    clicks = Clicks(clicks.user_row[kept], clicks.post_row[kept], clicks.time[kept])
    settings = SMALL.model_copy(update={"min_user_clicks": 6, "user_dropout": 0.2})
    towers = trained(silent, clicks, settings)
    np.testing.assert_array_equal(towers.user_place > 0, np.arange(cat.n_users) != 7)
    assert not towers.user[0].any()

    def share(user, taste):
        asked = UserBatch.from_rows(silent, rows([user]), np.full((1, 8), -1, np.int32), np.array([END]))
        best = np.argsort(-(towers.user_vectors(silent, asked) @ towers.post_vectors(silent).T)[0])[:20]
        return (cat.topic[best] == taste).mean()

    assert min(share(user, user % 2) for user in (0, 1, 4, 9, 30, 51)) > 0.8
    np.testing.assert_array_equal(*(vectors_of(towers, silent, user) for user in (7, -1)))


def vectors_of(towers, cat, user):
    """Of a user of whom nothing but the row may be known."""
    nothing = rows([-1])
    asked = UserBatch(
        rows([user]), np.full((1, 8), -1, np.int32), nothing, nothing, np.zeros(2, np.int64), rows([]), np.array([END])
    )
    return towers.user_vectors(cat, asked)


def test_without_a_least_number_of_clicks_no_user_has_an_embedding(towers):
    assert towers.user.shape == (1, 16)
    assert not towers.user_place.any()


def test_a_cut_history_keeps_some_of_the_newest_clicks():
    history = torch.arange(200 * 6).reshape(200, 6)
    history[::2, 4:] = -1
    cut = training._cut(history, 1.0, torch.Generator().manual_seed(0))
    left, had = (cut >= 0).sum(dim=1), (history >= 0).sum(dim=1)
    place = torch.arange(6)[None, :]
    assert torch.equal(cut, history.masked_fill(place >= left[:, None], -1))
    assert set(left[::2].tolist()) == set(range(5))
    assert set(left[1::2].tolist()) == set(range(7))
    assert (left <= had).all()


def test_only_the_given_share_of_histories_is_cut():
    history = torch.arange(4000 * 6).reshape(4000, 6)
    cut = training._cut(history, 0.25, torch.Generator().manual_seed(0))
    whole = (cut == history).all(dim=1).float().mean()
    assert abs(whole - (0.75 + 0.25 / 7)) < 0.03


def test_with_cut_histories_the_towers_still_learn_and_the_same_seed_gives_the_same_bytes(cat):
    config = SMALL.model_copy(update={"history_cut": 0.5})
    one, other = (trained(cat, clicks_of(cat), config) for _ in range(2))
    np.testing.assert_array_equal(one.user_output, other.user_output)
    assert share_of_taste(cat, one, 1) > 0.9
