"""`unitok import` and `unitok export`: there and back bit by bit, told apart by keys, and every mistake in one line."""

import contextlib
import errno
import json
import os
import pickle
import shutil

import huggingface_hub
import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from PIL import Image
from tiny_release import MODEL, make_run

from unitok_jax import cli
from unitok_jax.conversion.exporting import TOLD
from unitok_jax.conversion.loading import load_run
from unitok_jax.systems import base
from unitok_jax.training.checkpoints import Checkpoints
from unitok_jax.training.state import TrainState
from unitok_jax.training.workdir import stored_leaves, workdir_hash
from unitok_jax.weights import safetensors_files
from unitok_jax.weights.containers import open_source
from unitok_jax.weights.hub import locate
from unitok_jax.weights.safetensors_files import INDEX, save_folder
from unitok_jax.weights.source import InMemory
from unitok_jax.weights.torch_files import TorchFile
from unitok_jax.weights.torch_writer import save_torch
from unitok_jax.weights.transfer import export_tree, flat, nested

CODES = "tokenizer/vqgan.ckpt"


def run(capsys, *argv):
    code = cli.main([str(a) for a in argv])
    out, err = capsys.readouterr()
    return code, out, err


def unitok(*argv):
    assert cli.main([str(a) for a in argv]) == 0


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """``run`` and its export ``released``, in small shards."""
    home = tmp_path_factory.mktemp("conversion")
    (home / "run").mkdir()
    make_run(home / "run")
    unitok("export", "--workdir", home / "run", "--out", home / "released", "--max-shard-size", "80kB")
    return home


def leaves_of(folder):
    return {path: np.asarray(leaf) for path, leaf in stored_leaves(folder).items()}


def same(ours, theirs):
    assert set(ours) == set(theirs)
    for path, leaf in ours.items():
        assert leaf.dtype == theirs[path].dtype
        np.testing.assert_array_equal(leaf, theirs[path])


def tensors_of(place):
    source = open_source(place)
    return {key: np.asarray(source.read(key)) for key in tuple(source.keys())}


def test_there_and_back_bit_by_bit(home, tmp_path, capsys):
    released = home / "released"
    code, out, _ = run(
        capsys, "import", released, released / CODES, "--system", "unitoken", "--out", tmp_path / "imported"
    )
    assert code == 0
    assert f"part lm\t{released}\n" in out and f"vqgan\t{released / CODES}\n" in out and "note" not in out
    same(leaves_of(tmp_path / "imported"), leaves_of(home / "run"))
    config = json.loads((tmp_path / "imported" / "config.json").read_text())
    for part, settings in MODEL.items():
        if isinstance(settings, dict):
            assert {**config["model"][part], **settings} == config["model"][part]
    assert config["model"]["image_size"] == 64
    unitok("export", "--workdir", tmp_path / "imported", "--out", tmp_path / "again", "--max-shard-size", "80kB")
    for file in sorted(released.rglob("*")):
        if file.suffix in (".safetensors", ".ckpt", ".yaml", ".json") and file.name != TOLD:  # which names the run
            assert (tmp_path / "again" / file.relative_to(released)).read_bytes() == file.read_bytes(), file


def test_an_export_is_sharded_described_and_typed(home, tmp_path, capsys):
    index = json.loads((home / "released" / INDEX).read_text())
    shards = sorted(set(index["weight_map"].values()))
    assert len(shards) > 3
    assert all((home / "released" / shard).stat().st_size < 120_000 for shard in shards)
    card = (home / "released" / "README.md").read_text()
    assert "| `.` | unitoken | lm, vit, adapter |" in card and "vqgan.yaml" in card
    assert f"Config `{workdir_hash(home / 'run')}`" in card
    code, out, _ = run(
        capsys, "export", "--checkpoint", home / "run", "--out", tmp_path / "half", "--dtype", "bfloat16"
    )
    assert code == 0 and out.startswith("unitoken\t")
    half = tensors_of(tmp_path / "half")
    for key, value in tensors_of(home / "released").items():
        np.testing.assert_array_equal(half[key], value.astype(ml_dtypes.bfloat16))
    assert TorchFile(tmp_path / "half" / CODES).dtype("encoder.conv_in.weight") == ml_dtypes.bfloat16


