"""What every component of a kind promises, checked for each of them by the tests of its package."""

from __future__ import annotations

import numpy as np

from recsys.types import Candidates, Context, Filter, Floats, Scorer


def check_filter(keep: Filter, context: Context, candidates: Candidates, reason: str) -> Candidates:
    """Kept and removed are together what came in; order and columns of the kept stay; the reason is on record."""
    kept = keep(context, candidates)
    before = {name: gone.tolist() for name, gone in candidates.removed.items()}
    removed = kept.removed.get(reason, np.empty(0, np.int32)).tolist()[len(before.get(reason, [])) :]
    assert sorted([*kept.post_row.tolist(), *removed]) == sorted(candidates.post_row.tolist())
    assert {*kept.removed} <= {*before, reason}
    assert all(kept.removed[name].tolist() == gone for name, gone in before.items() if name != reason)
    place = {row: at for at, row in enumerate(candidates.post_row.tolist())}
    places = [place[row] for row in kept.post_row.tolist()]
    assert places == sorted(places)
    for column in ("sources", "retrieval_score", "score"):
        np.testing.assert_array_equal(getattr(kept, column), getattr(candidates, column)[places])
    return kept


def check_scorer(scorer: Scorer, features: Floats) -> None:
    """One finite probability per row, in order; a row's does not depend on the rows around it."""
    probability = scorer.probability(features)
    assert probability.shape == (len(features),)
    assert np.isfinite(probability).all()
    assert ((probability > 0) & (probability < 1)).all()
    singly = np.concatenate([scorer.probability(features[row : row + 1]) for row in range(len(features))])
    np.testing.assert_allclose(singly, probability, rtol=1e-6)
    backwards = scorer.probability(np.ascontiguousarray(features[::-1]))
    np.testing.assert_allclose(backwards[::-1], probability, rtol=1e-6)
    assert len(np.unique(probability)) > 1, "rows that differ must not all score the same"
