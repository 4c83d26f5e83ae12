"""Who lives in the world: users, authors, their follows, and the posts they write.

`public_tables` is the part that the lake may show; the rest is the hidden truth.
"""
