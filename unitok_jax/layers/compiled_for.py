"""What is being compiled for, where a brick takes another form on another platform."""

import jax


def current_platform() -> str:
    """The platform being compiled for: that of the mesh in context (it may be an absent TPU), else the default."""
    device = getattr(jax.sharding.get_abstract_mesh(), "abstract_device", None)
    platform = getattr(device, "platform", None) or jax.default_backend()
    return "gpu" if platform in ("cuda", "rocm") else platform
