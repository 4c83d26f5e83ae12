"""Metrics as functions of arrays. They do not know models, stores or the world."""
