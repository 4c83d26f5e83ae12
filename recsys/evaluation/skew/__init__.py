"""Training/serving skew: served feature vectors compared with the same vectors rebuilt from the lake."""
