"""Networks that systems compose, and the weight rules of their published checkpoints."""
