"""The catalogue: posts, authors and users as dense rows with static columns.

Ids and texts from outside become numbers here.
"""
