"""Retrieval models on public data sets, by the definitions under which results are published."""
