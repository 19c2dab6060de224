"""Unified visual tokenizers and their multimodal language models in JAX."""

__version__ = "0.1.0"
