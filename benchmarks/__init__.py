"""Measurements: speed and memory against a baseline in the same run, with repeats and spread."""
