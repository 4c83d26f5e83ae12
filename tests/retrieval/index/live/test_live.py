"""A live index answers as a plain list of the posts that are there would, whatever came, went and was rebuilt."""

import json
import threading

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recsys.config import IndexConfig
from recsys.errors import DataError, ReleaseError
from recsys.online.stream.post_changes import START, PostChange
from recsys.retrieval.index.fast_lists import inverted_file
from recsys.retrieval.index.index import PostIndex
from recsys.retrieval.index.live import live
from recsys.retrieval.index.live.live import LiveIndex
from recsys.retrieval.index.live.segment import Segment, current

SIZE = 8
EXACT = IndexConfig(kind="exact")
RNG = np.random.default_rng(11)
USERS = RNG.normal(size=(30, SIZE)).astype(np.float32)
IDS = np.array([7, 3, 900, 12, 55, 41, 2**40], np.int64)


def vector(seed):
    return np.random.default_rng(seed).normal(size=SIZE).astype(np.float32)


def segment(ids=IDS, language=None, config=EXACT, release="r-1"):
    vectors = np.array([vector(post_id) for post_id in ids.tolist()])
    language = np.zeros(len(ids), np.int32) if language is None else np.array(language, np.int32)
    return Segment.build(ids, vectors, language, USERS, 3, config, release)


def come(position, post_id, seed=None, language=0):
    return PostChange(f"{position}-0", post_id, vector(post_id if seed is None else seed), language)


def gone(position, post_id):
    return PostChange(f"{position}-0", post_id, None)


def answer(posts, k, language=None, exclude=()):
    """By brute force; `posts` is id to (vector, language)."""
    left = [post for post in posts if post not in exclude and (language is None or posts[post][1] == language)]
    scored = sorted(left, key=lambda post: -float(USERS[0] @ posts[post][0]))
    return scored[:k] + [-1] * (k - len(scored))


def found(index, k, **filters):
    return index.search(USERS[:1], k, **filters)[1][0].tolist()


steps = st.lists(
    st.one_of(
        st.tuples(st.just("come"), st.integers(0, 60), st.integers(0, 99), st.integers(0, 2)),
        st.tuples(st.just("gone"), st.one_of(st.integers(0, 60), st.sampled_from(IDS.tolist()))),
        st.tuples(st.just("build")),
        st.tuples(st.just("swap")),
    ),
    max_size=40,
)


@settings(max_examples=60)
@given(steps, st.integers(1, 12), st.sampled_from([None, 0, 1, 5]), st.lists(st.integers(0, 60), max_size=5))
def test_any_changes_and_rebuilds_leave_exactly_the_posts_that_are_there(steps, k, language, exclude):
    index = LiveIndex(segment())
    posts = {post_id: (vector(post_id), 0) for post_id in IDS.tolist()}
    changes, built = [], None
    for number, step in enumerate(steps, 1):
        if step[0] == "come":
            change = come(number, step[1], step[2], step[3])
            posts[step[1]] = (change.vector, step[3])
        elif step[0] == "gone":
            change = gone(number, step[1])
            posts.pop(step[1], None)
        elif step[0] == "build":
            if posts:
                built = index.segment.with_changes(changes, USERS, 3, EXACT)
            continue
        else:
            if built is not None:
                index.swap(built)
            built = None
            continue
        changes.append(change)
        index.apply(change)
    filters = {"language": language, "exclude": np.array(exclude, np.int64)}
    assert found(index, k, **filters) == answer(posts, k, language, exclude)


def test_scores_are_inner_products_best_first():
    index = LiveIndex(segment())
    index.apply(come(1, 8))
    scores, ids = index.search(USERS[:4], 5)
    for user, score, row in zip(USERS, scores, ids, strict=False):
        np.testing.assert_allclose(score, [user @ vector(post) for post in row.tolist()], rtol=1e-4, atol=1e-5)
        assert (np.diff(score) <= 0).all()


def test_a_change_that_comes_twice_counts_once():
    index = LiveIndex(segment())
    for change in (come(1, 8), gone(2, 8), come(1, 8)):
        index.apply(change)
    assert 8 not in found(index, 20)


