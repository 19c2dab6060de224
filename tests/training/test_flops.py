"""FLOPs counted from what was traced, against counts by hand."""

import dataclasses

import jax
import jax.numpy as jnp
import training_toy as toy
from jax import lax

from unitok_jax.training.config import read_config
from unitok_jax.training.flops import count_flops, step_flops, without_remat


def flops(function, *shapes):
    return count_flops(jax.make_jaxpr(function)(*(jax.ShapeDtypeStruct(s, "float32") for s in shapes)).jaxpr)


def test_products():
    assert flops(jnp.matmul, (3, 4), (4, 5)) == 2 * 3 * 4 * 5
    assert flops(lambda a, b: jnp.einsum("bij,bjk->bik", a, b), (7, 3, 4), (7, 4, 5)) == 7 * 2 * 3 * 4 * 5
    assert flops(lambda x: jnp.tanh(x) + 1, (100,)) == 0


def test_loops_branches_and_calls():
    def layers(w, x):
        return lax.scan(lambda h, w: (jax.jit(jnp.matmul)(h, w), None), x, w)[0]

    assert flops(layers, (6, 8, 8), (2, 8)) == 6 * 2 * 2 * 8 * 8
    branch = lambda p, x, w: lax.cond(p[0] > 0, lambda: x @ w, lambda: x)  # noqa: E731
    assert flops(branch, (1,), (2, 8), (8, 8)) == 2 * 2 * 8 * 8


def test_a_gradient_costs_twice_its_forward_and_rematerialising_once_more():
    def loss(w, x):
        return jnp.sum(jnp.sin(jnp.sin(x @ w[0]) @ w[1]))

    once = 2 * 2 * 4 * 8 * 8
    assert flops(jax.grad(loss), (2, 8, 8), (4, 8)) == 3 * once - once // 2, "no gradient of the input"
    assert flops(jax.grad(jax.checkpoint(loss)), (2, 8, 8), (4, 8)) > 3 * once


def test_convolutions():
    def conv(x, kernel, **options):
        return lax.conv_general_dilated(
            x, kernel, dimension_numbers=("NHWC", "HWIO", "NHWC"), padding="SAME", **options
        )

    shapes = (2, 8, 8, 3), (3, 3, 3, 5)
    assert flops(lambda x, k: conv(x, k, window_strides=(1, 1)), *shapes) == 2 * (2 * 8 * 8 * 5) * 27
    assert flops(lambda x, k: conv(x, k, window_strides=(2, 2)), *shapes) == 2 * (2 * 4 * 4 * 5) * 27
    grouped = (2, 8, 8, 4), (3, 3, 2, 6)
    got = flops(lambda x, k: conv(x, k, window_strides=(1, 1), feature_group_count=2), *grouped)
    assert got == 2 * (2 * 8 * 8 * 6) * 18


def test_a_whole_step():
    """The toy's two products of [8, 4] x [4, 8] and [8, 8] x [8, 2], its dot with 4 weights, and their gradients."""
    config = read_config(toy.config())[0]
    forward = 2 * 8 * 4 * 8 + 2 * 8 * 8 * 2
    labels = 2 * 8 * 4
    assert step_flops(config) == forward + labels + 2 * 8 * 8 * 2
    assert step_flops(dataclasses.replace(config, accumulate=2)) == step_flops(config), "halves of half the rows"


def test_remat_is_switched_off_everywhere():
    assert without_remat({"lm": {"remat": True, "width": 8}, "remat": True, "list": (1,)}) == {
        "lm": {"remat": False, "width": 8},
        "remat": False,
        "list": (1,),
    }
