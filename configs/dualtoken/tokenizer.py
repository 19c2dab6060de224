"""DualToken's tokenizer: the released recipe (stage 1), its other stages, the paper's, and the paper's Table 3.

    unitok train --config configs/dualtoken/tokenizer.py --workdir runs/dualtoken/tokenizer

Needs CC12M as WebDataset shards, SigLIP2-SO400M, torchvision's VGG-16 and the linear heads of the package `lpips`.
The release: 8 GPUs, 256 pictures a step, 20 epochs of 10 M; its project page tells rFID 0.25, PSNR 28.69 and 82.0 %
zero-shot for a later revision. Not run here at full size. Words of the argument beside those of parts.py:

- ``stage0``: quantizers and decoder alone, before; ``stage2``: the semantic branch alone, after (with our correction:
  layers up to the last pixel tap stay frozen);
- ``paper``: SigLIP 1, features quantised directly, one tap a branch, squared error to the frozen tower alone; the
  paper's weights are symbols, here all 1;
- ``single``: both objectives on one set of codes at the deep tap; ``reconstruction``, ``semantic``: one of them alone;
- ``restarts``: a new discriminator every 5 epochs (the release's ``--restart_gan``, whose value is not known);
- ``released_ema``: the released update of the semantic codebook, for going on from its checkpoints.
"""

from ml_collections import ConfigDict

from configs.dualtoken import parts

EPOCH = 39_063  # 10,000,000 / 256
WORDS = ("stage0", "stage2", "paper", "single", "reconstruction", "semantic", "restarts", "released_ema")
NO_PICTURE = dict(l2=0.0, perceptual=0.0, commit_pix=0.0, learns=("sem",))
NO_MEANING = dict(semantic=0.0, semantic_cosine=0.0, pooler=0.0, pooler_cosine=0.0)


def get_config(arg: str = "") -> ConfigDict:
    flags, options = parts.read(arg, WORDS)
    if "paper" in flags:
        flags.add("siglip1")
    config = ConfigDict()
    config.stage, config.model = "tokenizer", _model(flags)
    config.data = parts.pictures(flags, options["data"])
    config.steps, config.optimizer = 20 * EPOCH, parts.adamw(7.2e-5)
    config.stage_options = _weights(flags, config.model)
    if "tiny" in flags and config.stage_options.get("perceptual", 1.0):
        config.stage_options.vgg_widths = (4, 4, 8, 8, 8)
    if flags.isdisjoint({"stage0", "stage2", "semantic"}):
        _add_adversary(flags, config)
    if "stage0" in flags:
        schedule = dict(name="cosine", warmup=100_000, warmup_offset=1)
        config.steps, config.optimizer = 10 * EPOCH, parts.adamw(1e-4, betas=(0.9, 0.98), schedule=schedule)
    _starts(flags, options["weights"], config)
    return parts.stage(flags, config)


def _model(flags: set[str]) -> ConfigDict:
    model = parts.model(flags)
    if "released_ema" in flags:
        model.sem.ema_vectors = "final_residual"
    if "single" in flags:
        model.single, model.layer_shortcut = True, None
        model.layer_recon = model.get("layer_sem", 26)
    if "paper" in flags:
        model.layer_shortcut, model.prequant_sem, model.postquant_causal = None, False, False
        model.pix.features = model.sem.features = model.vit.get("width", parts.WIDTH)
    return model