@pytest.mark.slow
def test_a_step_by_itself_is_exported_and_inspected(home, tmp_path, capsys):
    """A step's directory, copied away from its run and renamed: it has its config inside."""
    config = json.loads((home / "run" / "config.json").read_text()) | {"data": {"batch_size": 2}}
    params = nested(leaves_of(home / "run"))
    state = TrainState(jnp.int32(7), jnp.int32(0), params, {"seen": jnp.zeros(())}, {}, {})
    with contextlib.closing(Checkpoints(tmp_path / "run", 1)) as checkpoints:
        checkpoints.save(7, jax.tree.map(jnp.asarray, state), {"cursors": jnp.zeros(2, jnp.int32)}, config)
    shutil.copytree(tmp_path / "run" / "checkpoints" / "7", tmp_path / "best")
    shutil.rmtree(tmp_path / "run")
    unitok("export", "--checkpoint", tmp_path / "best", "--out", tmp_path / "out", "--max-shard-size", "80kB")
    assert "step 7 of a training run" in (tmp_path / "out" / "README.md").read_text()
    for file in (home / "released").rglob("*.safetensors"):
        assert (tmp_path / "out" / file.relative_to(home / "released")).read_bytes() == file.read_bytes()
    code, out, err = run(capsys, "inspect", tmp_path / "best")
    assert code == 0 and "one step of a run" in out, err
    pipeline, _ = load_run(tmp_path / "best")
    same(leaves_of(home / "run"), {path: np.asarray(leaf) for path, leaf in flat(pipeline.params).items()})


def test_types_are_kept(tmp_path):
    (tmp_path / "run").mkdir()
    make_run(tmp_path / "run", dtype=ml_dtypes.bfloat16)
    unitok("export", "--workdir", tmp_path / "run", "--out", tmp_path / "released")
    unitok("import", tmp_path / "released", "--system", "unitoken", "--out", tmp_path / "back")
    leaves = leaves_of(tmp_path / "back")
    same(leaves, {path: leaf for path, leaf in leaves_of(tmp_path / "run").items() if not path.startswith("vqgan/")})
    assert json.loads((tmp_path / "back" / "config.json").read_text())["model"]["lm"]["dtype"] == "bfloat16"


@pytest.mark.slow
def test_an_imported_model_sees_pictures(home, tmp_path, capsys):
    released = home / "released"
    unitok("import", released, released / CODES, "--system", "unitoken", "--out", tmp_path / "model")
    config = json.loads((tmp_path / "model" / "config.json").read_text())
    assert config["inference"]["prompts"]["generate"].startswith("Generate an image according to the following prompt:")
    config["inference"] = {"read": {"max_steps": 2}}
    (tmp_path / "model" / "config.json").write_text(json.dumps(config))
    Image.fromarray(np.full((64, 64, 3), 200, np.uint8)).save(tmp_path / "grey.png")
    code, out, _ = run(capsys, "caption", "--workdir", tmp_path / "model", tmp_path / "grey.png")
    assert code == 0 and f"\n{tmp_path / 'grey.png'}\t" in out  # behind what the import told
    code, out, _ = run(capsys, "inspect", tmp_path / "model")
    assert code == 0 and "system unitoken, imported" in out
    size = sum(leaf.size for path, leaf in leaves_of(tmp_path / "model").items() if path.startswith("lm/"))
    assert f"lm: {size:,} parameters, from {released}\n" in out and "no checkpoint" not in out


def started_from(home, folder, origin):
    shutil.copytree(home / "run", folder)
    config = json.loads((folder / "config.json").read_text())
    config["init_from"] = dict.fromkeys(("lm", "vit", "adapter", "vqgan"), str(origin))
    (folder / "config.json").write_text(json.dumps(config))
    return folder


@pytest.mark.slow
def test_an_export_gives_back_what_stood_beside_its_origin(home, tmp_path):
    theirs = shutil.copytree(home / "released", tmp_path / "theirs")
    document = {**json.loads((theirs / "config.json").read_text()), "made_by": "them", "unitoken_crop": 96}
    (theirs / "config.json").write_text(json.dumps(document))
    for name in ("tokenizer_config.json", "preprocessor_config.json"):
        (theirs / name).write_text(json.dumps({"of": name}))
    unitok("import", theirs, theirs / CODES, "--system", "unitoken", "--out", tmp_path / "imported")
    first = started_from(home, tmp_path / "first", tmp_path / "imported")
    second = started_from(home, tmp_path / "second", first)
    straight = started_from(home, tmp_path / "straight", theirs)
    for run in (second, straight):
        back = tmp_path / f"{run.name}_back"
        unitok("export", "--workdir", run, "--out", back)
        assert json.loads((back / "config.json").read_text()) == {**document, "unitoken_crop": 64}
        assert (back / "tokenizer_config.json").read_bytes() == (theirs / "tokenizer_config.json").read_bytes()
        assert (back / "preprocessor_config.json").exists()
    unitok("export", "--workdir", second, "--out", tmp_path / "other", "--format", "transformers")
    assert "made_by" not in json.loads((tmp_path / "other" / "config.json").read_text())
    assert (tmp_path / "other" / "tokenizer_config.json").exists()
    assert not (tmp_path / "other" / "preprocessor_config.json").exists()


