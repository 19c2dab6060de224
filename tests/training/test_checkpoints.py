"""Parts of one run in another, and models that do not fit."""

import contextlib
import resource
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import training_toy as toy
from flax.traverse_util import flatten_dict
from orbax.checkpoint._src.path import gcs_utils

from unitok_jax.errors import UserError
from unitok_jax.systems import base
from unitok_jax.training import setup as run_setup
from unitok_jax.training.checkpoints import Checkpoints, find_step, load_parts
from unitok_jax.training.config import read_config
from unitok_jax.training.loop import train
from unitok_jax.training.setup import prepare
from unitok_jax.training.state import TrainState
from unitok_jax.training.workdir import STEP_CONFIG, origins_of, read_workdir, step_number, stored_leaves, workdir_of
from unitok_jax.weights.hub import Located
from unitok_jax.weights.orbax_stream import open_leaves


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """Two runs, one with a moving average, and their last states."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(base, "build", lambda name, model: toy.ToySystem(model))
        plain, averaged = tmp_path_factory.mktemp("plain"), tmp_path_factory.mktemp("averaged")
        ema = {"ema": {"decay": 0.9}}
        return (plain, train(toy.config(steps=4), plain)), (averaged, train(toy.config(steps=4, **ema), averaged))


def abstract(params, dtype="float32"):
    place = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, dtype, sharding=place), params)


def equal(a, b):
    jax.tree.map(np.testing.assert_array_equal, a, b)


def test_parts_are_read_alone_and_cast(finished):
    (workdir, state), _ = finished
    equal(load_parts(workdir, {"net": abstract(state.params["net"])}), {"net": state.params["net"]})
    step = workdir / "checkpoints" / "4"
    half = load_parts(str(step), {"fixed": abstract(state.params["fixed"], "bfloat16")})
    equal(half, {"fixed": {"kernel": state.params["fixed"]["kernel"].astype(jnp.bfloat16)}})


def test_the_moving_average_is_read_where_there_is_one(finished):
    workdir, state = finished[1]
    read = load_parts(workdir, abstract(state.params))
    equal(read, {"net": state.ema["net"], "fixed": state.params["fixed"]})


def test_stacked_layers_are_read_one_by_one(tmp_path):
    """What an export holds at a time: a layer of a stack, of the parameters and of the moving average."""
    rng = np.random.default_rng(0)
    params = {"lm": {"span_0_6": {"kernel": jnp.asarray(rng.normal(size=(6, 8, 4)))}, "embed": jnp.ones((12, 4))}}
    ema = {"lm": {"span_0_6": {"kernel": params["lm"]["span_0_6"]["kernel"] + 1}}}
    state = TrainState(jnp.int32(1), jnp.int32(0), params, {}, {}, ema)
    with contextlib.closing(Checkpoints(tmp_path, 1)) as checkpoints:
        checkpoints.save(1, state, {"cursors": jnp.zeros(1)}, {})
    for item, tree in (("params", params), ("train", {"ema": ema})):
        path, theirs = max(flatten_dict(tree, sep="/").items())
        leaf = open_leaves(tmp_path / "checkpoints" / "1" / item)[path]
        for i in (4, 0, 5):
            np.testing.assert_array_equal(leaf[i], theirs[i])
            assert leaf._block.nbytes == theirs[i].nbytes


def test_init_from_another_run(finished, tmp_path):
    (workdir, state), _ = finished
    recipe = toy.config(fresh=["fixed"], init_from={"net": str(workdir)}, seed=7, steps=1)
    first = prepare(read_config(recipe)[0]).first_state()
    equal(first.params["net"], state.params["net"])
    assert not np.array_equal(first.params["fixed"]["kernel"], state.params["fixed"]["kernel"])
    assert int(train(recipe, tmp_path).step) == 1


def test_relative_paths(finished, tmp_path, monkeypatch):
    (_, state), _ = finished
    monkeypatch.chdir(tmp_path)
    with contextlib.closing(Checkpoints("run", 2)) as checkpoints:
        checkpoints.save(4, state, {"cursors": jnp.zeros(2, jnp.int32)}, {})
    equal(load_parts("run", {"net": abstract(state.params["net"])}), {"net": state.params["net"]})


def test_a_part_or_shape_that_the_checkpoint_lacks(finished):
    (workdir, state), _ = finished
    with pytest.raises(UserError, match=r"has no part 'nets'. Did you mean net"):
        load_parts(workdir, {"nets": abstract(state.params["net"])})
    wide = abstract(state.params["net"]) | {"kernel": jax.ShapeDtypeStruct((16, 2), "float32")}
    with pytest.raises(UserError, match=r"of another model: net/kernel is \[8, 2\] in the checkpoint, \[16, 2\] in"):
        load_parts(workdir, {"net": wide})
    more = abstract(state.params["net"]) | {"more": jax.ShapeDtypeStruct((), "float32")}
    with pytest.raises(UserError, match=r"net/more is no such leaf in the checkpoint, \[\] in the config"):
        load_parts(workdir, {"net": more})


def test_a_checkpoint_of_another_model_in_the_workdir(finished):
    (workdir, _), _ = finished
    setup = prepare(read_config(toy.config(model={"width": 5}))[0])
    checkpoints = Checkpoints(workdir, 2)
    with pytest.raises(UserError, match=r"of another model: fixed/kernel is \[4, 8\] in the checkpoint, \[4, 5\]"):
        checkpoints.restore(4, setup.abstract, {})
    checkpoints.close()


@pytest.mark.parametrize(
    ("changes", "data", "words"),
    [
        ({"optimizer": {"came": {}, "lr": 0.05}}, {}, r"4/train: of another optimizer, average or stage: opt_state/"),
        (
            {"ema": {"decay": 0.9}},
            {},
            r"4/train: of another optimizer, average or stage: ema/net/bias is no such leaf in",
        ),
        (
            {},
            {"cursors": 16},
            r"4/data: of another batch size: cursors is \[8\] in the checkpoint, \[16\] in the config",
        ),
    ],
)
def test_another_optimizer_average_or_batch_is_no_fault_of_the_disk(finished, changes, data, words):
    (workdir, _), _ = finished
    setup = prepare(read_config(toy.config(**changes))[0])
    wanted = {"cursors": (8,), "skipped": (8, 11)} | {name: (rows,) for name, rows in data.items()}
    with contextlib.closing(Checkpoints(workdir, 2)) as checkpoints, pytest.raises(UserError, match=words) as told:
        checkpoints.restore(4, setup.abstract, {n: jax.ShapeDtypeStruct(shape, "int32") for n, shape in wanted.items()})
    assert "disk" not in str(told.value)


def test_a_damaged_step_is_told_as_damaged(finished, tmp_path):
    """Reads fail with other words than writes; what is no fault of the files goes on as it is."""
    (workdir, state), _ = finished
    step = tmp_path / "4"
    shutil.copytree(workdir / "checkpoints" / "4", step)
    for file in [path for path in (step / "params").rglob("*") if path.is_file() and path.name != "_METADATA"]:
        file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    with pytest.raises(
        UserError, match=r"4/params: cannot read the checkpoint \(.*\); it is damaged or was copied in"
    ) as told:
        load_parts(step, {"net": abstract(state.params["net"])})
    assert "\n" not in str(told.value)


def test_a_bug_while_saving_is_not_told_as_a_full_disk(finished, tmp_path, monkeypatch):
    (_, state), _ = finished

    def save(*args, **options):
        raise ValueError("a bug")

    checkpoints = Checkpoints(tmp_path, 2)
    monkeypatch.setattr(checkpoints._manager, "save", save)
    with contextlib.closing(checkpoints), pytest.raises(ValueError, match="a bug"):
        checkpoints.save(1, state, {}, {})


def test_a_step_by_itself_says_what_it_is(finished, tmp_path):
    """A step's directory may be copied, under any name; its config comes along."""
    (workdir, state), _ = finished
    moved = tmp_path / "best"
    shutil.copytree(workdir / "checkpoints" / "4", moved)
    assert read_workdir(moved) == read_workdir(workdir) == read_workdir(workdir / "checkpoints" / "4")
    assert workdir_of(moved) == moved and workdir_of(workdir / "checkpoints" / "4") == workdir
    assert step_number(moved) == 4
    np.testing.assert_array_equal(stored_leaves(moved)["net/kernel"], state.params["net"]["kernel"])
    (moved / STEP_CONFIG).write_text("{")
    with pytest.raises(UserError, match=r"best/config/metadata: is not JSON"):
        read_workdir(moved)


