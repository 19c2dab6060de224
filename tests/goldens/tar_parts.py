"""What the handlers of Tar's goldens share: configs out of a case's own, and the tokenizer with its weights."""

import re

import jax
import jax.numpy as jnp
import numpy as np
from harness import nhwc

from unitok_jax.backbones import ar_image
from unitok_jax.backbones.ar_image import ARImageConfig
from unitok_jax.backbones.ar_image_rules import ar_image_table
from unitok_jax.backbones.siglip import SiglipConfig
from unitok_jax.systems.tar.ta_tok import TATok, TATokConfig
from unitok_jax.systems.tar.weights import ta_tok_table
from unitok_jax.training.optimizers import Group, Optimizer, OptimizerSettings
from unitok_jax.training.schedules import build_schedule
from unitok_jax.weights.transfer import export_tree, flat

DEEP = 5e-4  # the READMEs' tolerance of outputs behind a whole network
GRADIENTS = 1e-3
CLEAR = 1e-5  # the margin from which on a code must be the reference's


def ta_tok_config(given):
    """From a case's ``ta_tok_args`` and its two vision configs."""
    args = given["ta_tok_args"]["bottleneck"]["args"]
    codes, decoder = args["regularizer"]["args"], given["decoder_vision_config"]
    side = round(decoder["num_patches"] ** 0.5)
    return TATokConfig(
        encoder=tower(given["encoder_vision_config"]),
        select_layer=given["ta_tok_args"]["select_layer_id"],
        decoder=tower(
            decoder | {"image_size": side},
            channels=args["bottleneck_dim"],
            position_resize="bilinear_antialias",
        ),
        codebook_size=codes["codebook_size"],
        l2_norm=codes["l2_normalized"],
        temperature=codes["stochastic_temperature"],
    )


def tower(vision, **others):
    return SiglipConfig(
        width=vision["hidden_size"],
        ffn=vision["intermediate_size"],
        layers=vision["num_hidden_layers"],
        heads=vision["num_attention_heads"],
        image_size=vision["image_size"],
        patch_size=vision["patch_size"],
        eps=vision["layer_norm_eps"],
        **others,
    )


def load_ta_tok(case, config, prefix="", normalised=False):
    """The tokenizer and its parameters."""
    model = TATok(config)
    side = config.encoder.image_size
    shapes = jax.eval_shape(
        lambda: model.init(jax.random.key(0), jnp.zeros((1, side, side, 3)), method="everything")["params"]
    )
    return model, case.params(ta_tok_table(config, normalised=normalised), shapes, prefix)


def pictures(case, name="image"):
    """A case's pictures in [0, 1], [B, C, H, W], as ours in [-1, 1]."""
    return jnp.asarray(nhwc(case.input(name)) * 2 - 1)


def compare_codes(case, name, ours, margin=None):
    """Codes, where the margin says that the choice is clear."""
    if margin is None:
        return case.compare(name, ours)
    clear = np.abs(case.expected(margin)) > CLEAR
    return case.compare(name, ours, where=clear if not clear.all() else None)


def ar_config(given, norm_eps=1e-5):
    """From a case's arguments of the AR de-tokenizer, the released defaults behind them."""
    heads = given["n_head"]
    return ARImageConfig(
        layers=given["n_layer"],
        heads=heads,
        width=given["dim"],
        kv_heads=given.get("n_kv_head"),
        multiple_of=given.get("multiple_of", 256),
        codes=given["vocab_size"],
        condition=given["cond_dim"],
        condition_tokens=given["cls_token_num"],
        tokens=given["max_seq_len"],
        fixed_positions=given.get("use_fixed_pe", False),
        norm_eps=given.get("norm_eps", norm_eps),
    )


def load_ar(case, config, prefix=""):
    """The AR de-tokenizer's parameters."""
    shapes = jax.eval_shape(lambda: ar_image.init(config, jax.random.key(0)))
    return case.params(ar_image_table(config), shapes, prefix)


def adamw(parameters, gradients, *, lr, betas, eps, decay, clip):
    """One step of the real optimizer on flat or nested parameters, weight decay on all of them."""
    settings = OptimizerSettings(lr=lr, betas=tuple(betas), eps=eps, weight_decay=decay, decay_all=True, clip=clip)
    members = {path: Group(match="") for path in flat(parameters)}
    optimizer = Optimizer("golden", settings, build_schedule(settings.schedule, 1), members)

    @jax.jit  # leaf by leaf it would take minutes to compile
    def step(parameters, gradients):
        updates, _ = optimizer.update(gradients, optimizer.init(parameters), parameters, jnp.int32(0))
        return jax.tree.map(jnp.add, parameters, updates)

    return step(parameters, gradients)


def compare_optimized(case, table, parameters, prefix="adamw/", **tolerance):
    """Every ``adamw/<key>`` with the parameter after the step, and the keys' own names."""
    ours = export_tree(table, parameters)
    for name in case.matching(re.escape(prefix) + ".*"):
        case.compare(name, ours.read(name.removeprefix(prefix)), **tolerance)


def global_norm(gradients):
    """The 2-norm of all gradients together."""
    return np.sqrt(sum(np.square(np.asarray(g, np.float64)).sum() for g in jax.tree.leaves(gradients)))