def _weights(flags: set[str], model: ConfigDict) -> ConfigDict:
    """`config.stage_options`: weights of the losses, and what is trained."""
    spans = _spans(model)
    pixel, last = spans[: -2 if len(spans) > 2 else -1], spans[-1:]
    semantic_side = ("^prequant/sem/(?!.*attention/k/bias)", "^postquant/sem/(?!.*attention/k/bias)")
    chosen = ConfigDict(dict(trains=parts.TOWER))
    if "stage0" in flags:
        chosen.update(semantic=0.0, semantic_cosine=0.0, pooler=5.0, pooler_cosine=5.0)
        chosen.trains = (*_layers(last), "^vit/(post_norm|head)/", *parts.TOWER[1:])
    if "stage2" in flags:
        chosen.update(NO_PICTURE, semantic=0.0, semantic_cosine=1.0, pooler=5.0, pooler_cosine=5.0)
        chosen.trains = (*_layers(spans[len(pixel) :]), "^vit/(post_norm|head)/", *semantic_side)
    if "paper" in flags:
        chosen.update(semantic=1.0, semantic_cosine=0.0, pooler=0.0, pooler_cosine=0.0, l2=1.0)
        chosen.update(commit_pix=1.0, commit_sem=1.0, semantic_on="features")
    if "reconstruction" in flags:
        chosen.update(NO_MEANING, commit_sem=0.0, learns=("pix",))
        side = ("^prequant/(pix|shortcut)/(?!.*attention/k/bias)", "^postquant/pix/(?!.*attention/k/bias)")
        chosen.trains = ("^vit/embeddings/", *_layers(pixel), *side, "^decoder/")
    if "semantic" in flags:
        chosen.update(NO_PICTURE)
        chosen.trains = ("^vit/", *semantic_side)
    return chosen


def _spans(model: ConfigDict) -> list[tuple[int, int]]:
    """How the tower is cut: at its taps, and before its last layer."""
    layers = model.vit.get("layers", 27)
    taps = {model.get("layer_recon", 6), model.get("layer_shortcut", 4), model.get("layer_sem", 26), layers - 1}
    cuts = sorted(cut for cut in taps if cut and cut < layers)
    return list(zip([0, *cuts], [*cuts, layers], strict=True))


def _layers(spans: list[tuple[int, int]]) -> tuple[str, ...]:
    return tuple(f"^vit/layers/span_{first}_{end}/" for first, end in spans)


def _add_adversary(flags: set[str], config: ConfigDict) -> None:
    """Begins in the middle of the first epoch; the release's own first epoch is an argument that is not known here."""
    start = 1 if "tiny" in flags else EPOCH // 2
    network = dict(kind="resnet", width=32, layers=1) if "tiny" in flags else dict(kind="resnet", dtype="bfloat16")
    loss = "hinge" if "paper" in flags else "leaky_hinge"
    adversary = dict(discriminator=network, loss=loss, weight=0.75, lowest=0.3, highest=10.0, start=start)
    config.stage_options.adversary = adversary
    schedule = dict(name="cosine_after", warmup=0.5 * EPOCH, floor=4e-5 / 7.2e-5, begin=start)
    if "restarts" in flags:
        config.stage_options.discriminator_restart = schedule["period"] = 1 if "tiny" in flags else 5 * EPOCH
    judge = dict(lr=7.2e-5, betas=(0.5, 0.9), weight_decay=0.0, schedule=schedule)
    config.optimizers = dict(discriminator=judge)


def _starts(flags: set[str], weights: str, config: ConfigDict) -> None:
    """What comes from where."""
    tower = parts.tower(flags, weights)
    if "tiny" not in flags:  # what zero-shot evaluation reads; Gemma's tokenizer fills texts up with 0, SigLIP's with 1
        config.model.text_vocabulary = f"{tower}/tokenizer.json"
        config.model.text_pad = 1 if "siglip1" in flags else 0
    init, fresh = dict(vit=tower, text=tower), ("prequant", "codebooks", "postquant", "decoder")
    if flags.isdisjoint({"reconstruction"}):
        init["teacher"] = f"{tower}#vit"
    if config.stage_options.get("perceptual", 1.0):
        init |= dict(vgg=f"{weights}/vgg16.pth", lpips=f"{weights}/lpips_vgg.pth")
    if "adversary" in config.stage_options:
        fresh += ("discriminator",)
    if "stage2" in flags:
        before = "runs/dualtoken/stage0"
        init |= dict.fromkeys(("vit", "text", *fresh), before)
        fresh = ()
    config.init_from, config.fresh = init, fresh
