"""What the handlers of UniWeTok's goldens share: the tokenizer of a case."""

import jax
import jax.numpy as jnp

from unitok_jax.backbones.binary_vae import BinaryVAE, BinaryVAEConfig
from unitok_jax.backbones.binary_vae_rules import binary_vae_table

TOKENIZER = {"rtol": 1e-4, "atol": 2e-4}  # the READMEs' tolerance of activations


def tokenizer_config(ddconfig, generative=False, groups=None):
    """The tokenizer of a case, from the release's own terms."""
    hybrid = "attn_blocks" in ddconfig
    return BinaryVAEConfig(
        kind="hybrid" if hybrid else "conv",
        channels=ddconfig["ch"],
        multipliers=tuple(ddconfig["ch_mult"]),
        res_blocks=ddconfig["num_res_blocks"],
        z_channels=ddconfig["z_channels"],
        bit_groups=groups or max(1, ddconfig["z_channels"] // 8),
        attn_blocks=ddconfig.get("attn_blocks", 0),
        heads=ddconfig.get("n_heads", 16),
        generative=hybrid or generative,
    )


def load_tokenizer(case, config, prefix=""):
    """(module, parameters, ``method(name)`` compiled as a whole)."""
    vae = BinaryVAE(config)
    side = 2 * config.factor
    noise = jnp.zeros((1, 2, 2, config.z_channels)) if config.generative else None
    abstract = jax.eval_shape(vae.init, jax.random.key(0), jnp.zeros((1, side, side, 3)), noise)["params"]
    params = case.params(binary_vae_table(config), abstract, prefix)

    def method(name, **fixed):
        return jax.jit(lambda *args: vae.apply({"params": params}, *args, method=name, **fixed))

    return vae, params, method


def zeroed(path):
    """For `Mutation.params` of cases that load several trees: zeros in the leaf at `path` of the tree that has it."""
    return lambda leaves: {name: 0 * leaf if name == path else leaf for name, leaf in leaves.items()}


def first_layer(intermediates):
    """(attention, block) outputs of a stack's first layer, from what flax captured of it."""
    span = next(value for name, value in intermediates.items() if name.startswith("span_"))
    (attention, _), ((block, _), _) = span["attention"]["__call__"][0], span["__call__"][0]
    return attention[0], block[0]
