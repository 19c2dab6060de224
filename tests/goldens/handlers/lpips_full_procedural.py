"""LPIPS at full width, on weights that the case's recipe writes, with the published linear heads."""

import jax
import jax.numpy as jnp
import numpy as np
from harness import Mutation, nhwc

from unitok_jax.backbones import lpips as ours
from unitok_jax.backbones import vgg16
from unitok_jax.backbones.lpips_rules import heads_table, vgg16_table
from unitok_jax.weights.source import InMemory
from unitok_jax.weights.transfer import import_tree, upstream_shapes

TOLERANCE = 1e-4  # the case's README


def check(case):
    abstract = jax.eval_shape(lambda: ours.init_lpips(jax.random.key(0)))
    vgg = {"vgg": abstract["vgg"]}
    source = procedural(upstream_shapes(vgg16_table(), vgg))
    case.compare("check.slice1.0.weight.first8", source.read("features.0.weight").ravel()[:8], TOLERANCE)
    case.compare("check.slice5.28.weight.last8", source.read("features.28.weight").ravel()[-8:], TOLERANCE)
    params = case.params(heads_table(), {"lpips": abstract["lpips"]}) | import_tree(vgg16_table(), source, vgg)
    first, second = (jnp.asarray(nhwc(case.input(name))) for name in ("input", "target"))

    def run(params, first, second):
        return vgg16.features(params["vgg"], ours.scaled(first)), ours.lpips(params, first, second)

    taps, distance = jax.jit(run)(params, first, second)
    for i, tap in enumerate(taps):
        case.compare(f"feat_mean_abs.{i}", jnp.abs(tap).mean(), TOLERANCE)
    case.compare("per_sample", distance[:, None, None, None], TOLERANCE)
    case.compare("mean", distance.mean(), TOLERANCE)


def procedural(shapes):
    """The weights of ``recipe`` in the case's config, under torchvision's names."""
    numbers = sorted({int(key.split(".")[1]) for key in shapes})
    tensors = {}
    for i, number in enumerate(numbers):
        weight, bias = f"features.{number}.weight", f"features.{number}.bias"
        fan_in = shapes[weight][1] * 9
        tensors[weight] = (noise(shapes[weight], i) * np.sqrt(6 / fan_in)).astype(np.float32)
        tensors[bias] = (noise(shapes[bias], i + 100) * 0.1).astype(np.float32)
    return InMemory(tensors)


def noise(shape, i):
    """``2 frac(sin(12.9898 k + 78.233 i) 43758.5453) - 1``, frac(x) = x - floor(x)."""
    waves = np.sin(12.9898 * np.arange(np.prod(shape), dtype=np.float64) + 78.233 * i) * 43758.5453
    return (2 * (waves - np.floor(waves)) - 1).reshape(shape)


MUTATIONS = {
    "lpips_full_procedural": (
        Mutation("unscaled", patch=(ours, "scaled", lambda x: x)),
        Mutation("wrong scale", patch=(ours, "SCALE", (0.458, 0.448, 0.225))),
    )
}
