"""Posts and users get rows; missing values are -1; duplicates share a group."""

import numpy as np
import pytest

from recsys.errors import DataError
from recsys.hashing import hash_text
from recsys.offline.catalogue.build import build_catalogue
from recsys.offline.logs.events import mentioned_ids

from .conftest import build


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


def test_posts_and_users_that_are_only_mentioned_get_rows_with_unknown_columns(lake, posts, put):
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


def test_posts_without_an_author_share_no_author(lake, posts):
    posts({1: {"author_id": None}, 2: {"author_id": 0}, 3: {"author_id": None}, 4: {"author_id": -9}})
    catalogue = build(lake)
    assert catalogue.author_id.tolist() == [-9, 0]
    assert catalogue.author.tolist() == [-1, 1, -1, 0]
    assert catalogue.posts_of_author[0].tolist() == [3, 1]


def test_a_lake_without_authors_has_no_author_rows(lake, posts):
    posts({1: {"author_id": None, "topic": "chess"}, 2: {"author_id": None}})
    catalogue = build(lake)
    assert catalogue.n_authors == 0
    assert catalogue.author.tolist() == catalogue.author_rows([0, 1]).tolist() == [-1, -1]
    assert catalogue.likely_topic.tolist() == [0, -1]


def test_violations_are_invisible_and_spam_is_visible(lake, posts):
    labels = [None, [], ["spam"], ["violation"], ["spam", "violation"], [None, "violation"]]
    posts({n: {"labels": of_post} for n, of_post in enumerate(labels)})
    catalogue = build(lake, [9])
    assert catalogue.visible.tolist() == [True, True, True, False, False, False, True]
    assert catalogue.labels.to_pylist() == [*labels, None]


def test_a_post_without_words_gets_tokens_of_its_id(lake, posts):
    posts({1: {"text": ""}, 2: {}, 3: {"text": "chess"}})
    tokens = build(lake, [7]).tokens
    alone = build(lake, [7, 8]).tokens
    assert (tokens[[0, 1, 3], :2] >= 0).all()
    assert len(np.unique(tokens[[0, 1, 3], :2])) == 6
    assert (tokens[[0, 1, 3], 2:] == -1).all()
    assert tokens[2].tolist() == [hash_text("chess") & 0x7FFFFFFF, *[-1] * 11]
    assert (alone[:4] == tokens).all(), "the same in every catalogue"


def test_names_behind_ids_are_kept_beside_the_rows(lake, posts, put):
    posts({-5: {"author_id": -3}, 7: {"author_id": 2}})
    put("users", user_id=[2, -3], created_at=[0, 0])
    put("ids", name="a", kind=["post"], id=[-5], name_=["N"])
    put("ids", name="b", kind=["user", "post", "user", "user"], id=[-3, -5, -8, -5], name_=["Ann", "N5", "X", "Y"])
    catalogue = build(lake, [-6])
    assert catalogue.post_id.tolist() == [-6, -5, 7]
    assert catalogue.post_name.to_pylist() == [None, "N5", None]
    assert catalogue.user_name.to_pylist() == catalogue.author_name.to_pylist() == ["Ann", None]


def test_logs_without_descriptions_make_a_catalogue(lake):
    catalogue = build(lake, [2, 1], [3])
    assert catalogue.post_id.tolist() == [1, 2]
    assert catalogue.n_id_only_posts == 2
    assert catalogue.topics == catalogue.languages == ()
    assert catalogue.follows_of(0).tolist() == []
    assert catalogue.author_topic.tolist() == []


def test_a_lake_without_posts_raises_an_error_with_the_remedy(lake):
    with pytest.raises(DataError, match="run `recsys simulate`"):
        build(lake)


def test_the_last_description_wins(lake, posts, put):
    posts({1: {"topic": "old"}, 2: {"topic": "kept"}}, date="2026-01-05")
    posts({1: {"topic": "new", "visible": False}}, date="2026-01-06")
    put("users", name="a", user_id=[1, 1], language=["en", "fr"], created_at=[0, 0])
    put("users", name="b", user_id=[1], language=["de"], created_at=[0])
    catalogue = build(lake)
    assert [catalogue.topics[row] for row in catalogue.topic] == ["new", "kept"]
    assert catalogue.visible.tolist() == [False, True]
    assert [catalogue.languages[row] for row in catalogue.user_language] == ["de"]


def test_users_and_posts_share_one_list_of_languages(lake, posts, put):
    posts({1: {"language": "fr"}})
    put("users", user_id=[1, 2, 3], language=["en", "fr", None], created_at=[0, 0, 0])
    catalogue = build(lake)
    assert [catalogue.languages[row] for row in catalogue.user_language[:2]] == ["en", "fr"]
    assert catalogue.user_language[1] == catalogue.language[0]
    assert catalogue.user_language[2] == -1


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
    """2 and 7 are declared the same, 1 and 7 have the same text, so all three form one group."""
    posts(
        {
            1: {"text": "x"}, 2: {"text": "y", "duplicate_group": 2}, 7: {"text": "x", "duplicate_group": 2},
            8: {"text": "z", "duplicate_group": 8}, 9: {"text": "y", "duplicate_group": 8},
        }
    )  # fmt: skip
    assert build(lake).group.tolist() == [0, 0, 0, 0, 0]
