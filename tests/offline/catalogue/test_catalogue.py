"""Posts and users get rows; what is missing is -1, what is the same shares a group."""

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recsys.errors import DataError
from recsys.hashing import hash_text
from recsys.offline.catalogue import catalogue as catalogue_module
from recsys.offline.catalogue.catalogue import Catalogue, build_catalogue
from recsys.offline.catalogue.text_hashes import N_TOKENS, duplicate_groups, hash_words
from recsys.offline.logs.labels import mentioned_ids

NOBODY = np.empty(0, np.int64)


@pytest.fixture
def posts(put):
    """`posts({id: {column: value}})` describes posts; what is not given is author 1, time 0, visible."""

    def write(described, **where):
        columns = (
            "author_id", "topic", "language", "media", "text", "created_at", "duplicate_group", "visible", "labels",
        )  # fmt: skip
        default = {"author_id": 1, "created_at": 0, "visible": True}
        rows = {name: [{**default, **post}.get(name) for post in described.values()] for name in columns}
        put("posts", post_id=list(described), **rows, **where)

    return write


def build(lake, posts: Sequence[int] = (), users: Sequence[int] = ()):
    return build_catalogue(lake, np.array(posts, np.int64), np.array(users, np.int64))


def test_posts_users_and_authors_are_numbered_by_id(lake, posts, put):
    posts({30: {"author_id": 9}, -4: {"author_id": 5}, 20: {"author_id": 9}})
    put("users", user_id=[8, 2], language=["fr", "en"], country=[None, "US"], created_at=[0, 0])
    catalogue = build(lake)
    assert catalogue.post_id.tolist() == [-4, 20, 30]
    assert catalogue.author_id.tolist() == [5, 9]
    assert catalogue.author.tolist() == [0, 1, 1]
    assert catalogue.user_id.tolist() == [2, 8]
    assert [catalogue.languages[row] for row in catalogue.user_language] == ["en", "fr"]
    assert catalogue.countries == ("US",)
    assert catalogue.user_country.tolist() == [0, -1]
    assert catalogue.post_rows([20, 21, -4]).tolist() == [1, -1, 0]
    assert catalogue.user_rows([2, 3]).tolist() == [0, -1]
    assert catalogue.author_rows([9, 1]).tolist() == [1, -1]
    assert (catalogue.n_posts, catalogue.n_users, catalogue.n_authors) == (3, 2, 2)


def test_static_columns_follow_their_posts(lake, posts):
    posts(
        {
            2: {
                "topic": "tennis",
                "language": "fr",
                "media": "video",
                "text": "Éte",
                "created_at": 70,
                "visible": False,
            },
            1: {"topic": "chess", "language": "en"},
        }
    )
    catalogue = build(lake)
    assert catalogue.topics == ("chess", "tennis")
    assert catalogue.topic.tolist() == [0, 1]
    assert catalogue.language.tolist() == [0, 1]
    assert catalogue.media.tolist() == [-1, 2]
    assert catalogue.text_length.tolist() == [0, 3]
    assert catalogue.created_at.tolist() == [0, 70]
    assert catalogue.visible.tolist() == [True, False]
    assert catalogue.texts.to_pylist() == ["", "Éte"]


def test_posts_and_users_that_are_only_mentioned_get_rows_with_nothing_known(lake, posts, put):
    posts({5: {"topic": "chess", "language": "en", "media": "text", "text": "a b"}})
    put("users", user_id=[1], language=["en"], country=["US"], created_at=[0])
    catalogue = build(lake, [7, 5, 3, 7], [4, 1])
    assert catalogue.post_id.tolist() == [3, 5, 7]
    assert catalogue.n_id_only_posts == 2
    for column in ("author", "topic", "likely_topic", "language", "media"):
        assert getattr(catalogue, column)[[0, 2]].tolist() == [-1, -1], column
        assert getattr(catalogue, column)[1] == 0, column
    assert catalogue.visible.all()
    assert catalogue.group.tolist() == [0, 1, 2]
    assert catalogue.user_id.tolist() == [1, 4]
    assert catalogue.user_language.tolist() == catalogue.user_country.tolist() == [0, -1]