def test_a_published_config_says_what_the_model_is(home, tmp_path):
    config = json.loads((home / "run" / "config.json").read_text())
    config["model"] |= {"context": 96, "lm": {**MODEL["lm"], "dropout": 0.25}}
    shutil.copytree(home / "run" / "params", tmp_path / "run" / "params")
    (tmp_path / "run" / "config.json").write_text(json.dumps(config))
    unitok("export", "--workdir", tmp_path / "run", "--out", tmp_path / "out")
    told = json.loads((tmp_path / "out" / "config.json").read_text())
    assert (told["max_position_embeddings"], told["dropout"]) == (96, 0.25)
    assert [told[f"{name}_token_id"] for name in ("bos", "pad", "eos")] == [0, 1, 2]
    unitok("import", tmp_path / "out", "--system", "unitoken", "--out", tmp_path / "back")
    model = json.loads((tmp_path / "back" / "config.json").read_text())["model"]
    assert (model["context"], model["lm"]["dropout"]) == (96, 0.25)


def test_an_import_may_lack_parts_and_says_so(home, tmp_path, capsys):
    code, out, _ = run(capsys, "import", home / "released", "--system", "unitoken", "--out", tmp_path / "x")
    assert code == 0 and "note\tno checkpoint holds vqgan" in out
    assert json.loads((tmp_path / "x" / "config.json").read_text())["fresh"] == ["vqgan"]
    Image.fromarray(np.zeros((64, 64, 3), np.uint8)).save(tmp_path / "x.png")
    code, out, _ = run(capsys, "inspect", tmp_path / "x")
    assert code == 0 and "no checkpoint held vqgan\n" in out and "vqgan:" not in out
    code, _, err = run(capsys, "reconstruct", "--workdir", tmp_path / "x", tmp_path / "x.png", "--out", tmp_path / "y")
    assert code == 2 and "also needs 'vqgan'" in err


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "options", "tiles"), [("x", [], False), ("UniToken-AnyRes", [], True), ("x", ["anyres"], True)]
)
def test_anyres_is_told_by_name_config_or_flag(home, tmp_path, capsys, name, options, tiles):
    tensors = {key: value for key, value in tensors_of(home / "released").items()}
    document = json.loads((home / "released" / "config.json").read_text())
    told = document.pop("unitoken_variant")
    assert told == "base"
    save_folder(InMemory(tensors), tmp_path / name)
    (tmp_path / name / "config.json").write_text(json.dumps(document))
    flags = ["--variant", *options] if options else []
    code, out, _ = run(capsys, "import", tmp_path / name, "--system", "unitoken", "--out", tmp_path / "out", *flags)
    assert code == 0
    assert ("taken as base" in out) == (not tiles)
    assert ("canvases" in json.loads((tmp_path / "out" / "config.json").read_text())["model"]) == tiles


def lm_of(home):
    return {path: leaf for path, leaf in leaves_of(home / "run").items() if path.startswith("lm/")}


def artefact(home, name):
    """The run's parts as one of UniToken's published artefacts."""
    table = base.build("unitoken", MODEL).artefacts[name]
    params = {path: leaf for path, leaf in leaves_of(home / "run").items() if path.split("/")[0] in table.parts}

    source = export_tree(table, nested(params))
    return {key: source.read(key) for key in tuple(source.keys())}


@pytest.mark.slow
@pytest.mark.parametrize("name", ["lumina_mgpt", "chameleon", "chameleon_lm", "chameleon_meta"])
def test_every_kind_of_language_model_is_told_by_its_keys(home, tmp_path, capsys, name):
    save_torch(InMemory(artefact(home, name)), tmp_path / "x.pth")
    code, out, _ = run(capsys, "import", tmp_path / "x.pth", "--system", "unitoken", "--out", tmp_path / "out")
    kind = {"chameleon_lm": "lumina_mgpt"}.get(name, name)
    assert code == 0 and out.startswith(f"{kind}\t")
    same(leaves_of(tmp_path / "out"), lm_of(home))


