"""Logs as arrays: exposures with their labels, counted events in order of arrival, and the split by time.

Also which events a request had seen, and drawn negatives for logs without impressions.
"""
