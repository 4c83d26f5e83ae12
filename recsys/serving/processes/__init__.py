"""The processes: uvicorn workers, the consumer beside them, and what each loads at its start."""