def test_there_is_room_for_any_number_of_fresh_posts():
    index = LiveIndex(segment())
    for number in range(3000):
        index.apply(come(number + 1, 10_000 + number))
    assert index.n_fresh == 3000
    posts = {post: (vector(post), 0) for post in [*IDS.tolist(), *range(10_000, 13_000)]}
    assert found(index, 50) == answer(posts, 50)


def test_a_segment_holds_its_changes_and_later_ones_are_applied_again():
    index = LiveIndex(segment())
    early, late = [come(1, 8), gone(2, 3)], [come(3, 9), gone(4, 900)]
    for change in early:
        index.apply(change)
    rebuilt = index.segment.with_changes(early, USERS, 3, EXACT)
    for change in late:
        index.apply(change)
    index.swap(rebuilt)
    assert sorted(post for post in found(index, 20) if post >= 0) == [7, 8, 9, 12, 41, 55, 2**40]
    assert index.n_fresh == 1
    assert rebuilt.position == "2-0"
    assert index.position == "4-0"


def test_a_segment_ahead_of_the_changes_that_were_read_is_taken_and_they_are_skipped_then():
    index = LiveIndex(segment())
    changes = [come(1, 8), gone(2, 3)]
    index.swap(index.segment.with_changes(changes, USERS, 3, EXACT))
    for change in changes:
        index.apply(change)
    assert index.n_fresh == 0
    assert 8 in found(index, 20)


def test_an_older_segment_is_refused():
    index = LiveIndex(segment())
    older = index.segment
    index.swap(older.with_changes([come(5, 8)], USERS, 3, EXACT))
    with pytest.raises(ReleaseError, match=r"must not be older than the one in use, got 0-0 after 5-0"):
        index.swap(older)


def test_a_segment_of_another_release_is_refused():
    with pytest.raises(ReleaseError, match="must be of release r-1 as the one in use, got r-2"):
        LiveIndex(segment()).swap(segment(release="r-2"))


@pytest.mark.parametrize(
    ("bad", "rule"),
    [
        (np.ones(4, np.float32), "8 dimensions, got shape"),
        (np.full(SIZE, np.nan, np.float32), "finite vector, got nan"),
    ],
)
def test_a_bad_vector_is_refused_and_the_post_stays_as_it_was(bad, rule):
    index = LiveIndex(segment())
    before = found(index, 20)
    with pytest.raises(DataError, match=rule):
        index.apply(PostChange("1-0", 7, bad))
    assert found(index, 20) == before
    index.apply(gone(2, 7))
    assert 7 not in found(index, 20)


@pytest.mark.parametrize(
    "bad",
    [
        come(2, 7)._replace(vector=np.ones(4, np.float32)),
        come(2, 7)._replace(vector=np.full(SIZE, np.nan, np.float32)),
        come(2, 7)._replace(post_id=2**63),
        come(2, 7)._replace(language=2**31),
        gone(2, 2**70),
    ],
)
def test_a_bad_change_holds_up_neither_later_ones_nor_rebuilding(bad, caplog):
    index = LiveIndex(segment())
    changes = [come(1, 8), bad, come(3, 9)]
    for change in changes:
        try:
            index.apply(change)
        except DataError:
            assert change is bad
    rebuilt = index.segment.with_changes(changes, USERS, 3, EXACT)
    expected = sorted([*IDS.tolist(), 8, 9])
    assert rebuilt.post_id.tolist() == expected
    assert rebuilt.position == "3-0"
    assert "change 2-0 of a post is skipped" in caplog.text
    for newer in (index.segment, rebuilt):
        index.swap(newer)
        assert sorted(post for post in found(index, 20) if post >= 0) == expected


def test_a_post_that_nobody_knows_may_go():
    index = LiveIndex(segment())
    index.apply(gone(1, 123_456))
    assert len([post for post in found(index, 20) if post >= 0]) == len(IDS)


def test_a_segment_without_a_post_is_refused():
    only = Segment.build(np.array([1]), vector(1)[None], np.zeros(1), USERS, 1, EXACT, "r-1")
    with pytest.raises(DataError, match="at least one post, got 0"):
        only.with_changes([gone(1, 1)], USERS, 1, EXACT)


