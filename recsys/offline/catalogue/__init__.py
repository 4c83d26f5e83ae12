"""The catalogue: posts, authors and users as dense rows with static columns, and how it is built from a lake.

Ids and texts from outside become numbers here.
"""
