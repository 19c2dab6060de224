"""DualToken's tokenizer without a recipe: there and back, with the text tower's own tokenizer in its place."""

import json

import numpy as np
import pytest
from tiny_release import make_run

from unitok_jax import cli
from unitok_jax.systems import base
from unitok_jax.systems.dualtoken import release, vocabulary
from unitok_jax.training.workdir import read_workdir, stored_leaves

TEXT = {"width": 64, "ffn": 16, "layers": 1, "heads": 1, "vocab_size": 380, "max_length": 6, "projection": 64}
MODEL = {
    "vit": {"width": 64, "ffn": 32, "layers": 4, "heads": 1, "image_size": 16, "patch_size": 4},
    **{"layer_recon": 1, "layer_shortcut": 1, "layer_sem": 3},
    "pix": {"features": 32, "size": 8, "depth": 2, "kind": "rq"},
    "sem": {"features": 32, "size": 8, "depth": 2, "kind": "rq_ema"},
    "decoder": {
        **{"latent_shape": (4, 4), "in_channels": 32, "channels": 32, "multipliers": (1, 1, 1), "res_blocks": 1},
        **{"attn_resolutions": (4,), "resolution": 16},
    },
    "text": TEXT,
}


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """``run`` and its export ``released``."""
    home = tmp_path_factory.mktemp("dualtoken")
    (home / "run").mkdir()
    make_run(home / "run", MODEL, "tokenizer", system="dualtoken", options=release.UNTRAINED)
    assert cli.main(["export", "--workdir", str(home / "run"), "--out", str(home / "released")]) == 0
    return home


@pytest.mark.slow
def test_there_and_back_with_the_text_towers_tokenizer(home, tmp_path):
    file, words = home / "released" / "epoch_latest.pt", tmp_path / "siglip.json"
    words.write_text(vocabulary.TINY.read_text())
    command = [
        "import",
        str(file),
        "--system",
        "dualtoken",
        "--vocabulary",
        str(words),
        "--out",
        str(tmp_path / "back"),
    ]
    assert cli.main(command) == 0
    ours, theirs = (
        {path: np.asarray(leaf) for path, leaf in stored_leaves(place).items()}
        for place in (home / "run", tmp_path / "back")
    )
    assert set(ours) == set(theirs)
    assert all((ours[path] == theirs[path]).all() for path in ours)
    told = json.loads((tmp_path / "back" / "config.json").read_text())["model"]
    assert told["text_vocabulary"] == "{workdir}/siglip.json" and "vocabulary" not in told
    words.unlink()  # the folder has its own
    system = base.build("dualtoken", read_workdir(tmp_path / "back").model)
    words = vocabulary.load().encode("a red seven")
    assert system.text_tokens(["a red seven"])[0].tolist() == words + [system.vocabulary.ids.pad] * (6 - len(words))
    assert system.vocabulary.size == 380