@pytest.mark.parametrize(
    ("ids", "n_vectors", "n_languages", "rule"),
    [
        ([1, 2], 3, 2, "got 2, 3 and 2"),
        ([1, 2], 1, 2, "got 2, 1 and 2"),
        ([1, 2], 2, 3, "got 2, 2 and 3"),
        ([1, -1], 2, 2, "an id other than -1"),
    ],
)
def test_parts_that_do_not_belong_together_are_refused(ids, n_vectors, n_languages, rule):
    with pytest.raises(DataError, match=rule):
        Segment.build(
            np.array(ids), np.ones((n_vectors, SIZE), np.float32), np.zeros(n_languages), USERS, 3, EXACT, "r-1"
        )


def test_an_id_that_repeats_is_refused():
    with pytest.raises(DataError, match="got post 7 twice"):
        segment(np.array([7, 3, 7], np.int64))


@pytest.mark.parametrize(
    "few", [1, inverted_file.SCORE_ALL_BELOW], ids=["lists are searched", "all allowed are scored"]
)
def test_searches_during_changes_and_swaps_see_each_post_once_and_none_that_was_gone_before(few, monkeypatch):
    monkeypatch.setattr(inverted_file, "SCORE_ALL_BELOW", few)
    many = np.arange(3000, dtype=np.int64)
    config = IndexConfig(kind="fast_lists", tuned=False, code_bytes=8, nprobe_share=1)
    index = LiveIndex(segment(many, config=config))
    searches, failures, stop = [0], [], threading.Event()
    gone_before = set()

    def search():
        while not stop.is_set():
            had_gone = set(gone_before)
            ids = [post for post in found(index, 300) if post >= 0]
            searches[0] += 1
            if len(ids) != len(set(ids)) or had_gone & set(ids) or len(ids) < 300:
                failures.append((len(ids), had_gone & set(ids)))

    threads = [threading.Thread(target=search) for _ in range(2)]
    for thread in threads:
        thread.start()
    changes = []
    for number in range(1, 400):
        change = gone(number, number) if number % 2 else come(number, 5, seed=number)
        changes.append(change)
        index.apply(change)
        if number % 2 and number != 5:
            gone_before.add(number)
        if number % 100 == 0:
            index.swap(index.segment.with_changes(changes, USERS, 3, config))
    stop.set()
    for thread in threads:
        thread.join()
    assert searches[0] > 10
    assert not failures


def test_a_post_that_changes_over_and_over_is_found_in_every_search():
    """Whether it was in the segment or came later, and while the room for fresh posts grows."""
    index = LiveIndex(segment())
    best = {7: USERS[0] * 100, 8: USERS[0] * 99}
    index.apply(PostChange("1-0", 8, best[8]))
    searches, failures, stop = [0], [], threading.Event()

    def search():
        while not stop.is_set():
            ids = found(index, 3)
            searches[0] += 1
            if index_has_begun.is_set() and sorted(ids[:2]) != [7, 8]:
                failures.append(ids)

    index_has_begun = threading.Event()
    index.apply(PostChange("2-0", 7, best[7]))
    index_has_begun.set()
    thread = threading.Thread(target=search)
    thread.start()
    number = 3
    while number < 6000 or searches[0] <= 10:
        post = 7 + number % 2
        index.apply(PostChange(f"{number}-0", post, best[post]))
        number += 1
    stop.set()
    thread.join()
    assert not failures


class Watched:
    """In the index's place: does something before a search, or after it."""

    def __init__(self, inner, before=lambda *words: None, after=lambda: None):
        self.inner, self.before, self.after = inner, before, after

    def __getattr__(self, name):
        return getattr(self.inner, name)

    def search(self, *words):
        self.before(*words)
        result = self.inner.search(*words)
        self.after()
        return result


class Bits(np.ndarray):
    """Does something before they are copied, or after."""

    def copy(self):
        self.before()
        result = np.array(self)
        self.after()
        return result


def nothing():
    pass