def test_the_commit_that_a_hub_id_stood_for_is_recorded(tmp_path, monkeypatch):
    def located(path):
        return Located(tmp_path, f"{path}@{'0' * 40}")

    def load(artefacts, found, parts, place):
        assert found == tmp_path
        return jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), parts)

    monkeypatch.setattr(toy.ToySystem, "artefacts", {}, raising=False)
    monkeypatch.setattr(run_setup, "_located", located)
    monkeypatch.setattr(run_setup, "load_published", load)
    recipe = toy.config(fresh=["fixed"], init_from={"net": "owner/name"}, steps=1)
    for _ in range(2):  # the second time it goes on
        train(recipe, tmp_path / "run")
    config = read_workdir(tmp_path / "run")
    assert config.init_from == {"net": "owner/name"}
    assert origins_of(tmp_path / "run", config) == {"net": f"owner/name@{'0' * 40}"}
    assert origins_of(tmp_path, config) == config.init_from


def test_a_step_that_a_bucket_shows_before_it_is_complete_is_passed_over(finished, tmp_path, monkeypatch):
    """There the name comes with the first object; Orbax's mark comes with the last."""
    (workdir, _), _ = finished
    shutil.copytree(workdir / "checkpoints" / "4", tmp_path / "checkpoints" / "4")
    shutil.copytree(workdir / "checkpoints" / "4", tmp_path / "checkpoints" / "8")
    (tmp_path / "checkpoints" / "4" / "commit_success.txt").write_text("")
    (tmp_path / "checkpoints" / "8" / "commit_success.txt").unlink(missing_ok=True)
    monkeypatch.setattr(gcs_utils, "is_gcs_path", lambda path: True)
    assert find_step(tmp_path).name == "4"


