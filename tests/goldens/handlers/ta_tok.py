"""TA-Tok: tower, pooling, codes and decoder at every scale."""

import dataclasses
import functools
import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import tar_parts
from harness import Mutation, drop, nchw

from unitok_jax.quantizers import text_aligned
from unitok_jax.systems.tar import ta_tok


def check(case):
    config = case.settings(tar_parts.ta_tok_config(case.config))
    model, params = tar_parts.load_ta_tok(case, config)
    if "resized_aa" in case:
        _resizes(case, model, params)
    images = tar_parts.pictures(case)
    case.compare("codebook", _method(model, params, lambda m: m.codebook.rows()))
    if case.matching("enc_.*"):
        _tower(case, model, params, images)
    scales = sorted(int(name[-1]) for name in case.matching(r"indices_s\d"))
    for scale in scales:
        _scale(case, model, params, images, scale)


def _method(model, params, function, *args):
    return jax.jit(lambda params: model.apply({"params": params}, *args, method=function))(params)


def _resizes(case, model, params):
    images = tar_parts.pictures(case)
    for name, antialias in (("resized_aa", True), ("resized_noaa", False)):
        one = ta_tok.TATok(dataclasses.replace(model.config, antialias=antialias))
        resized = _method(one, params, lambda m, x: m.resize(m.normalise(x)), images)
        case.compare(name, nchw(resized), rtol=0, atol=1e-5)


def _tower(case, model, params, images):
    def run(module, images):
        x = module.encoder.embed(module.resize(module.normalise(images)))
        selected, _ = module.encoder.run(x, 0, module.config.layers_read)
        last, _ = module.encoder.run(selected, module.config.layers_read, None)
        return x, selected, last, *module.encoder.finish(last)

    ours = _method(model, params, run, images)
    for name, value in zip(("enc_embed", "enc_selected", "enc_last", "enc_post_ln", "enc_pooler"), ours, strict=True):
        if name in case:
            case.compare(name, value[: len(case.expected(name))])


def _scale(case, model, params, images, scale):
    """Everything at one scale; what a case keeps of the first pictures only is compared with those."""
    decoded, aux = jax.jit(functools.partial(model.apply, scale=scale))({"params": params}, images)
    q = aux["quantized"]
    rows = _method(model, params, lambda m: m.codebook.rows())
    fits = text_aligned.scores(q.source, rows, l2_norm=model.config.l2_norm)
    best = -np.sort(-np.asarray(fits), -1)[..., :2]
    distances = fits - jnp.square(q.source).sum(-1, keepdims=True)
    codes = case.expected(f"indices_s{scale}").astype(np.int32)
    found = {
        "pooled": lambda: ta_tok.pool(aux["features"], scale),
        "vq_feats": lambda: aux["mapped"],
        "projected_z": lambda: aux["projected"],
        "unregularized_z": lambda: q.source,
        "margin": lambda: best[..., 0] - best[..., 1],
        "regularized_z": lambda: q.latents,
        "encoded_quant": lambda: q.latents,
        "bottleneck_out": lambda: aux["bottleneck"],
        "sad": lambda: decoded,
        "dec_embed": lambda: aux["embeddings"],
        "cos_sim": lambda: fits,
        "neg_dist": lambda: distances,
        "probs": lambda: jax.nn.softmax(fits / model.config.temperature),
        "sad_from_indices": lambda: _method(model, params, lambda m: m.decode_codes(codes)),
        "dec_pos": lambda: _positions(model, params, scale),
    }
    tar_parts.compare_codes(case, f"indices_s{scale}", q.codes, f"margin_s{scale}")
    for name in case.matching(rf"\w+_s{scale}"):
        kind = name.removesuffix(f"_s{scale}")
        if kind in found:
            value = np.asarray(found[kind]())
            tolerance = {"probs": {"rtol": 1e-3}, "dec_pos": {"rtol": 0.0, "atol": 1e-5}, "margin": {"atol": 1e-5}}
            expected = case.expected(name)
            ours = value[: len(expected)] if value.ndim == expected.ndim else value
            case.compare(name, ours, **tolerance.get(kind, {"rtol": 1e-4}))
    outputs = {"quant": q.latents, "indices": q.codes, "rec": decoded}
    for name in case.matching(rf"forward_\w+_s{scale}_shape"):
        case.compare(name, outputs[re.split("_", name)[1]].shape)


def _positions(model, params, scale):
    """The decoder's resized table: what it adds to patches of nothing."""
    decoder = params["decoder"]
    patch = jax.tree.map(jnp.zeros_like, decoder["embeddings"]["patch"])
    bare = {**decoder, "embeddings": {**decoder["embeddings"], "patch": patch}}
    side = math.isqrt(model.config.tokens(scale))

    def embed(module):
        return module.decoder.embed(jnp.zeros((1, side, side, model.config.code_width)))

    return model.apply({"params": {**params, "decoder": bare}}, method=embed)[0]


MUTATIONS = {
    "ta_tok_euclid_resize": (
        Mutation("cosine codes", config=lambda c: dataclasses.replace(c, l2_norm=True)),
        Mutation("the last layer", config=lambda c: dataclasses.replace(c, select_layer=-1)),
        Mutation("no bias in the codes", params=drop("codebook/bias")),
        Mutation("no tanh", patch=(ta_tok.jnp, "tanh", lambda x: x)),
        Mutation(
            "eps of 1e-3", config=lambda c: dataclasses.replace(c, decoder=dataclasses.replace(c.decoder, eps=1e-3))
        ),
    )
}
