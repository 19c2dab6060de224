"""Our exports load into transformers and say the same there; what transformers saves, we import, and say the same."""

import json
import shutil
import sys
from pathlib import Path

import jax
import ml_dtypes
import numpy as np
import pytest

from unitok_jax import cli
from unitok_jax.backbones.sana import Sana, SanaConfig
from unitok_jax.backbones.sana_rules import sana_table
from unitok_jax.conversion import probes
from unitok_jax.conversion.exporting import export_checkpoint
from unitok_jax.conversion.importing import import_checkpoints
from unitok_jax.systems import base
from unitok_jax.training.workdir import read_workdir, stored_leaves
from unitok_jax.weights.containers import open_source
from unitok_jax.weights.source import InMemory
from unitok_jax.weights.transfer import import_tree, nested

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
pytestmark = pytest.mark.parity

sys.path.append(str(Path(__file__).parents[1] / "conversion"))
from tiny_release import MODEL, make_run  # noqa: E402

MODELS = {
    "one row for all heads": MODEL,
    "a row a head, fewer key heads, swin norms": {
        **MODEL,
        "lm": {**MODEL["lm"], "heads": 8, "head_dim": 4, "qk_norm_groups": 4, "swin_norm": True},
    },
}
IDS = np.random.default_rng(0).integers(300, 700, (2, 9))


@pytest.fixture(scope="module", params=MODELS)
def home(request, tmp_path_factory):
    """``run``, and ``theirs``: what it is exported to."""
    home = tmp_path_factory.mktemp("release")
    (home / "run").mkdir()
    make_run(home / "run", MODELS[request.param])
    export_checkpoint(str(home / "run"), home / "theirs", form="transformers", max_shard=200_000)
    return home


def load(kind, folder):
    model, told = kind.from_pretrained(folder, output_loading_info=True, dtype=torch.float32)
    assert not any(told.values()), told
    return model.eval()


def model_of(folder):
    """The system and the parameters of a folder of ours."""
    config = read_workdir(folder)
    params = nested({path: np.asarray(leaf) for path, leaf in stored_leaves(folder).items()})
    return base.build(config.system, config.model), params


def near(ours, theirs, tolerance=3e-5):
    theirs = theirs.detach().numpy()
    np.testing.assert_allclose(ours, theirs, atol=tolerance * np.abs(theirs).max(), rtol=0)


def same_words(folder, model):
    """Logits of every id that transformers does not mask, which it does with the image codes."""
    system, params = model_of(folder)
    ours = jax.jit(lambda p: system.apply(p, "lm", IDS, method="predict"))(params)[..., : MODEL["lm"]["vocab_size"]]
    with torch.no_grad():
        theirs = model(torch.tensor(IDS)).logits
    ids = system.vocabulary.ids
    words = np.r_[: ids.code_offset, ids.code_offset + ids.codes : theirs.shape[-1]]
    near(ours[..., words], theirs[..., words])


def test_chameleon_there(home):
    model = load(transformers.ChameleonForConditionalGeneration, home / "theirs")
    same_words(home / "run", model)
    system, params = model_of(home / "run")
    image = np.random.default_rng(1).uniform(-1, 1, (1, 64, 64, 3)).astype(np.float32)
    ours = jax.jit(lambda p: system.encode_image(p, {"vqgan": image[None]}).codes)(params)
    with torch.no_grad():
        theirs = model.model.vqmodel.encode(torch.tensor(np.moveaxis(image, -1, 1)))
    theirs = theirs.image_tokens if hasattr(theirs, "image_tokens") else theirs[2]
    np.testing.assert_array_equal(np.ravel(ours), theirs.reshape(-1).numpy())


def test_siglip_there_and_back(home, tmp_path):
    model = load(transformers.SiglipVisionModel, home / "theirs" / "siglip")
    model.save_pretrained(tmp_path / "theirs")
    import_checkpoints([str(tmp_path / "theirs")], tmp_path / "ours", system="unitoken")
    image = np.random.default_rng(1).uniform(-1, 1, (2, 16, 16, 3)).astype(np.float32)
    with torch.no_grad():
        theirs = model(torch.tensor(np.moveaxis(image, -1, 1)))
    for folder in (home / "run", tmp_path / "ours"):
        system, params = model_of(folder)
        hidden, aux = jax.jit(lambda p, system=system: system.apply(p, "vit", image))(params)
        near(hidden, theirs.last_hidden_state)
        near(aux["pooled"], theirs.pooler_output)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_chameleon_back(home, tmp_path, dtype):
    model = load(transformers.ChameleonForConditionalGeneration, home / "theirs")
    model.to(getattr(torch, dtype)).save_pretrained(tmp_path / "theirs", max_shard_size="150KB")
    assert len(list((tmp_path / "theirs").glob("*.safetensors"))) > 1
    import_checkpoints([str(tmp_path / "theirs")], tmp_path / "ours", system="unitoken", variant="chameleon")
    if dtype == "float32":
        same_words(tmp_path / "ours", model)
    ours, before = (stored_leaves(folder) for folder in (tmp_path / "ours", home / "run"))
    assert set(ours) == {path for path in before if path.startswith("lm/")}
    for path, leaf in ours.items():
        rounded = np.asarray(before[path]).astype(getattr(ml_dtypes, dtype, np.float32))
        np.testing.assert_array_equal(leaf, rounded)
    wanted, found = (json.loads((folder / "config.json").read_text()) for folder in (home / "run", tmp_path / "ours"))
    wanted, found = wanted["model"]["lm"], found["model"]["lm"]
    assert {**found, **wanted, "dtype": dtype} == found