def test_posts_without_an_author_have_none_in_common(lake, posts):
    posts({1: {"author_id": None}, 2: {"author_id": 0}, 3: {"author_id": None}, 4: {"author_id": -9}})
    catalogue = build(lake)
    assert catalogue.author_id.tolist() == [-9, 0]
    assert catalogue.author.tolist() == [-1, 1, -1, 0]
    assert catalogue.posts_of_author[0].tolist() == [3, 1]


def test_a_lake_without_any_author_has_none(lake, posts):
    posts({1: {"author_id": None, "topic": "chess"}, 2: {"author_id": None}})
    catalogue = build(lake)
    assert catalogue.n_authors == 0
    assert catalogue.author.tolist() == catalogue.author_rows([0, 1]).tolist() == [-1, -1]
    assert catalogue.likely_topic.tolist() == [0, -1]


def test_violations_are_not_visible_and_spam_is(lake, posts):
    labels = [None, [], ["spam"], ["violation"], ["spam", "violation"], [None, "violation"]]
    posts({n: {"labels": of_post} for n, of_post in enumerate(labels)})
    catalogue = build(lake, [9])
    assert catalogue.visible.tolist() == [True, True, True, False, False, False, True]
    assert catalogue.labels.to_pylist() == [*labels, None]


def test_a_post_without_words_is_told_apart_by_its_id(lake, posts):
    posts({1: {"text": ""}, 2: {}, 3: {"text": "chess"}})
    tokens = build(lake, [7]).tokens
    alone = build(lake, [7, 8]).tokens
    assert (tokens[[0, 1, 3], :2] >= 0).all()
    assert len(np.unique(tokens[[0, 1, 3], :2])) == 6
    assert (tokens[[0, 1, 3], 2:] == -1).all()
    assert tokens[2].tolist() == [hash_text("chess") & 0x7FFFFFFF, *[-1] * 11]
    assert (alone[:4] == tokens).all(), "the same in every catalogue"


def test_names_that_ids_stand_for_are_kept_beside_the_rows(lake, posts, put):
    posts({-5: {"author_id": -3}, 7: {"author_id": 2}})
    put("users", user_id=[2, -3], created_at=[0, 0])
    put("ids", name="a", kind=["post"], id=[-5], name_=["N"])
    put("ids", name="b", kind=["user", "post", "user", "user"], id=[-3, -5, -8, -5], name_=["Ann", "N5", "X", "Y"])
    catalogue = build(lake, [-6])
    assert catalogue.post_id.tolist() == [-6, -5, 7]
    assert catalogue.post_name.to_pylist() == [None, "N5", None]
    assert catalogue.user_name.to_pylist() == catalogue.author_name.to_pylist() == ["Ann", None]


def test_logs_alone_without_any_description_make_a_catalogue(lake):
    catalogue = build(lake, [2, 1], [3])
    assert catalogue.post_id.tolist() == [1, 2]
    assert catalogue.n_id_only_posts == 2
    assert catalogue.topics == catalogue.languages == ()
    assert catalogue.follows_of(0).tolist() == []
    assert catalogue.author_topic.tolist() == []


def test_without_any_post_there_is_no_catalogue(lake):
    with pytest.raises(DataError, match="run `recsys simulate`"):
        build(lake)


def test_the_description_written_last_wins(lake, posts, put):
    posts({1: {"topic": "old"}, 2: {"topic": "kept"}}, date="2026-01-05")
    posts({1: {"topic": "new", "visible": False}}, date="2026-01-06")
    put("users", name="a", user_id=[1, 1], language=["en", "fr"], created_at=[0, 0])
    put("users", name="b", user_id=[1], language=["de"], created_at=[0])
    catalogue = build(lake)
    assert [catalogue.topics[row] for row in catalogue.topic] == ["new", "kept"]
    assert catalogue.visible.tolist() == [False, True]
    assert [catalogue.languages[row] for row in catalogue.user_language] == ["de"]


