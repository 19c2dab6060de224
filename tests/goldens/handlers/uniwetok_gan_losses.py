"""WeTok's objective for generator and discriminator, two steps: LPIPS, non-saturating GAN, LeCam, running statistics.

The networks are told from the names of the weights: ``main`` is the PatchGAN, ``block_in`` MaskBit's with a blur
(which has a ``kernel``) or average pooling.
"""

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
from unitok_jax.weights.rules import Rule, Table
from unitok_jax.weights.transfer import export_tree, import_tree
from unitok_jax.weights.transforms import CONV

RTOL, ATOL = 2e-4, 1e-5  # the cases' READMEs
LAST = Table((Rule("weight", "kernel", CONV), Rule("bias", "bias")))
LOSSES = {"hinge": gan.hinge_d, "vanilla": gan.vanilla_d, "non_saturate": gan.nonsaturating_d}


def check(case):
    settings = case.settings(_settings(case))
    params, statistics = _load(case, settings)
    image, pre = (jnp.asarray(nhwc(case.input(name))) for name in ("image", "pre"))
    losses = {name: jnp.asarray(case.input(f"in_{name}")) for name in ("entropy_aux", "commitment")}
    step = jax.jit(functools.partial(_step, case.config, settings))
    averages = gan.lecam_start()
    for number in range(len(case.matching(r"s\d+\.recon"))):
        seen, statistics, averages = step(params, statistics, averages, jnp.int32(number), image, pre, losses)
        _compare_step(case, f"s{number}.", seen, statistics, averages, settings)
    # The reference's decoder-only loss is of the first step's picture; its pass moves the running statistics once more.
    seen, *_ = step(params, statistics, averages, jnp.int32(0), image, pre, losses)
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


def _step(config, settings, params, statistics, averages, number, image, pre, losses):
    def write(kernel):
        layout = ("NHWC", "HWIO", "NHWC")
        out = jax.lax.conv_general_dilated(pre, kernel, (1, 1), "SAME", dimension_numbers=layout)
        return (out + params["last"]["bias"]) * (1 + 0.1 * number)

    def reconstruction(recon):
        pixels, distance = jnp.abs(image - recon).mean(), lpips(params, recon, image)
        return pixels + distance.mean(), (pixels, distance)

    def adversarial(recon):
        logits, after = judge(settings, params["discriminator"], statistics, recon)
        return gan.nonsaturating_g(logits).mean(), after

    def generator(recon):
        nll, parts, nll_pull = gan.with_cotangent(reconstruction, recon)
        g, after, g_pull = gan.with_cotangent(adversarial, recon)
        weight = config["gen_loss_weight"]
        if weight is None:
            norms = (gan.weight_norm(write, params["last"]["kernel"], pull) for pull in (nll_pull, g_pull))
            weight = gan.adaptive_weight(*norms) * config["disc_weight"]
        value = gan.attach(nll + weight * g, recon, nll_pull + weight * g_pull)
        enlarged = gan.enlarged(number, config["codebook_enlarge_ratio"], config["codebook_enlarge_steps"])
        codes = enlarged * config["codebook_weight"] * losses["entropy_aux"]
        total = value + codes + config["commit_weight"] * losses["commitment"]
        return total, (value, nll, parts, weight, weight * g, after)

    recon = write(params["last"]["kernel"])
    (total, (decoder_only, nll, parts, weight, g, statistics)), pull = jax.value_and_grad(generator, has_aux=True)(
        recon
    )
    (loss, judged), grads = jax.value_and_grad(functools.partial(_judge, config, settings), has_aux=True)(
        params["discriminator"], statistics, averages, image, recon
    )
    seen = {
        "recon": recon,
        "lpips": parts[1],
        "gen_total": total,
        "gen_nll_loss": nll,
        "gen_reconstruct_loss": parts[0],
        "gen_perceptual_loss": parts[1].mean(),
        "gen_d_weight": jnp.asarray(weight),
        "gen_g_loss": g,
        "gen_grad_recon": pull,
        "decoder_only": decoder_only,
        "generator_statistics": statistics,
        "disc_total": loss,
        "disc_gradnorm": optax.tree.norm(grads),
        **judged["seen"],
    }
    return seen, judged["statistics"], judged["averages"]


def _judge(config, settings, params, statistics, averages, image, recon):
    real, statistics = judge(settings, params, statistics, image)
    fake, statistics = judge(settings, params, statistics, recon)
    averages = gan.lecam_update(averages, real, fake)
    loss, lecam = LOSSES[config["disc_loss"]](real, fake).mean(), gan.lecam(averages, real, fake).mean()
    seen = {"disc_logits_real": real.mean(), "disc_logits_fake": fake.mean()}
    seen |= {"disc_lecam_loss": lecam, "disc_non_saturated_d_loss": loss}
    total = loss + (config["lecam_loss_weight"] or 0) * lecam
    return total, {"seen": seen, "statistics": statistics, "averages": averages}


def _compare_step(case, prefix, seen, statistics, averages, settings):
    maps = {name: nchw(seen.pop(name)) for name in ("recon", "gen_grad_recon")}
    maps["lpips"] = seen.pop("lpips")[:, None, None, None]
    values = {name: value for name, value in seen.items() if name not in ("decoder_only", "generator_statistics")}
    for name, value in {**values, **maps}.items():
        case.compare(prefix + name, value, RTOL, ATOL)
    for side in ("real", "fake"):
        if prefix + f"lecam_ema_{side}" in case:
            case.compare(prefix + f"lecam_ema_{side}", averages[side], RTOL, ATOL)
    running = export_tree(statistics_table(settings), statistics)
    for name in case.matching(rf"{prefix}after\..*"):
        case.compare(name, running.read(name.removeprefix(prefix + "after.")), RTOL, ATOL)


MUTATIONS = {
    "gan_losses_adaptive": (
        Mutation("no clip, no weight", patch=(gan, "adaptive_weight", lambda a, b: jnp.float32(1))),
        Mutation("momentum", patch=(batch_norm.BatchNorm, "_moved", lambda self, old, new: 0.95 * old + 0.05 * new)),
        Mutation("unnormalised features", patch=(perceptual, "normalise", lambda x: x)),
    ),
    "gan_losses_patchgan": (
        Mutation("LeCam's sides swapped", patch=(gan, "lecam_start", lambda: {"real": 1.0, "fake": 0.0})),
        Mutation("slope", patch=(discriminators, "_leaky", lambda x, slope: jax.nn.leaky_relu(x, 0.1))),
    ),
}
