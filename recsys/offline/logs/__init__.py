"""Logs as arrays: exposures with their labels, events in order of time, and the split by time.

Also which events a request could already see, and negatives for logs without impressions.
"""
