"""DualToken's demo, 3 of 3: the language model learns captions, answers and drawing together.

unitok train --config configs/demo/dualtoken_lm.py --workdir runs/demo-dualtoken/lm
"""

from ml_collections import ConfigDict

from configs.demo import common, dualtoken

CODER = ("vit", "prequant", "codebooks", "postquant", "decoder")


def get_config() -> ConfigDict:
    tasks = dict(caption=0.35, question=0.3, generate=0.35)
    config = dualtoken.stage("lm", batch=14, steps=1000, lr=2e-3, tasks=tasks)
    config.model = dualtoken.model("lm")
    config.stage_options = dict(row_length=112, pack=True, images=3)
    config.init_from = dict.fromkeys(CODER, f"{dualtoken.RUNS}/tokenizer")
    config.fresh = ("lm", "projector", "pixel_head", "semantic_head")
    config.inference = dict(
        read=dict(text=dict(temperature=0.0), max_steps=12),
        draw=dict(text=dict(temperature=0.0), image=dict(temperature=0.7), guidance=2.0, max_steps=20),
        prompts=dict(generate=dualtoken.DRAW),
        batch_size=64,
    )
    targets = common.targets(reconstruction_psnr=22.0, reconstruction_judged=0.77)
    config.evaluation = dict(targets=targets)
    return config