def test_metas_rows_are_turned(home):
    ours = artefact(home, "lumina_mgpt")["model.layers.1.self_attn.q_proj.weight"]
    metas = artefact(home, "chameleon_meta")["layers.1.attention.wq.weight"]
    assert not np.array_equal(ours, metas)
    for head in range(4):
        for j in range(4):
            np.testing.assert_array_equal(metas[8 * head + 2 * j], ours[8 * head + j])
            np.testing.assert_array_equal(metas[8 * head + 2 * j + 1], ours[8 * head + 4 + j])


@pytest.mark.slow
def test_norms_that_differ_between_heads_are_kept(home, tmp_path):
    tensors = artefact(home, "chameleon_lm")
    tensors["model.layers.2.self_attn.k_norm.bias"] = np.arange(32, dtype=np.float32).reshape(4, 8)
    save_folder(InMemory(tensors), tmp_path / "x")
    unitok("import", tmp_path / "x", "--system", "unitoken", "--out", tmp_path / "out")
    assert json.loads((tmp_path / "out" / "config.json").read_text())["model"]["lm"]["qk_norm_groups"] == 4
    np.testing.assert_array_equal(
        leaves_of(tmp_path / "out")["lm/layers/span_0_4/attention/k_norm/bias"][2],
        tensors["model.layers.2.self_attn.k_norm.bias"],
    )


def test_a_tokenizer_by_itself(home, tmp_path, capsys):
    unitok("import", home / "released" / CODES, "--system", "unitoken", "--out", tmp_path / "out")
    ours = leaves_of(home / "run")
    same(leaves_of(tmp_path / "out"), {path: leaf for path, leaf in ours.items() if path.startswith("vqgan/")})
    code, _, _ = run(capsys, "export", "--workdir", tmp_path / "out", "--out", tmp_path / "back")
    assert code == 0 and (tmp_path / "back" / "vqgan.ckpt").read_bytes() == (home / "released" / CODES).read_bytes()
    code, _, err = run(
        capsys, "export", "--workdir", tmp_path / "out", "--out", tmp_path / "no", "--format", "transformers"
    )
    assert code == 2 and "has vqgan, which format transformers has no place for" in err


def test_a_tokenizer_that_the_published_code_has_not_comes_back_as_it_was(tmp_path, capsys):
    """Its group norms and patches are in no key: vqgan.yaml tells them."""
    vqgan = {**MODEL["vqgan"], "groups": 8, "patch": 2, "l2_norm": True, "attn_resolutions": [16]}
    (tmp_path / "run").mkdir()
    make_run(tmp_path / "run", {**MODEL, "vqgan": vqgan}, stage="vqgan")
    unitok("export", "--workdir", tmp_path / "run", "--out", tmp_path / "out")
    assert "the published code has no groups and no patch and no l2_norm" in (tmp_path / "out/README.md").read_text()
    unitok("import", tmp_path / "out" / "vqgan.ckpt", "--system", "unitoken", "--out", tmp_path / "back")
    found = json.loads((tmp_path / "back" / "config.json").read_text())["model"]["vqgan"]
    assert {**found, **vqgan} == found
    same(leaves_of(tmp_path / "back"), leaves_of(tmp_path / "run"))


# Mistakes


class Runs:
    def __reduce__(self):
        return os.system, ("touch ran",)


def _edit(folder, **changes):
    tensors = tensors_of(folder) | {key.replace("__", "."): value for key, value in changes.items()}
    document = (folder / "config.json").read_text()
    shutil.rmtree(folder)
    save_folder(InMemory({key: value for key, value in tensors.items() if value is not None}), folder)
    (folder / "config.json").write_text(document)