INDEX_AGES = (
    "before the bits are copied", "after that", "before the fresh ones are looked at", "after that too",
    "before the segment is searched", "after all",
)  # fmt: skip


def changing(moment, made, index, change, monkeypatch):
    """Make the change at this moment of the next search."""
    hooks = dict.fromkeys(INDEX_AGES, nothing) | {moment: change}
    places = live._Fresh.places

    def looked_at(fresh):
        hooks[INDEX_AGES[2]]()
        found = places(fresh)
        hooks[INDEX_AGES[3]]()
        return found

    bits = index._state.alive.bits.view(Bits)
    bits.before, bits.after = hooks[INDEX_AGES[0]], hooks[INDEX_AGES[1]]
    object.__setattr__(index._state.alive, "bits", bits)
    monkeypatch.setattr(live._Fresh, "places", looked_at)
    watched = Watched(made.index, lambda *words: hooks[INDEX_AGES[4]](), hooks[INDEX_AGES[5]])
    object.__setattr__(made, "index", watched)


@pytest.mark.parametrize("filters", [{}, {"language": 0}, {"exclude": np.array([41])}])
@pytest.mark.parametrize("language", [0, 1])
@pytest.mark.parametrize("changed", [7, 8])
@pytest.mark.parametrize("moment", INDEX_AGES)
@pytest.mark.parametrize("room", [1, 1024])
@pytest.mark.parametrize("k", [3, 20])
def test_a_post_that_changes_during_a_search_is_found_once_as_it_was_or_as_it_is(
    k, room, moment, changed, language, filters, monkeypatch
):
    monkeypatch.setattr(live, "_FIRST_CAPACITY", room)
    made = segment()
    index = LiveIndex(made)
    index.apply(come(1, 8))
    pending = [come(2, changed, seed=77, language=language)]

    def change():
        while pending:
            index.apply(pending.pop())

    changing(moment, made, index, change, monkeypatch)
    expected = {*IDS.tolist(), 8} - set(filters.get("exclude", ()))
    ids = [post for post in found(index, k, **filters) if post >= 0]
    assert not pending
    hidden = {changed} if language and "language" in filters else set()
    assert len(ids) == len(set(ids)) >= min(k, len(expected - hidden))
    assert set(ids) <= expected
    scores, ids = index.search(USERS[:1], 20)
    assert scores[0, ids[0] == changed] == pytest.approx([USERS[0] @ vector(77)], rel=1e-4)


@pytest.mark.parametrize("post", [7, 8])
def test_of_a_post_that_is_just_being_changed_the_newer_state_counts(post):
    """In the middle of a change: the new is written, the old not yet taken away, in the segment or among the fresh."""
    index = LiveIndex(segment())
    index.apply(come(1, 8))
    state = index._state
    state.n_steps += 1
    state.fresh.vectors[1], state.fresh.post_id[1], state.fresh.alive[1] = vector(77), post, True
    state.fresh.n += 1
    scores, ids = index.search(USERS[:1], 20)
    assert scores[0, ids[0] == post] == pytest.approx([USERS[0] @ vector(77)], rel=1e-4)


def test_a_change_for_which_there_is_no_room_leaves_all_as_it_was(monkeypatch):
    monkeypatch.setattr(live, "_FIRST_CAPACITY", 1)
    index = LiveIndex(segment())
    index.apply(come(1, 8))
    grown = live._Fresh.grown

    def fail(fresh):
        raise MemoryError

    monkeypatch.setattr(live._Fresh, "grown", fail)
    with pytest.raises(MemoryError):
        index.apply(come(2, 8, seed=77))
    assert found(index, 20).count(8) == 1
    assert index._state.n_steps % 2 == 0
    monkeypatch.setattr(live._Fresh, "grown", grown)
    index.apply(gone(3, 8))
    assert 8 not in found(index, 20)


