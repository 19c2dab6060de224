"""The discriminators that no golden holds, MaskBit's with a blur or average pooling, against torch's own layers."""

import functools

import jax
import numpy as np
import pytest

from unitok_jax.backbones.discriminators import BLURS, DiscriminatorSettings, init_discriminator, judge
from unitok_jax.backbones.discriminators_rules import discriminator_table
from unitok_jax.weights.source import InMemory
from unitok_jax.weights.transfer import import_tree, upstream_shapes

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.parity
WIDTH, STAGES = 32, 2


def padded(x, size, stride):
    """TensorFlow's "same" padding."""
    sides = [max((-(-n // stride) - 1) * stride + size - n, 0) for n in x.shape[:1:-1]]
    return torch.nn.functional.pad(x, [edge for side in sides for edge in (side // 2, side - side // 2)])


def reference(tensors, x, kind, taps):
    """MaskBit's discriminator from its state dict, with torch's functions."""
    f = torch.nn.functional

    def conv(x, key):
        weight = tensors[f"{key}.weight"]
        return f.conv2d(padded(x, weight.shape[-1], 1), weight, tensors[f"{key}.bias"])

    x = f.leaky_relu(conv(x, "block_in.0"), 0.1)
    for i in range(STAGES):
        x = conv(x, f"blocks.{i}.0")
        if kind == "pool":
            x = f.avg_pool2d(x, 2)
        else:
            row = torch.tensor(BLURS[taps], dtype=x.dtype)
            kernel = (row[:, None] * row / row.sum() ** 2).expand(x.shape[1], 1, -1, -1)
            x = f.conv2d(padded(x, taps, 2), kernel, stride=2, groups=x.shape[1])
        x = f.leaky_relu(f.group_norm(x, 32, tensors[f"blocks.{i}.2.weight"], tensors[f"blocks.{i}.2.bias"]), 0.1)
    return conv(f.leaky_relu(conv(x, "to_logits.0"), 0.1), "to_logits.2")


@pytest.mark.parametrize(("kind", "taps"), [("pool", 4), ("blur", 3), ("blur", 4), ("blur", 5)])
def test_maskbits_discriminator(kind, taps):
    settings = DiscriminatorSettings(kind, WIDTH, STAGES, blur=taps)
    table = discriminator_table(settings)
    abstract, _ = jax.eval_shape(functools.partial(init_discriminator, settings), jax.random.key(0))
    rng = np.random.default_rng(0)
    shapes = upstream_shapes(table, abstract)
    tensors = {key: (0.2 * rng.normal(size=shape)).astype(np.float32) for key, shape in shapes.items()}
    pictures = rng.uniform(-1, 1, (2, 21, 18, 3)).astype(np.float32)
    ours, _ = judge(settings, import_tree(table, InMemory(tensors), abstract), {}, pictures)
    theirs = reference(
        {k: torch.tensor(v) for k, v in tensors.items()}, torch.tensor(pictures.transpose(0, 3, 1, 2)), kind, taps
    )
    expected = theirs.numpy().transpose(0, 2, 3, 1)
    np.testing.assert_allclose(ours, expected, atol=1e-4 * np.abs(expected).max())
