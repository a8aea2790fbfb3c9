"""Unlearning methods against retrained models, on ordinary and on ready models."""
