"""Tar's checkpoints without a recipe: told by their keys, there and back bit by bit, and in the layout of its code."""

import json

import jax
import numpy as np
import pytest
from PIL import Image
from tiny_release import make_run

from unitok_jax import cli
from unitok_jax.backbones.ar_image import ARImageConfig
from unitok_jax.systems.tar import release
from unitok_jax.systems.tar.published_files import ar_arguments
from unitok_jax.training.workdir import read_workdir, stored_leaves
from unitok_jax.weights.containers import open_source
from unitok_jax.weights.torch_files import TorchFile

TOWER = {"width": 64, "ffn": 16, "layers": 2, "heads": 1, "image_size": 8, "patch_size": 2}
DECODER = {
    **{**TOWER, "layers": 1, "image_size": 4, "patch_size": 1, "channels": 6},
    "position_resize": "bilinear_antialias",
}
MODEL = {
    "ta_tok": {"encoder": TOWER, "decoder": DECODER, "codebook_size": 32},
    "lm": {
        **{"vocab_size": 416, "width": 8, "ffn": 8, "layers": 2, "heads": 2, "kv_heads": 1, "head_dim": 4},
        **{"qkv_bias": True, "tied_embeddings": True, "rope_theta": 1e6, "norm_eps": 1e-6},
    },
    "vq": {
        **{"channels": 32, "multipliers": (1, 2), "res_blocks": 1, "z_channels": 8, "embed_dim": 4},
        **{"codebook_size": 16, "attn_resolutions": (16,), "resolution": 32, "l2_norm": True},
    },
    "ar": {
        **{"layers": 1, "heads": 2, "width": 8, "multiple_of": 8, "codes": 16, "condition": 64},
        **{"condition_tokens": 16, "tokens": 16},
    },
}
FILES = ("lm", "ta_tok.pth", "ar_dtok_8px.pth", "vq_ds16_t2i.pt")


def unitok(*argv):
    assert cli.main([str(a) for a in argv]) == 0


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """``run`` and its export ``released``."""
    home = tmp_path_factory.mktemp("tar")
    (home / "run").mkdir()
    make_run(home / "run", MODEL, system="tar", options={"carry": ["ar"]})
    unitok("export", "--workdir", home / "run", "--out", home / "released")
    return home


def same(ours, theirs):
    ours, theirs = ({path: np.asarray(leaf) for path, leaf in stored_leaves(place).items()} for place in (ours, theirs))
    assert set(ours) == set(theirs)
    jax.tree.map(np.testing.assert_array_equal, ours, theirs)


@pytest.mark.slow
def test_there_and_back_bit_by_bit(home, tmp_path):
    released = home / "released"
    unitok("import", *(released / name for name in FILES), "--system", "tar", "--out", tmp_path / "back")
    same(tmp_path / "back", home / "run")
    config = read_workdir(tmp_path / "back")
    assert config.stage == "lm" and config.stage_options == {"carry": ["ar"]} and not config.fresh
    assert config.inference["draw"]["guidance"] == 1.0 and config.inference["prompts"] == {"generate": "{caption}"}
    for part, settings in json.loads(json.dumps(MODEL)).items():
        assert {**config.model[part], **settings} == config.model[part], part
    unitok("export", "--workdir", tmp_path / "back", "--out", tmp_path / "again")
    for name in ("lm/model.safetensors", *FILES[1:]):
        assert (tmp_path / "again" / name).read_bytes() == (released / name).read_bytes(), name


def test_the_files_are_laid_out_as_tars_code_reads_them(home):
    released = home / "released"
    ta_tok, ar = TorchFile(released / "ta_tok.pth"), TorchFile(released / "ar_dtok_8px.pth")
    assert {key.split(".")[0] for key in (*ta_tok.keys(), *ar.keys())} == {"sd"}
    assert ta_tok.told["args"]["bottleneck"]["args"]["regularizer"]["args"]["stochastic_temperature"] == 0.03
    assert (ar.told["args"]["n_head"], ar.told["args"]["n_kv_head"], ar.told["name"]) == (2, None, "llama-abs")
    config = json.loads((released / "lm" / "config.json").read_text())
    first = config["image_start_tag_id"]
    assert config["vocab_size"] == 416 and config["image_start_token_id"] == first + 5
    assert config["num_new_tokens"] == 37 and config["image_end_token_id"] == 415
    added = {
        t["content"]: t["id"] for t in json.loads((released / "lm" / "tokenizer.json").read_text())["added_tokens"]
    }
    assert added["<im_start>"] == first and added["<S2>"] == first + 4 and added["<I31>"] == 415


