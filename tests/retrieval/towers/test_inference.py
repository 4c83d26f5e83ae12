"""Vectors without torch: the same numbers as in training, the same from disk, and refusals of what does not fit."""

import json
import subprocess
import sys
from dataclasses import fields, replace

import numpy as np
import pytest
import torch
from worlds import rows

from recsys.errors import ReleaseError
from recsys.features.histories import histories_at
from recsys.features.users import UserBatch
from recsys.retrieval.towers import freshness
from recsys.retrieval.towers.inference import Towers, tower_scores
from recsys.retrieval.towers.metric import similarity
from recsys.retrieval.towers.text_input import text_rows
from recsys.retrieval.towers.torch_model import PostInput, TowerSizes, TowersModel, UserInput
from recsys.types import DAY

from ..tastes import END, N_POSTS, SMALL, clicks_of, fresh_posts, request, trained, two_tastes


@pytest.fixture(scope="module")
def cat():
    """With gaps: missing topics, authors, languages, media, users without country; users follow none to three."""
    cat = two_tastes()
    rng = np.random.default_rng(1)
    holes = {name: getattr(cat, name).copy() for name in ("topic", "author", "language", "media", "user_country")}
    for column in holes.values():
        column[rng.random(len(column)) < 0.2] = -1
    start = np.concatenate([[0], np.cumsum(np.arange(cat.n_users) % 4)])
    return replace(cat, **holes, follows_start=start, follows=rows(rng.integers(0, 8, start[-1])))


N_OWN, N_OWN_USERS = 50, 3


def post_place():
    """Every eighth post has an embedding of its own."""
    return np.where(np.arange(N_POSTS) % 8 == 0, np.arange(N_POSTS) // 8 + 1, 0).astype(np.int32)


def user_place(cat):
    """Users 1, 3 and 5 have one."""
    place = np.zeros(cat.n_users, np.int32)
    place[[1, 3, 5]] = [1, 2, 3]
    return place


@pytest.fixture(scope="module", params=[1, 2], ids=["words", "pairs"])
def model(cat, request):
    """Every parameter is random, so that none can be forgotten unnoticed."""
    generator = torch.Generator().manual_seed(3)
    settings = SMALL.model_copy(update={"text_ngrams": request.param})
    model = TowersModel(TowerSizes.of(cat, N_OWN, N_OWN_USERS), settings, generator)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.5)
            if name in ("word", "post", "user"):
                parameter[0] = 0
    return model


@pytest.fixture(scope="module")
def towers(cat, model):
    return model.export(END, post_place(), user_place(cat))


def users_of(cat, now):
    """Users with long, short and empty histories, with and without follows, known and unknown."""
    clicks = clicks_of(cat)
    asked = rows([-1, 0, 1, 2, 3, 4, 5, -1])
    now = np.full(len(asked), now) - np.arange(len(asked)) * DAY
    history = histories_at(clicks, clicks.time, asked, now, 12)
    return UserBatch.from_rows(cat, asked, history, now)


def test_numpy_and_torch_give_the_same_vectors(cat, model, towers):
    users = users_of(cat, END - DAY)
    words = text_rows(cat.tokens, SMALL.n_text_buckets, model.text_ngrams)
    columns = [cat.topic + 1, cat.author + 1, cat.language + 1, cat.media + 1, words, towers.post_place]
    posts = PostInput(*(torch.from_numpy(column.astype(np.int64)) for column in columns))
    read = [users.history[:, : SMALL.history_size], users.language + 1, users.country + 1, users.follows_start]
    own = np.where(users.user_row >= 0, towers.user_place[users.user_row], 0)
    assert (own > 0).sum() == N_OWN_USERS
    with torch.no_grad():
        content = model.content(posts)
        post = model.posts(content).numpy()
        asked = UserInput(*(torch.from_numpy(c.astype(np.int64)) for c in (*read, users.follows + 1, own)))
        user = model.users(asked, content).numpy()
    size = post.shape[1]
    np.testing.assert_allclose(towers.post_vectors(cat)[:, :size], post, atol=1e-5)
    np.testing.assert_allclose(towers.user_vectors(cat, users)[:, :size] * SMALL.temperature, user, atol=1e-5)


