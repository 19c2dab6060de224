"""Names of topologies, and the nearest to wrong ones."""

from types import SimpleNamespace

import pytest

from unitok_jax.errors import UserError
from unitok_jax.parallel.chips import chip_of, parse_topology


def test_names():
    chip, name = parse_topology("V5P:4x4x4")
    assert (chip.name, name, chip.flops) == ("v5p", "v5p:4x4x4", 459e12)
    assert parse_topology("v5p:8x8x12")[1] == "v5p:8x8x12"
    assert parse_topology("v6e:16x16")[0].hbm == 32 * 2**30


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        ("NVIDIA A100-SXM4-80GB", "A100"),
        ("NVIDIA H100 80GB HBM3", "H100"),
        ("NVIDIA H200", "H200"),
        ("TPU v5 lite", "v5e"),
        ("TPU v6 lite", "v6e"),
        ("cpu", None),
    ],
)
def test_devices_are_known_by_what_they_call_themselves(kind, name):
    chip = chip_of(SimpleNamespace(device_kind=kind))
    assert (chip and chip.name) == name


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("v5x:4x4", r"no TPU 'v5x'. Did you mean v5\w"),
        ("v5e:4x5", "v5e has no slice '4x5'; nearest: v5e:4x4"),
        ("v6e", "v6e has no slice ''"),
        ("v5p:4x4", "v5p has no slice '4x4'; nearest: v5p:2x2x4"),
        ("H100:8", "no TPU 'h100'"),
    ],
)
def test_wrong_names(text, words):
    with pytest.raises(UserError, match=words):
        parse_topology(text)
