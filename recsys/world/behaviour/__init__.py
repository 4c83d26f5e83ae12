"""What users do: when they come, which posts they are offered, what they look at, click and do next.

`choice` is the true choice model; `sessions` draws from it.
"""
