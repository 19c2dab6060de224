"""The VQGAN's stage with LPIPS and a discriminator: its recipe, its options, what may be split."""

import copy
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[2]))  # for `configs`

from configs.demo import common
from configs.unitoken import vqgan
from unitok_jax.backbones.lpips import init_lpips
from unitok_jax.backbones.lpips_rules import heads_table, vgg16_table
from unitok_jax.errors import UserError
from unitok_jax.settings import from_config
from unitok_jax.systems.vq_stage import VQOptions
from unitok_jax.training.config import read_config
from unitok_jax.training.setup import prepare
from unitok_jax.weights.safetensors_files import save_file
from unitok_jax.weights.transfer import export_tree

WIDTHS = [4, 4, 4, 4, 4]
ADVERSARY = {"discriminator": {"width": 8, "layers": 1}, "start": 4, "lecam": 0.1}


def recipe(**options):
    """A tiny VQGAN on digits."""
    model = common.model().to_dict()
    model["vqgan"] |= {"channels": 8, "z_channels": 8, "embed_dim": 4, "groups": 4}
    options = {
        "l1": 1.0,
        "l2": 0.0,
        "perceptual": 0.1,
        "codebook": 1.0,
        "commitment": 0.25,
        "entropy": 0.01,
        "vgg_widths": WIDTHS,
        "restart_every": 3,
        "restart_until": 10,
        "adversary": copy.deepcopy(ADVERSARY),
    } | options
    return {
        "system": "unitoken",
        "stage": "vqgan",
        "model": model,
        "steps": 16,
        "data": {"batch_size": 8, "train": [common.source("image")], "prefetch": 0},
        "stage_options": options,
        "optimizer": {"lr": 5e-3, "betas": [0.5, 0.9]},
        "optimizers": {"discriminator": {"lr": 2e-3}},
        "fresh": ["vqgan", "vgg", "lpips", "discriminator"],
        "ema": {"decay": 0.9},
        "log_every": 2,
        "checkpoint_every": 4,
    }


def made(config, **changes):
    config = config | changes
    config["data"]["batch_size"] = 4
    return prepare(read_config(config)[0])


def test_only_losses_that_do_not_couple_pictures_may_be_split():
    with pytest.raises(UserError, match=r"config\.accumulate: 2, but the loss of this stage couples all rows"):
        made(recipe(), accumulate=2).train_step()
    free = {"discriminator": {"width": 8, "layers": 1, "norm": "group"}, "adaptive": False}
    assert made(recipe(adversary=free, entropy=0.0), accumulate=2).train_step()


def test_the_recipe():
    """Its keys fit the stage at full size and tiny; unknown words are told."""
    for arg in ("", "finetune", "tfds=coco_captions,weights=w", "images=x"):
        config = vqgan.get_config(arg)
        options = from_config(VQOptions, config.stage_options, "")
        assert (options.perceptual, options.adversary.weight, options.couples) == (1.0, 0.8, True)
        assert {"vgg", "lpips"} <= set(read_config(config)[0].init_from)
    assert prepare(read_config(vqgan.get_config("tiny"))[0]).optimizers["discriminator"].settings.betas == (0.5, 0.9)
    with pytest.raises(ValueError, match=r"no such word 'tyni'; known: finetune, tiny, images="):
        vqgan.get_config("tyni")


def test_mistakes_in_the_adversary_are_named():
    where = r"config\.stage_options\.adversary"
    with pytest.raises(UserError, match=where + r"\.loss: expected 'hinge' or .*, got 'hing'"):
        made(recipe(adversary={"loss": "hing"}))
    with pytest.raises(UserError, match=where + r"\.discriminator\.kind: expected 'patch' or .*, got 'vit'"):
        made(recipe(adversary={"discriminator": {"kind": "vit"}}))


@pytest.mark.slow
def test_published_networks_are_read_from_their_files(tmp_path):
    """LPIPS's network and its heads come from two files of upstream's names; what is not there is told."""
    params = init_lpips(jax.random.key(5), tuple(WIDTHS))
    for part, table in (("vgg", vgg16_table()), ("lpips", heads_table())):
        save_file(export_tree(table, {part: params[part]}), tmp_path / f"{part}.safetensors")
    files = {part: str(tmp_path / f"{part}.safetensors") for part in ("vgg", "lpips")}
    state = made(recipe(), init_from=files, fresh=["vqgan", "discriminator"]).first_state()
    for part in ("vgg", "lpips"):
        jax.tree.map(np.testing.assert_array_equal, state.params[part], params[part])
    files["vgg"] = files["lpips"]
    with pytest.raises(UserError, match=r"lpips\.safetensors: net\.slice1\.0\.weight .*: missing in the checkpoint"):
        made(recipe(), init_from=files, fresh=["vqgan", "discriminator"]).first_state()
