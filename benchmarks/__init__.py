"""Measurements of the product against plain baselines, all in one run."""
