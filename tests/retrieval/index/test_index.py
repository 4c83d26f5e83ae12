"""The index finds what brute force finds, never what is not allowed, and refuses what it cannot search."""

import json

import faiss
import numpy as np
import pytest

from recsys.config import IndexConfig
from recsys.errors import DataError, ReleaseError
from recsys.retrieval.index import faiss_index
from recsys.retrieval.index.bitmap import Bitmap
from recsys.retrieval.index.effort import Effort
from recsys.retrieval.index.fast_lists import inverted_file
from recsys.retrieval.index.index import PostIndex
from recsys.retrieval.towers.freshness import N_PACES, decay
from recsys.retrieval.towers.metric import similarity
from recsys.types import DAY

LISTS = IndexConfig(kind="fast_lists", nlist_factor=0.5, nprobe_share=0.4, code_bytes=8, refine_factor=3)


def vectors(n, seed=0, size=16):
    """Of different lengths, so that inner product, cosine and distance disagree."""
    rng = np.random.default_rng(seed)
    return (rng.normal(size=(n, size)) * rng.uniform(0.5, 2, (n, 1))).astype(np.float32)


POSTS, QUERIES = vectors(4000), vectors(40, seed=1)
EFFORTS = Effort(lists=2, refine=1), Effort(lists=30, refine=6)


def exact(posts=POSTS):
    return PostIndex.exact(posts)


def lists(posts=POSTS, users=QUERIES, **settings):
    return PostIndex.build(posts, users, LISTS.model_copy(update=settings))


def by_faiss(posts=POSTS, users=QUERIES, **settings):
    return lists(posts, users, kind="faiss", **settings)


@pytest.fixture(scope="module", params=[exact, lists, by_faiss], ids=["exact", "lists", "faiss"])
def index(request):
    return request.param()


@pytest.fixture(params=[1, inverted_file.SCORE_ALL_BELOW], ids=["lists are searched", "all allowed are scored"])
def few(request, monkeypatch):
    """Posts below which lists score all that may appear."""
    monkeypatch.setattr(inverted_file, "SCORE_ALL_BELOW", request.param)
    monkeypatch.setattr(faiss_index, "SCORE_ALL_BELOW", request.param)


def brute_force(k, allowed=None):
    scores = similarity(QUERIES, POSTS)
    if allowed is not None:
        scores[:, ~allowed] = -np.inf
    return np.argsort(-scores, axis=1, kind="stable")[:, :k]


def recall(found, expected):
    return np.mean([len(set(f) & set(e)) / len(e) for f, e in zip(found.tolist(), expected.tolist(), strict=True)])


def test_exact_search_equals_brute_force():
    scores, rows = exact().search(QUERIES, 50)
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
    index = lists(posts, users[:30], nlist_factor=2, nprobe_share=0.1)
    best = np.argsort(-similarity(users[30:], posts), axis=1)[:, :50]
    assert recall(index.search(users[30:], 50)[1], best) > 0.85


def test_visiting_every_list_loses_only_to_rounding():
    assert recall(lists(nprobe_share=1).search(QUERIES, 50)[1], brute_force(50)) > 0.97


def test_an_effort_travels_with_the_search():
    index = lists()
    little, much = (recall(index.search(QUERIES, 50, effort=effort)[1], brute_force(50)) for effort in EFFORTS)
    assert little < 0.9 < 0.97 < much


def test_scores_of_lists_are_inner_products_but_for_rounding():
    scores, rows = lists().search(QUERIES, 50)
    most = np.abs(QUERIES) @ np.ptp(POSTS, axis=0) / 255 / 2
    assert (np.abs(scores - np.take_along_axis(similarity(QUERIES, POSTS), rows, axis=1)) <= 1.01 * most[:, None]).all()
    assert (np.diff(scores, axis=1) <= 0).all()
    assert rows.dtype == np.int32


def test_posts_that_are_not_allowed_never_appear(index, few):
    allowed = np.random.default_rng(2).random(len(POSTS)) < 0.3
    _, rows = index.search(QUERIES, 50, Bitmap.of(allowed))
    assert allowed[rows].all()
    assert (rows >= 0).all()
    if index.is_exact:
        np.testing.assert_array_equal(rows, brute_force(50, allowed))


