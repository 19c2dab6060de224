"""Tables of rules both ways: random trees of every kind come back whole, and what does not fit is named."""

import tracemalloc

import jax
import ml_dtypes
import numpy as np
import pytest

from unitok_jax.errors import UserError
from unitok_jax.weights.kinds import Fuse, Split, Tie
from unitok_jax.weights.rules import Rule, Table, links
from unitok_jax.weights.source import InMemory
from unitok_jax.weights.transfer import export_tree, flat, import_tree, plan, shapes_of, upstream_shapes
from unitok_jax.weights.transforms import CONV, HEADS_IN, LINEAR, SAME, Collapse, vocabulary

TABLE = Table(
    (
        Rule("layers.{i}.q.weight", "layers/span_{i}/q/kernel", HEADS_IN),
        Rule("layers.{i}.kv.weight", ("layers/span_{i}/k/kernel", "layers/span_{i}/v/kernel"), LINEAR, Split()),
        Rule("layers.{i}.norm.weight", "layers/span_{i}/norm/scale", SAME, also=(Collapse(4),)),
        Rule("embed.weight", "embed/embedding", vocabulary(5)),
        Rule(("text.weight", "image.weight"), "joint/embedding", SAME, Fuse(0, (2, 3))),
        Rule(("gate.weight", "up.weight"), "both/kernel", LINEAR, Fuse(0)),
        Rule(("head.weight", "tied.weight"), "head/kernel", LINEAR, Tie()),
        Rule("down.{i}.block.{j}.weight", "down_{i}/block_{j}/kernel", CONV),
    ),
    ignored={r"rotary\..*": "a buffer"},
    aliases=(("old.", ""),),
)


def tree(seed=0):
    rng = np.random.default_rng(seed)

    def normal(*shape):
        return rng.normal(size=shape).astype(np.float32)

    def span(n):
        return {
            "q": {"kernel": normal(n, 6, 2, 3)},
            "k": {"kernel": normal(n, 6, 4)},
            "v": {"kernel": normal(n, 6, 5)},
            "norm": {"scale": normal(n, 2, 3)},
        }

    embedding = np.concatenate([normal(5, 4), np.zeros((3, 4), np.float32)])
    return {
        "layers": {"span_0_2": span(2), "span_2_3": span(1), "span_3_12": span(9)},
        "embed": {"embedding": embedding},
        "joint": {"embedding": normal(5, 2)},
        "both": {"kernel": normal(3, 8)},
        "head": {"kernel": normal(4, 3)},
        "down_0": {"block_1": {"kernel": normal(3, 3, 2, 4)}},
        "down_10": {"block_0": {"kernel": normal(3, 3, 2, 4)}},
    }


def abstract_of(params):
    return jax.eval_shape(lambda: params)


def exported(params=None):
    source = export_tree(TABLE, params or tree())
    return {key: source.read(key) for key in source.keys()}  # noqa: SIM118


def load(tensors, params=None):
    return import_tree(TABLE, InMemory(tensors), abstract_of(params or tree()))


def test_round_trip_of_every_kind():
    jax.tree.map(np.testing.assert_array_equal, load(exported()), tree())


def test_export_names_layers_across_spans_and_cuts_parts():
    params, upstream = tree(), exported()
    q, k, v = (params["layers"]["span_3_12"][name]["kernel"] for name in ("q", "k", "v"))
    np.testing.assert_array_equal(upstream["layers.11.q.weight"], q[8].reshape(6, 6).T)
    np.testing.assert_array_equal(upstream["layers.3.kv.weight"], np.concatenate([k[0].T, v[0].T]))
    np.testing.assert_array_equal(upstream["image.weight"], params["joint"]["embedding"][2:])
    np.testing.assert_array_equal(upstream["up.weight"], params["both"]["kernel"].T[4:])
    np.testing.assert_array_equal(upstream["tied.weight"], upstream["head.weight"])
    assert upstream["embed.weight"].shape == (5, 4)
    assert "down.10.block.0.weight" in upstream
    assert {key: value.shape for key, value in upstream.items()} == upstream_shapes(TABLE, abstract_of(params))


def test_aliases_ignored_keys_and_other_layouts_are_read():
    tensors = {f"old.{key}": value for key, value in exported().items()}
    tensors |= {"rotary.inv_freq": np.zeros(3)}
    for layer in range(12):
        key = f"old.layers.{layer}.norm.weight"
        tensors[key] = np.repeat(tensors[key], 2, axis=0)
    jax.tree.map(np.testing.assert_array_equal, load(tensors), tree())


def test_dtypes_are_those_asked_for():
    abstract = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, ml_dtypes.bfloat16), tree())
    params = import_tree(TABLE, InMemory(exported()), abstract)
    jax.tree.map(lambda a, b: np.testing.assert_array_equal(a, b.astype(ml_dtypes.bfloat16)), params, tree())
    source = export_tree(TABLE, params, np.float32)
    assert source.dtype("embed.weight") == source.read("embed.weight").dtype == np.float32


def test_leaves_are_placed_one_by_one():
    placed = []
    put = import_tree(TABLE, InMemory(exported()), abstract_of(tree()), lambda path, x: placed.append(path) or x.sum())
    assert sorted(placed) == sorted(shapes_of(tree()))
    assert put["head"]["kernel"] == tree()["head"]["kernel"].sum()


