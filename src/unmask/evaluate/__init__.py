"""Measuring a model: whether it computes what another system computed, and what it can do."""