def test_users_and_posts_share_one_numbering_of_languages(lake, posts, put):
    posts({1: {"language": "fr"}})
    put("users", user_id=[1, 2, 3], language=["en", "fr", None], created_at=[0, 0, 0])
    catalogue = build(lake)
    assert [catalogue.languages[row] for row in catalogue.user_language[:2]] == ["en", "fr"]
    assert catalogue.user_language[1] == catalogue.language[0]
    assert catalogue.user_language[2] == -1


def test_a_missing_topic_is_likely_the_authors_usual_one(lake, posts):
    written = [(1, "tennis"), (1, "tennis"), (1, "chess"), (1, None), (2, "tennis"), (2, "chess"), (2, None), (3, None)]
    posts({n: {"author_id": author, "topic": topic} for n, (author, topic) in enumerate(written, 1)})
    catalogue = build(lake, [9])
    usual = [catalogue.topics[row] if row >= 0 else None for row in catalogue.author_topic]
    assert usual == ["tennis", "chess", None], "a tie goes to the first name"
    likely = [catalogue.topics[row] if row >= 0 else None for row in catalogue.likely_topic]
    assert likely == ["tennis", "tennis", "chess", "tennis", "tennis", "chess", "chess", None, None]
    assert catalogue.topic[[3, 6, 7]].tolist() == [-1, -1, -1]


def test_posts_of_an_author_are_listed_newest_first(lake, posts):
    posts({n: {"author_id": n % 2, "created_at": time} for n, time in enumerate([5, 1, 9, 3, 7])})
    order, start = build(lake, [77]).posts_of_author
    assert order[start[0] : start[1]].tolist() == [2, 4, 0]
    assert order[start[1] : start[2]].tolist() == [3, 1]
    assert len(order) == 5, "a post without author is nobody's"


def test_follows_and_blocks_are_lists_per_user_without_repeats(lake, posts, put):
    posts({1: {"author_id": 10}, 2: {"author_id": 11}})
    put("users", user_id=[1, 2, 3], created_at=[0, 0, 0])
    put("follows", user_id=[3, 1, 3, 3, 9, 1], author_id=[11, 10, 10, 11, 10, 99], created_at=[0] * 6)
    put("blocks", user_id=[2], author_id=[11], created_at=[0])
    catalogue = build(lake)
    assert [catalogue.follows_of(row).tolist() for row in (0, 1, 2, -1)] == [[0], [], [0, 1], []]
    assert [catalogue.blocks_of(row).tolist() for row in (0, 1, 2, -1)] == [[], [1], [], []]


def test_the_block_of_a_user_without_row_or_events_is_kept(lake, posts, put):
    posts({1: {"author_id": 10}})
    put("blocks", user_id=[5], author_id=[10], created_at=[0])
    catalogue = build_catalogue(lake, *mentioned_ids(lake))
    assert catalogue.blocks_of(int(catalogue.user_rows(5))).tolist() == [0]


def test_posts_with_the_same_text_or_declared_group_share_a_group(lake, posts):
    posts(
        {
            1: {"text": "same"}, 2: {"text": "other"}, 3: {"text": "same"}, 4: {}, 5: {"text": ""},
            6: {"text": "x", "duplicate_group": -40}, 7: {"text": "y", "duplicate_group": -40},
        }
    )  # fmt: skip
    assert build(lake).group.tolist() == [0, 1, 0, 3, 4, 5, 5]


def test_groups_chain_through_text_and_declaration(lake, posts):
    """2 and 7 are declared the same, 1 and 7 read the same, so all three are one."""
    posts(
        {
            1: {"text": "x"}, 2: {"text": "y", "duplicate_group": 2}, 7: {"text": "x", "duplicate_group": 2},
            8: {"text": "z", "duplicate_group": 8}, 9: {"text": "y", "duplicate_group": 8},
        }
    )  # fmt: skip
    assert build(lake).group.tolist() == [0, 0, 0, 0, 0]


