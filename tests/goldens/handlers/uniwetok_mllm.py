"""The unified language model: the packed forward, drawing, editing and answering, on the reference's own layout."""

import jax
import jax.numpy as jnp
import numpy as np
from harness import Mutation, nchw, nhwc
from uniwetok_models import first_layer, load_tokenizer, tokenizer_config, zeroed

from unitok_jax.backbones.decoder_lm import DecoderConfig
from unitok_jax.backbones.flow_head import FlowHeadConfig
from unitok_jax.data.rows import Modality
from unitok_jax.layers.masks import allowed, self_mask
from unitok_jax.quantizers import binary
from unitok_jax.sampling import filters
from unitok_jax.systems.uniwetok import decoding, lm
from unitok_jax.systems.uniwetok.config import UniWeTokConfig
from unitok_jax.systems.uniwetok.system import UniWeTok
from unitok_jax.systems.uniwetok.vocabulary import TokenIds, Vocabulary

TOLERANCE = {"rtol": 3e-4, "atol": 3e-4}


def check(case):
    system = UniWeTok(*settings(case))
    _, _, method = load_tokenizer(case, system.config.vae, "vision_encoder.")
    abstract = jax.eval_shape(lambda key: system.init(key, ("lm", "projector", "flow", "vae")), jax.random.key(0))
    params = case.params(system.artefacts["full_state"], abstract)
    train(case, system, params)
    draw(case, system, params, "t2i", method)
    if "edit.source" in case:
        draw(case, system, params, "edit", method)
    chat(case, system, params)
    check_filters(case)


def settings(case):
    given, llm = case.config, case.config["llm_config"]
    head, ids = given["head"]["vision_pred"], given["special_ids"]
    parallel = head["parallel_num"]
    encoder = given["encoder"]["params"]
    config = UniWeTokConfig(
        vae=tokenizer_config(encoder["ddconfig"], encoder.get("gan_decoder", False)),
        image_size=4 * given["vit_patch_size"] * 2,
        lm=DecoderConfig(
            vocab_size=llm["vocab_size"],
            width=llm["hidden_size"],
            ffn=llm["intermediate_size"],
            layers=llm["num_hidden_layers"],
            heads=llm["num_attention_heads"],
            kv_heads=llm["num_key_value_heads"],
            head_dim=llm["head_dim"],
            rope_theta=llm["rope_theta"],
            norm_eps=llm["rms_norm_eps"],
            qk_norm="rmsnorm",
            tied_embeddings=llm["tie_word_embeddings"],
        ),
        flow=FlowHeadConfig(
            kind="transformer",
            width=head["model_dim"],
            depth=head["num_blocks"],
            modulations=head["num_adaln"],
            head_dim=128,
            gated=head["use_swiglu"],
            squash=True,
            time_schedule=head["time_schedule"],
            time_mean=head["P_mean"],
            time_deviation=head["P_std"],
            time_shift=head["time_shift"],
            repeat=head["diff_batch_mul"],
        ),
        parallel_num=parallel,
    )
    config = case.settings(config)
    tokens = TokenIds(
        im_start=ids["im_start"],
        im_end=ids["im_end"],
        vision_start=ids["start_of_image"],
        vision_end=ids["end_of_image"],
        image_pad=ids["image_pad"],
        resolution=ids["res_1"],
        resolutions=ids["query_1"] - ids["res_1"],
        queries=parallel - 1,
    )
    return config, Vocabulary(tokens, llm["vocab_size"], list, str)


def signs_of(system, params, pictures):
    """Codes of pictures of any sizes, in one array of padded rows in patch-raster order, with their columns."""
    maps = []
    for picture in pictures:
        features, _ = system.apply(params, "vae", jnp.asarray(nhwc(picture)), method="encode")
        maps.append(binary.signs(features)[0])
    counts = [code.shape[0] * code.shape[1] for code in maps]
    room = max(counts)
    flat = [jnp.pad(c.reshape(-1, c.shape[-1]), ((0, room - n), (0, 0))) for c, n in zip(maps, counts, strict=True)]
    columns = jnp.array([[code.shape[1] for code in maps]])
    return lm.in_blocks(jnp.stack(flat)[None], columns, system.config.side), columns, counts