def test_few_allowed_posts_are_all_found_and_the_rest_is_padded(index, few):
    allowed = np.zeros(len(POSTS), bool)
    allowed[[5, 1999, 3998]] = True
    scores, rows = index.search(QUERIES, 10, Bitmap.of(allowed))
    assert (np.sort(rows[:, :3]) == [5, 1999, 3998]).all()
    assert (rows[:, 3:] == -1).all()
    assert (scores[:, 3:] == -np.inf).all()
    assert (np.diff(scores[:, :3]) <= 0).all()


def test_with_nothing_allowed_nothing_is_found(index, few):
    _, rows = index.search(QUERIES, 5, Bitmap.of(np.zeros(len(POSTS), bool)))
    assert (rows == -1).all()


@pytest.mark.parametrize("kind", [exact, lists, by_faiss])
def test_fewer_posts_than_asked_are_padded(kind):
    _, rows = kind(POSTS[:3]).search(QUERIES[:2], 5)
    assert (np.sort(rows[:, :3]) == [0, 1, 2]).all()
    assert (rows[:, 3:] == -1).all()


def test_a_search_changes_no_later_search(index, few):
    before = index.search(QUERIES, 20)
    index.search(QUERIES, 500, Bitmap.of(np.random.default_rng(3).random(len(POSTS)) < 0.01))
    np.testing.assert_array_equal(index.search(QUERIES, 20)[1], before[1])


def test_no_query_gives_no_result(index):
    scores, rows = index.search(QUERIES[:0], 5)
    assert scores.shape == rows.shape == (0, 5)


def test_a_saved_index_searches_as_before(index, few, tmp_path):
    index.save(tmp_path)
    again = PostIndex.load(tmp_path)
    allowed = Bitmap.of(np.random.default_rng(4).random(len(POSTS)) < 0.5)
    for before, after in zip(index.search(QUERIES, 30, allowed), again.search(QUERIES, 30, allowed), strict=True):
        np.testing.assert_array_equal(before, after)
    assert (again.n_posts, again.embedding_size, again.effort) == (4000, 16, index.effort)
    assert again.name == index.name


def test_the_same_vectors_give_the_same_bytes(index, tmp_path):
    index.save(tmp_path / "a")
    {"exact": exact, "fast_lists": lists, "faiss": by_faiss}[index.kind]().save(tmp_path / "b")
    names = sorted(path.name for path in (tmp_path / "a").iterdir())
    assert names == sorted(path.name for path in (tmp_path / "b").iterdir())
    for name in names:
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


@pytest.mark.parametrize("kind", [exact, lists, by_faiss])
def test_an_index_without_posts_is_refused(kind):
    with pytest.raises(DataError, match=r"must have shape \(posts, dimensions\), got \(3,\)"):
        PostIndex.exact(np.ones(3, np.float32))
    with pytest.raises(DataError, match="at least one post, got 0"):
        kind(POSTS[:0])


@pytest.mark.parametrize("kind", [exact, lists, by_faiss])
@pytest.mark.parametrize("bad", [np.nan, np.inf, 1e300])
def test_vectors_that_are_not_finite_are_refused(kind, bad):
    harmed = POSTS[:10].astype(np.float64)
    harmed[7, 2] = bad
    with pytest.raises(DataError, match=r"must be finite, got 1 .*row 7"):
        kind(harmed)


@pytest.mark.parametrize("bad", [np.nan, np.inf, 1e300])
def test_queries_that_are_not_finite_are_refused(index, bad):
    queries = QUERIES.astype(np.float64)
    queries[3, 1] = bad
    with pytest.raises(DataError, match=r"user vectors must be finite, got .* \(row 3\)"):
        index.search(queries, 5)


@pytest.mark.parametrize("k", [0, -1])
def test_a_search_for_nothing_is_refused(index, k):
    with pytest.raises(DataError, match=f"at least 1 post, got k = {k}"):
        index.search(QUERIES, k)


