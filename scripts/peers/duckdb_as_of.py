"""Decayed counts as of each query, in DuckDB. Words: folder, start, half-lives in microseconds.

The weight of an event grows from `start` on, so a sum over the events before a query is the count once it is scaled
back to the query's time (forward decay).
"""

import duckdb
from as_of_tables import by_row, read_table, read_words, tell

folder, start, rates = read_words()
events, queries = read_table(folder, "events"), read_table(folder, "queries")
connection = duckdb.connect()
connection.execute("SET threads = 2")
connection.execute("SET preserve_insertion_order = false")
connection.register("events", events)
connection.register("queries", queries)

numbers = range(len(rates))


def each(text):
    """`text` once per half-life, `{i}` its number, with the weight of a moment and its inverse."""
    return ", ".join(
        text.format(i=i, grown=f"exp((time - {start}) * {rate!r})", back=f"exp(({start} - q.time) * {rate!r})")
        for i, rate in enumerate(rates)
    )


# Running sums over the events, then the last one before each query. Of events at the same time the last sum counts.
ASOF = f"""
WITH sums AS (
    SELECT entity_id, time, {each("sum({grown}) OVER w AS s{i}")}
    FROM events WINDOW w AS (PARTITION BY entity_id ORDER BY time ROWS UNBOUNDED PRECEDING)
    QUALIFY lead(time) OVER (PARTITION BY entity_id ORDER BY time) IS DISTINCT FROM time
)
SELECT q.row, {each("coalesce(sums.s{i} * {back}, 0) AS v{i}")}
FROM queries q ASOF LEFT JOIN sums ON q.entity_id = sums.entity_id AND q.time > sums.time
"""

# One sort of events and queries together; at the same time queries come first, so they see what was before.
UNION = f"""
WITH both_tables AS (
    SELECT entity_id, time, -1::BIGINT AS row FROM events UNION ALL SELECT entity_id, time, row FROM queries
), q AS (
    SELECT time, row, {each("sum(CASE WHEN row < 0 THEN {grown} ELSE 0 END) OVER w AS s{i}")}
    FROM both_tables
    WINDOW w AS (PARTITION BY entity_id ORDER BY time, row DESC ROWS UNBOUNDED PRECEDING)
)
SELECT row, {each("s{i} * {back} AS v{i}")} FROM q WHERE row >= 0
"""


def run(query):
    found = connection.execute(query).fetchnumpy()
    return by_row(queries.num_rows, found["row"], [found[f"v{i}"] for i in numbers])


tell(folder, duckdb.__version__, {"cumulative_then_asof": lambda: run(ASOF), "union_one_window": lambda: run(UNION)})
