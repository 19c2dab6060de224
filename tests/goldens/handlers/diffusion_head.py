"""BitDance's diffusion heads in isolation: loss, gradients and the guided sampler."""

import jax
import jax.numpy as jnp
from harness import Mutation, drop

from unitok_jax.backbones import flow_head
from unitok_jax.backbones.flow_head import FlowHead, FlowHeadConfig, training_loss
from unitok_jax.backbones.flow_head_rules import flow_head_table
from unitok_jax.sampling import x_prediction

TOLERANCE = {"rtol": 2e-4, "atol": 2e-4}


def check(case):
    given = case.config
    config = case.settings(head_config(given, tuple(case.weights().keys())))
    head = FlowHead(config, given["ch_target"])
    target, condition, draws, noise = (jnp.asarray(case.input(n)) for n in ("target", "cond", "noise_t", "noise_e"))
    abstract = jax.eval_shape(head.init, jax.random.key(0), target, jnp.zeros(len(target)), condition)["params"]
    params = case.params(flow_head_table(config), abstract)
    _check_training(case, head, params, target, condition, draws, noise)
    _check_sampling(case, head, params, condition)


def head_config(given, keys):
    """The head of a case: those of the LM say ``use_swiglu`` and squash what they predict."""
    of_lm = "use_swiglu" in given
    return FlowHeadConfig(
        kind="transformer" if any(".attn." in key for key in keys) else "mlp",
        width=given["ch_latent"],
        depth=given["depth_latent"],
        modulations=given["depth_adanln"],
        head_dim=128 if of_lm else 64,
        gated=given.get("use_swiglu", True),
        squash=of_lm,
        time_schedule=given["time_schedule"],
        time_mean=given["P_mean"],
        time_deviation=given["P_std"],
        time_shift=given["time_shift"],
        repeat=given.get("diff_batch_mul", 1),
    )


def _check_training(case, head, params, target, condition, draws, noise):
    def loss(params):
        entries, aux = training_loss(head, params, target, condition, draws, noise)
        return entries.mean(), (entries.mean(-1), aux)

    (mean, (tokens, aux)), gradients = jax.jit(jax.value_and_grad(loss, has_aux=True))(params)
    case.compare("loss", mean if case.expected("loss").ndim == 0 else tokens, **TOLERANCE)
    for name, ours in {"t": "t", "z": "z", "x_pred": "predicted"}.items():
        case.compare(name, aux[ours], **TOLERANCE)
    case.compare_gradients(flow_head_table(head.config), gradients, full="none.")


def _check_sampling(case, head, params, condition):
    scale = case.config["cfg_scale"]
    guidance = scale if scale > 1 else None
    noise = jnp.asarray(case.input("sample.noise"))

    @jax.jit
    def run(noise):
        def predict(x, t):
            return head.apply({"params": params}, x, t, condition[: len(x)])

        return x_prediction.euler_maruyama(predict, noise, guidance=guidance, shift=head.config.time_shift)

    out, aux = run(noise)
    rows = case.expected("sample.x_pred").shape[1]
    case.compare("sample.t", jnp.broadcast_to(aux["times"][:, None], (len(aux["times"]), rows)), **TOLERANCE)
    case.compare("sample.x_pred", aux["predictions"], **TOLERANCE)
    case.compare("sample.out", out if guidance is None else jnp.concatenate([out, out]), **TOLERANCE)


MUTATIONS = {
    "head_mllm_swiglu": (
        Mutation("no time bias", params=drop("time/fc1/bias")),
        Mutation("no output scale", params=drop("output_modulate")),
        Mutation("another last step", patch=(x_prediction, "CLOSEST", 0.01)),
        Mutation("epsilon x 1000", patch=(flow_head, "EPSILON", 1e-3)),
        Mutation("scale and shift exchanged", patch=(flow_head, "_modulated", lambda x, a, b: x * (1 + b) + a)),
    ),
}
