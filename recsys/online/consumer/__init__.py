"""The consumer: follows the stream and updates Redis and the lake, each record once.

`loop` drives both sinks; `to_redis` and `to_lake` write.
"""
