"""The report, one module per stage: retrieval, ranking, slates."""
