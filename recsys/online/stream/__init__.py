"""The event stream: records, positions, retention and lag.

User events and answered requests share one stream; changes of posts have their own.
"""
