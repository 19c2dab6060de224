"""WeTok's group-wise binary quantizer and its losses."""

import re

import jax
import jax.numpy as jnp
from harness import Mutation, nchw, nhwc

from unitok_jax.quantizers import binary

LOSS = {"rtol": 2e-4, "atol": 1e-6}
GRADIENT = {"rtol": 1e-4 + 2e-3}  # the README's two tolerances, both as shares of the largest value


def check(case):
    given = case.config
    groups, temperature = given["groups"], given["temperature"]
    raw = jnp.asarray(nhwc(case.input("pre_sigmoid")))
    case.compare("x", nchw(2 * jax.nn.sigmoid(raw) - 1))
    x = jnp.asarray(nhwc(case.expected("x")))
    codes = binary.signs(x)
    indices = binary.to_indices(codes, groups)
    case.compare("quantized", nchw(codes))
    case.compare("eval_quantized", nchw(binary.from_indices(indices, x.shape[-1])))
    case.compare("indices", indices)
    case.compare("indices_lfq_flat", indices.reshape(-1))
    case.compare("codebook", binary.table(given["group_channels"]))
    case.skip("eval_entropy_aux", "the losses are functions of their own, which an evaluation does not call")
    _check_losses(case, x, groups, temperature)
    _check_straight_through(case, x)


def _check_losses(case, x, groups, temperature):
    def token(x):
        return binary.token_entropy(x, groups, temperature).mean()

    def book(x):
        return binary.codebook_entropy(x.reshape(len(x), -1, x.shape[-1]), groups, temperature)

    def aux(x, sample=1.0, batch=1.0):
        return sample * token(x) - batch * book(x)

    def commitment(x):
        return binary.commitment_loss(x).mean()

    case.compare("token_entropy", token(x), **LOSS)
    case.compare("token_entropy_closed_form_fp64", token(x), **LOSS)
    case.compare("paper_token_entropy_eq3", binary.token_entropy(x, groups, temperature, True).mean(), **LOSS)
    case.compare("codebook_entropy", book(x), **LOSS)
    case.compare("entropy_aux", aux(x), **LOSS)
    for name in case.matching(r"entropy_aux_w.*"):
        sample, batch = map(float, re.findall(r"[\d.]+", name))
        case.compare(name, aux(x, sample, batch), **LOSS)
    case.compare("commitment", commitment(x), **LOSS)
    case.compare("grad_entropy_aux_wrt_x", nchw(jax.grad(aux)(x)), **GRADIENT)
    case.compare("grad_commitment_wrt_x", nchw(jax.grad(commitment)(x)), **GRADIENT)


def _check_straight_through(case, x):
    probe = jnp.asarray(nhwc(case.input("ste_probe")))
    gradient = jax.grad(lambda x: jnp.sum(binary.straight_through(x) * probe))(x)
    case.compare("grad_ste_wrt_x", nchw(gradient))


_to_indices = binary.to_indices  # as it is, also while a mutation stands in its place


def _big_endian(codes, groups):
    return _to_indices(codes[..., ::-1], groups)[..., ::-1]


MUTATIONS = {
    "gq_losses_small": (
        Mutation("highest bit first", patch=(binary, "to_indices", _big_endian)),
        Mutation("zero within the histogram's logarithm", patch=(binary, "EPSILON", 1e-2)),
        Mutation("hard gradients", patch=(binary, "straight_through", binary.signs)),
    )
}