def test_an_invalid_effort_is_refused():
    for lists_visited, refine in ((-1, 2), (3, 0.5), (3, np.nan), (3, np.inf)):
        with pytest.raises(ValueError, match="lists >= 0 and refine >= 1"):
            Effort(lists_visited, refine)


def test_an_effort_of_no_list_visits_one_and_more_where_that_holds_too_few():
    _, rows = lists().search(QUERIES, 3000, effort=Effort(0, 1))
    assert (np.sort(rows, axis=1)[:, 0] >= 0).all()


def test_an_index_says_which_vectors_it_was_built_from(index, tmp_path):
    index.save(tmp_path)
    assert PostIndex.load(tmp_path).built_from == index.built_from == exact().built_from == lists().built_from
    assert exact(POSTS[:3999]).built_from != index.built_from
    assert exact(POSTS + np.float32(0.1)).built_from != index.built_from


@pytest.mark.parametrize("shape", [(2, 15), (16,)])
def test_queries_of_another_dimension_are_refused(index, shape):
    with pytest.raises(DataError, match=r"must have shape \(queries, 16\)"):
        index.search(np.zeros(shape, np.float32), 5)


def test_a_bitmap_of_another_length_is_refused(index):
    with pytest.raises(DataError, match="4000 posts, got 3999"):
        index.search(QUERIES, 5, Bitmap.of(np.ones(3999, bool)))


@pytest.mark.parametrize("posts", [np.zeros((500, 16), np.float32), np.ones((500, 16), np.float32)])
def test_posts_that_are_all_alike_are_found_all_the_same(posts):
    _, rows = lists(posts).search(QUERIES, 500)
    assert (np.sort(rows, axis=1) == np.arange(500)).all()


def test_a_user_without_any_direction_gets_some_posts(index):
    _, rows = index.search(np.zeros((1, 16), np.float32), 50)
    assert len(set(rows[0].tolist()) - {-1}) == 50


def test_posts_far_outside_of_all_others_are_found():
    """Freshness of a post from far after the build."""
    posts = POSTS.copy()
    posts[17, 3] = 1e30
    users = np.zeros((1, 16), np.float32)
    users[0, 3] = 1
    harmed = lists(posts, nprobe_share=1)
    assert harmed.search(users, 5)[1][0, 0] == 17
    # And it costs the others nothing.
    assert recall(harmed.search(QUERIES, 50)[1], brute_force(50)) > 0.95


@pytest.mark.parametrize("scale", [1e-20, 1e25])
def test_how_long_a_query_is_changes_nothing_but_the_scale_of_its_scores(index, scale):
    scores, rows = index.search(QUERIES, 20)
    other_scores, other_rows = index.search(QUERIES * np.float32(scale), 20)
    np.testing.assert_array_equal(other_rows, rows)
    np.testing.assert_allclose(other_scores, scores * np.float32(scale), rtol=1e-4)


@pytest.mark.parametrize(("posts", "users"), [(1e20, 1), (1, 1e20), (1e30, 1e30), (1e38, 1e38)])
def test_vectors_too_large_to_compare_are_refused(posts, users):
    with pytest.raises(DataError, match=r"must mostly lie within 1e\+15, got"):
        lists(POSTS / np.abs(POSTS).max() * np.float32(posts), QUERIES / np.abs(QUERIES).max() * np.float32(users))


def test_an_index_from_before_layouts_had_numbers_is_refused(index, tmp_path):
    def harm(folder):
        about = json.loads((folder / "index.json").read_text())
        del about["layout"]
        (folder / "index.json").write_text(json.dumps(about))

    assert "must have layout 3, got 1" in refusal_of(index, tmp_path, harm)


def edit(**changes):
    def harm(folder):
        about = json.loads((folder / "index.json").read_text())
        (folder / "index.json").write_text(json.dumps(about | changes))

    return harm


def described_as_it_is(folder):
    about = json.loads((folder / "index.json").read_text())
    edit(bytes={name: (folder / name).stat().st_size for name in about["bytes"]})(folder)


def distances(folder):
    other = faiss.IndexFlatL2(16)
    other.add(POSTS)
    faiss.write_index(other, str(folder / "index.faiss"))
    described_as_it_is(folder)


