"""Losses as pure functions on arrays."""
