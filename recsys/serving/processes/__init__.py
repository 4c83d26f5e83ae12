"""The server's processes: uvicorn workers and the stream consumer, and what each loads at startup."""
