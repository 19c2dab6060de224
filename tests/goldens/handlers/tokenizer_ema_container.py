"""The training container of the hybrid tokenizer: its moving average is what is used."""

import jax.numpy as jnp
import uniwetok_models
from harness import nchw, nhwc
from uniwetok_models import load_tokenizer

from unitok_jax.quantizers import binary

TOLERANCE = {"rtol": 1e-4, "atol": 1e-4}


def check(case):
    config = uniwetok_models.tokenizer_config(case.config["ddconfig"])
    _, _, method = load_tokenizer(case, config)
    features, _ = method("encode")(jnp.asarray(nhwc(case.input("image"))))
    codes = binary.signs(features)
    noise = jnp.asarray(nhwc(case.input("decoder_noise")))
    case.compare("features", nchw(features), **TOLERANCE)
    case.compare("codes", nchw(codes))
    case.compare("recon", nchw(method("decode")(codes, noise)[0]), **TOLERANCE)
