"""Where candidates come from, a file each: the two towers, followed authors, what is trending, what is fresh, and what
is clicked by the same people."""

from recsys.retrieval.sources.covisited import Covisited
from recsys.retrieval.sources.followed import Followed
from recsys.retrieval.sources.fresh import Fresh
from recsys.retrieval.sources.source import Allowed, CandidateSource, Query
from recsys.retrieval.sources.trending import Trending
from recsys.retrieval.sources.two_tower import TwoTower

__all__ = ["Allowed", "CandidateSource", "Covisited", "Followed", "Fresh", "Query", "Trending", "TwoTower"]
