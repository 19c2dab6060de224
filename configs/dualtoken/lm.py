"""DualToken's language model: Qwen2.5-3B reads and writes the tokenizer's codes (our design; no code is public).

    unitok train --config configs/dualtoken/lm.py --workdir runs/dualtoken/lm

Joint pretraining on captions, read and drawn, after VILA-U's public script: 512 rows a step, one pass over 10 M
pictures, peak rate 5e-5. Needs CC12M as WebDataset shards with captions, Qwen2.5-3B, and runs/dualtoken/tokenizer.
Not run here at full size. Words of the argument beside those of parts.py:

- ``sft``: the second stage, on LLaVA's instructions and drawing, from runs/dualtoken/lm;
- ``per_depth``: feed-forward layers of their own for each depth in the heads;
- ``mean``: the three losses averaged apart and added (VILA-U) instead of equations 6 to 8;
- ``sem_alone``: the model reads semantic features only.
"""

from ml_collections import ConfigDict

from configs.dualtoken import parts

CODER = ("vit", "prequant", "codebooks", "postquant", "decoder")
DRAW = "Generate an image of {caption}."


def get_config(arg: str = "") -> ConfigDict:
    flags, options = parts.read(arg, ("sft", "per_depth", "mean", "sem_alone"))
    positions = 16 if "tiny" in flags else 256 if "256" in flags else 729
    config = ConfigDict()
    config.stage, config.model = "lm", parts.lm(flags, parts.model(flags), options["weights"])
    if "sem_alone" in flags:
        config.model.visual_streams = ("sem",)
    config.stage_options = dict(row_length=2048, images=1, reduction="mean" if "mean" in flags else "paper")
    sft = "sft" in flags
    if not sft:
        # A picture, read or drawn, stands in every example, and its positions are no words.
        config.stage_options.loss_positions = 2048 - positions
    config.data = _data(flags, options["data"])
    config.steps = 1_300 if sft else 19_531
    config.optimizer = dict(
        lr=2e-5 if sft else 5e-5,
        betas=(0.9, 0.999),
        weight_decay=0.0,
        schedule=dict(name="cosine", warmup=0.03 * config.steps),
    )
    made = ("lm", "projector", "pixel_head", "semantic_head")
    if sft:
        config.init_from, config.fresh = dict.fromkeys((*made, *CODER), "runs/dualtoken/lm"), ()
    else:
        config.init_from = dict(
            lm=f"{options['weights']}/Qwen2.5-3B", **dict.fromkeys(CODER, "runs/dualtoken/tokenizer")
        )
        config.fresh = made[1:]
    config.inference = inference(positions)
    if "tiny" in flags:
        config.stage_options.row_length, config.stage_options.loss_positions = 96, 64
    return parts.stage(flags, config)


def _data(flags: set[str], folder: str) -> dict:
    if "tiny" in flags:
        train = [dict(kind="digits", task=task, split="train") for task in ("caption", "generate")]
        return dict(train=train, batch_size=2, prefetch=0)
    drawn = dict(kind="webdataset", task="generate", path=f"{folder}/cc12m/*.tar", prompts=(DRAW,))
    read = dict(kind="webdataset", task="caption", path=f"{folder}/cc12m/*.tar")
    if "sft" in flags:
        read = dict(kind="llava", task="conversation", path=f"{folder}/llava_v1_5_mix665k.json", images=folder)
    return dict(train=[read, drawn], batch_size=512, workers=8)


def inference(positions: int) -> dict:
    """`config.inference`: VILA-U's sampling; a picture takes a step a position, then its end and the turn's."""
    draw = dict(temperature=1.0, top_k=900, top_p=0.96)
    return dict(
        read=dict(text=dict(temperature=0.0), max_steps=256),
        draw=dict(text=dict(temperature=0.0), image=draw, guidance=3.0, max_steps=positions + 4),
        prompts=dict(generate=DRAW),
    )
