"""The class-conditional generators: forward, loss, gradients, optimizer steps and guided sampling."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
from harness import nchw, nhwc
from uniwetok_models import first_layer, load_tokenizer, tokenizer_config

from unitok_jax.backbones.bitdance import BitDance, BitDanceConfig, by_step, init_bitdance, to_codes, to_tokens
from unitok_jax.backbones.bitdance_rules import bitdance_table
from unitok_jax.backbones.bitdance_sampling import Plan, generate
from unitok_jax.backbones.flow_head import FlowHead, FlowHeadConfig, training_loss
from unitok_jax.layers.masks import allowed, self_mask
from unitok_jax.quantizers import binary
from unitok_jax.systems.uniwetok.images import random_crop_share
from unitok_jax.systems.uniwetok.stage_c2i import NO_DECAY_GROUPS, drop_labels
from unitok_jax.training.optimizers import Group, Optimizer, OptimizerSettings, moving_average
from unitok_jax.training.schedules import ScheduleSettings, build_schedule
from unitok_jax.weights.rules import Table
from unitok_jax.weights.transfer import export_tree, flat

TOLERANCE = {"rtol": 2e-4, "atol": 2e-4}
UPDATED = {"rtol": 0, "atol": 2e-6}
PEAK, FLOOR, WARMUP, STEPS = 6e-4, 1e-5, 4, 10  # the README's schedule
DROP = 0.1


def check(case):
    config = case.settings(generator_config(case.config))
    _, _, method = load_tokenizer(case, vae_config(case.config), "vae.")
    abstract = jax.eval_shape(lambda key: init_bitdance(config, key), jax.random.key(0))
    params = case.params(bitdance_table(config) + Table((), {r"vae\..*": "read apart"}), abstract)
    tokens = check_tokens(case, config, method)
    labels = jnp.asarray(case.input("class_id"), jnp.int32)
    check_forward(case, config, params, tokens, labels)
    check_training(case, config, params, tokens, labels)
    check_steps(case, config, params, tokens, labels)
    check_schedules(case)
    for name, steps, scale, schedule in case.config["sampling"]:
        check_sampling(case, config, params, labels, name, Plan(steps, scale, schedule), method)


def generator_config(given):
    parallel = given.get("parallel_num", 1)
    side = given["resolution"] // given["down_size"] // given["patch_size"]
    return BitDanceConfig(
        width=given["dim"],
        layers=given["n_layer"],
        heads=given["n_head"],
        channels=given["latent_dim"] * given["patch_size"] ** 2,
        patch=given["patch_size"],
        grid=(side, side),
        classes=given["num_classes"],
        class_tokens=given["cls_token_num"],
        parallel_num=parallel,
        order="patch" if given.get("parallel_mode") == "patch" else "raster",
        head=FlowHeadConfig(
            kind="mlp" if parallel == 1 else "transformer",
            width=given["diff_dim"],
            depth=given["diff_layers"],
            modulations=given["diff_adanln_layers"],
            time_schedule=given["time_schedule"],
            time_mean=given["P_mean"],
            time_deviation=given["P_std"],
            time_shift=given["time_shift"],
            repeat=given["diff_batch_mul"],
        ),
    )


def vae_config(given):
    return tokenizer_config(given["vae_ddconfig"], given.get("gan_decoder", False), given["vae_num_codebooks"])


def check_tokens(case, config, method):
    """Pictures to tokens in the order of prediction."""
    features, _ = method("encode")(jnp.asarray(nhwc(case.input("image"))))
    codes = binary.signs(features)
    case.compare("vae.features", nchw(features), **TOLERANCE)
    case.compare("vae.codes", nchw(codes))
    tokens = to_tokens(config, codes)
    case.compare("token_seq", tokens)
    return tokens


def loss_of(case, config, params, tokens, labels, prefix, read=None):
    """(loss, everything inside) with the draws stored under `prefix`; the model reads `read`, if given."""
    draws, noise = (jnp.asarray(case.input(f"{prefix}.noise_{name}")) for name in ("t_normal", "e"))

    def loss(params):
        capture = {"capture_intermediates": True, "mutable": ["intermediates"]}
        (conditions, aux), inside = BitDance(config).apply(
            {"params": params}, tokens if read is None else read, labels, **capture
        )
        head = FlowHead(config.head, config.channels)
        rows = by_step(config, conditions)
        entries, head_aux = training_loss(head, params["head"], by_step(config, tokens), rows, draws, noise)
        return entries.mean(), (aux, head_aux, inside["intermediates"])

    return jax.jit(jax.value_and_grad(loss, has_aux=True))(params)


def check_forward(case, config, params, tokens, labels):
    (loss, (aux, head, inside)), gradients = loss_of(case, config, params, tokens, labels, "eval")
    length = case.expected("freqs_cis").shape[0]
    angles = config.angles(config.grid)[:length]
    case.compare("freqs_cis", jnp.stack([jnp.cos(angles), jnp.sin(angles)], -1), **TOLERANCE)
    if "attn_mask_allowed" in case:
        seen = allowed(self_mask(blocks=config.mask_blocks(length)), length, length)[0]
        case.compare("attn_mask_allowed", seen.astype(np.uint8))
    attention, block = first_layer(inside["layers"])
    found = {
        "loss": loss,
        "emb": aux["embedded"],
        "layer0_attention": attention,
        "layer0": block,
        "final_norm": aux["hidden"],
        "head_z": head["z"],
        "head_t": head["t"],
        "head_cond": head["condition"],
        "head_xpred": head["predicted"],
    }
    for name, ours in found.items():
        case.compare(f"eval.{name}", ours, **TOLERANCE)
    case.compare_gradients(bitdance_table(config), gradients, "eval.gradnorm.", "eval.grad.")


def noisy(case, config, tokens, labels, prefix):
    """What training reads: tokens with flipped bits, labels dropped at times."""
    chance, share, dropped = (
        jnp.asarray(case.input(f"{prefix}.{name}")) for name in ("perturb_r1", "perturb_r2", "label_drop_u")
    )
    read = binary.flip(tokens, chance, share, case.config["perturb_rate"])
    return read, drop_labels(labels, dropped, config.classes, DROP)


def check_training(case, config, params, tokens, labels):
    read, kept = noisy(case, config, tokens, labels, "train")
    (loss, (aux, _, _)), _ = loss_of(case, config, params, tokens, kept, "train", read)
    case.compare("train.loss", loss, rtol=1e-4)
    case.compare("train.emb", aux["embedded"], **TOLERANCE)


def check_steps(case, config, params, tokens, labels):
    """Two steps of the recipe's optimizer and its moving average."""
    groups = tuple(Group(match=group["match"], weight_decay=group["weight_decay"]) for group in NO_DECAY_GROUPS)
    schedule = ScheduleSettings("cosine", warmup=WARMUP, floor=FLOOR / PEAK)
    settings = OptimizerSettings(PEAK, (0.9, 0.95), 1e-8, 0.05, clip=1.0, schedule=schedule, groups=groups)
    leaves = {f"generator/{path}": leaf for path, leaf in flat(params).items()}
    members = {path: _group(path, groups) for path in leaves}
    optimizer = Optimizer("c2i", settings, build_schedule(schedule, STEPS), members)
    sizes = {True: 0, False: 0}
    for path, leaf in leaves.items():
        sizes[optimizer.decay(path) > 0] += leaf.size
    case.compare("opt.n_decay", np.int64(sizes[True]))
    case.compare("opt.n_nodecay", np.int64(sizes[False]))
    state, average = optimizer.init({"generator": params}), params
    for number, step in enumerate((2, 3)):
        prefix = f"opt.s{number}"
        read, kept = noisy(case, config, tokens, labels, prefix)
        (loss, _), gradients = loss_of(case, config, params, tokens, kept, prefix, read)
        case.compare(f"{prefix}.loss", loss, rtol=1e-4)
        case.compare(f"{prefix}.gradnorm", optax.tree.norm(gradients), **TOLERANCE)
        case.compare(f"{prefix}.lr", PEAK * optimizer.schedule(step), rtol=1e-5)
        updates, state = optimizer.update({"generator": gradients}, state, {"generator": params}, jnp.int32(step))
        params = optax.apply_updates(params, updates["generator"])
        average = moving_average(average, params, 0.99)
    for kind, tree in {"after": params, "ema": average}.items():
        ours = export_tree(bitdance_table(config), tree)
        for name in case.matching(rf"opt\.{kind}\..*"):
            key = name.removeprefix(f"opt.{kind}.")
            if kind == "after" and np.array_equal(case.expected(name), case.weights().read(key)):
                case.skip(re.escape(name), "the case stores it as it was before the steps; its moving average tells")
            else:
                case.compare(name, ours.read(key), **UPDATED)


