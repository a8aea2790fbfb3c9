"""Approximate unlearning methods behind one contract."""
