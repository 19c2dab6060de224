"""UniWeTok's and BitDance's checkpoints: imported without a recipe, exported as released, there and back bit by bit."""

import json

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest

from unitok_jax import cli
from unitok_jax.systems import base
from unitok_jax.systems.uniwetok import vocabulary
from unitok_jax.training.workdir import stored_leaves
from unitok_jax.weights.containers import open_source
from unitok_jax.weights.torch_files import TorchFile
from unitok_jax.weights.transfer import flat, nested

SMALL = dict(channels=32, multipliers=[1, 1, 2], res_blocks=1, z_channels=16, bit_groups=2)
HYBRID = dict(**SMALL, attn_blocks=2, heads=2)
CONV = dict(**SMALL, kind="conv", attn_blocks=0, generative=False)
PARALLEL = 4
LM = dict(width=16, ffn=24, layers=2, heads=2, kv_heads=1, head_dim=8, qk_norm="rmsnorm", rope_theta=1e6)
HEAD = dict(width=64, depth=2, modulations=1)
CLASSES = dict(
    width=64, layers=1, heads=1, channels=16, grid=[4, 4], classes=3, class_tokens=2, parallel_num=4, order="patch",
    head=dict(HEAD, kind="transformer"),
)  # fmt: skip


def make(folder, stage, model, options=None):
    """A folder as an import would leave it, with random parameters."""
    abstract = jax.eval_shape(base.build_stage(base.build("uniwetok", model), stage, options or {}).init, KEY())[0]
    rng = np.random.default_rng(0)
    leaves = {path: rng.normal(size=leaf.shape).astype(np.float32) for path, leaf in flat(abstract).items()}
    if "lm" in model:
        size = model["lm"]["vocab_size"]
        leaves["lm/embed/embedding"][size:] = 0
        leaves["lm/head/kernel"][:, size:] = 0
    folder.mkdir()
    with ocp.StandardCheckpointer() as writer:
        writer.save(folder.absolute() / "params", nested(leaves))
    config = {"system": "uniwetok", "stage": stage, "steps": 1, "data": {}, "optimizer": {}, "model": model}
    (folder / "config.json").write_text(json.dumps({**config, "stage_options": options or {}}))


def KEY():
    return jax.random.key(0)


def unitok(*argv):
    assert cli.main([str(a) for a in argv]) == 0


def there_and_back(tmp_path, *names, **settings):
    """Exports ``run``, imports the files of `names` (the folder itself by default), compares; the config found."""
    unitok("export", "--workdir", tmp_path / "run", "--out", tmp_path / "out")
    places = [tmp_path / "out" / name for name in names or ("",)]
    unitok("import", *places, "--system", "uniwetok", "--out", tmp_path / "back", *settings.get("options", ()))
    ours, theirs = stored_leaves(tmp_path / "run"), stored_leaves(tmp_path / "back")
    assert set(ours) == set(theirs)
    for path, leaf in ours.items():
        np.testing.assert_array_equal(np.asarray(leaf), np.asarray(theirs[path]), err_msg=path)
    return json.loads((tmp_path / "back" / "config.json").read_text())


def same(found, given):
    assert {key: found[key] for key in given} == given


def test_the_hybrid_is_written_as_its_container(tmp_path):
    make(tmp_path / "run", "tokenizer", {"image_size": 16, "vae": HYBRID}, {"perceptual": 0.0})
    config = there_and_back(tmp_path, "uniwetok.ckpt")
    same(config["model"]["vae"], HYBRID)
    held = TorchFile(tmp_path / "out" / "uniwetok.ckpt")
    keys = set(held.keys())
    assert {"model_ema.decay", "model_ema.num_updates", "model_ema.encoderconv_inweight"} <= keys
    assert float(held.read("model_ema.decay")) == np.float32(0.999) and int(held.read("model_ema.num_updates")) == -1


