"""The world against its own truth: tables, tails and a picture."""