def packed(case, system, counts, room):
    """The reference's flat pack as one row of ours."""
    text, where = case.input("train.packed_text_ids"), case.input("train.packed_text_indexes")
    vision, positions = case.input("train.packed_vit_token_indexes"), case.input("train.packed_position_ids")
    length = len(positions)
    tokens, modality, slots = (np.zeros(length, np.int32) for _ in range(3))
    tokens[where], modality[vision] = text, Modality.CODE
    slots[vision] = np.concatenate([i * room + np.arange(n) for i, n in enumerate(counts)])
    samples = case.input("train.sample_lens")
    segments = np.repeat(np.arange(1, len(samples) + 1), samples)[:length]
    targets, weights = np.zeros(length, np.int32), np.zeros(length, np.float32)
    targets[case.input("train.ce_loss_indexes_vision")] = -1
    targets[case.input("train.ce_loss_indexes_text")] = case.input("train.packed_label_ids")
    weights[case.expected("train.ce_loss_indexes_vision")] = 1
    batch = {"tokens": tokens, "modality": modality, "slots": slots, "segments": segments, "positions": positions}
    batch |= {"targets": targets, "loss_weights": weights}
    if "train.split_lens" in case:
        batch["blocks"] = blocks_of(case, system.config.parallel_num)[:length]
    return {name: jnp.asarray(value)[None] for name, value in batch.items()}


