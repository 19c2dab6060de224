"""DualToken's discriminator: every layer, its losses, their gradients, and one step of Adam."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
from harness import Mutation, drop, nchw, nhwc

from unitok_jax.backbones import discriminators
from unitok_jax.backbones.discriminators import DiscriminatorSettings, init_discriminator, judge
from unitok_jax.backbones.discriminators_rules import discriminator_table
from unitok_jax.layers import conv
from unitok_jax.losses import adversarial
from unitok_jax.weights.transfer import export_tree

TOLERANCE = 2e-5  # the case's README
SUMS = 1e-3  # norms of gradients, as elsewhere


def check(case):
    c = case.config
    settings = case.settings(DiscriminatorSettings("resnet", c["ndf"], c["n_layers"]))
    key = jax.random.key(0)
    abstract, _ = jax.eval_shape(lambda: init_discriminator(settings, key, c["input_nc"]))
    table = discriminator_table(settings)
    params = case.params(table, abstract)
    real, fake = (jnp.asarray(nhwc(case.input(name))) for name in ("real", "fake"))
    seen = jax.jit(functools.partial(_run, settings))(params, real, fake)
    for name in ("logits_real", "logits_fake"):
        case.compare(name, nchw(seen[name]), TOLERANCE)
    for name in ("g_loss", "hinge_leaky_d_loss", "vanilla_d_loss"):
        case.compare(name, seen[name], TOLERANCE)
    case.compare("g_loss_grad_fake", nchw(seen["g_loss_grad_fake"]), TOLERANCE)
    _compare_layers(case, seen["layers"], c["n_layers"])
    grads = export_tree(table, seen["grads"])
    norms = [np.linalg.norm(np.asarray(grads.read(name), np.float64)) for name in c["names"]]
    case.compare("d_loss_grad_norms", np.asarray(norms, np.float32), SUMS)
    adam = optax.adam(7.2e-5, 0.5, 0.9)
    updates, _ = adam.update(seen["grads"], adam.init(params))
    moved = export_tree(table, optax.apply_updates(params, updates))
    for name in case.matching(r"adam_step1\..*"):
        case.compare(name, moved.read(name.removeprefix("adam_step1.")), TOLERANCE)


def _run(settings, params, real, fake):
    def logits(params, x):
        return judge(settings, params, {}, x)[0]

    def loss(params):
        return adversarial.DISCRIMINATOR_LOSSES["leaky_hinge"](logits(params, real), logits(params, fake)).mean()

    def generator(fake):
        return adversarial.hinge_g(logits(params, fake)).mean()

    network = discriminators.ResnetDiscriminator(settings)
    _, layers = network.apply({"params": params}, fake, train=True, capture_intermediates=True)
    judged = {"logits_real": logits(params, real), "logits_fake": logits(params, fake)}
    value, grads = jax.value_and_grad(loss)(params)
    g_loss, g_grad = jax.value_and_grad(generator)(fake)
    return judged | {
        "layers": layers["intermediates"],
        "hinge_leaky_d_loss": value,
        "vanilla_d_loss": adversarial.vanilla_d(judged["logits_real"], judged["logits_fake"]).mean(),
        "grads": grads,
        "g_loss": g_loss,
        "g_loss_grad_fake": g_grad,
    }


def _compare_layers(case, layers, count):
    first = layers["conv_in"]["__call__"][0]
    case.compare("fake.act.0", nchw(first), TOLERANCE)
    case.compare("fake.act.1", nchw(jax.nn.leaky_relu(first, 0.2)), TOLERANCE)
    for number in range(1, count + 1):
        case.compare(f"fake.act.{number + 1}", nchw(layers[f"block_{number}"]["__call__"][0]), TOLERANCE)
    case.compare(f"fake.act.{count + 2}", nchw(layers["conv_out"]["__call__"][0]), TOLERANCE)


MUTATIONS = {
    "discriminator": (
        Mutation("slope", patch=(discriminators, "_leaky", lambda x, slope: jax.nn.leaky_relu(x, 0.1))),
        Mutation("no shortcut bias", params=drop("block_1/shortcut/bias")),
        Mutation("eps x 1000", patch=(discriminators, "GroupNorm", functools.partial(conv.GroupNorm, epsilon=1e-3))),
    )
}
