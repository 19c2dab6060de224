"""UniWeTok's unified language model: pretraining, and the three models fine-tuned from it.

    unitok train --config configs/uniwetok/lm.py --workdir runs/uniwetok/lm

The words of the argument, with commas between:

    gen  chat  edit   one of the three fine-tunes, from the pretraining's run; none of them is pretraining
    P1  P4  P16  P64  tokens drawn at once (1 by default; the paper does not say)
    bitdance          BitDance-14B as released: Qwen3-14B and the tokenizer of 16 pixels and 32 bits
    d32c128  d32c256  BitDance's other tokenizers, see parts.py
    large             pictures of about 1024 x 1024 pixels; by default of 512 x 512

Pictures come as codes of their native sizes, below ``data/codes``, made of JSONL sets with the sizes of this recipe:

    unitok tokenize --workdir runs/uniwetok/tokenizer --config configs/uniwetok/lm.py \\
      --source jsonl path=data/t2i.jsonl --out data/codes/t2i --drop-pictures

From the released config: a rate of 1e-5 after 2,000 steps,
betas (0.9, 0.95), epsilon 1e-15, clip 1, losses 0.01 (words) and 1 (tokens), at most 16,384 tokens a sample. The
data, its proportions and the batch are published nowhere; these are ours. Not run here at full size.
"""

from ml_collections import ConfigDict

from configs.uniwetok import parts
from unitok_jax.systems.uniwetok.config import LARGE, SMALL

QWEN3 = {
    "8b": dict(width=4096, ffn=12288, layers=36, heads=32),
    "14b": dict(width=5120, ffn=17408, layers=40, heads=40),
}
MIXTURES = {  # (task, set, weight): folders of codes; text is a JSONL file
    "pretrain": (
        ("generate", "t2i", 0.5),
        ("conversation", "understanding", 0.2),
        ("conversation", "interleaved", 0.1),
        ("edit", "edits", 0.1),
        ("text", "text", 0.1),
    ),
    "gen": (("generate", "t2i_quality", 1.0),),
    "chat": (("conversation", "instructions", 0.9), ("text", "text", 0.1)),
    "edit": (("edit", "edits_quality", 1.0),),
}
# What a row of 16,384 positions has room to learn. Where pictures alone are drawn, an answer has one word to learn, its
# end, and a row has 64 pictures; one that is edited stands in the row twice and is drawn once. Of the pretraining,
# with answers of 200 ids and requests of 50, a fifth are words to learn and two fifths tokens to draw; rows take what
# comes, so each gets half. An answer of more than 8,192 ids is skipped.
LEARNT = {
    "pretrain": dict(loss_positions=8192, visual_positions=8192),
    "gen": dict(loss_positions=128),
    "chat": dict(visual_positions=1024),
    "edit": dict(loss_positions=128, visual_positions=8192),
}


def get_config(arg: str = "") -> ConfigDict:
    flags, options = parts.read(arg, ("gen", "chat", "edit", "P1", "P4", "P16", "P64", "large"))
    tiny = "tiny" in flags
    task = next((name for name in ("gen", "chat", "edit") if name in flags), "pretrain")
    parallel = next((n for n in (4, 16, 64) if f"P{n}" in flags), 1)
    config = ConfigDict()
    config.system, config.stage = "uniwetok", "lm"
    config.model = _model(flags, tiny, parallel, options["weights"])
    side = config.model.image_size // parts.factor(config.model.vae)
    # Pictures of the default size, of which 16,384 positions hold so many.
    config.stage_options = dict(row_length=512 if tiny else 16384, images=2 if tiny else 16384 // side**2, perturb=0.1)
    config.stage_options.update(dict(loss_positions=64, visual_positions=64) if tiny else LEARNT[task])
    config.data = dict(train=_mixture(task, options["data"], tiny), batch_size=128, workers=0 if tiny else 8)
    config.data.codes = not tiny
    config.steps = 100_000 if task == "pretrain" else 10_000
    config.optimizer = dict(
        lr=1e-5, betas=(0.9, 0.95), eps=1e-15, clip=1.0, schedule=dict(name="constant", warmup=2000)
    )
    config.compute_dtype = "float32" if tiny else "bfloat16"
    _start(config, task, parts.published_vae(flags, options["weights"]), options["weights"], tiny)
    config.inference = dict(
        read=dict(text=dict(temperature=0.0), max_steps=512),
        draw=dict(guidance=7.5, grid=(side, side), noise_steps=50, max_steps=side * side // parallel + 2),
        prompts=dict(generate="{caption}"),
        batch_size=8,
    )
    return parts.finish(config, tiny)


def _model(flags: frozenset, tiny: bool, parallel: int, weights: str) -> dict:
    vae = parts.vae(flags, tiny)
    factor = parts.factor(vae)
    if tiny:
        lm = dict(vocab_size=2048, width=32, ffn=64, layers=2, heads=4, kv_heads=2, head_dim=8)
        flow = dict(width=32, depth=1, modulations=1, head_dim=16)
        side = 4 * 8 if parallel == 64 else 32
        return _whole(lm, flow, vae, parallel, image_size=side)
    # Qwen3's 151,669 text ids, one for each side of up to 4096 pixels, and the queries.
    ids = 151669 + 4096 // factor + parallel - 1
    shared = dict(vocab_size=ids, kv_heads=8, head_dim=128, remat=True, dtype="bfloat16")
    lm = {**QWEN3["14b" if "bitdance" in flags else "8b"], **shared}
    flow = dict(width=lm["width"], depth=6, modulations=2, head_dim=128, remat=True, dtype="bfloat16")
    sizes = LARGE if "large" in flags else SMALL
    unit = factor * round(parallel**0.5)
    sizes = tuple(size for size in sizes if not any(side % unit for side in size))
    path = f"{weights}/qwen3/tokenizer.json"
    return _whole(lm, flow, vae, parallel, image_size=sizes[0][0], sizes=sizes, vocabulary=path)


def _whole(lm: dict, flow: dict, vae: ConfigDict, parallel: int, **rest) -> dict:
    lm = dict(rope_theta=1e6, norm_eps=1e-6, qk_norm="rmsnorm", **lm)
    flow = dict(kind="transformer", squash=True, **flow)
    return dict(lm=lm, flow=flow, vae=vae, parallel_num=parallel, **rest)


def _mixture(task: str, data: str, tiny: bool) -> list[dict]:
    if tiny:
        return [dict(kind="digits", task=name, size=32, weight=0.5) for name in ("generate", "caption")]
    return [
        dict(kind="jsonl", task=name, path=f"{data}/{folder}.jsonl", weight=weight)
        if name == "text"
        else dict(kind="arrayrecord", task=name, path=f"{data}/codes/{folder}", weight=weight)
        for name, folder, weight in MIXTURES[task]
    ]


def _start(config: ConfigDict, task: str, published: str, weights: str, tiny: bool) -> None:
    if tiny:
        config.init_from, config.fresh = {}, ("lm", "projector", "flow", "vae")
    elif task == "pretrain":
        config.init_from = dict(lm=f"{weights}/qwen3/model", vae=published)
        config.fresh = ("projector", "flow")
    else:
        config.init_from = dict.fromkeys(("lm", "projector", "flow", "vae"), "runs/uniwetok/lm")
        config.fresh = ()
