"""From sessions to logs: event times, arrival times, rows of the lake, and the truth beside them."""
