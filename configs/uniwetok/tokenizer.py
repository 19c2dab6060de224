"""UniWeTok's tokenizer, its three-stage curriculum and every ablation of the paper's Tables 1 to 7.

    unitok train --config configs/uniwetok/tokenizer.py --workdir runs/uniwetok/tokenizer

The recipe of all rows (arXiv 2602.14178, appendix): 256 x 256 pixels, Adam (0.5, 0.9), a constant rate of 1e-4, batch
128, 250,250 steps, a moving average of the weights. The words of the argument, with commas between:

    cnn               no transformer in the middle (Table 1)
    bs1024            batch 1024, as the rows "CNN" and "Hybrid"
    no_siglu          features are not squashed (Tables 2 and 4)
    no_pre  no_post   one of the two distillations left out (Table 3); both: no distillation at all
    linear_head       linear pooling heads, as in the ImageNet ablations (Table 6)
    no_prior          without the Generative-Aware Prior (Table 5)
    no_query          the prior's query token is a fixed zero (Table 5)
    datacomp          general pictures in the place of ImageNet, without attention (Tables 6 and 7)
    wetok             WeTok's own objective: no SigLu, no distillation, no prior, commitment 0.25
    sum_groups        token entropy as the paper's equation 3 has it
    stage2            several sizes in every step, from stage 1's run (paper section 3.3; the sizes are ours)
    stage3            faces and text, the rate down to 0, from stage 2's run

and those of parts.py, which take one of BitDance's tokenizers in the place of the hybrid. The row "Transformer" has no
released network whose width changes, and is not offered. The weights of distillation and prior, and what the
curriculum's stages last, are published nowhere; these are ours. Not run here at full size.
"""

from ml_collections import ConfigDict

from configs.uniwetok import parts

FLAGS = (
    *("cnn", "bs1024", "no_siglu", "no_pre", "no_post", "linear_head", "no_prior", "no_query", "datacomp"),
    *("wetok", "sum_groups", "stage2", "stage3"),
)
SIZES = (  # 256, 384, 512, 768 and 1024 pixels on the long side
    (256, 256), (384, 256), (256, 384), (512, 384), (384, 512), (768, 512), (512, 768), (1024, 1024),
)  # fmt: skip


def get_config(arg: str = "") -> ConfigDict:
    flags, options = parts.read(arg, FLAGS)
    tiny, wetok = "tiny" in flags, "wetok" in flags
    config = ConfigDict()
    config.system, config.stage = "uniwetok", "tokenizer"
    changes = dict(attn_blocks=0) if {"cnn", "datacomp"} & flags else {}
    if wetok or "no_siglu" in flags:
        changes["siglu"] = False
    side = 32 if tiny else 256
    vae = parts.vae(flags, tiny, **changes)
    config.model = dict(image_size=side, vae=vae)
    config.stage_options = _options(flags, tiny, wetok, vae, side)
    if {"stage2", "stage3"} & flags:
        config.stage_options["sizes"] = ((32, 32), (32, 48)) if tiny else SIZES
    kind = "faces_and_text" if "stage3" in flags else "datacomp" if {"datacomp", "stage2"} & flags else "imagenet"
    config.data = dict(
        train=[parts.pictures(kind, options["data"], tiny)],
        batch_size=1024 if "bs1024" in flags else 128,
        workers=0 if tiny else 8,
    )
    config.steps = 50_000 if "stage3" in flags else 250_250
    decay = dict(name="cosine") if "stage3" in flags else dict(name="constant")
    config.optimizer = dict(lr=1e-4, betas=(0.5, 0.9), schedule=decay)
    config.ema = dict(decay=0.999)
    config.compute_dtype = "float32" if tiny else "bfloat16"
    _start(config, flags, options["weights"], tiny)
    return parts.finish(config, tiny)


def _options(flags: frozenset, tiny: bool, wetok: bool, vae: ConfigDict, side: int) -> ConfigDict:
    options = ConfigDict(dict(commitment=0.25 if wetok else 0.0, sum_groups="sum_groups" in flags))
    options.adversary = dict(
        loss="hinge", generator_loss="nonsaturating", weight=0.1, adaptive=False, lecam=0.05,
        discriminator=dict(width=8, layers=2) if tiny else dict(kind="patch", dtype="bfloat16"),
    )  # fmt: skip
    if tiny:
        options.vgg_widths = (4, 4, 4, 4, 4)
    pre, post = (float(not wetok and f"no_{side}" not in flags) for side in ("pre", "post"))
    if pre or post:
        kind = "linear" if "linear_head" in flags else "attention"
        options.distill = dict(
            pre=pre, post=post, pool=dict(kind=kind, dtype="bfloat16"),
            teacher=dict(image_size=384, patch_size=16, dtype="bfloat16"),
        )  # fmt: skip
        if tiny:
            options.distill = dict(
                pre=pre, post=post, pool=dict(kind=kind, width=16, heads=2),
                teacher=dict(width=16, ffn=32, layers=1, heads=2, image_size=32, patch_size=16),
            )  # fmt: skip
    if not wetok and "no_prior" not in flags:
        options.prior = dict(network=_prior(flags, tiny, vae.get("z_channels", 128), side // parts.factor(vae)))
    return options


def _prior(flags: frozenset, tiny: bool, channels: int, grid: int) -> dict:
    """BitDance-T: 8.6 M parameters."""
    several = {"stage2", "stage3"} & flags
    shared = dict(
        channels=channels, grid=(grid, grid), classes=0, positions="sincos" if several else "learned",
        learned_query="no_query" not in flags,
    )  # fmt: skip
    if tiny:
        head = dict(kind="mlp", width=16, depth=1, modulations=1)
        return dict(width=16, layers=1, heads=2, head=head, **shared)
    head = dict(kind="mlp", width=320, depth=4, modulations=1, dtype="bfloat16")
    return dict(width=320, layers=4, heads=5, head=head, dtype="bfloat16", **shared)


def _start(config: ConfigDict, flags: frozenset, weights: str, tiny: bool) -> None:
    """Where each part comes from: published files, the stage before, or nothing."""
    learnt = ["vae", "discriminator"]
    learnt += [name for name, there in (("pools", "distill"), ("prior", "prior")) if there in config.stage_options]
    frozen = dict(vgg=f"{weights}/lpips/vgg16.pth", lpips=f"{weights}/lpips/vgg.pth")
    if "distill" in config.stage_options:
        frozen["vit"] = f"{weights}/siglip2/ViT-SO400M-16-SigLIP2-384"
    before = "runs/uniwetok/tokenizer-stage2" if "stage3" in flags else "runs/uniwetok/tokenizer"
    if tiny:
        config.init_from, config.fresh = {}, tuple([*learnt, *frozen])
    elif {"stage2", "stage3"} & flags:
        carried = [name for name in learnt if name != "prior" or "stage3" in flags]
        config.init_from = {**frozen, **dict.fromkeys(carried, before)}
        config.fresh = tuple(name for name in learnt if name not in carried)
    else:
        config.init_from, config.fresh = frozen, tuple(learnt)
