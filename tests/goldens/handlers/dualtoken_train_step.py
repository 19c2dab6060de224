"""One step of DualToken's tokenizer training: losses, gradients, optimizers, codebooks, discriminator."""

import dataclasses
import re

import dualtoken_model
import jax
import jax.numpy as jnp
import numpy as np
from harness import Mutation, nchw, nhwc

from unitok_jax.backbones.discriminators import DiscriminatorSettings, judge
from unitok_jax.backbones.discriminators_rules import discriminator_table
from unitok_jax.backbones.lpips_rules import lpips_table
from unitok_jax.losses import adversarial
from unitok_jax.quantizers.residual import Restarts
from unitok_jax.systems import adversary
from unitok_jax.systems.dualtoken import stage_tokenizer as stage
from unitok_jax.systems.dualtoken.system import DualToken
from unitok_jax.training.optimizers import Optimizer, build_optimizers
from unitok_jax.weights.transfer import export_tree

LOSS, NORM, GRADIENT, BOOK = 2e-5, 1e-3, 1e-5, {"rtol": 0.0, "atol": 1e-5}  # the README's
NONE = 1e-6  # gradients below this are none
ULP = 6e-8  # float32's relative rounding
DRAWS = 4  # of weights rounded otherwise


def check(case):
    given = case.config
    system = DualToken(case.settings(dualtoken_model.tokenizer_config(given)))
    options = options_of(given)
    params = load(case, system, options)
    pictures = jnp.asarray(nhwc(case.input("image")))
    draws = {name: draws_of(case, system, name) for name in system.config.branches}
    kept, totals = jnp.ones(len(pictures)), {"pictures": jnp.float32(len(pictures))}
    state = {"step": jnp.int32(0), "adversary": {"statistics": {}, "lecam": adversarial.lecam_start()}}
    fixed = {name: params[name] for name in params if name not in system.tokenizer_parts}
    trained = {name: params[name] for name in system.tokenizer_parts}

    def loss_of(trained):
        value, aux, _, written = stage.objective(
            system, options, {**fixed, **trained}, state, pictures, kept, totals, draws
        )
        return value, (aux, written)

    # As users compile it: the tests' lower level rounds the gradients below the pixel decoder a little more.
    step = jax.jit(jax.value_and_grad(loss_of, has_aux=True), compiler_options={"xla_backend_optimization_level": 3})
    (total, (aux, written)), gradients = step(trained)
    logged = {name: float(metric.compute()) for name, metric in aux.items() if metric is not None}
    check_losses(case, system, options, params, pictures, total, logged, written)
    check_codes(case, system, written)
    if case.mutation is None:
        check_gradients(case, system, params, gradients, [step(rounded(trained, i))[1] for i in range(DRAWS)])
    if options.adversary:
        check_discriminator(case, options, params, pictures, written.picture)


def options_of(given):
    """The stage's options with the weights of the released stage."""
    last, full = given["stage"], given["stage"] == 1
    sem = given["sem_weight"]
    disc = given["disc"]
    settings = DiscriminatorSettings("resnet", width=disc["ndf"], layers=disc["n_layers"])
    assert last in (0, 1)
    return stage.TokenizerOptions(
        semantic=5 * sem if full else 0.0,
        semantic_cosine=5 * sem if full else 0.0,
        pooler=(1 if full else 5) * sem,
        pooler_cosine=(1 if full else 5) * sem,
        perceptual=given["p_weight"],
        adversary=dataclasses.replace(stage.ADVERSARY, discriminator=settings, weight=given["d_weight"])
        if full
        else None,
        discriminator_weight=given["disc_loss_multiplier"],
        vgg_widths=tuple(given["lpips_widths"]),
    )


def load(case, system, options):
    made = jax.eval_shape(lambda: stage._init(system, options, jax.random.key(0))[0])
    tables = system.artefacts
    coder = {name: made[name] for name in system.tokenizer_parts}
    params = case.params(tables["tokenizer"], coder, "model.")
    params |= case.params(tables["teacher"], {"teacher": made["teacher"]}, "frozen.")
    params |= case.params(lpips_table(), {"vgg": made["vgg"], "lpips": made["lpips"]}, "lpips.")
    if options.adversary:
        table = discriminator_table(options.adversary.discriminator).under("", "discriminator/")
        params |= case.params(table, {"discriminator": made["discriminator"]}, "disc.")
    return params


