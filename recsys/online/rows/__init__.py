"""Packed rows: one binary Redis value per user, post, author and topic.

How a row is laid out in bytes, how it is validated, and how a batch of events changes it.
"""
