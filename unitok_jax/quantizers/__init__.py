"""Codebooks as pure functions on arrays and explicit parameters."""
