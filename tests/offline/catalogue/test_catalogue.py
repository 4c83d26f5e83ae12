"""Lookups on a catalogue, and saving and loading it."""

import numpy as np
import pytest

from recsys.errors import DataError
from recsys.hashing import hash_text
from recsys.offline.catalogue import catalogue as catalogue_module
from recsys.offline.catalogue.catalogue import Catalogue

from .conftest import build


def test_the_likely_topic_of_a_post_without_one_is_its_authors_most_frequent(lake, posts):
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
    assert len(order) == 5, "a post without author is not listed"


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


def test_loading_from_a_folder_without_catalogue_names_it(tmp_path):
    with pytest.raises(DataError, match=r"no catalogue in .*nothing; run `recsys train`"):
        Catalogue.load(tmp_path / "nothing")
