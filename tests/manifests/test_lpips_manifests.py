"""The networks of the tokenizers' losses at full size, names and shapes only: LPIPS, DualToken's discriminator."""

import functools

import jax
import pytest
from test_manifests import manifest

from unitok_jax.backbones.discriminators import DiscriminatorSettings, init_discriminator
from unitok_jax.backbones.discriminators_rules import discriminator_table
from unitok_jax.backbones.lpips import init_lpips
from unitok_jax.backbones.lpips_rules import heads_table, lpips_table
from unitok_jax.weights.transfer import plan, upstream_shapes

PARTS = [("lpips_vgg16_full", lpips_table(), ("vgg", "lpips")), ("lpips_linear_heads", heads_table(), ("lpips",))]


@pytest.mark.parametrize(("name", "table", "parts"), PARTS, ids=[case[0] for case in PARTS])
def test_lpips(name, table, parts):
    upstream = manifest("dualtoken", name)
    params = jax.eval_shape(lambda: init_lpips(jax.random.key(0)))
    abstract = {part: params[part] for part in parts}
    plan(table, upstream, abstract)
    assert upstream_shapes(table, abstract) == {key: upstream[key] for key in upstream if not table.ignores(key)}
    assert [key for key in upstream if table.ignores(key)] == (
        ["scaling_layer.shift", "scaling_layer.scale"] if "vgg" in parts else []
    )


def test_dualtokens_discriminator():
    settings = DiscriminatorSettings("resnet", 64, 3)
    params, _ = jax.eval_shape(functools.partial(init_discriminator, settings), jax.random.key(0))
    upstream = manifest("dualtoken", "discriminator_ndf64_n3")
    plan(discriminator_table(settings), upstream, params)
    assert upstream_shapes(discriminator_table(settings), params) == upstream
