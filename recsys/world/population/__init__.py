"""The users and authors of a world, whom they follow and block, and the posts they write.

`public_tables` writes the part that the lake shows; the rest is the hidden truth.
"""
