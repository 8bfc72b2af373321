"""Reward models for what a language model says."""
