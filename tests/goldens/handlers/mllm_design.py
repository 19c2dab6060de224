"""DualToken's language model (our design): embeddings, logits of words and codes, losses, gradients, drawing."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from harness import Mutation, drop, swap

from unitok_jax.backbones.attn_projection_rules import attn_projection_table
from unitok_jax.backbones.decoder_config import DecoderConfig
from unitok_jax.backbones.depth_head import DepthHead, DepthHeadConfig
from unitok_jax.backbones.siglip import SiglipConfig
from unitok_jax.data.example import Task
from unitok_jax.data.rows import DRAW, Modality
from unitok_jax.inference import decode as loop
from unitok_jax.quantizers.residual import ResidualConfig
from unitok_jax.sampling.draw import sample_keys
from unitok_jax.sampling.settings import GREEDY, Decoding
from unitok_jax.systems.dualtoken import stage_lm, vocabulary
from unitok_jax.systems.dualtoken.config import HEADS, DualTokenConfig
from unitok_jax.systems.dualtoken.system import DualToken
from unitok_jax.weights.rules import Rule, Table
from unitok_jax.weights.transfer import export_tree
from unitok_jax.weights.transforms import ZeroRows

CLOSE = {"rtol": 1e-4, "atol": 1e-4}  # the README's, for float32
BRANCHES = ("pix", "sem")


class Described(DualToken):
    """The system with the vocabulary that the case's ids say."""

    def __init__(self, config, ids):
        super().__init__(config)
        self.vocabulary = vocabulary.Vocabulary(ids, config.lm.vocab_size, lambda text: [], lambda ids: "")


def load(case):
    given = case.config
    llm, heads = given["llm"], given["postquant_heads"]
    for branch in BRANCHES:
        assert given["vision_dim"] // given["code_dims"][branch] == heads[branch]
    books = {b: ResidualConfig(given["code_dims"][b], given["codebook_size"], given["depth"]) for b in BRANCHES}
    config = DualTokenConfig(
        vit=SiglipConfig(given["vision_dim"], 4, 2, 1, image_size=given["grid"], patch_size=1),
        layer_recon=1,
        layer_shortcut=None,
        layer_sem=1,
        text=None,
        lm=DecoderConfig(
            vocab_size=llm["vocab"],
            width=llm["hidden"],
            ffn=llm["inter"],
            layers=llm["layers"],
            heads=llm["heads"],
            kv_heads=llm["kv"],
            head_dim=llm["hidden"] // llm["heads"],
            rope_theta=given["rope_theta"],
            norm_eps=given["rms_norm_eps"],
            qkv_bias=True,
            tied_embeddings=llm.get("tie", True),
        ),
        head=DepthHeadConfig(
            width=given["head"]["embed_dim"],
            layers=given["head"]["n_layer"],
            heads=given["head"]["n_head"],
            ffn=given["head"]["ffn"],
        ),
        **books,
    )
    ids = vocabulary.TokenIds(-1, -2, llm["eos"], llm["vs"], llm["ve"], llm["ip"])
    system = Described(case.settings(config), ids)
    parts = (*system.lm_parts, "codebooks", "postquant")
    return system, case.params(table_of(system), jax.eval_shape(lambda: system.init(jax.random.key(0), parts)))


def table_of(system):
    """Our weights' table, and the case's way to hold what it takes of the tokenizer."""
    vision = Table((), absent={r"codebooks/\w+/book_0/(count|total)": "statistics of the training"})
    for branch in BRANCHES:
        rows = Rule(f"vision.codebook_{branch}", f"codebooks/{branch}/book_0/weight", ZeroRows(1))
        projection = attn_projection_table().under(f"vision.postquant_{branch}.", f"postquant/{branch}/")
        vision = vision + Table((rows,)) + projection
    return system.artefacts["mllm"] + vision


