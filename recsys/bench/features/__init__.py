"""How fast features are built, read and streamed, beside DuckDB, Polars and Feast."""
