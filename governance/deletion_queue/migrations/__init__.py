"""Alembic's folder: how the queue's database got its present form."""