def test_verify_prints_the_differences(home, capsys):
    assert cli.main(["verify", str(home / "theirs")]) == 0
    lines = [line.split("\t") for line in capsys.readouterr().out.splitlines()]
    assert [line[2] for line in lines] == ["logits", "vqgan latents", "vqgan codes", "features", "pooled"]
    assert all(float(line[-1]) < 3e-5 for line in lines)


def test_a_tokenizer_that_transformers_has_not_is_left_out(tmp_path, capsys):
    (tmp_path / "run").mkdir()
    make_run(tmp_path / "run", {**MODEL, "vqgan": {**MODEL["vqgan"], "groups": 8}})
    done = export_checkpoint(str(tmp_path / "run"), tmp_path / "theirs", form="transformers")
    assert "vqgan" in done.left
    assert cli.main(["verify", str(tmp_path / "theirs")]) == 0
    lines = [line.split("\t") for line in capsys.readouterr().out.splitlines()]
    assert [line[2] for line in lines] == ["logits", "features", "pooled"]
    assert all(float(line[-1]) < 3e-5 for line in lines)


def test_verify_fails_where_ours_and_theirs_part(home, tmp_path, capsys):
    shutil.copytree(home / "theirs", tmp_path / "other")
    path = tmp_path / "other" / "siglip" / "config.json"
    document = json.loads(path.read_text())
    path.write_text(json.dumps({**document, "hidden_act": "relu"}))
    assert cli.main(["verify", str(tmp_path / "other")]) == 2
    error = capsys.readouterr().err
    assert "siglip" in error and "more than --tolerance 0.0001" in error
    assert cli.main(["verify", str(home / "run")]) == 2
    assert "no unitok.json in it" in capsys.readouterr().err


def test_verify_reads_with_torch_what_no_class_of_it_knows(home, tmp_path, capsys, monkeypatch):
    export_checkpoint(str(home / "run"), tmp_path / "theirs", form="upstream", max_shard=200_000)
    assert cli.main(["verify", str(tmp_path / "theirs")]) == 0
    lines = [line.split("\t") for line in capsys.readouterr().out.splitlines()]
    assert lines == [[name, "torch.load", "tensors", "0.00e+00"] for name in ("unitoken", "vqgan")]
    file = tmp_path / "theirs" / "tokenizer" / "vqgan.ckpt"
    ours = open_source(file)
    arrays = {name: ours.read(name) for name in ours.keys()}  # noqa: SIM118
    name = "quantize.embedding.weight"
    for changed, message in (
        ({name: arrays[name] + np.eye(*arrays[name].shape, dtype=np.float32)}, "vqgan, tensors differs by"),
        ({name: arrays[name] * np.float32("nan")}, "vqgan, tensors differs by nan"),
        ({name: arrays[name].T}, f"{name} has the shape"),
        ({"surplus": arrays[name]}, "torch reads other tensors than we do, such as surplus"),
    ):
        other = InMemory({**arrays, **changed})
        monkeypatch.setattr(
            probes, "open_stored", lambda path, other=other: other if path == file else open_source(path)
        )
        assert cli.main(["verify", str(tmp_path / "theirs")]) == 2
        assert message in capsys.readouterr().err


def test_verify_knows_diffusers_classes(tmp_path):
    """SANA and its autoencoder, straight from diffusers to our modules."""
    diffusers = pytest.importorskip("diffusers")
    torch.manual_seed(0)
    sizes = dict(num_attention_heads=3, attention_head_dim=8, num_layers=2, num_cross_attention_heads=2)
    widths = dict(cross_attention_head_dim=12, cross_attention_dim=24, caption_channels=10, sample_size=8)
    diffusers.SanaTransformer2DModel(in_channels=4, out_channels=4, **sizes, **widths).save_pretrained(tmp_path)
    config = SanaConfig(4, 4, 3, 8, 2, 12, layers=2, caption=10)
    inputs = np.zeros((1, 4, 4, 4), np.float32), np.zeros((1, 3, 10), np.float32), np.zeros(1, np.float32)
    shapes = jax.eval_shape(lambda: Sana(config).init(jax.random.key(0), *inputs)["params"])
    params = import_tree(sana_table(config), open_source(tmp_path), shapes)

    def apply(part, *arguments):
        assert part == "sana"
        return Sana(config).apply({"params": params}, *arguments)

    ((what, difference),) = probes.compare("SanaTransformer2DModel", tmp_path, apply, ("sana",), 0)
    assert what == "prediction" and difference < 1e-4