def short(name):
    def harm(folder):
        data = (folder / name).read_bytes()
        (folder / name).write_bytes(data[: len(data) // 2])

    return harm


def short_and_described_so(name):
    def harm(folder):
        short(name)(folder)
        described_as_it_is(folder)

    return harm


def array(name, change):
    def harm(folder):
        np.save(folder / f"{name}.npy", change(np.load(folder / f"{name}.npy")))
        described_as_it_is(folder)

    return harm


def with_an_empty_lane(rows):
    """One post is gone, another stands at a lane that belongs to nobody."""
    first, empty = np.flatnonzero(rows >= 0)[0], np.flatnonzero(rows < 0)[0]
    rows[empty], rows[first] = rows[first], -1
    return rows


def changed(place, value):
    def change(array):
        array[place] = value
        return array

    return change


HARMS = [
    (edit(layout=1), "must have layout 3, got 1"),
    (edit(metric="cosine"), "inner_product, got cosine"),
    (edit(n_posts=4001), "must hold 4001 posts"),
    (edit(embedding_size=64), "of 64 dimensions, got 4000 of 16"),
    (edit(kind="hnsw"), "cannot be read"),
    (edit(effort={"lists": 2, "refine": 0.5}), "refine >= 1"),
    (lambda folder: (folder / "index.json").write_text("[]"), "cannot be read"),
]


def refusal_of(index, folder, harm):
    index.save(folder)
    harm(folder)
    with pytest.raises(ReleaseError) as refused:
        PostIndex.load(folder)
    assert "recsys train" in str(refused.value)
    return str(refused.value)


@pytest.mark.parametrize(("harm", "rule"), HARMS)
def test_an_index_that_is_not_what_it_should_be_is_refused(index, tmp_path, harm, rule):
    assert rule in refusal_of(index, tmp_path, harm)


@pytest.mark.parametrize(
    ("harm", "rule"),
    [
        (short("index.faiss"), "bytes, got"),
        (short_and_described_so("index.faiss"), "cannot be read"),
        (distances, "inner_product, got FAISS metric 1"),
        (lambda folder: (folder / "index.faiss").unlink(), "cannot be read"),
    ],
)
def test_an_exact_index_that_is_not_what_it_should_be_is_refused(tmp_path, harm, rule):
    assert rule in refusal_of(exact(), tmp_path, harm)


@pytest.mark.parametrize(
    ("harm", "rule"),
    [
        (short("codes.npy"), "bytes, got"),
        (short_and_described_so("codes.npy"), "cannot be read"),
        (lambda folder: (folder / "centres.npy").unlink(), "cannot be read"),
        (array("codes", lambda codes: codes[:-1]), "codes of the index"),
        (array("kept", lambda kept: kept.astype(np.float32)), "kept of the index"),
        (array("step", lambda step: step[:6]), "number_of of the index"),
        (array("rows", changed(5, 4000)), "rows of the index"),
        (array("rows", changed(5, -2)), "rows of the index"),
        (array("rows", changed(0, -1)), "rows of the index"),
        (array("rows", lambda rows: np.where(rows == 7, 8, rows)), "rows of the index"),
        (array("rows", with_an_empty_lane), "rows of the index"),
        (array("rows", lambda rows: np.where(np.arange(len(rows)) == np.flatnonzero(rows < 0)[0], 3, rows)), "rows of"),
        (array("starts", changed(0, 1)), "starts of the index"),
        (array("centres", changed((1, 1), np.nan)), "centres of the index"),
        (array("kept_scale", changed((0, 1), np.inf)), "kept_scale of the index"),
        (array("starts", changed(-1, 10**6)), "starts of the index"),
        (array("sizes", changed(0, 5000)), "of the index"),
        (array("number_of", changed(0, 16)), "number_of of the index"),
    ],
)
def test_lists_that_are_not_what_they_should_be_are_refused(tmp_path, harm, rule):
    assert rule in refusal_of(lists(), tmp_path, harm)


@pytest.mark.parametrize(
    ("harm", "rule"),
    [
        (short("index.faiss"), "bytes, got"),
        (short_and_described_so("index.faiss"), "cannot be read"),
        (lambda folder: (folder / "index.faiss").unlink(), "cannot be read"),
        (lambda folder: (folder / "to_seen.npy").unlink(), "cannot be read"),
        (array("to_seen", lambda to_seen: to_seen[:, :3]), "to_seen of the index"),
    ],
)
def test_faiss_lists_that_are_not_what_they_should_be_are_refused(tmp_path, harm, rule):
    assert rule in refusal_of(by_faiss(), tmp_path, harm)


@pytest.mark.parametrize("factory", ["IVF20,Flat", "IVF20,SQ8", "IVF20,PQ16x4fsr,RFlat", "IVF20,PQ8,Refine(SQ8)"])
def test_any_factory_string_of_inverted_lists_can_be_built_searched_and_saved(factory, tmp_path):
    index = by_faiss(factory=factory)
    assert index.name.startswith(factory)
    allowed = np.random.default_rng(5).random(len(POSTS)) < 0.5
    effort = Effort(20, 6)
    _, rows = index.search(QUERIES, 20, Bitmap.of(allowed), effort)
    assert allowed[rows].all()
    assert recall(rows, brute_force(20, allowed)) > (0.7 if "PQ8" in factory else 0.9)
    index.save(tmp_path)
    np.testing.assert_array_equal(PostIndex.load(tmp_path).search(QUERIES, 20, Bitmap.of(allowed), effort)[1], rows)


@pytest.mark.parametrize(
    ("factory", "rule"), [("IVF20,XYZ", "a string that FAISS knows"), ("IVF4001,Flat", "more lists than posts")]
)
def test_a_factory_string_that_cannot_be_built_is_refused(factory, rule):
    with pytest.raises(DataError, match=rule):
        by_faiss(factory=factory)


def test_faiss_looks_deeper_where_a_requests_best_posts_are_left_out(monkeypatch):
    """As many are left out as are asked for: the next best lie in lists that a plain search would not visit."""
    monkeypatch.setattr(faiss_index, "SCORE_ALL_BELOW", 1)
    index = by_faiss(nlist_factor=2.0)
    effort, best = Effort(8, 2.0), brute_force(100)
    everything = Bitmap.of(np.ones(len(POSTS), bool))
    found, alike = [], []
    for query, rows in zip(QUERIES, best, strict=True):
        allowed = everything.without(rows[:50].astype(np.int32))
        found.append(index.search(query[None], 50, allowed, effort)[1][0])
        alike.append(index.search(query[None], 50, Bitmap.of(allowed.has(np.arange(len(POSTS)))), effort)[1][0])
    deeper, plain = recall(np.array(found), best[:, 50:]), recall(np.array(alike), best[:, 50:])
    assert deeper > plain + 0.02


def test_all_that_may_appear_are_looked_through_once_where_they_are_fewer_than_asked_for(monkeypatch):
    calls, best_of_allowed = [], inverted_file.search_kernel.best_of_allowed
    monkeypatch.setattr(
        inverted_file.search_kernel, "best_of_allowed", lambda *words: calls.append(1) or best_of_allowed(*words)
    )
    _, rows = lists().search(QUERIES[:1], 10, Bitmap.of(np.arange(len(POSTS)) < 3), Effort(1, 1))
    assert (np.sort(rows[0, :3]) == [0, 1, 2]).all()
    assert len(calls) == 1


@pytest.mark.parametrize("bits", [np.zeros(1, np.uint8), np.zeros(3, np.uint8), np.zeros(2, np.int64)])
def test_a_bitmap_has_a_bit_for_every_post(bits):
    with pytest.raises(ValueError, match="16 posts must hold a bit each"):
        Bitmap(bits, 16, 1.0)


def test_two_bitmaps_let_through_what_both_do():
    first, second = np.arange(100) < 50, np.arange(100) % 2 == 0
    both = Bitmap.of(first) & Bitmap.of(second)
    np.testing.assert_array_equal(both.has(np.arange(100, dtype=np.int32)), first & second)
    assert both.share == 0.25
