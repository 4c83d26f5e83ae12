"""The index finds what brute force finds, never what is not allowed, and refuses what it cannot search."""

import json

import faiss
import numpy as np
import pytest

from recsys.config import IndexConfig
from recsys.errors import DataError, ReleaseError
from recsys.retrieval.freshness import N_PACES, decay
from recsys.retrieval.index import PostIndex
from recsys.retrieval.metric import similarity
from recsys.types import DAY

EXACT = IndexConfig(exact_below=10**9)
LISTS = IndexConfig(exact_below=0, nlist_factor=0.5, nprobe_share=0.25)


def vectors(n, seed=0, size=16):
    """Of different lengths, so that inner product, cosine and distance disagree."""
    rng = np.random.default_rng(seed)
    return (rng.normal(size=(n, size)) * rng.uniform(0.5, 2, (n, 1))).astype(np.float32)


POSTS, QUERIES = vectors(4000), vectors(40, seed=1)


@pytest.fixture(scope="module", params=[EXACT, LISTS], ids=["exact", "lists"])
def index(request):
    return PostIndex.build(POSTS, request.param)


def brute_force(k, allowed=None):
    scores = similarity(QUERIES, POSTS)
    if allowed is not None:
        scores[:, ~allowed] = -np.inf
    return np.argsort(-scores, axis=1, kind="stable")[:, :k]


def recall(found, expected):
    return np.mean([len(set(f) & set(e)) / len(e) for f, e in zip(found.tolist(), expected.tolist(), strict=True)])


def test_exact_search_equals_brute_force():
    scores, rows = PostIndex.build(POSTS, EXACT).search(QUERIES, 50)
    np.testing.assert_array_equal(rows, brute_force(50))
    np.testing.assert_allclose(
        scores, np.take_along_axis(similarity(QUERIES, POSTS), rows, axis=1), rtol=1e-4, atol=1e-4
    )
    assert rows.dtype == np.int32


def test_the_best_post_is_the_one_that_training_would_score_highest(index):
    """One metric everywhere: an index over distances or cosines finds other posts on these vectors."""
    _, rows = index.search(POSTS[:200] * 3, 1)
    best = similarity(POSTS[:200], POSTS).argmax(axis=1)
    assert (rows[:, 0] == best).mean() > 0.8


def test_inverted_lists_find_most_of_the_best():
    """On vectors like the towers': directions of length 1 around topics, and freshness that every user asks for."""
    rng = np.random.default_rng(7)

    def around_topics(n):
        output = topics[rng.integers(0, 12, n)] + rng.normal(size=(n, 29)) * 0.15
        return output / np.linalg.norm(output, axis=1, keepdims=True)

    topics = rng.normal(size=(12, 29)) / 29**0.5
    age = rng.uniform(0, 14 * DAY, 5000).astype(np.int64)
    posts = np.hstack([around_topics(5000), 0.3 * decay(age)]).astype(np.float32)
    users = np.hstack([around_topics(60), np.ones((60, N_PACES))]).astype(np.float32)
    index = PostIndex.build(posts, IndexConfig(exact_below=0, nlist_factor=2, nprobe_share=0.1))
    best = np.argsort(-similarity(users, posts), axis=1)[:, :50]
    assert recall(index.search(users, 50)[1], best) > 0.85


def test_visiting_every_list_loses_only_to_rounding():
    index = PostIndex.build(POSTS, LISTS.model_copy(update={"nprobe_share": 1.0}))
    assert recall(index.search(QUERIES, 50)[1], brute_force(50)) > 0.95


def test_posts_that_are_not_allowed_never_appear(index):
    allowed = np.random.default_rng(2).random(len(POSTS)) < 0.3
    _, rows = index.search(QUERIES, 50, allowed)
    assert allowed[rows].all()
    assert (rows >= 0).all()
    if index.is_exact:
        np.testing.assert_array_equal(rows, brute_force(50, allowed))


def test_few_allowed_posts_are_all_found_and_the_rest_is_padded(index):
    allowed = np.zeros(len(POSTS), bool)
    allowed[[5, 1999, 3998]] = True
    scores, rows = index.search(QUERIES, 10, allowed)
    assert (np.sort(rows[:, :3]) == [5, 1999, 3998]).all()
    assert (rows[:, 3:] == -1).all()
    assert (scores[:, 3:] == -np.inf).all()
    assert (np.diff(scores[:, :3]) <= 0).all()


