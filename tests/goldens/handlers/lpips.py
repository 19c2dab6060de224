"""LPIPS with a narrow VGG-16: the features, the distance and its gradient."""

import jax
import jax.numpy as jnp
from harness import Mutation, nchw, nhwc, swap

from unitok_jax.backbones import lpips as ours
from unitok_jax.backbones import vgg16
from unitok_jax.backbones.lpips_rules import lpips_table
from unitok_jax.losses import perceptual

TOLERANCE = 1e-5  # the case's README


def check(case):
    assert case.config["eps"] == perceptual.EPSILON
    widths = tuple(case.config["widths"])
    abstract = jax.eval_shape(lambda: ours.init_lpips(jax.random.key(0), widths))
    params = case.params(lpips_table(), abstract)
    first, second = (jnp.asarray(nhwc(case.input(name))) for name in ("input", "target"))

    def run(params, first, second):
        taps = vgg16.features(params["vgg"], ours.scaled(first))
        distance = ours.lpips(params, first, second)
        gradient = jax.grad(lambda x: ours.lpips(params, x, second).mean())(first)
        return taps, distance, gradient

    taps, distance, gradient = jax.jit(run)(params, first, second)
    for i, tap in enumerate(taps):
        case.compare(f"feat_input.{i}", nchw(tap), TOLERANCE)
    case.compare("per_sample", distance[:, None, None, None], TOLERANCE)
    case.compare("mean", distance.mean(), TOLERANCE)
    case.compare("grad_input", nchw(gradient), TOLERANCE)


MUTATIONS = {
    "lpips_narrow": (
        Mutation("unscaled", patch=(ours, "scaled", lambda x: x)),
        Mutation("no epsilon, no root", patch=(perceptual, "normalise", lambda x: x)),
        Mutation("swapped heads", params=swap("lpips/head_1", "lpips/head_2")),
    )
}
