"""The weight-rules engine and the containers that checkpoints come in."""