SPOILT = {
    "truncated shard": (lambda f: os.truncate(max(f.glob("*.safetensors")), 5000), "cut short"),
    "missing shard": (lambda f: max(f.glob("*.safetensors")).unlink(), "missing; the index names it"),
    "missing key": (
        lambda f: _edit(f, **{"model.layers.2.mlp.up_proj.weight": None}),
        r"model.layers.2.mlp.up_proj.weight (48, 32): missing in the checkpoint",
    ),
    "unexpected key": (
        lambda f: _edit(f, **{"model.layers.2.mlp.up_proj.bias": np.zeros(48, np.float32)}),
        "model.layers.2.mlp.up_proj.bias (48,): no parameter takes this tensor; the nearest that is there",
    ),
    "wrong shape": (
        lambda f: _edit(f, **{"model.layers.3.mlp.up_proj.weight": np.zeros((40, 32), np.float32)}),
        "model.layers.3.mlp.up_proj.weight: has shape (40, 32), the config's",
    ),
    "config.json cut": (lambda f: (f / "config.json").write_text('{"a"'), "is not JSON"),
}


@pytest.mark.parametrize("name", SPOILT)
def test_a_spoilt_checkpoint_is_one_line_and_leaves_nothing(home, tmp_path, capsys, name):
    spoil, message = SPOILT[name]
    shutil.copytree(home / "released", tmp_path / "x")
    spoil(tmp_path / "x")
    refused(capsys, tmp_path, ["import", tmp_path / "x", "--system", "unitoken"], message)


def refused(capsys, folder, command, message):
    before = sorted(folder.iterdir())
    code, out, err = run(capsys, *command, "--out", folder / "out")
    assert (code, out) == (2, "")
    assert err.startswith("error: ") and err.count("\n") == 1
    assert message in err
    assert sorted(folder.iterdir()) == before


def test_code_in_a_pickle_is_never_run(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "evil.ckpt").write_bytes(pickle.dumps({"state_dict": Runs()}))
    refused(capsys, tmp_path, ["import", "evil.ckpt", "--system", "unitoken"], "holds code (posix.system)")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--system", "unitoken", "--variant", "vqgan"], "those of base or anyres, not vqgan; give --variant base or"),
        (["--system", "unitoken", "--variant", "anyress"], "no variant 'anyress'. Did you mean anyres?"),
        (["--system", "unitokn"], "no system 'unitokn'. Did you mean unitoken"),
        (["--system", "tar"], "are none of Tar's checkpoints"),
        (["--system", "unitoken", "--revision", "main"], "--revision main: belongs to a hub id that names none"),
        (["--system", "unitoken", "--vocabulary", "gone.json"], "gone.json: no such"),
    ],
)
def test_the_flag_that_fits_is_named(home, tmp_path, capsys, monkeypatch, options, message):
    monkeypatch.chdir(tmp_path)
    refused(capsys, tmp_path, ["import", home / "released", *options], message)


def test_checkpoints_of_others_and_twice_the_same(home, tmp_path, capsys):
    save_folder(InMemory({"transformer.h.0.weight": np.zeros(3)}), tmp_path / "x")
    refused(capsys, tmp_path, ["import", tmp_path / "x", "--system", "unitoken"], "are none of UniToken's checkpoints")
    released = home / "released"
    twice = ["import", released / CODES, released / CODES, "--system", "unitoken"]
    refused(capsys, tmp_path, twice, "holds vqgan, which")


def test_a_crop_that_the_released_vqgan_cannot_cut_wants_its_own(home, tmp_path, capsys):
    shutil.copytree(home / "released", tmp_path / "odd", ignore=shutil.ignore_patterns("tokenizer"))
    config = tmp_path / "odd" / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"unitoken_crop": 16}))
    refused(capsys, tmp_path, ["import", tmp_path / "odd", "--system", "unitoken"], "name the vqgan.ckpt that belongs")


@pytest.mark.slow
@pytest.mark.parametrize("command", ["import", "export"])
def test_a_full_disk_leaves_nothing(home, tmp_path, capsys, monkeypatch, command):
    given = [home / "released", "--system", "unitoken"] if command == "import" else ["--workdir", home / "run"]

    def full(*args, **kwargs):
        raise OSError(errno.ENOSPC, "No space left on device", str(tmp_path / "out"))

    with monkeypatch.context() as patch:
        patch.setattr("unitok_jax.weights.orbax_stream._fill", full)
        patch.setattr(safetensors_files, "raw", full)
        refused(capsys, tmp_path, [command, *given], "cannot write (No space left on device)")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(0, 0, 1000))
    refused(capsys, tmp_path, [command, *given], "GB, the disk has 0.0 GB free")


