"""Samplers, and what they played."""