def test_with_nothing_allowed_nothing_is_found(index):
    _, rows = index.search(QUERIES, 5, np.zeros(len(POSTS), bool))
    assert (rows == -1).all()


@pytest.mark.parametrize("config", [EXACT, IndexConfig(exact_below=0)])
def test_fewer_posts_than_asked_are_padded(config):
    _, rows = PostIndex.build(POSTS[:3], config).search(QUERIES[:2], 5)
    assert (np.sort(rows[:, :3]) == [0, 1, 2]).all()
    assert (rows[:, 3:] == -1).all()


def test_a_search_changes_no_later_search(index):
    before = index.search(QUERIES, 20)
    index.search(QUERIES, 500, np.random.default_rng(3).random(len(POSTS)) < 0.01)
    np.testing.assert_array_equal(index.search(QUERIES, 20)[1], before[1])


def test_no_query_gives_no_result(index):
    scores, rows = index.search(QUERIES[:0], 5)
    assert scores.shape == rows.shape == (0, 5)


def test_a_saved_index_searches_as_before(index, tmp_path):
    index.save(tmp_path)
    again = PostIndex.load(tmp_path)
    allowed = np.random.default_rng(4).random(len(POSTS)) < 0.5
    for before, after in zip(index.search(QUERIES, 30, allowed), again.search(QUERIES, 30, allowed), strict=True):
        np.testing.assert_array_equal(before, after)
    assert (again.n_posts, again.embedding_size, again.nprobe) == (4000, 16, index.nprobe)


def test_the_same_vectors_give_the_same_bytes(index, tmp_path):
    index.save(tmp_path / "a")
    PostIndex.build(POSTS, EXACT if index.is_exact else LISTS).save(tmp_path / "b")
    assert (tmp_path / "a/index.faiss").read_bytes() == (tmp_path / "b/index.faiss").read_bytes()


def test_an_index_without_posts_is_refused():
    with pytest.raises(DataError, match="at least one post, got 0"):
        PostIndex.build(POSTS[:0], EXACT)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_vectors_that_are_not_finite_are_refused(bad):
    harmed = POSTS[:10].copy()
    harmed[7, 2] = bad
    with pytest.raises(DataError, match=r"must be finite, got 1 .*row 7"):
        PostIndex.build(harmed, EXACT)


def test_queries_that_are_not_finite_are_refused(index):
    with pytest.raises(DataError, match="user vectors must be finite"):
        index.search(np.full((1, 16), np.nan, np.float32), 5)


@pytest.mark.parametrize("shape", [(2, 15), (16,)])
def test_queries_of_another_dimension_are_refused(index, shape):
    with pytest.raises(DataError, match="must have 16 dimensions"):
        index.search(np.zeros(shape, np.float32), 5)


def test_a_mask_of_another_length_is_refused(index):
    with pytest.raises(DataError, match="4000 posts"):
        index.search(QUERIES, 5, np.ones(3999, bool))


def edit(**changes):
    def harm(folder):
        about = json.loads((folder / "index.json").read_text())
        (folder / "index.json").write_text(json.dumps(about | changes))

    return harm


def distances(folder):
    other = faiss.IndexFlatL2(16)
    other.add(POSTS)
    faiss.write_index(other, str(folder / "index.faiss"))
    edit(bytes=(folder / "index.faiss").stat().st_size)(folder)


def short(folder):
    data = (folder / "index.faiss").read_bytes()
    (folder / "index.faiss").write_bytes(data[: len(data) // 2])


def short_and_described_so(folder):
    short(folder)
    edit(bytes=(folder / "index.faiss").stat().st_size)(folder)


@pytest.mark.parametrize(
    ("harm", "rule"),
    [
        (short, "bytes, got"),
        (short_and_described_so, "cannot be read"),
        (distances, "inner_product, got FAISS metric 1"),
        (edit(metric="cosine"), "inner_product, got cosine"),
        (edit(n_posts=4001), "must hold 4001 posts"),
        (edit(embedding_size=64), "of 64 dimensions, got 4000 of 16"),
        (lambda folder: (folder / "index.faiss").unlink(), "cannot be read"),
        (lambda folder: (folder / "index.json").write_text("[]"), "cannot be read"),
    ],
)
def test_an_index_that_is_not_what_it_should_be_is_refused(index, tmp_path, harm, rule):
    index.save(tmp_path)
    harm(tmp_path)
    with pytest.raises(ReleaseError, match=rule) as refused:
        PostIndex.load(tmp_path)
    assert "recsys train" in str(refused.value)