def draws_of(case, system, branch):
    config = system.config.quantizer(branch)
    if not config.restart:
        return None
    order = [case.input(f"{branch}.restart_perm.{i}")[: config.size] for i in range(config.updates)]
    noise = None
    if f"{branch}.restart_noise.0" in case:
        noise = np.stack([case.input(f"{branch}.restart_noise.{i}")[order[i]] for i in range(config.updates)])
    return Restarts(jnp.asarray(np.stack(order)), noise)


def check_losses(case, system, options, params, pictures, total, logged, written):
    names = {"recon_loss": "l2", "pcpt_loss": "perceptual", "gen_loss": "adversarial"}
    names |= {f"quant_loss_{name}": f"commit_{name}" for name in system.config.branches}
    for theirs, ours in (("", "semantic"), ("_last", "last"), ("_pooler", "pooler")):
        names |= {f"semantic_loss{theirs}": ours, f"semantic_loss{theirs}_cos": f"{ours}_cosine"}
    for name, ours in names.items():
        if f"loss.{name}" in case:
            case.compare(f"loss.{name}", np.float32(logged[f"loss/{ours}"]), LOSS)
    case.compare("loss.total_loss", total, LOSS)
    weighted = [(options.semantic, "semantic"), (options.pooler, "pooler")]
    semantic = sum(w * (logged[f"loss/{name}"] + logged[f"loss/{name}_cosine"]) for w, name in weighted)
    case.compare("loss.semantic_loss_total", np.float32(semantic), LOSS, atol=LOSS)
    if options.adversary:
        case.compare("loss.g_weight", np.float32(logged["adversary/weight"] / options.adversary.weight), 1e-4)
        check_norms(case, system, options, params, pictures, written)
    taught = jax.jit(lambda teacher: stage.teach(system, teacher, pictures))(params["teacher"])
    case.compare("frozen.hidden_states.-2", taught["features"])
    case.compare("frozen.hidden_states.-1", taught["last"])
    case.compare("frozen.pooler_output", taught["pooled"])
    case.compare("img_recon", nchw(written.picture), rtol=1e-4)
    case.compare("last_hidden_state", written.encoded.last)
    case.compare("postquant_sem", written.encoded.features)
    case.compare("pooler_output", written.encoded.pooled)


def check_norms(case, system, options, params, pictures, written):
    """The two gradients that the adaptive weight compares."""

    @jax.jit
    def norms(params, picture, aux):
        write, weight = stage.last_layer(system.config.decoder.decoder, params["decoder"], aux)

        def rebuilt(picture):
            return jnp.square(picture - pictures).mean() + stage.lpips.lpips(params, picture, pictures).mean()

        def judged(picture):
            logits, _ = judge(options.adversary.discriminator, params["discriminator"], {}, picture)
            return adversarial.hinge_g(logits).mean()

        losses = {"nll": rebuilt, "gen": judged}
        return {n: adversarial.weight_norm(write, weight, jax.grad(f)(picture)) for n, f in losses.items()}

    for name, norm in norms(params, written.picture, written.aux).items():
        case.compare(f"loss.adaptive_{name}_grad_norm", norm, 1e-4)


def check_codes(case, system, written):
    for branch in system.config.branches:
        case.compare(f"code_{branch}", written.encoded.quantized[branch].codes)
        for name in case.matching(rf"new\.{branch}\..*"):
            number = re.search(r"\.(\d+)\.", name)  # of the codebook, where each depth has its own
            book = written.encoded.books[branch][f"book_{number[1] if number else 0}"]
            rows = np.concatenate([book["weight"], np.zeros_like(book["weight"][:1])])
            ours = {"cluster_size_ema": book["count"], "embed_ema": book["total"], "weight": rows}
            case.compare(name, ours[name.rsplit(".", 1)[1]], **BOOK)


def rounded(params, seed):
    """The parameters, each up or down by float32's rounding."""
    draw = np.random.default_rng(seed)
    return jax.tree.map(lambda x: x * (1 + ULP * draw.choice([-1, 1], x.shape)).astype(x.dtype), params)


