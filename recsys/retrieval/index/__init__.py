"""The nearest-neighbour index: one interface over an exact scan, FAISS and fast lists.

`index` is the seam, `tuner` chooses what to build, `live/` adds and deletes posts.
"""
