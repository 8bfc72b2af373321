"""Observations as features."""
