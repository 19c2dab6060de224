"""DualToken's residual quantizers: codes, losses, gradients and the codebooks' movement over several steps."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from harness import Mutation

from unitok_jax.backbones.residual_rules import residual_table
from unitok_jax.quantizers import residual
from unitok_jax.weights.transfer import export_tree

EXACT = {"rtol": 0.0, "atol": 1e-5}  # the README's


def check(case):
    config = case.settings(config_of(case.config))
    abstract = jax.eval_shape(lambda: residual.new_books(config, jax.random.key(0)))
    books = case.params(residual_table(config), abstract)
    steps = len(case.matching(r"s\d+\.x"))
    for step in range(steps):
        books = check_step(case, config, books, f"s{step}.")
    quantized = residual.quantize(config, books, jnp.asarray(case.input("s0.x")))
    case.compare("eval.codes", quantized.codes)
    case.compare("eval.zq", quantized.latents, **EXACT)
    case.compare("eval.commit_loss", quantized.commitment.mean(), **EXACT)
    case.compare("eval.embed_code", residual.embed(config, books, quantized.codes), **EXACT)
    case.compare("eval.embed_code_with_depth", residual.lookup(config, books, quantized.codes), **EXACT)


def config_of(given):
    (height, width, features), (rows, columns, depth) = given["latent_shape"], given["code_shape"]
    return residual.ResidualConfig(
        features=features,
        size=given["n_embed"],
        depth=depth,
        kind=given["quantizer"],
        ema_vectors=given.get("ema_vectors", "per_depth"),
        decay=given["decay"],
        restart=given["restart_unused_codes"],
        shared=given["shared_codebook"],
        merge=(height // rows, width // columns),
        epsilon=given["eps"],
    )


def draws(case, config, prefix):
    """The recorded permutations, cut to one candidate a code, and the noise of these candidates."""
    if not config.restart:
        return None
    order = [case.input(f"{prefix}perm.{i}")[: config.size] for i in range(config.updates)]
    noise = None
    if f"{prefix}noise.0" in case:
        noise = np.stack([case.input(f"{prefix}noise.{i}")[order[i]] for i in range(config.updates)])
    return residual.Restarts(jnp.asarray(np.stack(order)), noise)


def check_step(case, config, books, prefix):
    x, cotangent = (jnp.asarray(case.input(prefix + name)) for name in ("x", "cotangent"))
    restarts = draws(case, config, prefix)

    def objective(x):
        quantized, moved, _ = residual.learn(config, books, x, restarts)
        return (quantized.latents * cotangent).sum() + 3 * quantized.commitment.mean(), (quantized, moved)

    (_, (quantized, moved)), gradient = jax.value_and_grad(objective, has_aux=True)(x)
    case.compare(prefix + "codes", quantized.codes)
    case.compare(prefix + "zq", quantized.latents, **EXACT)
    case.compare(prefix + "commit_loss", quantized.commitment.mean(), **EXACT)
    case.compare(prefix + "grad_x", gradient, **EXACT)
    theirs = export_tree(residual_table(config), moved)
    for name in case.matching(prefix.replace(".", r"\.") + r"after\..*"):
        case.compare(name, theirs.read(name.removeprefix(prefix + "after.")), **EXACT)
    return moved


def _changed(**fields):
    return lambda config: dataclasses.replace(config, **fields)


MUTATIONS = {
    "rq_ema_shared_tile": (
        Mutation("the rule that was meant", config=_changed(ema_vectors="per_depth")),
        Mutation("more noise", patch=(residual, "NOISE", 0.1)),
        Mutation("another decay", config=_changed(decay=0.9)),
        Mutation("eps x 10", config=_changed(epsilon=1e-4)),
    ),
}
