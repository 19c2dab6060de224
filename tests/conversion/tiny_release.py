"""A folder of a tiny model, by default a UniToken, with random parameters, as an import would leave it."""

import json

import jax
import numpy as np
import orbax.checkpoint as ocp

from unitok_jax.systems import base
from unitok_jax.weights.transfer import flat, nested

MODEL = {
    "image_size": 64,
    "vqgan": {
        **{"channels": 32, "multipliers": [1, 2], "res_blocks": 1, "z_channels": 8, "embed_dim": 4},
        **{"codebook_size": 256, "attn_resolutions": [32], "resolution": 64},
    },
    "vit": {"width": 16, "ffn": 24, "layers": 3, "heads": 2, "image_size": 16, "patch_size": 4},
    "lm": {
        **{"vocab_size": 709, "width": 32, "ffn": 48, "layers": 4, "heads": 4, "kv_heads": 4, "head_dim": 8},
        **{"qk_norm": "layernorm"},
    },
}


def make_run(folder, model=MODEL, stage="lm", dtype=np.float32, system="unitoken", options=None):
    """Writes the folder; returns its parameters, zeros beyond the vocabulary as after every import."""
    rng, options = np.random.default_rng(0), options or {}
    abstract = jax.eval_shape(base.build_stage(base.build(system, model), stage, options).init, jax.random.key(0))[0]
    leaves = {path: rng.normal(size=leaf.shape).astype(dtype) for path, leaf in flat(abstract).items()}
    for part, size in (("lm", model.get("lm", {}).get("vocab_size")), ("ar", model.get("ar", {}).get("codes"))):
        if f"{part}/embed/embedding" in leaves:
            leaves[f"{part}/embed/embedding"][size:] = 0
        if f"{part}/head/kernel" in leaves:
            leaves[f"{part}/head/kernel"][:, size:] = 0
    if "text/embeddings/token/embedding" in leaves:
        leaves["text/embeddings/token/embedding"][model["text"]["vocab_size"] :] = 0
    with ocp.StandardCheckpointer() as writer:
        writer.save(folder.absolute() / "params", nested(leaves))
    config = {"system": system, "stage": stage, "steps": 1, "data": {}, "optimizer": {}, "model": model}
    config["stage_options"] = options
    (folder / "config.json").write_text(json.dumps(config))
    return nested(leaves)
