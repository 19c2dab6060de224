"""Tar's language model: tables, chat rows and labels, codes among them, logits, loss, gradients, greedy decoding."""

import dataclasses
import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import tar_parts
from harness import Mutation

from unitok_jax.backbones.decoder_config import DecoderConfig
from unitok_jax.data import packing
from unitok_jax.data.example import IMAGE, Example, Task, Turn
from unitok_jax.data.rows import Modality, RowSpec, View
from unitok_jax.losses.vocabulary import sum_by_group, vocabulary_loss
from unitok_jax.sampling import filters, repetition
from unitok_jax.systems.tar import embeddings, layout, stage_lm, vocabulary
from unitok_jax.systems.tar.config import TarConfig
from unitok_jax.systems.tar.pictures import square
from unitok_jax.systems.tar.system import Tar

ROLES = {"human": "user", "gpt": "assistant"}
FORWARD = {"rtol": 1e-4}


def check(case):
    system = load(case)
    shapes = jax.eval_shape(functools.partial(system.init, parts=("lm", "ta_tok")), jax.random.key(0))
    params = case.params(system.artefacts["tar_with_tower"], shapes)
    _ids(case, system)
    _tables(case, system, params)
    names = case.config["order"]
    examples = _examples(case, names)
    _messages(case, system, names, examples)
    _pictures(case, system, examples)
    for scale in case.config["scales"]:
        _at_scale(case, system, params, examples, scale)
    _drawing(case, system, params)
    _reading(case, system, params)
    _warping(case)


def load(case):
    llm = case.config["llm"]
    ta_tok = case.settings(tar_parts.ta_tok_config(case.config["ta_tok"]))
    words = vocabulary.load(str(case.folder / "tokenizer.json"), ta_tok.codebook_size)
    lm = DecoderConfig(
        vocab_size=llm["vocab_size"],
        width=llm["hidden_size"],
        ffn=llm["intermediate_size"],
        layers=llm["num_hidden_layers"],
        heads=llm["num_attention_heads"],
        kv_heads=llm["num_key_value_heads"],
        head_dim=llm["hidden_size"] // llm["num_attention_heads"],
        rope_theta=llm["rope_theta"],
        norm_eps=llm["rms_norm_eps"],
        qkv_bias=True,
        tied_embeddings=llm["tie_word_embeddings"],
    )
    return Tar(TarConfig(lm=lm, ta_tok=ta_tok), words)


def _ids(case, system):
    given, ids = case.config["token_ids"], system.vocabulary.ids
    assert (ids.image_start, ids.image_end) == (given["im_start"], given["im_end"])
    assert (ids.scale, ids.code_offset, ids.size) == (given["scale_start"], given["image_start"], given["vocab"])
    assert (ids.turn_start, ids.turn_end) == (given["<|im_start|>"], given["<|im_end|>"])
    assert (ids.end_of_text, ids.newline) == (given["<|endoftext|>"], given["newline"])


def _tables(case, system, params):
    ids = system.vocabulary.ids
    codebook = np.asarray(system.apply(params, "ta_tok", method=lambda m: m.codebook.rows()))
    case.compare("codebook", codebook, **FORWARD)
    # The rows of the scales are random: the reference's stand in for ours.
    announced = slice(ids.scale, ids.code_offset)
    after = case.expected("embed_after")
    case.compare("embed_after", embeddings.grow(case.input("embed_before"), ids, codebook, after[announced]))
    if "head_before" in case:
        after = case.expected("head_after_init")
        case.compare("head_after_init", embeddings.grow(case.input("head_before"), ids, None, after[announced]))


def _examples(case, names):
    """The case's conversations with its pictures, which are numbered through."""
    examples, number = [], 0
    for name in names:
        said = case.config["conversations"][name]
        turns = tuple(Turn(ROLES[m["from"]], m["value"].replace("<image>", IMAGE)) for m in said)
        count = sum(turn.text.count(IMAGE) for turn in turns)
        images = tuple(case.input(f"raw_image_{number + i}") for i in range(count))
        number += count
        examples.append(Example(name, turns, images, Task.UNDERSTANDING))
    return examples


def _messages(case, system, names, examples):
    laid = [layout.messages(example.turns, system.vocabulary) for example in examples]
    for name, (ids, labels) in zip(names, laid, strict=True):
        case.compare(f"ids_{name}", np.array(ids))
        case.compare(f"labels_{name}", np.array(labels))
    longest = max(len(ids) for ids, _ in laid)
    pad = system.vocabulary.ids.end_of_text
    for name, index, fill in (("batch_ids", 0, pad), ("batch_labels", 1, layout.IGNORE)):
        case.compare(name, np.array([row[index] + [fill] * (longest - len(row[index])) for row in laid]))
    case.compare("batch_mask", np.array([[i < len(ids) for i in range(longest)] for ids, _ in laid], np.uint8))


