"""WeTok's objective for generator and discriminator, two steps: LPIPS, non-saturating GAN, LeCam, running statistics.

The losses are the stage's own (`stage_tokenizer.picture_loss`, `coding_loss`, `adversary.discriminator_loss`); the
case's toy last layer stands for the decoder's. The networks are told from the names of the weights: ``main`` is the
PatchGAN, ``block_in`` MaskBit's with a blur (which has a ``kernel``) or average pooling.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import optax
from harness import Below, Mutation, nchw, nhwc

from unitok_jax.backbones import discriminators
from unitok_jax.backbones.discriminators import DiscriminatorSettings, init_discriminator, judge
from unitok_jax.backbones.discriminators_rules import discriminator_table, statistics_table
from unitok_jax.backbones.lpips import init_lpips, lpips
from unitok_jax.backbones.lpips_rules import lpips_table
from unitok_jax.layers import batch_norm
from unitok_jax.losses import adversarial as gan
from unitok_jax.losses import perceptual
from unitok_jax.systems import adversary
from unitok_jax.systems.adversary import AdversarySettings, LastLayer
from unitok_jax.systems.uniwetok import stage_tokenizer as stage
from unitok_jax.systems.uniwetok.tokenizer_options import TokenizerOptions
from unitok_jax.weights.rules import Rule, Table
from unitok_jax.weights.transfer import export_tree, import_tree
from unitok_jax.weights.transforms import CONV

RTOL, ATOL = 2e-4, 1e-5  # the cases' READMEs
LAST = Table((Rule("weight", "kernel", CONV), Rule("bias", "bias")))
LOSSES = {"hinge": "hinge", "vanilla": "vanilla", "non_saturate": "nonsaturating"}


def check(case):
    settings = case.settings(_settings(case))
    params, statistics = _load(case, settings)
    image, pre = (jnp.asarray(nhwc(case.input(name))) for name in ("image", "pre"))
    losses = {name: jnp.asarray(case.input(f"in_{name}")) for name in ("entropy_aux", "commitment")}
    step = jax.jit(functools.partial(_step, _options(case.config, settings)))
    judged = {"statistics": statistics, "lecam": gan.lecam_start()}
    for number in range(len(case.matching(r"s\d+\.recon"))):
        seen, judged = step(params, {"step": jnp.int32(number), "adversary": judged}, image, pre, losses)
        _compare_step(case, f"s{number}.", seen, judged, settings)
    # The reference's decoder-only loss is of the first step's picture; its pass moves the running statistics once more.
    seen, _ = step(params, {"step": jnp.int32(0), "adversary": judged}, image, pre, losses)
    case.compare("stage2_gen_total", seen["decoder_only"], RTOL, ATOL)
    logits, _ = judge(settings, params["discriminator"], seen["generator_statistics"], image, train=False)
    case.compare("eval_disc_logits", nchw(logits), RTOL, ATOL)


def _settings(case):
    c, keys = case.config, set(case.weights().keys())
    if "discriminator.main.0.weight" in keys:
        return DiscriminatorSettings("patch", c["disc_ndf"], c["disc_num_layers"])
    kernel = "discriminator.blocks.0.1.kernel"
    taps = case.weights().shape(kernel)[-1] if kernel in keys else 4
    kind = "blur" if kernel in keys else "pool"
    return DiscriminatorSettings(kind, c["disc_hidden_channels"], c["disc_num_stages"], blur=taps)


def _options(config, settings):
    fixed = config["gen_loss_weight"]
    judging = AdversarySettings(
        discriminator=settings,
        loss=LOSSES[config["disc_loss"]],
        generator_loss="nonsaturating",
        weight=config["disc_weight"] if fixed is None else fixed,
        adaptive=fixed is None,
        lecam=config["lecam_loss_weight"] or 0.0,
    )
    return TokenizerOptions(
        entropy=config["codebook_weight"],
        commitment=config["commit_weight"],
        enlarge=float(config["codebook_enlarge_ratio"]),
        enlarge_steps=config["codebook_enlarge_steps"],
        adversary=judging,
    )


def _load(case, settings):
    key = jax.random.key(0)
    abstract, statistics = jax.eval_shape(lambda: init_discriminator(settings, key))
    if statistics:
        statistics = import_tree(statistics_table(settings), Below(case.weights(), "discriminator."), statistics)
    shape = jax.ShapeDtypeStruct
    last = {"kernel": shape((3, 3, 3, 3), jnp.float32), "bias": shape((3,), jnp.float32)}
    widths = tuple(case.config["lpips_channels"])
    fixed = jax.eval_shape(lambda: init_lpips(key, widths))
    params = {
        "discriminator": case.params(discriminator_table(settings), abstract, "discriminator."),
        "last": case.params(LAST, last, "last_layer."),
        **case.params(lpips_table(), fixed, "perceptual_loss."),
    }
    return params, jax.tree.map(jnp.asarray, statistics)


def _step(options, params, state, image, pre, losses):
    count = jnp.float32(len(image))
    kept, step = jnp.ones(len(image)), state["step"]

    def write(kernel):
        layout = ("NHWC", "HWIO", "NHWC")
        out = jax.lax.conv_general_dilated(pre, kernel, (1, 1), "SAME", dimension_numbers=layout)
        return (out + params["last"]["bias"]) * (1 + 0.1 * step)

    def generator(recon):
        last = LastLayer(write, params["last"]["kernel"])
        loss, sums, logged, after = stage.picture_loss(options, params, state, image, recon, last, kept, count)
        coding = {
            "token_entropy": losses["entropy_aux"],
            "codebook_entropy": 0.0,
            "commitment": losses["commitment"],
        }
        return loss + stage.coding_loss(options, coding, step), (loss, sums, logged, after["adversary"])

    def discriminator(options, judged, params):
        return adversary.discriminator_loss(options, params, judged, image, recon, step, kept, count)

    recon = write(params["last"]["kernel"])
    made = jax.value_and_grad(generator, has_aux=True)(recon)
    (total, (decoder_only, sums, logged, judged)), pull = made
    statistics, network = judged["statistics"], params["discriminator"]

    def judging(network):
        loss, logged, after = discriminator(options.adversary, judged, network)
        return loss, (logged, after)

    (loss, (logits, judged)), grads = jax.value_and_grad(judging, has_aux=True)(network)
    bare, *_ = discriminator(
        dataclasses.replace(options.adversary, lecam=0.0), {**judged, "statistics": statistics}, network
    )
    weight, adversarial = logged["adversary/weight"].compute(), logged["loss/adversarial"].compute()
    seen = {
        "recon": recon,
        "lpips": lpips(params, recon, image),
        "gen_total": total,
        "gen_nll_loss": (options.l1 * sums["l1"] + options.perceptual * sums["perceptual"]) / count,
        "gen_reconstruct_loss": sums["l1"] / count,
        "gen_perceptual_loss": sums["perceptual"] / count,
        "gen_d_weight": weight,
        "gen_g_loss": weight * adversarial,
        "gen_grad_recon": pull,
        "decoder_only": decoder_only,
        "generator_statistics": statistics,
        "disc_total": loss,
        "disc_gradnorm": optax.tree.norm(grads),
        "disc_logits_real": logits["logits/real"].compute(),
        "disc_logits_fake": logits["logits/fake"].compute(),
        "disc_non_saturated_d_loss": bare,
        "disc_lecam_loss": (loss - bare) / (options.adversary.lecam or 1.0),
    }
    return seen, judged


def _compare_step(case, prefix, seen, judged, settings):
    maps = {name: nchw(seen.pop(name)) for name in ("recon", "gen_grad_recon")}
    maps["lpips"] = seen.pop("lpips")[:, None, None, None]
    values = {name: value for name, value in seen.items() if name not in ("decoder_only", "generator_statistics")}
    for name, value in {**values, **maps}.items():
        case.compare(prefix + name, value, RTOL, ATOL)
    for side in ("real", "fake"):
        if prefix + f"lecam_ema_{side}" in case:
            case.compare(prefix + f"lecam_ema_{side}", judged["lecam"][side], RTOL, ATOL)
    running = export_tree(statistics_table(settings), judged["statistics"])
    for name in case.matching(rf"{prefix}after\..*"):
        case.compare(name, running.read(name.removeprefix(prefix + "after.")), RTOL, ATOL)


MUTATIONS = {
    "gan_losses_adaptive": (
        Mutation("no clip, no weight", patch=(gan, "adaptive_weight", lambda *_: jnp.float32(1))),
        Mutation("momentum", patch=(batch_norm.BatchNorm, "_moved", lambda self, old, new: 0.95 * old + 0.05 * new)),
        Mutation("unnormalised features", patch=(perceptual, "normalise", lambda x: x)),
        Mutation("no balance", patch=(adversary, "_balance", lambda *_: jnp.ones(()))),
    ),
    "gan_losses_patchgan": (
        Mutation("LeCam's sides swapped", patch=(gan, "lecam_start", lambda: {"real": 1.0, "fake": 0.0})),
        Mutation("slope", patch=(discriminators, "_leaky", lambda x, slope: jax.nn.leaky_relu(x, 0.1))),
        Mutation("entropy without its weight", patch=(stage, "coding_loss", lambda o, sums, _: sums["token_entropy"])),
    ),
}