def batch_of(case, system):
    """The case's two samples as a batch of ours."""
    ids, seen, labels = (case.input(n).astype(np.int32) for n in ("input_ids", "attention_mask", "labels"))
    tokens = system.vocabulary.ids
    modality = np.where(ids == tokens.image_pad, Modality.CODE, Modality.TEXT)
    slots = np.where(modality == Modality.CODE, np.cumsum(modality == Modality.CODE, 1) - 1, 0)
    drawn = case.input("supervise_image")[:, None] & (modality == Modality.CODE)
    learnt = np.roll((labels >= 0) | drawn, -1, 1)
    learnt[:, -1] = False
    codes = np.concatenate([case.input("codes_pix"), case.input("codes_sem")], -1)[:, None].astype(np.int32)
    batch = {
        "tokens": ids,
        "targets": np.where(np.roll(drawn, -1, 1), DRAW, np.roll(labels, -1, 1).clip(0)),
        "loss_weights": learnt.astype(np.float32),
        "modality": modality.astype(np.int8),
        "slots": slots.astype(np.int32),
        "positions": np.broadcast_to(np.arange(ids.shape[1]), ids.shape).astype(np.int32),
        "segments": seen,
        "task": np.where(drawn.any(1, keepdims=True), Task.GENERATION, Task.UNDERSTANDING) * np.ones_like(ids),
        "codes": codes,
    }
    return jax.tree.map(jnp.asarray, batch)


def check(case):
    system, params = load(case)
    batch = batch_of(case, system)
    check_inside(case, system, params, batch)
    check_losses(case, system, params, batch)
    if case.mutation is None:
        check_drawing(case, system, params)


def check_inside(case, system, params, batch):
    @jax.jit
    def run(params):
        codes = batch["codes"][:, 0]
        split = system.tokenizer.split(codes)
        sums = {name: system.tokenizer.embed(params, name, split[name]).sum(-2) for name in BRANCHES}
        embeds = system.embed(params, batch)
        hidden = system.read_rows(params, embeds, batch, None)
        visual = stage_lm.gather_visual(batch, hidden, batch["codes"])
        logits = {}
        for name in BRANCHES:
            head, variables = DepthHead(system.config.depth_head(name)), {"params": params[HEADS[name]]}
            right = system.tokenizer.split(visual.codes)[name]
            states = head.apply(variables, visual.hidden, system.tokenizer.embed(params, name, right))
            logits[name] = head.apply(variables, states, method="logits")
        scored = {name: stage_lm.score_codes(system, params, name, visual, None).nll for name in BRANCHES}
        text = system.apply(params, "lm", hidden, method="logits")[..., : system.config.lm.vocab_size]
        nll = -jnp.take_along_axis(jax.nn.log_softmax(text), batch["targets"][..., None], -1)[..., 0]
        features = system.visual_features(params, sums), system.visual_embeds(params, sums)
        return features, embeds, hidden, text, logits, visual.weights, scored, nll

    features, embeds, hidden, text, logits, weights, scored, nll = run(params)
    seen = np.asarray(batch["segments"])[..., None] != 0
    case.compare("visual_features", features[0], **CLOSE)
    case.compare("visual_embeds", features[1], **CLOSE)
    case.compare("inputs_embeds", embeds, **CLOSE)
    case.compare("hidden_states", hidden, **CLOSE, where=seen)
    case.compare("text_logits", text, **CLOSE, where=seen)
    used = np.asarray(weights) > 0
    for name in BRANCHES:
        case.compare(f"{name}_logits", np.asarray(logits[name])[used], **CLOSE)
        case.compare(f"ce_{name}", np.asarray(scored[name]).reshape(-1, len(used)).T[used], **CLOSE)
    words = np.asarray((batch["loss_weights"] > 0) & (batch["targets"] >= 0))
    case.compare("ce_text", np.asarray(nll)[words], **CLOSE)


