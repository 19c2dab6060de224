"""Orbax checkpoints written and read a layer at a time are ordinary ones, and hold exactly what was put in."""

import jax
import ml_dtypes
import numpy as np
import orbax.checkpoint as ocp
import pytest

from unitok_jax.errors import UserError
from unitok_jax.weights.containers import open_source
from unitok_jax.weights.orbax_stream import open_leaves, save_leaves
from unitok_jax.weights.rules import Rule, Table
from unitok_jax.weights.source import InMemory
from unitok_jax.weights.transfer import export_tree, incoming, nested
from unitok_jax.weights.transforms import LINEAR, SAME, Unsqueeze

RNG = np.random.default_rng(0)
TABLE = Table(
    (
        Rule("layers.{i}.weight", "lm/span_{i}/kernel", LINEAR),
        Rule("layers.{i}.bias", "lm/span_{i}/bias"),
        Rule("embed.weight", "lm/embed", SAME),
        Rule("scale", "scale", Unsqueeze((0,))),
    )
)
TENSORS = {
    **{f"layers.{i}.weight": RNG.normal(size=(4, 3)).astype(ml_dtypes.bfloat16) for i in range(5)},
    **{f"layers.{i}.bias": RNG.normal(size=(4,)).astype([np.float32, np.float16][i % 2]) for i in range(5)},
    "embed.weight": RNG.normal(size=(6, 3)).astype(np.float32),
    "scale": np.array([2.5], np.float32),
}
SHAPES = {"lm/span_0_2/kernel": (2, 3, 4), "lm/span_0_2/bias": (2, 4), "lm/embed": (6, 3), "scale": ()}
SHAPES |= {"lm/span_2_5/kernel": (3, 3, 4), "lm/span_2_5/bias": (3, 4)}
ABSTRACT = nested({path: jax.ShapeDtypeStruct(shape, np.float32) for path, shape in SHAPES.items()})


@pytest.fixture
def folder(tmp_path, caplog):
    sizes = []
    leaves = incoming(TABLE, InMemory(TENSORS), ABSTRACT, as_stored=True)
    save_leaves(leaves, tmp_path / "params", sizes.append)
    assert sum(sizes) == sum(leaf.nbytes for leaf in leaves.values())
    assert "OCDBT" not in caplog.text
    return tmp_path / "params"


def test_a_checkpoint_comes_back_through_its_layers_bit_by_bit(folder):
    leaves = open_leaves(folder)
    assert leaves["lm/span_2_5/kernel"].dtype == ml_dtypes.bfloat16
    assert leaves["lm/span_2_5/bias"].dtype == np.float32  # holds float16 too
    np.testing.assert_array_equal(leaves["lm/span_2_5/kernel"][1], TENSORS["layers.3.weight"].T)
    source = export_tree(TABLE, nested(leaves))
    assert set(source.keys()) == set(TENSORS)
    for key, value in TENSORS.items():
        np.testing.assert_array_equal(source.read(key), value)


def test_orbax_reads_it_onto_devices(folder):
    place = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    target = nested({path: jax.ShapeDtypeStruct(shape, np.float32, sharding=place) for path, shape in SHAPES.items()})
    args = ocp.args.PyTreeRestore(target, restore_args=ocp.checkpoint_utils.construct_restore_args(target))
    read = ocp.PyTreeCheckpointHandler().restore(folder, args=args)
    assert read["lm"]["span_0_2"]["kernel"].sharding == place
    np.testing.assert_array_equal(read["lm"]["span_0_2"]["kernel"][0], TENSORS["layers.0.weight"].T.astype("f4"))
    assert read["scale"] == 2.5
    assert open_source(folder).read("lm.embed").tolist() == TENSORS["embed.weight"].tolist()


def test_leaves_of_checkpoints_that_orbax_wrote_itself(tmp_path):
    stacked = np.arange(24, dtype=np.float32).reshape(4, 3, 2)
    with ocp.StandardCheckpointer() as writer:
        writer.save(tmp_path / "params", {"lm": {"kernel": jax.numpy.asarray(stacked)}})
    leaf = open_leaves(tmp_path / "params")["lm/kernel"]
    np.testing.assert_array_equal(np.stack([leaf[i] for i in (3, 0, 1, 2)]), stacked[[3, 0, 1, 2]])
    np.testing.assert_array_equal(leaf, stacked)


@pytest.mark.parametrize("gone", [".zarray", "0.0"])
def test_a_checkpoint_with_something_gone_is_told_in_one_line(folder, gone):
    (folder / "lm.embed" / gone).unlink()
    with pytest.raises(UserError, match=r"params: broken \(.*lm\.embed") as error:
        np.asarray(open_leaves(folder)["lm/embed"])
    assert "\n" not in str(error.value)
