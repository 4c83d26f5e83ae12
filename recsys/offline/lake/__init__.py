"""The lake: Parquet files written whole or not at all, with their schemas, rules and quarantine.

Compaction and erasure rewrite files while others read and write them.
"""