@given(
    st.lists(
        st.tuples(st.sampled_from(["", "a", "b", "c", "d", "e"]), st.sampled_from([None, -1, 0, 1, 2])), min_size=1
    )
)
def test_groups_are_the_connected_posts_named_by_their_first_row(described):
    group = list(range(len(described)))
    for _ in described:
        for i, (text, declared) in enumerate(described):
            for j, (other_text, other_declared) in enumerate(described):
                if (text and text == other_text) or (declared is not None and declared == other_declared):
                    group[i] = group[j] = min(group[i], group[j])
    texts = pa.array([text for text, _ in described], pa.string())
    declared = pa.array([declared for _, declared in described], pa.int64())
    assert duplicate_groups(declared, texts).tolist() == group


def test_words_hash_alike_whatever_their_case_and_stop_at_the_first_twelve():
    texts = pa.array(["Straße  zum\tHaus", "STRASSE haus", "", "   ", " ".join(f"w{n}" for n in range(20))])
    tokens = hash_words(texts, N_TOKENS)
    assert tokens.shape == (5, N_TOKENS)
    assert tokens[0, :3].tolist() == [hash_text(word) & 0x7FFFFFFF for word in ("straße", "zum", "haus")]
    assert tokens[1, 1] == tokens[0, 2]
    assert (tokens[0, 3:] == -1).all()
    assert (tokens[2:4] == -1).all(), "a text without words has no token"
    assert tokens[4].tolist() == [hash_text(f"w{n}") & 0x7FFFFFFF for n in range(N_TOKENS)]


def test_topic_keys_do_not_depend_on_the_other_topics(lake, posts):
    posts({1: {"topic": "chess"}}, name="a")
    alone = build(lake).topic_keys[0]
    posts({2: {"topic": "archery"}}, name="b")
    catalogue = build(lake)
    assert catalogue.topic_keys[catalogue.topics.index("chess")] == alone == hash_text("chess")
    assert alone > 0


def test_a_saved_catalogue_loads_the_same_and_memory_mapped(lake, posts, put, tmp_path):
    posts({n: {"author_id": n % 3, "topic": f"t{n % 2}", "language": "en", "text": f"text {n}"} for n in range(9)})
    put("users", user_id=[1, 2], language=["en", "fr"], country=["US", None], created_at=[0, 0])
    put("follows", user_id=[1, 2], author_id=[0, 2], created_at=[0, 0])
    put("ids", kind=["post", "user"], id=[1, 1], name_=["one", "U1"])
    saved = build(lake, [100])
    saved.save(tmp_path / "catalogue")
    loaded = Catalogue.load(tmp_path / "catalogue")
    for name in catalogue_module._ARRAYS:
        before, after = getattr(saved, name), getattr(loaded, name)
        assert before.dtype == after.dtype, name
        np.testing.assert_array_equal(before, after, err_msg=name)
        assert isinstance(after, np.memmap), name
        assert not after.flags.writeable, name
    assert (loaded.topics, loaded.languages, loaded.countries) == (saved.topics, saved.languages, saved.countries)
    for name in ("texts", "labels", "post_name", "author_name", "user_name"):
        assert getattr(loaded, name).equals(getattr(saved, name)), name
    assert loaded.post_name.to_pylist() == [None, "one", *[None] * 8]
    assert loaded.author_name.to_pylist() == [None, "U1", None]
    assert loaded.n_id_only_posts == 1
    assert loaded.likely_topic.tolist() == saved.likely_topic.tolist()


def test_a_folder_without_catalogue_is_named(tmp_path):
    with pytest.raises(DataError, match=r"no catalogue in .*nothing; run `recsys train`"):
        Catalogue.load(tmp_path / "nothing")
