"""The worth of a slate: its true expected clicks, and the posts that the best slate is chosen from.

Takes the truth and logits before fatigue, gives expected clicks and the best posts of each topic. It does not know how
the logits are computed.
"""

from __future__ import annotations

from recsys.world.behaviour.choice import examination, relevance
from recsys.world.behaviour.sessions import scroll_probability
from recsys.world.jit import JIT


@JIT
def best_of_topics(logit, topic, allowed, rows, filled):  # type: ignore[no-untyped-def]
    """Write the k allowed posts with the highest logits of each topic into rows (T, k), best first, padded with -1.

    Args:
        filled: zeros, (T,); counts the posts of each topic.
    """
    k = rows.shape[1]
    rows[:] = -1
    for post in range(logit.shape[0]):
        t = topic[post]
        n = filled[t]
        if not allowed[post] or (n == k and logit[post] <= logit[rows[t, k - 1]]):
            continue
        # Insertion sort into the topic's list.
        place = min(n, k - 1)
        while place > 0 and logit[rows[t, place - 1]] < logit[post]:
            rows[t, place] = rows[t, place - 1]
            place -= 1
        rows[t, place] = post
        filled[t] = min(n + 1, k)


@JIT
def slate_clicks(truth, user, logit, topic, n_of_topic):  # type: ignore[no-untyped-def]
    """Expected clicks on a slate, given logits before fatigue (K,), topics (K,) and topics shown before (T,)."""
    clicks = 0.0
    for position in range(logit.shape[0]):
        examined = scroll_probability(truth, user, position) * examination(truth, user, position)
        clicks += examined * relevance(truth, user, logit[position], n_of_topic[topic[position]])
        n_of_topic[topic[position]] += 1
    return clicks
