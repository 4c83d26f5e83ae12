"""How fast and how well the index searches, beside FAISS, hnswlib, USearch and ScaNN."""
