"""UniWeTok's demo, 3 of 3: one language model that describes, draws and edits digits.

unitok train --config configs/demo/uniwetok_lm.py --workdir runs/demo-uniwetok/lm
"""

from ml_collections import ConfigDict

from configs.demo import uniwetok_common as common
from configs.demo.common import targets as targets_of


def get_config() -> ConfigDict:
    config = ConfigDict()
    config.system, config.stage, config.seed = "uniwetok", "lm", 0
    config.model = dict(
        image_size=16,
        parallel_num=4,
        vae=common.vae(),
        lm=dict(
            vocab_size=2048, width=128, ffn=352, layers=3, heads=4, kv_heads=2, head_dim=32, qk_norm="rmsnorm",
            rope_theta=1e4, norm_eps=1e-6, unroll=3,
        ),
        flow=dict(kind="transformer", width=128, depth=2, modulations=1, head_dim=32, squash=True, repeat=4),
    )  # fmt: skip
    config.stage_options = dict(row_length=128, images=4, text_weight=0.3, perturb=0.1, condition_dropout=0.1)
    prompts = ("Generate an image of {caption}",)
    config.data = dict(
        train=[
            common.source("caption", weight=0.2),
            common.source("question", weight=0.2),
            common.source("generate", weight=0.4, prompts=prompts),
            common.source("edit", weight=0.2, kind="digit_edits"),
        ],
        validation=dict(
            captions=[common.source("caption", split="held_out")],
            drawings=[common.source("generate", split="held_out", prompts=prompts)],
            edits=[common.source("edit", split="held_out", kind="digit_edits")],
        ),
        batch_size=16,
    )
    config.steps = 1500
    config.optimizer = common.adam(2e-3)
    config.init_from = dict(vae="runs/demo-uniwetok/tokenizer")
    config.fresh = ("lm", "projector", "flow")
    config.log_every, config.checkpoint_every, config.eval_every = 50, 500, 1500
    config.inference = dict(
        read=dict(text=dict(temperature=0.0), max_steps=24),
        draw=dict(guidance=2.0, grid=(4, 4), noise_steps=20, max_steps=6),
        prompts=dict(generate="Generate an image of {caption}"),
        batch_size=64,
    )
    targets = targets_of(reconstruction_judged=0.75, edit_correct=0.6)
    config.evaluation = dict(edits=120, classes="classes", targets=targets)
    return config