def check_losses(case, system, params, batch):
    totals = {name: count.astype(jnp.float32) for name, count in stage_lm._counts(batch).items()}
    case.compare("n_supervised", np.int64(totals["supervised"]))
    full = {**batch, "totals": totals}
    options = {name: stage_lm.LMOptions(reduction=name) for name in ("paper", "mean")}
    trained = {part: params[part] for part in system.lm_parts}

    def loss_of(trained, reduction):
        both = {**params, **trained}
        return stage_lm._loss(system, options[reduction], both, {}, full, jax.random.key(0), {})[0]

    case.compare("loss_mean", jax.jit(functools.partial(loss_of, reduction="mean"))(trained), **CLOSE)
    value, gradients = jax.jit(jax.value_and_grad(functools.partial(loss_of, reduction="paper")))(trained)
    case.compare("loss_paper", value, **CLOSE)
    theirs = export_tree(system.artefacts["mllm"], gradients)
    norms = [np.linalg.norm(np.asarray(theirs.read(key), np.float64)) for key in case.config["grad_norm_names"]]
    case.compare("grad_norms", np.array(norms), **CLOSE)


def check_drawing(case, system, params):
    prompts, seen = case.input("gen_prompt_ids"), case.input("gen_attention_mask") != 0
    rows = [row[mask] for row, mask in zip(prompts, seen, strict=True)]
    tokens = np.zeros((2, max(map(len, rows))), np.int32)
    for i, row in enumerate(rows):
        tokens[i, : len(row)] = row
    segments = (np.arange(tokens.shape[1]) < np.array([[len(row)] for row in rows])).astype(np.int32)
    zeros = np.zeros_like(tokens)
    batch = {"tokens": tokens, "segments": segments, "modality": zeros.astype(np.int8), "slots": zeros}
    positions = case.config["grid"] ** 2
    how = Decoding(image=GREEDY, guidance=case.config["cfg"], max_steps=positions)
    done = loop.decode(system, params, jax.tree.map(jnp.asarray, batch), sample_keys(np.array([0])), how)
    drawn = loop.written(done)[0][:, 1:]
    depth = case.config["depth"]
    case.compare("gen_codes_pix", drawn[:, :depth].astype(np.int64))
    case.compare("gen_codes_sem", drawn[:, depth:].astype(np.int64))
    codes = jnp.asarray(drawn)[None]
    split = system.tokenizer.split(codes)
    check_path(case, system, params, rows, split, how)


def check_path(case, system, params, rows, split, how):
    """Hidden states and guided logits along the path drawn, from one plain pass a row."""
    rows = [jnp.asarray(row, jnp.int32) for row in rows]

    @jax.jit
    def run(params):
        books = {name: system.tokenizer.embed(params, name, split[name]) for name in BRANCHES}
        visual = system.visual_embeds(params, {name: book.sum(-2) for name, book in books.items()})
        hidden, guided = [], {}
        for row in rows:
            words = system.apply(params, "lm", row[None], method="embed_tokens")
            states = system.apply(params, "lm", jnp.concatenate([words, visual], 1))[0][0]
            hidden.append(states[len(row) - 1 : -1])
        for name in BRANCHES:
            head, variables = DepthHead(system.config.depth_head(name)), {"params": params[HEADS[name]]}
            states = [head.apply(variables, h, books[name][0]) for h in hidden]
            with_request, without = (head.apply(variables, x, method="logits") for x in states)
            guided[name] = without + how.guidance * (with_request - without)
        return jnp.stack(hidden, 1), guided, books["pix"].sum(-2)[0]

    hidden, guided, latents = run(params)
    case.compare("gen_hidden", hidden, **CLOSE)
    case.compare("gen_zq_pix", latents, **CLOSE)
    for name in BRANCHES:
        case.compare(f"gen_guided_logits_{name}", guided[name], **CLOSE)


MUTATIONS = {
    "mllm_design_shared": (
        Mutation("heads exchanged", params=swap("pixel_head/", "semantic_head/")),
        Mutation("no projector bias", params=drop("projector/fc1/bias")),
        Mutation("no positions", params=drop("pixel_head/positions")),
    ),
}
