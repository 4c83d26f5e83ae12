"""Import outside logs into the lake: MIND, interactions, sequences, CSV and Parquet, one module per format."""
