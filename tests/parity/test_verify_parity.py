"""`unitok verify` on an export of each system, whose torch classes say what ours says."""

import sys
from pathlib import Path

import pytest

from unitok_jax import cli

pytest.importorskip("torch")
pytest.importorskip("diffusers")
pytestmark = pytest.mark.parity

sys.path.append(str(Path(__file__).parents[1] / "conversion"))
import test_dualtoken_release as dualtoken  # noqa: E402
import test_tar_release as tar  # noqa: E402
import test_uniwetok_release as uniwetok  # noqa: E402
from tiny_release import MODEL, make_run  # noqa: E402

TOWER = {"width": 16, "ffn": 24, "layers": 1, "heads": 2}
TOWERS = {
    **MODEL,
    "vit": {**TOWER, "image_size": 16, "patch_size": 4},
    "text": {**TOWER, "vocab_size": 709, "max_length": 6, "projection": 16},
}
LEVELS = {"blocks": ("ResBlock", "EfficientViTBlock"), "widths": (4, 8), "layers": (1, 1), "kernels": ((), (5,))}
SANA = {
    **tar.MODEL,
    "sana": {
        **{"channels": 4, "out_channels": 4, "heads": 2, "head_dim": 4, "cross_heads": 2, "cross_head_dim": 4},
        **{"layers": 1, "caption": 64},
    },
    "vae": {"latent": 4, "head_dim": 4, **{f"{s}_{n}": v for s in ("encoder", "decoder") for n, v in LEVELS.items()}},
    "sana_size": 16,
}


def unitoken_towers(folder):
    make_run(folder, TOWERS, "tower")


def dualtoken_tokenizer(folder):
    make_run(folder, dualtoken.MODEL, "tokenizer", system="dualtoken", options=dualtoken.release.UNTRAINED)


def tar_with_both_de_tokenizers(folder):
    make_run(folder, SANA, system="tar", options={"carry": ["ar", "sana"]})


def uniwetok_lm(folder):
    folder.rmdir()
    uniwetok.make(folder, "lm", uniwetok.unified_model(folder.parent))


COMPARED = {  # (torch's class, what) of each artefact
    (unitoken_towers, "transformers"): [("SiglipModel", w) for w in ("features", "pooled", "text features")],
    (dualtoken_tokenizer, "upstream"): [("torch.load", "tensors")],
    (tar_with_both_de_tokenizers, "upstream"): [
        ("Qwen2ForCausalLM", "logits"),
        *[("torch.load", "tensors")] * 3,
        ("SanaTransformer2DModel", "prediction"),
        ("AutoencoderDC", "latents"),
        ("AutoencoderDC", "pictures"),
        ("torch.load", "tensors"),
    ],
    (uniwetok_lm, "upstream"): [("Qwen3ForCausalLM", "logits"), *[("torch.load", "tensors")] * 3],
}


@pytest.mark.parametrize(("run", "form"), COMPARED)
def test_torch_says_of_an_export_what_we_say(tmp_path, capsys, run, form):
    (tmp_path / "run").mkdir()
    run(tmp_path / "run")
    command = ["export", "--workdir", tmp_path / "run", "--out", tmp_path / "theirs", "--format", form]
    assert cli.main([str(word) for word in command]) == 0
    capsys.readouterr()
    assert cli.main(["verify", str(tmp_path / "theirs")]) == 0
    lines = [line.split("\t") for line in capsys.readouterr().out.splitlines()]
    assert [(kind, what) for _, kind, what, _ in lines] == COMPARED[run, form]
