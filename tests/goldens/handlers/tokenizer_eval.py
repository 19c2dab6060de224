"""DualToken's tokenizer in evaluation, from the pixels to codes, features, pictures and zero-shot logits."""

import dataclasses

import dualtoken_model
import jax
import jax.numpy as jnp
import numpy as np
from harness import Mutation, drop, nchw, nhwc, swap

from unitok_jax.backbones import attn_projection
from unitok_jax.backbones.siglip_text import SiglipText
from unitok_jax.evaluation import zero_shot
from unitok_jax.quantizers import residual
from unitok_jax.systems.dualtoken.tokenizer import Tokenizer
from unitok_jax.systems.dualtoken.weights import artefacts
from unitok_jax.systems.pixels import to_uint8

FEATURES = {"rtol": 1e-4, "atol": 2e-5}  # the README's


def check(case):
    config = case.settings(dualtoken_model.tokenizer_config(case.config))
    tokenizer = Tokenizer(config)
    params = case.params(artefacts(config)["tokenizer"], jax.eval_shape(lambda: abstract(tokenizer)))
    image = jnp.asarray(nhwc(case.input("image")))
    encoded, picture, aux = jax.jit(lambda params: run(tokenizer, params, image))(params)
    check_reading(case, tokenizer, params, encoded)
    case.compare("img_recon", nchw(picture), rtol=1e-4)
    if "img_recon_uint8" in case:
        exact = (np.clip(np.asarray(picture, np.float64), -1, 1) + 1) / 2 * 255
        case.compare("img_recon_uint8", to_uint8(picture), where=np.abs(exact - np.round(exact)) > 1e-2)
    check_writing(case, aux)
    check_texts(case, params, config, encoded)


def abstract(tokenizer):
    key = jax.random.key(0)
    parts = {part: tokenizer.init(key, part) for part in ("vit", "prequant", "codebooks", "postquant", "decoder")}
    text = tokenizer.config.text
    words = jnp.zeros((1, text.max_length), jnp.int32)
    return {**parts, "text": SiglipText(text).init(key, words)["params"]}


def run(tokenizer, params, image):
    encoded = tokenizer.encode(params, image, every_layer=True)
    return encoded, *tokenizer.decode(params, encoded.quantized["pix"].latents)


def check_reading(case, tokenizer, params, encoded):
    layers = len(encoded.hidden) - 1
    for name in case.matching(r"hidden_states\..*"):
        number = name.removeprefix("hidden_states.")
        case.compare(name, encoded.hidden[layers if number == "last" else int(number)], **FEATURES)
    for branch in ("pix", "sem"):
        quantized = encoded.quantized[branch]
        case.compare(f"code_{branch}", quantized.codes)
        case.compare(f"quant_loss_{branch}", quantized.commitment.mean(), **FEATURES)
        optional(case, f"{branch}_partial_sums", lambda q=quantized: q.sums)
        rows = lambda q=quantized, b=branch: tokenizer.embed(params, b, q.codes)  # noqa: E731
        optional(case, f"code_emb_{branch}", rows)
        latents = quantized.latents
        optional(case, f"zq_{branch}", lambda x=latents: x.reshape(len(x), -1, x.shape[-1]))
    case.compare("rq_in_pix", encoded.inputs["pix"], **FEATURES)
    for name in ("rq_in_sem", "prequant_sem"):
        optional(case, name, lambda: encoded.inputs["sem"])
    taps = {"prequant_pix": tokenizer.config.layer_recon, "prequant_shortcut": tokenizer.config.layer_shortcut}
    for name, layer in taps.items():
        if name in case:
            down = name.removeprefix("prequant_")
            case.compare(name, tokenizer.project(params, down, encoded.hidden[layer], down=True), **FEATURES)
    check_insides(case, tokenizer, params, encoded)
    case.compare("postquant_sem", encoded.features, **FEATURES)
    case.compare("pooler_output", encoded.pooled, **FEATURES)
    normed = lambda: tokenizer.tower.apply({"params": params["vit"]}, encoded.last, method="finish")[0]  # noqa: E731
    optional(case, "last_hidden_state_norm", normed)


def check_insides(case, tokenizer, params, encoded):
    """Attention and feed-forward of a projection."""
    for name in case.matching(r"(pre|post)quant_\w+\.(attn|mlp)"):
        projection, inside = name.split(".")
        side, branch = projection.split("_")
        down = side == "prequant"
        x = encoded.hidden[tokenizer.config.layer_recon] if down else encoded.quantized[branch].latents
        module = tokenizer.projections(down)[branch]
        variables = {"params": params[side][branch]}
        x = x.reshape(len(x), -1, x.shape[-1])
        _, seen = module.apply(variables, x, capture_intermediates=True, mutable="intermediates")
        part = {"attn": "attention", "mlp": "mlp"}[inside]
        case.compare(name, seen["intermediates"][part]["__call__"][0], **FEATURES)


def check_writing(case, aux):
    optional(case, "postquant_pix", lambda: aux["postquant"])
    optional(case, "decoder_latent_interp", lambda: nchw(aux["resized"]))
    optional(case, "post_quant_conv", lambda: nchw(aux["post_quant_conv"]))
    inside = aux["decoder"]
    flat = {"conv_in": inside["conv_in"], "norm_out": inside["norm_out"]}
    flat |= {f"mid.{name}": inside["mid"][name] for name in ("attn_1", "block_1", "block_2")}
    for name, value in flat.items():
        optional(case, f"decoder.{name}", lambda value=value: nchw(value), rtol=1e-4)


def check_texts(case, params, config, encoded):
    optional(case, "image_features", lambda: zero_shot.unit(np.asarray(encoded.pooled)))
    if "text_ids" not in case:
        return
    ids = jnp.asarray(case.input("text_ids"), jnp.int32)
    pooled = SiglipText(config.text).apply({"params": params["text"]}, ids)[0]
    case.compare("text_pooled", pooled, **FEATURES)
    case.compare("text_features", zero_shot.unit(np.asarray(pooled)), **FEATURES)
    classes = case.expected("zeroshot_classifier").shape[1]
    classifier = zero_shot.classifier(np.asarray(pooled).reshape(classes, -1, pooled.shape[-1]))
    case.compare("zeroshot_classifier", classifier, **FEATURES)
    case.compare("zeroshot_logits", zero_shot.logits(np.asarray(encoded.pooled), classifier), **FEATURES)


def optional(case, name, value, **tolerance):
    """Compares what only some cases hold."""
    if name in case:
        case.compare(name, value(), **(tolerance or FEATURES))


def _changed(**fields):
    return lambda config: dataclasses.replace(config, **fields)


MUTATIONS = {
    "tokenizer_eval_b": (
        Mutation("features are not quantised in order", config=_changed(postquant_causal=False)),
        Mutation("swapped taps", params=swap("vit/layers/span_0_2/norm1", "vit/layers/span_0_2/norm2")),
        Mutation("no bias in the projection", params=drop("prequant/pix/proj/bias")),
        Mutation("eps x 10", patch=(attn_projection, "EPS", 1e-4)),
        Mutation("furthest codes", patch=(residual.nearest, "search", lambda x, rows: (x @ rows.T).argmin(-1))),
    ),
}