def _collated(system, examples):
    """Pictures in the order of the reference's collator, which has an empty one where a sample has none."""
    side = system.config.ta_tok.encoder.image_size
    pictures = []
    for example in examples:
        pictures += [square(image, side) / np.float32(127.5) - 1 for image in example.images]
        if not example.images:
            pictures.append(np.zeros((side, side, 3), np.float32))
    return np.stack(pictures).astype(np.float32)


def _pictures(case, system, examples):
    case.compare("pixel_values", np.moveaxis(_collated(system, examples), -1, 1), rtol=0, atol=1e-6)


def _at_scale(case, system, params, examples, scale):
    seen = jnp.asarray(_collated(system, examples))
    codes = system.apply(params, "ta_tok", seen, scale, method="encode")
    case.compare(f"tokens_s{scale}", codes)
    batch, labels = _batch(case, system, params, examples, scale)
    case.compare(f"seq_labels_s{scale}", labels)
    real = batch["segments"] > 0
    case.compare(f"seq_mask_s{scale}", real.astype(np.uint8))
    weights = batch["loss_weights"].reshape(-1)

    @functools.partial(jax.value_and_grad, has_aux=True)
    def mean(lm):
        whole = {**params, "lm": lm}
        embeds = system.embed(whole, batch)
        hidden = system.read_rows(whole, embeds, batch, None)
        rows = hidden.reshape(-1, hidden.shape[-1])
        size = system.config.lm.vocab_size
        found = vocabulary_loss(rows, system.head(whole), batch["targets"].reshape(-1), weights, size)
        sums = sum_by_group(found, weights, jnp.zeros(len(rows), jnp.int32), 1)
        logits = system.apply(whole, "lm", hidden, method="logits")[..., :size]
        return sums.nll[0] / sums.count[0], (embeds, logits)

    (loss, (embeds, logits)), gradients = jax.jit(mean)(params["lm"])
    case.compare(f"inputs_embeds_s{scale}", np.where(real[..., None], embeds, 0), **FORWARD)
    case.compare(f"logits_s{scale}", np.where(real[..., None], logits, 0), rtol=tar_parts.DEEP)
    case.compare(f"loss_s{scale}", loss, **FORWARD)
    case.compare(f"grad_total_norm_s{scale}", tar_parts.global_norm(gradients), rtol=tar_parts.GRADIENTS)
    table = system.artefacts["tar"].only("lm")
    case.compare_gradients(
        table, {"lm": gradients}, norms=f"gradnorm_s{scale}/", full=f"grad_s{scale}/", rtol=tar_parts.GRADIENTS
    )


def _batch(case, system, params, examples, scale):
    """One example a line, with its codes written, and the labels before they are shifted."""
    del case
    rows, labels = [], []
    for example in examples:
        scales = [scale] * len(example.images)
        rows.append(layout.conversation(example, system.vocabulary, system.config.shape, scales, "released", None))
        rows[-1] = stage_lm.place_images(system, example, rows[-1])
        said = layout.messages(example.turns, system.vocabulary)
        labels.append(layout.expand(*said, scales, system.config.shape, system.vocabulary)["labels"])
    length, side = max(len(row.tokens) for row in rows), system.config.ta_tok.encoder.image_size
    most = max(len(example.images) for example in examples)
    view = View(most, side, side, system.config.shape.outputs, Modality.CODE)
    spec = RowSpec(length, {"ta_tok": view}, code_view="ta_tok")
    batch = packing.pack([[row] for row in rows], spec, codes=False)
    batch["pixels"] = {"ta_tok": batch["pixels"]["ta_tok"] / np.float32(127.5) - 1}
    batch = jax.tree.map(jnp.asarray, batch)
    batch = stage_lm.with_codes(system, params, batch)
    padded = np.full((len(rows), length), layout.IGNORE)
    for i, row in enumerate(labels):
        padded[i, : len(row)] = row
    learnt_codes = (np.asarray(batch["modality"]) == Modality.CODE) & (padded != layout.IGNORE)
    padded = np.where(learnt_codes, batch["tokens"], padded)
    shifted = np.pad(padded[:, 1:], ((0, 0), (0, 1)), constant_values=layout.IGNORE)
    np.testing.assert_array_equal(np.where(shifted == layout.IGNORE, 0, shifted), batch["targets"])
    return batch, padded