def test_the_inner_product_is_the_score_with_freshness_in_it(cat, towers):
    users, posts = users_of(cat, END + DAY), towers.post_vectors(cat)
    vectors = towers.user_vectors(cat, users)
    pairs = np.argwhere(cat.created_at <= users.now[:, None])
    direct = tower_scores(towers, cat, vectors[pairs[:, 0]], posts, pairs[:, 1], users.now[pairs[:, 0]])
    np.testing.assert_allclose(similarity(vectors, posts)[pairs[:, 0], pairs[:, 1]], direct, rtol=1e-4, atol=1e-4)
    fresh = freshness.decay(users.now[pairs[:, 0]] - cat.created_at[pairs[:, 1]])
    assert np.abs(fresh * towers.amplitude[cat.topic[pairs[:, 1]] + 1]).max() > 0.1, "freshness must matter here"


def test_scores_do_not_depend_on_the_time_of_the_index_build(cat, towers):
    users, post_row = users_of(cat, END), rows(np.arange(8))
    scores = []
    for reference in (END, END + 400 * DAY):
        moved = towers.with_reference(reference)
        vectors = moved.user_vectors(cat, users)
        scores.append(tower_scores(moved, cat, vectors, moved.post_vectors(cat), post_row, users.now))
    np.testing.assert_array_equal(scores[0], scores[1])


def test_a_batch_gives_what_each_of_its_users_gives_alone(cat, towers):
    users = users_of(cat, END)
    singly = np.concatenate([towers.user_vectors(cat, users.part(i, i + 1)) for i in range(len(users))])
    np.testing.assert_allclose(towers.user_vectors(cat, users), singly, rtol=1e-5, atol=1e-6)


def test_a_request_gives_what_the_batch_gives(cat, towers):
    users = users_of(cat, END)
    history = users.history[1]
    context = request(
        int(users.now[1]), user=0, history=history[history >= 0], follows=cat.follows_of(0),
        language=int(cat.user_language[0]), country=int(cat.user_country[0]),
    )  # fmt: skip
    alone = towers.user_vectors(cat, UserBatch.from_context(context))
    np.testing.assert_allclose(alone[0], towers.user_vectors(cat, users)[1], rtol=1e-5, atol=1e-6)


def test_some_posts_give_the_same_vectors_as_all(cat, towers):
    chosen = rows([399, 3, 3, 57])
    np.testing.assert_allclose(towers.post_vectors(cat, chosen), towers.post_vectors(cat)[chosen], atol=1e-6)


def test_a_user_about_whom_nothing_is_known_has_a_finite_vector(cat, towers):
    vector = towers.user_vectors(cat, UserBatch.from_context(request()))
    assert vector.shape == (1, towers.embedding_size)
    assert np.isfinite(vector).all()


def test_users_exist_even_in_a_catalogue_without_any(cat, towers):
    nobody = replace(cat, user_id=cat.user_id[:0], follows_start=np.zeros(1, np.int64), follows=cat.follows[:0])
    users = UserBatch.from_rows(nobody, rows([-1]), rows([[-1]]), np.array([END]))
    assert np.isfinite(towers.user_vectors(nobody, users)).all()


def test_a_part_of_a_batch_keeps_each_users_follows(cat):
    users = UserBatch.from_rows(
        replace(cat, follows_start=np.array([0, 2, 2, 5]), follows=rows([1, 2, 3, 4, 5]), user_id=np.arange(3)),
        rows([2, -1, 0, 1]), np.full((4, 2), -1, np.int32), np.zeros(4, np.int64),
    )  # fmt: skip
    assert users.follows.tolist() == [3, 4, 5, 1, 2]
    assert users.follows_start.tolist() == [0, 3, 3, 5, 5]
    assert users.language.tolist() == [0, -1, 0, 0]
    assert users.country.tolist() == [2, -1, int(cat.user_country[0]), 1]
    part = users.part(2, 9)
    assert (part.follows.tolist(), part.follows_start.tolist(), len(part)) == ([1, 2], [0, 2, 2], 2)


def test_towers_come_back_from_disk_as_they_were(towers, tmp_path):
    towers.save(tmp_path)
    again = Towers.load(tmp_path)
    for column in fields(Towers):
        np.testing.assert_array_equal(getattr(again, column.name), getattr(towers, column.name))


