"""The report of `recsys evaluate`, one module per stage: retrieval, ranking, slates."""
