"""Metrics as functions of arrays; none knows models, stores or the world."""
