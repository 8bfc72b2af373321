"""Policies for environments."""
