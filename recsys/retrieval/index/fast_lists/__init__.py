"""Inverted lists of four-bit codes with a compiled search: several times faster than FAISS.

One of the kinds of index; nothing outside this folder knows how it works.
"""