def _group(path, groups):
    return next((group for group in groups if re.search(group.match, path)), Group(match=""))


def check_schedules(case):
    rates = build_schedule(ScheduleSettings("cosine", warmup=WARMUP, floor=FLOOR / PEAK), STEPS)
    case.compare("lr_schedule", PEAK * jax.vmap(rates)(jnp.arange(STEPS)), rtol=1e-5)
    epochs = (0, 699, 700, 701, 725, 749, 750, 799)
    case.compare("aug_ratio", np.array([random_crop_share(epoch) for epoch in epochs], np.float32))


def check_sampling(case, config, params, labels, name, plan, method):
    first, rest = (jnp.asarray(case.input(f"{name}.noise_{part}")) for part in ("first", "rest"))
    count = config.grid[0] * config.grid[1] // config.parallel_num

    def run(params, labels):
        calls = iter(("first", "rest"))

        def draw(step, rows):
            return first if next(calls, "rest") == "first" else rest[step - 1]

        return generate(config, params, labels, draw, plan)

    tokens, aux = jax.jit(run)(params, labels)
    case.compare(f"{name}.cond", aux["conditions"].reshape(case.expected(f"{name}.cond").shape), **TOLERANCE)
    case.compare(f"{name}.pred", aux["predictions"].reshape(case.expected(f"{name}.pred").shape), **TOLERANCE)
    case.compare(f"{name}.cfg", aux["guidance"][:count], **TOLERANCE)
    codes = to_codes(config, tokens, config.grid)
    args = (codes,)
    if f"{name}.decoder_noise" in case:
        args = (codes, jnp.asarray(nhwc(case.input(f"{name}.decoder_noise"))))
    case.compare(f"{name}.image", nchw(method("decode")(*args)[0]), **TOLERANCE)
