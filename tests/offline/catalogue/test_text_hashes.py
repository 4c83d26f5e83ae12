"""Words become hashes; posts that are the same share a group."""

import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from recsys.hashing import hash_text
from recsys.offline.catalogue.text_hashes import N_TOKENS, duplicate_groups, hash_words


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