def test_import_holds_little_besides_the_parameters():
    rules = Table((Rule("layers.{i}.weight", "span_{i}/kernel", LINEAR),))
    abstract = {"span_0_16": {"kernel": jax.ShapeDtypeStruct((16, 256, 128), np.float32)}}

    class Made(InMemory):
        def read(self, key):
            return np.ones((128, 256), ml_dtypes.bfloat16)

    source = Made({f"layers.{i}.weight": np.broadcast_to(np.float32(0), (128, 256)) for i in range(16)})
    tracemalloc.start()
    import_tree(rules, source, abstract)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1.15 * 16 * 256 * 128 * 4


def test_export_reads_device_arrays_and_one_layer_at_a_time():
    params = jax.tree.map(jax.numpy.asarray, tree())
    np.testing.assert_array_equal(export_tree(TABLE, params).read("layers.2.q.weight"), exported()["layers.2.q.weight"])


def test_parts_of_a_table():
    abstract = {"head": abstract_of(tree())["head"]}
    params = import_tree(TABLE.only("head"), InMemory(exported()), abstract)
    assert list(flat(params)) == ["head/kernel"]
    with pytest.raises(UserError, match=r"gate\.bias .*no parameter takes"):
        import_tree(TABLE.only("head"), InMemory({**exported(), "gate.bias": np.zeros(2)}), abstract)


def test_tables_below_prefixes_add_up():
    table = TABLE.under("model.", "lm/") + Table((Rule("scale", "scale"),))
    params = {"lm": tree(), "scale": np.ones(2, np.float32)}
    source = export_tree(table, params)
    assert {"scale", "model.layers.3.q.weight"} <= set(source.keys())
    tensors = {key: source.read(key) for key in list(source.keys())} | {"model.rotary.x": np.ones(1)}
    tensors["model.old.embed.weight"] = tensors.pop("model.embed.weight")
    jax.tree.map(np.testing.assert_array_equal, import_tree(table, InMemory(tensors), abstract_of(params)), params)


def test_absent_parameters_are_left_out():
    table = Table(TABLE.rules[:3], absent={r"(?!layers/).*": "another file's"})
    source = export_tree(table, tree())
    assert all(key.startswith("layers.") for key in source.keys())  # noqa: SIM118
    assert list(import_tree(table, source, abstract_of(tree()))) == ["layers"]


def change(drop=(), **add):
    tensors = exported() | {key.replace("__", "."): value for key, value in add.items()}
    return {key: value for key, value in tensors.items() if key not in drop}


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        (
            change(drop=["layers.7.q.weight"]),
            r"layers\.7\.q\.weight \(6, 6\): missing.*nearest.*layers\.\d+\.q\.weight",
        ),
        (change(drop=["tied.weight"]), r"tied\.weight \(3, 4\): missing"),
        (change(layers__12__q__weight=np.zeros((6, 6))), r"layers\.12\.q\.weight \(6, 6\): no parameter.*nearest"),
        (change(embed__weight=np.zeros((6, 4))), r"embed\.weight: has shape \(6, 4\).*embed/embedding needs \(5, 4\)"),
        (change(old__embed__weight=np.zeros((5, 4))), r"old\.embed\.weight: .* twice, also as embed\.weight"),
        (change(tied__weight=np.zeros((3, 4))), r"head\.weight = tied\.weight: tied tensors differ"),
        (change(layers__0__norm__weight=np.eye(4, 3)), r"layers\.0\.norm\.weight: .*rows of one run differ"),
    ],
)
def test_what_does_not_fit_upstream_is_named(tensors, message):
    with pytest.raises(UserError, match=message):
        load(tensors)


def test_parameters_that_no_rule_or_two_rules_cover_are_named():
    with pytest.raises(UserError, match=r"parameter extra/bias \(2,\): no rule"):
        upstream_shapes(TABLE, {**tree(), "extra": {"bias": np.zeros(2)}})
    with pytest.raises(UserError, match="head/kernel: matched by two rules"):
        links(TABLE + Table((Rule("other.weight", "head/kernel"),)), shapes_of(tree()))
    with pytest.raises(UserError, match=r"head\.weight: matched by two rules"):
        links(TABLE + Table((Rule("head.weight", "other/kernel"),)), {**shapes_of(tree()), "other/kernel": (3, 4)})
    with pytest.raises(UserError, match=r"layers/span_0_2/v/kernel: the rule for .*kv\.weight needs it"):
        links(TABLE, {path: shape for path, shape in shapes_of(tree()).items() if path != "layers/span_0_2/v/kernel"})
    with pytest.raises(UserError, match=r"parameter down_0/block_1/kernel \(3, 3\): has not the rank"):
        upstream_shapes(TABLE, {**tree(), "down_0": {"block_1": {"kernel": np.zeros((3, 3))}}})


def test_plan_needs_shapes_only():
    shapes = {key: value.shape for key, value in exported().items()}
    reads = plan(TABLE, shapes, jax.eval_shape(tree))
    assert {key for read in reads for key in read.keys} == set(shapes)