def test_nothing_is_written_over(home, tmp_path, capsys):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").write_text("mine")
    refused(capsys, tmp_path, ["export", "--workdir", home / "run"], "exists and is not empty")
    refused(capsys, tmp_path, ["export", "--workdir", home / "run", "--dtype", "int8"], "--dtype int8: expected")
    refused(capsys, tmp_path, ["export", "--workdir", home / "run", "--format", "onnx"], "expected upstream or transf")
    refused(capsys, tmp_path, ["export", "--workdir", home / "run", "--max-shard-size", "big"], "a size such as 5GB")
    refused(capsys, tmp_path, ["export"], "give --workdir (its last step) or --checkpoint")


# The hub

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Hub:
    """Stands for Hugging Face: one repository, one commit."""

    def __init__(self, monkeypatch, folder, files=("model.safetensors", "evil.bin")):
        self.asked, self.folder, self.files = [], folder, files
        monkeypatch.setattr(huggingface_hub, "HfApi", lambda: self)
        monkeypatch.setattr(huggingface_hub, "snapshot_download", self.download)

    def repo_info(self, repo, revision):
        if repo != "owner/name":
            raise OSError("404 not found")
        siblings = [huggingface_hub.hf_api.RepoSibling(rfilename=name) for name in self.files]
        return type("Info", (), {"sha": COMMIT, "siblings": siblings})

    def download(self, repo, *, revision, allow_patterns, local_files_only):
        self.asked.append((revision, allow_patterns, local_files_only))
        return str(self.folder)


def test_a_hub_id_is_read_at_one_commit_and_without_pickles(tmp_path, monkeypatch):
    hub = Hub(monkeypatch, tmp_path)
    located = locate("owner/name")
    assert (located.path, located.name) == (tmp_path, f"owner/name@{COMMIT}")
    ((revision, patterns, _),) = hub.asked
    assert revision == COMMIT
    assert "*.safetensors" in patterns and not any("bin" in pattern for pattern in patterns)
    (tmp_path / "ta.pth").write_text("")
    assert locate("owner/name@v1:ta.pth").path == tmp_path / "ta.pth"
    assert locate("owner/name", "v1").name.endswith(COMMIT)


def test_a_revision_is_that_of_the_hub_ids_without_one(tmp_path, monkeypatch, home, capsys):
    """The documented call: a repository and the tokenizer's file beside it."""
    released = home / "released"
    hub = Hub(monkeypatch, released)
    infos, asked = hub.repo_info, []
    monkeypatch.setattr(hub, "repo_info", lambda repo, revision: asked.append(revision) or infos(repo, revision))
    both = ["owner/name", released / CODES, "--system", "unitoken", "--revision"]
    code, out, _ = run(capsys, "import", *both, "v2", "--out", tmp_path / "out")
    assert code == 0 and asked == ["v2"]
    assert f"part lm\towner/name@{COMMIT}\n" in out and f"part vqgan\t{released / CODES}\n" in out
    named = ["import", "owner/name@v1", released / CODES, "--system", "unitoken", "--revision", "v2"]
    refused(capsys, tmp_path, named, "--revision v2: belongs to a hub id that names none")


def test_inspect_and_verify_read_the_hub(tmp_path, monkeypatch, home, capsys):
    Hub(monkeypatch, home / "released")
    code, out, _ = run(capsys, "inspect", "owner/name")
    assert code == 0 and "model.embed_tokens.weight" in out
    (tmp_path / "bare").mkdir()
    Hub(monkeypatch, tmp_path / "bare")
    code, _, err = run(capsys, "verify", "owner/name")
    assert code == 2 and f"{tmp_path / 'bare'}: no unitok.json in it" in err


def test_what_the_hub_has_not_is_told(tmp_path, monkeypatch):
    Hub(monkeypatch, tmp_path)
    for place, message in (
        ("owner/other", "Hugging Face did not give it"),
        ("owner/name:gone", "has no gone"),
        (str(tmp_path / "gone"), "no such file or folder"),
        ("gone", "no such file or folder"),
    ):
        with pytest.raises(Exception, match=message) as error:
            locate(place)
        assert type(error.value).__name__ == "UserError"


def test_a_commit_in_the_cache_is_read_without_the_hub(tmp_path, monkeypatch):
    hub = Hub(monkeypatch, tmp_path)
    monkeypatch.setattr(hub, "repo_info", lambda repo, revision: 1 / 0)
    assert locate(f"owner/name@{COMMIT}").path == tmp_path
    assert hub.asked[0][2] is True
