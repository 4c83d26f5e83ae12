"""How fast the world writes its logs, and how hard its logs are to learn from."""