def edit(path, **values):
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


@pytest.mark.parametrize(
    "harm",
    [
        lambda folder: (folder / "author.npy").unlink(),
        lambda folder: (folder / "author.npy").write_bytes((folder / "author.npy").read_bytes()[:300]),
        lambda folder: (folder / "author.npy").write_bytes(b""),
        lambda folder: np.save(folder / "author.npy", np.zeros((3, 5), np.float32)),
        lambda folder: np.save(folder / "author.npy", np.zeros((9, 16))),
        lambda folder: np.save(folder / "post_hidden.npy", np.zeros(9, np.float32)),
        lambda folder: np.save(folder / "user_place.npy", np.full(60, N_OWN_USERS + 1, np.int32)),
        lambda folder: np.save(folder / "post_place.npy", np.full(400, N_OWN + 1, np.int32)),
        lambda folder: edit(folder / "towers.json", text_ngrams=3),
        lambda folder: (folder / "towers.json").write_text("{"),
        lambda folder: (folder / "towers.json").write_text(json.dumps({"temperature": 0.1})),
    ],
)
def test_damaged_towers_are_refused_with_the_remedy(towers, tmp_path, harm):
    towers.save(tmp_path)
    harm(tmp_path)
    with pytest.raises(ReleaseError, match="recsys train"):
        Towers.load(tmp_path)


def test_towers_of_another_catalogue_are_refused(cat, towers):
    with pytest.raises(ReleaseError, match="8 authors, the catalogue has 7"):
        towers.check_catalogue(replace(cat, author_id=cat.author_id[:7]))


def test_serving_does_not_import_torch():
    code = "import sys, recsys.retrieval.retriever; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_post_of_an_author_who_came_after_training_has_a_useful_vector():
    cat = two_tastes()
    # Two newcomers, one for each topic, write what comes after the last click.
    author = np.where(cat.created_at > END, 8 + cat.topic, cat.author).astype(np.int32)
    cat = replace(cat, author=author, author_id=np.arange(10, dtype=np.int64) + 900)
    towers = trained(cat, clicks_of(cat))
    np.testing.assert_array_equal(towers.author[9], towers.author[0])
    cook = request(history=np.flatnonzero((cat.topic == 0) & (cat.created_at < END))[-6:])
    vector = towers.user_vectors(cat, UserBatch.from_context(cook))
    posts = towers.post_vectors(cat)
    cooking, football = (similarity(vector, posts[fresh_posts(cat, topic)])[0] for topic in (0, 1))
    assert cooking.min() > football.max()
    older = np.flatnonzero((cat.topic == 0) & (cat.created_at < END - 5 * DAY))
    assert np.median(cooking) > np.median(similarity(vector, posts[older])[0]) - 1e-6


def clicked(towers, cat, posts):
    history = rows(posts)[None, :]
    return towers._clicked(cat, history, history >= 0)[0]


def test_attention_that_asks_for_nothing_weighs_by_recency_alone(cat, towers):
    plain = replace(towers, attention=np.zeros_like(towers.attention))
    content, recent = plain.content(cat, rows([8, 3, 40])), np.exp(plain.recency[:3])
    expected = (recent[:, None] * content).sum(axis=0) / recent.sum()
    np.testing.assert_allclose(clicked(plain, cat, [8, 3, 40]), expected, rtol=1e-4, atol=1e-5)


def test_attention_to_one_posts_content_gives_it_all_the_weight(cat, towers):
    content = towers.content(cat, rows([8, 3, 40]))
    # A direction in which the middle one stands out from both others, far.
    direction = np.linalg.solve(content @ content.T, np.array([-25, 25, -25])) @ content
    asking = replace(towers, attention=direction.astype(np.float32), recency=np.zeros_like(towers.recency))
    np.testing.assert_allclose(clicked(asking, cat, [8, 3, 40]), content[1], rtol=1e-3, atol=1e-3)


def test_attention_never_leaves_the_range_of_numbers(cat, towers):
    asking = replace(towers, attention=np.full_like(towers.attention, 1e30))
    assert np.isfinite(asking.user_vectors(cat, users_of(cat, END))).all()
