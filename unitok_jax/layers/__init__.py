"""Bricks with no knowledge of any model: attention, norms, rotary embeddings, MLPs, convolutions."""
