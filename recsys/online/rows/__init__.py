"""Packed rows: one binary Redis value per user, post, author and topic.

The byte layout, its validation, and how a batch of events changes each kind of row.
"""
