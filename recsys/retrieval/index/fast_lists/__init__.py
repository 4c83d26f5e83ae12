"""Inverted lists of four-bit codes with a compiled search: several times faster than FAISS.

One kind of index. Its internals stay in this folder.
"""
