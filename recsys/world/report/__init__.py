"""Compare the logs of a world with its truth: figures with confidence bands, tables and a picture."""