def test_an_autoencoder_is_a_flat_file(tmp_path, capsys):
    make(tmp_path / "run", "tokenizer", {"image_size": 16, "vae": CONV}, {"perceptual": 0.0})
    same(there_and_back(tmp_path, "ae.safetensors")["model"]["vae"], CONV)
    told = tmp_path / "out" / "ae_config.json"
    document = json.loads(told.read_text())
    assert document["ddconfig"]["ch_mult"] == [1, 1, 2] and document["gan_decoder"] is False
    told.write_text(json.dumps({"ddconfig": {**document["ddconfig"], "num_res_blocks": 4}}))
    argv = ("import", tmp_path / "out" / "ae.safetensors", "--system", "uniwetok", "--out", tmp_path / "no")
    assert cli.main([str(a) for a in argv]) == 2
    assert "num_res_blocks 1, but its document says 4" in capsys.readouterr().err


def test_a_class_conditional_model_carries_its_tokenizer(tmp_path):
    make(tmp_path / "run", "c2i", {"image_size": 16, "vae": CONV, "generator": CLASSES})
    config = there_and_back(tmp_path, "model.pt")
    same(config["model"]["vae"], CONV)
    same(config["model"]["generator"]["head"], CLASSES["head"])
    same(config["model"]["generator"], {key: value for key, value in CLASSES.items() if key != "head"})
    assert config["model"]["image_size"] == 16 and config["stage"] == "c2i"


def unified_model(folder):
    """The settings of a language model whose tokenizer file is written into the folder."""
    words = folder / "tokenizer.json"
    vocabulary._small().save(str(words))
    rows = vocabulary.load(str(words), 4, PARALLEL).size
    return {
        **{"lm": dict(LM, vocab_size=rows), "vae": CONV, "parallel_num": PARALLEL, "vocabulary": str(words)},
        **{"flow": dict(HEAD, kind="transformer", squash=True, head_dim=64), "image_size": 16},
    }


@pytest.fixture
def unified(tmp_path):
    """The run of a language model, and its settings."""
    model = unified_model(tmp_path)
    make(tmp_path / "run", "lm", model)
    return tmp_path, model


FILES = ("model.safetensors", "ae.safetensors", "vision_head.safetensors", "projector.safetensors")


@pytest.mark.filterwarnings("ignore")
def test_a_text_to_image_model_is_a_folder_of_four(unified, monkeypatch, capsys):
    tmp_path, model = unified
    # Heads of the released width do not divide a tiny one's.
    monkeypatch.setattr("unitok_jax.systems.uniwetok.published_sizes.HEAD_DIM", 64)
    config = there_and_back(tmp_path, *FILES)
    found = config["model"]
    assert found["parallel_num"] == PARALLEL and found["vocabulary"] == "{workdir}/tokenizer.json"
    same(found["lm"], model["lm"])
    same(found["flow"], model["flow"])
    assert found["image_size"] == 1024 and [512, 512] in found["sizes"]
    text = vocabulary.load(str(tmp_path / "out" / "tokenizer.json"), 4, PARALLEL)
    assert text.size == model["lm"]["vocab_size"]  # its tokens of pictures are in the file
    assert set(open_source(tmp_path / "out" / "projector.safetensors").keys()) == {
        f"fc{i}.{leaf}" for i in (1, 2) for leaf in ("weight", "bias")
    }
    told = tmp_path / "out" / "vision_head_config.json"
    told.write_text(json.dumps({**json.loads(told.read_text()), "parallel_num": 16}))
    places = [tmp_path / "out" / name for name in FILES]
    for given, message in (
        (places, "draws 4 tokens at once"),
        (places[:2], "give vision_head and projector too"),
    ):
        argv = ("import", *given, "--system", "uniwetok", "--out", tmp_path / "no")
        assert cli.main([str(a) for a in argv]) == 2
        assert message in capsys.readouterr().err and not (tmp_path / "no").exists()