def test_a_copy_is_saved_though_the_state_is_donated(tmp_path):
    """The step after a save overwrites the buffers that the save still writes out."""
    setup = prepare(read_config(toy.config())[0])
    state = setup.first_state().replace(state={"seen": jnp.arange(1 << 20, dtype=jnp.float32)})
    shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), state)
    expected = np.array(state.state["seen"], copy=True)
    overwrite = jax.jit(lambda s: jax.tree.map(lambda x: x * 0 - 1, s), donate_argnums=0)
    with contextlib.closing(Checkpoints(tmp_path, 2)) as checkpoints:
        checkpoints.save(1, state, {"cursors": jnp.zeros(8, jnp.int32)}, {})
        for _ in range(5):
            state = overwrite(state)
        jax.block_until_ready(state)
    with contextlib.closing(Checkpoints(tmp_path, 2)) as checkpoints:
        read, _ = checkpoints.restore(1, shapes, {"cursors": abstract(np.zeros(8), "int32")})
    np.testing.assert_array_equal(read.state["seen"], expected)


def test_a_save_that_fails_in_the_background_is_told_and_the_last_one_stays(tmp_path):
    """Files may not grow: what a full disk looks like to Orbax's threads."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    state = prepare(read_config(toy.config())[0]).first_state()
    large = state.replace(state={"seen": jax.random.normal(jax.random.key(0), (1 << 18,))})
    data = {"cursors": jnp.zeros(8, jnp.int32)}
    with contextlib.closing(Checkpoints(tmp_path, 2)) as checkpoints:
        checkpoints.save(1, state, data, {})
    checkpoints = Checkpoints(tmp_path, 2)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 16, limits[1]))
    try:
        with pytest.raises(UserError, match=r"checkpoints: cannot write the checkpoint \(") as told:
            checkpoints.save(2, large, data, {})
            checkpoints.close()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert "\n" not in str(told.value)
    with contextlib.closing(Checkpoints(tmp_path, 2)) as checkpoints:
        assert checkpoints.latest == 1
        checkpoints.save(2, large, data, {})
    assert find_step(tmp_path).name == "2"