def _drawing(case, system, params):
    ids = case.expected("t2i_prompt_ids")[0]
    scale = int(ids[-1]) - system.vocabulary.ids.scale + 1
    text = case.config.get("t2i_prompt") or _said(system, ids)
    example = Example("prompt", (Turn("user", text),), task=Task.GENERATION)
    row = layout.prompt(example, system.vocabulary, system.config.shape, scale, draw=True)
    announced = np.append(row.tokens, system.vocabulary.ids.scale + scale - 1)
    case.compare("t2i_prompt_ids", announced[None])
    case.compare("t2i_prompt_logits_last", _logits(system, params, ids)[None, -1], rtol=tar_parts.DEEP)
    _greedy(case, system, params, ids, "t2i_greedy")


def _said(system, ids):
    """What the user says in a prompt."""
    text = system.vocabulary.decode([i for i in ids.tolist() if i < system.vocabulary.ids.image_start])
    return re.search(r"user\n(.*)\nassistant\n$", text, re.DOTALL).group(1)


def _reading(case, system, params):
    ids, marks = case.expected("i2t_prompt_ids")[0], system.vocabulary.ids
    codes = ids[ids >= marks.code_offset] - marks.code_offset
    shape = system.config.shape
    scale = shape.scales[shape.tokens.index(len(codes))]
    question = _said(system, ids)
    example = Example("question", (Turn("user", IMAGE + question),), task=Task.UNDERSTANDING, codes=(codes,))
    row = layout.prompt(example, system.vocabulary, shape, scale, draw=False)
    laid = row.tokens.copy()
    laid[row.modality == Modality.CODE] += codes
    case.compare("i2t_prompt_ids", laid[None])
    last = case.expected("i2t_logits").shape[1]
    case.compare("i2t_logits", _logits(system, params, ids)[None, -last:], rtol=tar_parts.DEEP)
    _greedy(case, system, params, ids, "i2t_greedy")


def _logits(system, params, ids):
    tokens = jnp.asarray(ids, jnp.int32)[None]
    return jax.jit(lambda p: system.apply(p, "lm", tokens, method="predict"))(params)[0, :, : system.vocabulary.size]


def _greedy(case, system, params, ids, name):
    """Through the KV cache, nothing forced and nothing ended."""
    steps = case.expected(name).shape[1]
    lm = functools.partial(system.apply, params, "lm")

    @jax.jit
    def run(ids):
        cache = system.new_cache(1, ids.shape[1] + steps)
        hidden, cache = system.advance(params, lm(ids, method="embed_tokens"), cache, jnp.array([ids.shape[1]]))

        def step(carry, _):
            hidden, cache = carry
            best = lm(hidden[:, -1], method="logits").argmax(-1).astype(jnp.int32)
            hidden, cache = system.advance(params, lm(best[:, None], method="embed_tokens"), cache, jnp.array([1]))
            return (hidden[:, -1:], cache), best

        return jax.lax.scan(step, (hidden[:, -1:], cache), None, length=steps)[1].T

    case.compare(name, run(jnp.asarray(ids, jnp.int32)[None]))


def _warping(case):
    text = (case.folder / "README.md").read_text()
    logits = jnp.asarray(case.input("warp_in"))
    said = repetition.mark(jnp.zeros(logits.shape, bool), jnp.asarray(case.input("warp_history"), jnp.int32))
    for name in case.matching("warp_probs.*"):
        row = re.search(rf"`{name}`[^\n]*", text).group(0)
        number = lambda word, row=row: re.search(rf"{word} ([\d.]+)", row)  # noqa: E731
        penalty = number("penalty")
        given = repetition.penalise(logits, said, float(penalty.group(1))) if penalty else logits
        given = given / float(number("temperature").group(1))
        kept = filters.keep_top_k(given, int(number("top_k").group(1)))
        kept = filters.keep_top_p(kept, float(number("top_p").group(1).rstrip(".")))
        case.compare(name, jax.nn.softmax(kept), **FORWARD)


MUTATIONS = {
    "mllm_untied": (
        Mutation("the last layer's codes", config=lambda c: dataclasses.replace(c, select_layer=-1)),
        Mutation(
            "clean labels",
            patch=(layout, "_labels", lambda i, learn, v, rule, f=layout._labels: f(i, learn, v, "answers")),
        ),
    )
}
