"""Actors that do what tests ask of them; a module of its own, since workers import it."""
