"""The two towers: users and posts to vectors whose inner product says how well they match.

Training in torch, inference in NumPy, and towers of ids alone for logs without content.
"""
