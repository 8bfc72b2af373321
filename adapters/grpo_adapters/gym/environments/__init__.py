"""Environments, many at a time."""