def blocks_of(case, parallel):
    """Block ids from the attention segments: those called parallel, from their third position on."""
    found, before = [], 0
    for size, is_parallel in zip(case.input("train.split_lens"), case.input("train.split_is_parallel"), strict=True):
        local = np.arange(size) - case.config["parallel_causal_num"]
        ids = np.where((local >= 0) & bool(is_parallel), before + local // parallel, -1)
        found.append(ids)
        before = max(before, int(ids.max(initial=-1)) + 1)
    return np.concatenate(found).astype(np.int32)


def train(case, system, params):
    config = system.config
    pictures = [case.input(name) for name in sorted(case.matching(r"train\.image\d+"))]
    signs, columns, counts = signs_of(system, params, pictures)
    room = signs.shape[2]
    flat = signs.reshape(1, -1, signs.shape[-1])
    rows = np.concatenate([i * room + np.arange(n) for i, n in enumerate(counts)])
    case.compare("train.vision_latents", flat[0, rows])
    first = lm.positions(config, jnp.arange(counts[0]), columns[0, 0])
    case.compare("pos_embed_2d_image0", first, **TOLERANCE)
    batch = packed(case, system, counts, room)
    drawn = lm.gather_drawn(config, batch, len(counts) * room)
    labels = case.input("train.packed_label_indexes_vision")
    np.testing.assert_array_equal(np.asarray(drawn.token)[np.asarray(drawn.kept)], rows[labels])
    read = flipped(case, flat, rows[labels]).reshape(signs.shape)
    noise = jnp.asarray(case.input("train.noise_t_normal")), jnp.asarray(case.input("train.noise_e"))
    words = case.expected("train.ce_loss_indexes_text")
    kept = int(np.asarray(drawn.kept).sum())
    drawn = lm.Drawn(*(x[:, :kept] for x in drawn))

    def loss(params):
        embeds = system.apply(params, "lm", batch["tokens"], method="embed_tokens")
        embeds = lm.place_tokens(config, params, embeds, batch, read, columns)
        capture = {"capture_intermediates": True, "mutable": ["intermediates"]}
        reading = (batch["positions"], batch["segments"], batch.get("blocks"))
        (hidden, _), inside = system.apply(params, "lm", embeds, *reading, **capture)
        logits = system.apply(params, "lm", hidden[0, words], method="logits")
        ce = -jnp.take_along_axis(jax.nn.log_softmax(logits), batch["targets"][0, words][:, None], 1)[:, 0]
        condition = lm.conditions(config, hidden, drawn, columns, room)
        vision = lm.drawing_loss(config, params, signs, condition, drawn, noise)[0]
        total = vision.mean() + 0.01 * ce.mean()
        return total, (embeds, hidden, logits, ce, vision, inside["intermediates"]["layers"])

    (total, found), gradients = jax.jit(jax.value_and_grad(loss, has_aux=True))(params)
    embeds, hidden, logits, ce, vision, layers = found
    case.compare("train.llm_input", embeds[0], **TOLERANCE)
    case.compare("train.layer0_attn", first_layer(layers)[0][0], **TOLERANCE)
    case.compare("train.llm_hidden", hidden[0], **TOLERANCE)
    case.compare("train.text_logits", logits[:, : case.config["llm_config"]["vocab_size"]], **TOLERANCE)
    case.compare("train.ce_loss_text", ce, **TOLERANCE)
    case.compare("train.ce_loss_vision", vision, **TOLERANCE)
    case.compare("train.total_mean", total, **TOLERANCE)
    case.compare_gradients(system.artefacts["full_state"], gradients, "train.gradnorm.", "none.")
    if "train.attn_allowed" in case:
        check_mask(case, system)


def flipped(case, flat, rows):
    chance = jnp.ones(flat.shape[1:]).at[rows].set(jnp.asarray(case.input("train.perturb_r1")))
    share = jnp.zeros(flat.shape[1:]).at[rows].set(jnp.asarray(case.input("train.perturb_r2")))
    return binary.flip(flat[0], chance, share, case.config["head"]["vision_perturb"])


def check_mask(case, system):
    """The reference pads with one more sample, whose padding sees itself."""
    samples = case.expected("train.sample_lens")
    segments = np.repeat(np.arange(1, len(samples) + 1), samples)[None]
    blocks = blocks_of(case, system.config.parallel_num)[None]
    length = segments.shape[1]
    seen = allowed(self_mask(jnp.asarray(segments), jnp.asarray(blocks)), length, length)[0]
    case.compare("train.attn_allowed", seen.astype(np.uint8))


def rows_of(system, params, contexts):
    """Right-padded embeddings of contexts, each a list of id arrays and embeddings [n, D]."""
    made = []
    for pieces in contexts:
        made.append(
            jnp.concatenate(
                [
                    piece
                    if jnp.ndim(piece) == 2
                    else system.apply(params, "lm", jnp.asarray(piece, jnp.int32), method="embed_tokens")
                    for piece in pieces
                ]
            )
        )
    lengths = np.array([len(row) for row in made])
    padded = [jnp.pad(row, ((0, lengths.max() - len(row)), (0, 0))) for row in made]
    return jnp.stack(padded), jnp.asarray(lengths)


def picture_context(system, params, picture):
    """A picture that is read: ``vision_start res_h res_w {tokens} vision_end``, and its embeddings."""
    signs, columns, counts = signs_of(system, params, [picture])
    embeds = lm.token_embeds(system.config, params, signs[0, 0], jnp.arange(counts[0]), columns[0, 0])
    ids, wide = system.vocabulary.ids, int(columns[0, 0])
    head = [ids.vision_start, ids.side(counts[0] // wide), ids.side(wide)]
    return [head, embeds, [ids.vision_end]], embeds


def draw(case, system, params, name, method):
    """One picture for each column of noise, guided."""
    config, ids = system.config, system.vocabulary.ids
    noise = jnp.asarray(case.input(f"{name}.noise"))
    factor, parallel = config.vae.factor, config.parallel_num
    source = case.input("edit.source") if name == "edit" else None
    height, width = case.expected(f"{name}.image").shape[2:]
    rows, columns = height // factor, width // factor
    before = picture_context(system, params, source)[0] if source is not None else []
    asked = case.input("edit.instr_ids" if name == "edit" else "t2i.cond_ids")
    unasked = case.input(f"{name}.uncond_ids")
    start = [ids.vision_start, ids.side(rows)]
    count = noise.shape[2]
    contexts = [[*before, words, start] for words in (asked, unasked) for _ in range(count)]
    embeds, lengths = rows_of(system, params, contexts)
    cache = system.new_cache(len(contexts), embeds.shape[1] + parallel + rows * columns)
    scale = case.config["t2i"]["guidance"]

    @jax.jit
    def run(params, embeds):
        _, filled = system.advance(params, embeds, cache, lengths)
        block = system.apply(params, "lm", jnp.asarray(ids.block(columns)), method="embed_tokens")
        read = jnp.broadcast_to(block, (len(contexts), *block.shape))

        def step(state, given):
            read, filled = state
            number, noise = given
            hidden, filled = system.advance(params, read, filled, jnp.full(len(contexts), parallel))
            drawn = decoding.draw_tokens(config, params, hidden, number, columns, noise, scale)
            return (drawn.embeds, filled), drawn

        return jax.lax.scan(step, (read, filled), (jnp.arange(len(noise)), noise))[1]

    drawn = run(params, embeds)
    case.compare(f"{name}.cond", drawn.condition, **TOLERANCE)
    twice = jnp.concatenate([drawn.predicted, drawn.predicted], 1)
    expected = case.expected(f"{name}.pred")
    case.compare(f"{name}.pred", twice if expected.shape[1] == 2 * count else drawn.predicted, **TOLERANCE)
    tokens = jnp.moveaxis(drawn.signs, 0, 1).reshape(count, rows * columns, -1)
    codes = binary.to_indices(tokens, config.vae.bit_groups)
    head = np.full((decoding.HEAD * parallel, config.vae.bit_groups), rows * decoding.ROWS + columns)
    maps = [decoding.read_picture(config, np.concatenate([head, np.asarray(one)]))[0] for one in codes]
    signs = binary.from_indices(jnp.asarray(np.stack(maps)), config.vae.z_channels)
    given = (jnp.asarray(nhwc(case.input(f"{name}.decoder_noise"))),) if f"{name}.decoder_noise" in case else ()
    case.compare(f"{name}.image", nchw(method("decode")(signs, *given)[0]), **TOLERANCE)


def chat(case, system, params):
    context, embeds = picture_context(system, params, case.input("chat.image"))
    case.compare("chat.image_embeds", embeds, **TOLERANCE)
    prefix, suffix = case.input("chat.prefix_ids"), case.input("chat.suffix_ids")
    rows, lengths = rows_of(system, params, [[prefix, context[1], suffix]])
    wanted = case.expected("chat.greedy_ids")
    cache = system.new_cache(1, rows.shape[1] + len(wanted))

    @jax.jit
    def run(params, rows):
        hidden, filled = system.advance(params, rows, cache, lengths)

        def step(state, _):
            hidden, filled = state
            logits = system.apply(params, "lm", hidden, method="logits")[:, : system.vocabulary.size]
            best = jnp.argmax(logits, -1)
            read = system.apply(params, "lm", best[:, None], method="embed_tokens")
            hidden, filled = system.advance(params, read, filled, jnp.ones(1, jnp.int32))
            return (hidden[:, -1], filled), (best[0], logits[0])

        return jax.lax.scan(step, (hidden[:, -1], filled), None, len(wanted))[1]

    best, logits = run(params, rows)
    case.compare("chat.greedy_ids", best)
    case.compare("chat.logits", logits, **TOLERANCE)


def check_filters(case):
    """Names say the filters, such as ``topk7_topp0.6``."""
    logits = jnp.asarray(case.input("filter.logits"))
    for name in case.matching(r"filter\.top.*"):
        kept = logits
        for part in name.removeprefix("filter.").split("_"):
            if part.startswith("topk"):
                kept = filters.keep_top_k(kept, int(part.removeprefix("topk")))
            else:
                kept = filters.keep_top_p(kept, float(part.removeprefix("topp")))
        case.compare(name, np.isfinite(kept).astype(np.uint8))


MUTATIONS = {"mllm_block_p4": (Mutation("no projector bias", params=zeroed("projector/fc1/bias")),)}
