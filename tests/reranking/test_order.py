import numpy as np
import worlds
from hypothesis import given
from hypothesis import strategies as st

from recsys.reranking.order import best_first, running_count


@given(st.lists(st.integers(-2, 3), max_size=30))
def test_running_count_counts_earlier_occurrences(values):
    expected = [values[:place].count(value) for place, value in enumerate(values)]
    assert running_count(np.array(values, np.int32)).tolist() == expected


def test_best_first_breaks_ties_by_the_lower_row():
    assert best_first(worlds.candidates([5, 2, 9, 1], [0.5, 0.5, 0.9, 0.1])).tolist() == [2, 1, 0, 3]
