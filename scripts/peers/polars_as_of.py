"""Decayed counts as of each query, in Polars. Words: folder, start, half-lives in microseconds.

The weight of an event grows from `start` on, so a sum over the events before a query is the count once it is scaled
back to the query's time (forward decay).
"""

import os

os.environ["POLARS_MAX_THREADS"] = "2"  # read when polars is imported

import polars as pl
from as_of_tables import by_row, read_table, read_words, tell

folder, start, rates = read_words()
events = pl.from_arrow(read_table(folder, "events"), rechunk=False)
queries = pl.from_arrow(read_table(folder, "queries"), rechunk=False)
names = [f"v{number}" for number in range(len(rates))]


def grown(rate):
    return ((pl.col("time") - start).cast(pl.Float64) * rate).exp()


def back():
    """The sums so far, scaled back to the query's time."""
    return [
        (pl.col(name) * ((start - pl.col("time")).cast(pl.Float64) * rate).exp()).fill_null(0.0)
        for name, rate in zip(names, rates, strict=True)
    ]


def made(lazy, engine):
    found = lazy.select("row", *back()).collect(engine=engine)
    return by_row(queries.height, found["row"].to_numpy(), [found[name].to_numpy() for name in names])


def asof():
    """Running sums over the events, then the last one before each query."""
    weights = [grown(rate).alias(name) for name, rate in zip(names, rates, strict=True)]
    sums = events.lazy().sort("time").with_columns(weights)
    sums = sums.select("entity_id", "time", pl.col(names).cum_sum().over("entity_id"))
    found = queries.lazy().sort("time").join_asof(
        sums, on="time", by="entity_id", strategy="backward", allow_exact_matches=False, check_sortedness=False
    )  # fmt: skip
    return made(found, "auto")


def union(engine):
    """One sort of events and queries together; at the same time queries come first, so they see what was before."""
    of_queries = queries.lazy().select("entity_id", pl.col("time") * 2, "row")
    of_events = events.lazy().select("entity_id", pl.col("time") * 2 + 1, row=pl.lit(-1, dtype=pl.Int64))
    both = pl.concat([of_queries, of_events]).sort("time").with_columns(pl.col("time") // 2)
    weights = [
        pl.when(pl.col("row") < 0).then(grown(rate)).otherwise(0.0).alias(name)
        for name, rate in zip(names, rates, strict=True)
    ]
    sums = both.with_columns(weights).select("time", "row", pl.col(names).cum_sum().over("entity_id"))
    return made(sums.filter(pl.col("row") >= 0), engine)


tell(
    folder,
    pl.__version__,
    {
        "cumulative_then_asof": asof,
        "union_one_window": lambda: union("auto"),
        "union_one_window_streaming": lambda: union("streaming"),
    },
)
