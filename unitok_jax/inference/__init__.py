"""Prefill and decode loop, the pipeline object, images to codes."""
