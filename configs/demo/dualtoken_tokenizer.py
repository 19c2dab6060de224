"""DualToken's demo, 2 of 3: the tokenizer, whose semantic features stay near those of the tower that it begins with.

    unitok train --config configs/demo/dualtoken_tokenizer.py --workdir runs/demo-dualtoken/tokenizer

The released losses but LPIPS and the adversary. ``:single`` puts both objectives on one set of codes at the deep tap,
as the paper's Table 3 compares; ``:text`` carries the tower's text side along, for zero-shot classes.
"""

from ml_collections import ConfigDict

from configs.demo import dualtoken

TOWER = f"{dualtoken.RUNS}/tower"


def get_config(arg: str = "") -> ConfigDict:
    words = set(filter(None, arg.split(",")))
    if words - {"single", "text"}:
        raise ValueError(f"no such word in {arg!r}; known: single, text")
    config = dualtoken.stage("tokenizer", batch=32, steps=600, lr=2e-3, tasks=dict(image=1.0))
    config.model = dualtoken.model(*words & {"text"})
    if "single" in words:
        config.model.single, config.model.layer_recon, config.model.layer_shortcut = True, 3, None
        config.model.vit.cuts = (1, 2, 3)  # the tower's own, which it is loaded from, has taps there
    config.stage_options = dict(perceptual=0.0, l2=20.0, commit_pix=1.0, commit_sem=1.0, crop=False)
    config.init_from = dict(vit=TOWER, teacher=f"{TOWER}#vit", **dict.fromkeys(words & {"text"}, TOWER))
    config.fresh = ("prequant", "codebooks", "postquant", "decoder")
    return config