def test_a_registered_size_is_not_told_twice(home):
    """Tar's registry calls ``ModelArgs(n_layer=30, n_head=20, dim=1280, **args)`` by the name."""
    known = ar_arguments(ARImageConfig(layers=30, heads=20, width=1280))
    assert known["name"] == "llama-abs-LP" and not {"n_layer", "n_head", "dim"} & set(known["args"])
    assert ar_arguments(ARImageConfig(layers=2, heads=2, width=8))["args"]["n_layer"] == 2


def test_one_file_by_itself(home, tmp_path, capsys):
    released = home / "released"
    unitok("import", released / "ta_tok.pth", "--system", "tar", "--out", tmp_path / "ta_tok")
    assert read_workdir(tmp_path / "ta_tok").stage == "ta_tok"
    unitok("import", released / "ar_dtok_8px.pth", released / "ta_tok.pth", "--system", "tar", "--out", tmp_path / "ar")
    out = capsys.readouterr().out
    assert read_workdir(tmp_path / "ar").stage == "ar" and "no checkpoint holds vq" in out


@pytest.mark.parametrize(
    ("names", "options", "message"),
    [
        (("vq_ds16_t2i.pt",), ["--variant", "ar"], "its keys are those of vq, not ar"),
        (("vq_ds16_t2i.pt",), ["--variant", "vqq"], "no variant 'vqq'. Did you mean vq?"),
        (("lm/model.safetensors",), ["--vocabulary", "gone.json"], "gone.json: no such"),
        (("ta_tok.pth", "ta_tok.pth"), [], "holds ta_tok, which"),
        (("ar_dtok_8px.pth", "ar_dtok_8px.pth"), [], "import each into its own --out"),
    ],
)
def test_mistakes_are_one_line(home, tmp_path, capsys, names, options, message):
    files = [str(home / "released" / name) for name in names]
    assert cli.main(["import", *files, "--system", "tar", *options, "--out", str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and message in error and not (tmp_path / "out").exists()


def test_every_kind_is_told_by_its_keys(home):
    kinds = {
        name: release.kind_of(release.Found(name, home, open_source(home / "released" / name), {})) for name in FILES
    }
    assert list(kinds.values()) == ["lm", "ta_tok", "ar", "vq"]


@pytest.fixture
def drawer(home, tmp_path):
    """The run, made to draw pictures of codes alone."""
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "params").symlink_to(home / "run" / "params")
    config = json.loads((home / "run" / "config.json").read_text())
    config["model"]["constrain"] = True
    config["inference"] = {"draw": {"image": {"top_k": 5}, "max_steps": 24}, "batch_size": 2}
    (tmp_path / "run" / "config.json").write_text(json.dumps(config))
    return tmp_path / "run"


@pytest.mark.slow
def test_the_command_line_draws_as_it_is_told(drawer, tmp_path):
    how = ["--system", "tar", "--detokenizer", "ar", "--resolution", "8", "--scale", "2", "--detokenizer-guidance", "1"]
    command = ["generate", "--workdir", drawer, "a red seven", *how, "--best-of", "2", "--out", tmp_path / "drawn"]
    unitok(*command)
    (file,) = (tmp_path / "drawn").iterdir()
    assert Image.open(file).size == (8, 8)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--scale", "4"], "--scale 4: this model's pool scales are 1, 2, 3"),
        (["--resolution", "512"], "no de-tokenizer at 512; this model has ar at 8"),
        (["--detokenizer", "sana"], "no de-tokenizer sana; this model has ar at 8"),
        (["--system", "unitoken"], "the workdir holds a tar"),
        (["--best-of", "0"], "best_of: expected 1 or more"),
    ],
)
def test_what_it_cannot_draw_is_one_line(drawer, tmp_path, capsys, options, message):
    command = ["generate", "--workdir", str(drawer), "a red seven", *options, "--out", str(tmp_path / "drawn")]
    assert cli.main(command) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and message in error and not (tmp_path / "drawn").exists()
