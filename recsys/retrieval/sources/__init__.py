"""Candidate sources, one per file: two towers, followed authors, trending posts, fresh posts, and posts clicked by the
same users (covisitation)."""

from recsys.retrieval.sources.covisited import Covisited
from recsys.retrieval.sources.followed import Followed
from recsys.retrieval.sources.fresh import Fresh
from recsys.retrieval.sources.source import Allowed, CandidateSource, Query
from recsys.retrieval.sources.trending import Trending
from recsys.retrieval.sources.two_tower import TwoTower

__all__ = ["Allowed", "CandidateSource", "Covisited", "Followed", "Fresh", "Query", "Trending", "TwoTower"]