def test_where_most_of_a_segment_is_gone_more_lists_are_visited(monkeypatch):
    monkeypatch.setattr(inverted_file, "SCORE_ALL_BELOW", 1)  # or so few posts would all be scored
    many = np.arange(20_000, dtype=np.int64)
    settings = IndexConfig(kind="fast_lists", tuned=False, code_bytes=8, nprobe_share=0.05)
    index = LiveIndex(segment(many, config=settings))
    visited, best_of_lists = [], inverted_file.search_kernel.best_of_lists
    monkeypatch.setattr(
        inverted_file.search_kernel,
        "best_of_lists",
        lambda query, n_lists, *words: visited.append(n_lists) or best_of_lists(query, n_lists, *words),
    )
    index.search(USERS[:1], 5)
    left = set(np.random.default_rng(1).permutation(many)[:1000].tolist())
    for number, post in enumerate(many.tolist(), 1):
        if post not in left:
            index.apply(gone(number, post))
    shares = []
    object.__setattr__(
        index.segment, "index", Watched(index.segment.index, lambda queries, k, allowed: shares.append(allowed.share))
    )
    index.search(USERS[:1], 5)
    assert shares == [pytest.approx(0.05)]
    assert visited[1] == pytest.approx(visited[0] * 0.05**-0.6, abs=3)


def test_a_published_segment_is_found_and_searches_as_before(tmp_path):
    made = segment(language=[0, 1, 0, 1, 2, 2, 0]).with_changes([come(4, 8, language=1)], USERS, 3, EXACT)
    assert current(tmp_path) is None
    made.publish(tmp_path)
    again = Segment.load(current(tmp_path))
    assert again.position == "4-0"
    for language in (None, 0, 1, 2):
        assert found(LiveIndex(again), 9, language=language) == found(LiveIndex(made), 9, language=language)


def test_only_the_last_two_segments_stay_on_disk(tmp_path):
    made = segment()
    for number in range(1, 5):
        made = made.with_changes([come(number, 100 + number)], USERS, 3, EXACT)
        made.publish(tmp_path)
    assert sorted(path.name for path in tmp_path.glob("s-*")) == ["s-r-1-3-0", "s-r-1-4-0"]
    assert current(tmp_path).name == "s-r-1-4-0"


def test_a_segment_that_was_harmed_can_be_published_again(tmp_path):
    made = segment()
    path = made.publish(tmp_path)
    harm_vectors(path)
    again = made.publish(tmp_path)
    assert current(tmp_path) == again != path
    assert Segment.load(again).post_id.tolist() == made.post_id.tolist()


def test_a_segment_of_a_new_release_takes_the_place_of_the_old_one(tmp_path):
    segment().publish(tmp_path)
    segment(IDS[:3], release="r-2").publish(tmp_path)
    assert Segment.load(current(tmp_path)).release == "r-2"
    assert len(Segment.load(current(tmp_path)).post_id) == 3


def harm_ids(path):
    np.save(path / "post_id.npy", np.load(path / "post_id.npy")[::-1])


def harm_index(path):
    PostIndex.exact(np.load(path / "vectors.npy") + 1).save(path / "index")


def of_another_kind(name, kind):
    return lambda path: np.save(path / f"{name}.npy", np.load(path / f"{name}.npy").astype(kind))


def harm_vectors(path):
    np.save(path / "vectors.npy", np.load(path / "vectors.npy")[:-1])


@pytest.mark.parametrize(
    ("harm", "rule"),
    [
        (harm_ids, "ids \\(ascending\\)"),
        (harm_vectors, "must be .* as its index"),
        (of_another_kind("post_id", np.float64), "must be .*int64"),
        (of_another_kind("language", np.int64), "must be .*int32"),
        (of_another_kind("vectors", np.float64), "must be .*float32"),
        (harm_index, "must be built from its vectors"),
        (lambda path: (path / "language.npy").unlink(), "cannot be read"),
        (lambda path: (path / "segment.json").write_text(json.dumps([])), "cannot be read"),
        (lambda path: (path / "index" / "index.faiss").write_bytes(b"x"), "must have .* bytes, got 1"),
    ],
)
def test_a_segment_that_is_not_what_it_should_be_is_refused(tmp_path, harm, rule):
    path = segment().publish(tmp_path)
    harm(path)
    with pytest.raises(ReleaseError, match=rule):
        Segment.load(path)


def test_a_fresh_index_starts_before_every_change():
    assert LiveIndex(segment()).position == START
