import dataclasses
import json

import jax.numpy as jnp
import ml_collections
import numpy as np
from fakes import CONFIG, Oracle

from unitok_jax.config import config_hash
from unitok_jax.evaluation.provenance import params_hash, provenance
from unitok_jax.training.config import claim_workdir, read_config
from unitok_jax.training.workdir import workdir_hash

PARAMS = {"lm": {"w": np.arange(6, dtype=np.float32).reshape(2, 3)}, "vit": {"scale": np.float32(2)}}


def test_the_hash_is_of_names_types_shapes_and_values():
    w = PARAMS["lm"]["w"]
    others = [
        {"lm": {"v": w}, "vit": PARAMS["vit"]},
        {"lm": {"w": w.astype(np.int32)}, "vit": PARAMS["vit"]},
        {"lm": {"w": w.T.reshape(3, 2)}, "vit": PARAMS["vit"]},
        {"lm": {"w": w.reshape(3, 2)}, "vit": PARAMS["vit"]},
        {"lm": {"w": w + 1}, "vit": PARAMS["vit"]},
    ]
    assert len({params_hash(params) for params in (PARAMS, *others)}) == 6
    on_device = {"vit": {"scale": jnp.float32(2)}, "lm": {"w": jnp.asarray(w)}}
    assert params_hash(on_device) == params_hash(PARAMS)
    assert params_hash({"w": jnp.ones(2, jnp.bfloat16)}) != params_hash({"w": jnp.ones(2, jnp.float16)})


def test_a_result_names_what_it_rests_on():
    pipeline = Oracle()
    pipeline.settings = dataclasses.replace(
        pipeline.settings, draw=dataclasses.replace(pipeline.settings.draw, guidance=1.75)
    )
    pipeline.params = PARAMS
    config = {**CONFIG, "config hash": "0123456789ab", "step": "runs/x/checkpoints/7"}
    told = provenance(pipeline, config, split="held_out", resolution=16, seed=3, prompts=9)
    wanted = {
        "checkpoint hash": params_hash(PARAMS),
        "config hash": "0123456789ab",
        "step": "runs/x/checkpoints/7",
        "guidance": 1.75,
        "split": "held_out",
        "resolution": 16,
        "seed": 3,
        "prompts": 9,
    }
    assert {name: told[name] for name in wanted} == wanted
    assert told["jax"][0].isdigit() and json.loads(json.dumps(told)) == told


def test_a_workdir_has_the_hash_of_its_recipe(tmp_path):
    recipe = ml_collections.ConfigDict(
        dict(system="unitoken", stage="lm", steps=1, data=dict(batch_size=1), optimizer={}, fresh=("lm",))
    )
    claim_workdir(tmp_path, read_config(recipe)[1])
    assert workdir_hash(tmp_path) == config_hash(recipe)
    recipe.steps = 2
    assert workdir_hash(tmp_path) != config_hash(recipe)