def check_gradients(case, system, params, gradients, rounded_gradients):
    """Norms, gradients and the step that they give.

    LPIPS and the pixel decoder amplify rounding: weights that differ by float32's own move the stage-0 case's
    gradients below the decoder by up to 1.8e-5 of their largest, more than the README's 1e-5. No float32 program
    can say them better, the reference's neither, so what such weights move is allowed on top.
    """
    table = system.artefacts["tokenizer"]
    others = [export_tree(table, g) for g in rounded_gradients]
    theirs = export_tree(table, gradients)
    norms = [np.linalg.norm(np.asarray(theirs.read(key), np.float64)) for key in case.config["grad_norm_names"]]
    case.compare("grad_norms", np.array(norms), NORM, atol=NONE)
    for name in case.matching(r"grad\..*"):
        key = name.removeprefix("grad.")
        ours = theirs.read(key)
        moved = max(np.abs(other.read(key) - ours).max() for other in others)
        case.compare(name, ours, GRADIENT, atol=moved)
    stepped = export_tree(table, adamw(case.config["opt"], params, gradients))
    for name in case.matching(r"adamw_step1\..*"):
        key = name.removeprefix("adamw_step1.")
        clear = np.abs(np.asarray(theirs.read(key))) >= NONE
        case.compare(name, stepped.read(key), rtol=0.0, atol=2e-6, where=clear)


def adamw(given, params, gradients):
    settings = {"lr": given["lr"], "betas": (given["beta1"], given["beta2"]), "eps": given["eps"]}
    return step_once({**settings, "weight_decay": given["wd"]}, params, gradients, tuple(gradients))


def step_once(settings, params, gradients, parts):
    """The parameters after one step of the project's optimizer."""
    trained = {part: params[part] for part in parts}
    phase = stage.Phase("tokenizer", tuple(f"^{part}/" for part in parts), lambda *_: None)
    made = stage.Stage(None, None, None, None, (phase,))
    optimizer: Optimizer = build_optimizers(made, trained, settings, {}, 1)["tokenizer"]

    @jax.jit
    def step(gradients, trained):
        updates, _ = optimizer.update(gradients, optimizer.init(trained), trained, jnp.int32(0))
        return jax.tree.map(jnp.add, trained, updates)

    return step(gradients, trained)


def check_discriminator(case, options, params, pictures, fake):
    settings, own = options.adversary, params["discriminator"]
    judging = jax.jit(lambda x: judge(settings.discriminator, own, {}, x)[0])
    for name, x in (("real", pictures), ("fake", fake)):
        logits = judging(x)
        case.compare(f"disc_logits_{name}", nchw(logits), rtol=1e-4)

    def loss_of(own):
        state = {"statistics": {}, "lecam": adversarial.lecam_start()}
        one = jnp.ones(len(pictures))
        return adversary.discriminator_loss(
            settings, own, state, pictures, fake, jnp.int32(0), one, jnp.float32(len(pictures))
        )[0]

    loss, gradients = jax.jit(jax.value_and_grad(loss_of))(own)
    case.compare("loss.disc_loss", loss, LOSS)
    gradients = jax.tree.map(lambda g: options.discriminator_weight * g, gradients)
    table = discriminator_table(settings.discriminator)
    theirs = export_tree(table, gradients)
    norms = [np.linalg.norm(np.asarray(theirs.read(key), np.float64)) for key in case.config["disc_grad_norm_names"]]
    case.compare("disc_grad_norms", np.array(norms), NORM, atol=NONE)
    given = case.config["disc"]
    rates = {"lr": given["lr"], "betas": tuple(given["betas"])}
    moved = step_once(rates, {"d": own}, {"d": gradients}, ("d",))["d"]
    for name in case.matching(r"disc_adam_step1\..*"):
        key = name.removeprefix("disc_adam_step1.")
        clear = np.abs(np.asarray(theirs.read(key))) >= NONE
        case.compare(name, export_tree(table, moved).read(key), rtol=0.0, atol=2e-6, where=clear)


MUTATIONS = {
    "train_stage1_step": (
        Mutation(
            "the rule that was meant",
            config=lambda c: dataclasses.replace(c, sem=dataclasses.replace(c.sem, ema_vectors="per_depth")),
        ),
        Mutation("no shortcut", config=lambda c: dataclasses.replace(c, weight_shortcut=0.0)),
    ),
}
