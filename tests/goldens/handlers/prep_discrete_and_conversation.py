"""UniToken's discrete preprocessing: crop, codes, image segment, reading it back, and conversations as rows."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
from harness import Mutation, drop, nchw

from unitok_jax.backbones.decoder_config import DecoderConfig
from unitok_jax.backbones.siglip import SiglipConfig
from unitok_jax.backbones.taming_vae import VAEConfig
from unitok_jax.data import packing, pictures
from unitok_jax.data.example import Example, Task, Turn
from unitok_jax.data.rows import Modality, RowSpec, View
from unitok_jax.systems.codes import write_codes
from unitok_jax.systems.pixels import to_float
from unitok_jax.systems.unitoken import decoding, images, layout
from unitok_jax.systems.unitoken.config import UniTokenConfig
from unitok_jax.systems.unitoken.system import UniToken
from unitok_jax.systems.unitoken.vocabulary import TokenIds, Vocabulary

TIE = 1e-5  # nearer codes than that may change places
UNIT = 32  # pixels a grid unit
SPEAKERS = {"human": "user", "gpt": "assistant"}


def check(case):
    system, params = _load(case)
    (size,) = case.config["crop_sizes_wh"]
    for name in case.matching(r"img\d+\.uint8"):
        _compare_picture(case, system, params, name.removesuffix("uint8"), tuple(size))
    if "rgba.uint8" in case:
        case.compare("rgba.whitened", pictures.decode(case.input("rgba.uint8")))
    for number, conversation in enumerate(case.config["conversations"]):
        _compare_conversation(case, system, number, conversation)
    _compare_sizes(case)


def _load(case):
    """The tiny VQGAN in a system whose text tokenizer is the README's toy."""
    given, (size,) = case.config["vq"], case.config["crop_sizes_wh"]
    net = given["ddconfig"]
    vqgan = VAEConfig(
        channels=net["ch"],
        multipliers=tuple(net["ch_mult"]),
        res_blocks=net["num_res_blocks"],
        z_channels=net["z_channels"],
        embed_dim=given["embed_dim"],
        codebook_size=given["n_embed"],
        attn_resolutions=tuple(net["attn_resolutions"]),
        resolution=net["resolution"],
    )
    ids = TokenIds(codes=given["n_embed"], image_prefix=tuple(_encode(" ")))
    tiny = DecoderConfig(ids.image, 8, 8, layers=1, heads=1, kv_heads=1, head_dim=8)
    assert size[0] == size[1]
    config = UniTokenConfig(tiny, SiglipConfig(), vqgan, image_size=size[0])
    system = UniToken(config, Vocabulary(ids, ids.image, encode=_encode, decode=str))
    abstract = jax.eval_shape(functools.partial(system.init, parts=("vqgan",)), jax.random.key(0))
    return system, case.params(system.artefacts["vqgan"], abstract)


def _encode(text):
    """The README's toy tokenizer."""
    pieces = re.findall(r"<reserved(\d{5})>|(.)", text, flags=re.DOTALL)
    return [int(reserved) + 4 if reserved else 20000 + ord(char) % 1000 for reserved, char in pieces]


def _compare_picture(case, system, params, name, size):
    image, place = case.input(name + "uint8"), case.input(name + "crop_left_upper").tolist()
    covering = images.cover(_image(image), *size)
    left, upper = place
    crop = np.asarray(covering.crop((left, upper, left + size[0], upper + size[1])))
    case.compare(name + "crop_uint8", crop)
    _check_places(image, covering, size)
    pixels = to_float(crop[None])
    case.compare(name + "vq_input", nchw(pixels))
    shape = system.config.shape
    expected = case.expected(name + "tokens")
    codes = _compare_codes(case, system, params, name, jnp.asarray(pixels), expected)
    ids, _, _ = layout.code_part(0, system.vocabulary.ids, shape)
    ids = np.append(ids, system.vocabulary.ids.eoi)
    grid = np.zeros(ids.shape, bool)
    grid[3:-1] = np.arange(len(ids) - 4) % (shape.columns + 1) < shape.columns
    ids[grid] = codes.ravel() + system.vocabulary.ids.code_offset
    case.compare(name + "tokens", ids)
    (read,) = decoding.read_ids(expected, system.vocabulary.ids)[1]
    picture = np.asarray(jax.jit(system.decode_image)(params, jnp.asarray(read)[None]))[0]
    exact = (np.clip(picture.astype(np.float64), -1, 1) + 1) / 2 * 255
    case.compare(name + "decoded_uint8", exact.astype(np.uint8), where=np.abs(exact - np.round(exact)) > 1e-2)


def _image(array):
    return images.Image.fromarray(array)


def _check_places(image, covering, size):
    """Random crops are those of the covering picture at places that a crop may have; the central one too."""
    for rng in (None, np.random.default_rng(0)):
        view = images.vqgan_view(image, size[1], size[0], rng)
        found = [
            (left, upper)
            for left in range(covering.width - size[0] + 1)
            for upper in range(covering.height - size[1] + 1)
            if np.array_equal(np.asarray(covering.crop((left, upper, left + size[0], upper + size[1]))), view)
        ]
        assert found


def _compare_codes(case, system, params, name, pixels, expected):
    """Codes, equal wherever the two nearest entries are not as good as tied."""
    latents, codes = jax.jit(functools.partial(_encode_picture, system))(params, pixels)
    codes = np.asarray(codes)[0]
    rows = np.asarray(params["vqgan"]["codebook"]["embedding"], np.float64)
    flat = np.asarray(latents, np.float64).reshape(-1, 1, rows.shape[1])
    distances = np.sort(np.square(flat - rows).sum(-1))
    margin = distances[:, 1] - distances[:, 0]
    case.compare(name + "index_margin", margin)
    (read,) = decoding.read_ids(expected, system.vocabulary.ids)[1]
    return np.where(margin.reshape(codes.shape) > TIE, codes, read)


def _encode_picture(system, params, pixels):
    latents, _ = system.apply(params, "vqgan", pixels, method="encode")
    return latents, system.apply(params, "vqgan", latents, method="quantize").codes


def _compare_conversation(case, system, number, conversation):
    """Rows as `layout` makes them, without features, which the reference adds later; code ids are the golden's own."""
    ids, shape = system.vocabulary.ids, system.config.shape
    shown = tuple(case.expected(f"img{i}.uint8") for i in conversation["images"])
    turns = tuple(Turn(SPEAKERS[speaker], text) for speaker, text in conversation["turns"])
    example = Example("golden", turns, shown, Task.UNDERSTANDING)
    row = layout.conversation(example, system.vocabulary, shape, answer_features=True)
    tokens, labels = _without_features(row, ids)
    expected = case.expected(f"conv{number}.tokens")
    _compare_ids(case, f"conv{number}.tokens", tokens, expected, ids)
    _compare_ids(case, f"conv{number}.labels", labels, case.expected(f"conv{number}.labels"), ids)
    _check_written(system, row, expected)
    if f"conv{number}.prompt_ids" in case:
        assert turns[-1].role == "assistant"
        asked = Example("golden", turns[:-1], shown[: _symbols(turns[:-1], shown)], Task.UNDERSTANDING)
        prompt = layout.prompt(asked, system.vocabulary, shape, draw=False, context=system.config.context)
        name = f"conv{number}.prompt_ids"
        _compare_ids(case, name, _without_features(prompt, ids)[0], case.expected(name), ids)


def _symbols(turns, shown):
    """Images of these turns; those without any symbol belong to the first turn."""
    return sum(turn.text.count("<|image|>") for turn in turns) or len(shown)


def _without_features(row, ids):
    """(ids, labels) of a row as before SEP and features are put in."""
    labels = np.append(layout.IGNORE, np.where(row.loss_weights > 0, row.targets, layout.IGNORE)[:-1])
    kept = (row.modality != Modality.FEATURE) & (row.tokens != ids.sep)
    return row.tokens[kept], labels[kept]


def _compare_ids(case, name, ours, expected, ids):
    """Equal, where code ids stand for any code id."""
    assert len(ours) == len(expected), name
    code = (expected >= ids.code_offset) & (expected < ids.code_offset + ids.codes)
    np.testing.assert_array_equal(ours[code], ids.code_offset)
    case.compare(name, np.where(code, expected, ours))


def _check_written(system, row, expected):
    """The codes of the golden, given with the data, are written where the golden has them."""
    ids, shape = system.vocabulary.ids, system.config.shape
    codes = np.asarray([i for i in expected if ids.code_offset <= i < ids.code_offset + ids.codes]) - ids.code_offset
    if not len(codes):
        return
    codes = codes.reshape(-1, shape.rows * shape.columns).astype(np.int32)
    spec = RowSpec(len(row.tokens), {"vqgan": View(len(codes), 0, 0, codes.shape[1], Modality.CODE)}, "vqgan")
    row.views, row.sizes, row.codes = {}, None, codes
    batch = jax.tree.map(jnp.asarray, packing.pack([[row]], spec, codes=True))
    written = write_codes(batch, batch["codes"], ids.code_offset)
    row.tokens = np.asarray(written["tokens"])[0]
    np.testing.assert_array_equal(_without_features(row, ids)[0], expected)


def _compare_sizes(case):
    """The list of crops by aspect, which the release has but does not use."""
    for name in case.matching(r"crop_size_list(_\d+)?"):
        target = re.sub(r"\D", "", name)
        patches = (int(target) // UNIT) ** 2 if target else 12  # the README's
        case.compare(name, images.crop_sizes(patches, UNIT))
    for name in case.matching(r"var_crop_choice_\d+"):
        sizes = images.crop_sizes((int(re.sub(r"\D", "", name)) // UNIT) ** 2, UNIT)
        asked = case.expected(name)[:, :2].tolist()
        case.compare(name, [[*size, *images.nearest_size(size, sizes)] for size in asked])


def _linearly(cover, picture, width, height):
    """`images.cover` by the wrong filter; no picture of the golden is large enough to be halved."""
    size = cover(picture, width, height).size
    return picture.resize(size, images.Image.Resampling.BILINEAR)


MUTATIONS = {
    "prep_discrete_and_conversation": (
        Mutation("scaled linearly", patch=(images, "cover", functools.partial(_linearly, images.cover))),
        Mutation("questions are learnt", patch=(layout, "_text", lambda ids, learn, f=layout._text: f(ids, True))),
        Mutation("no bias of the encoder", params=drop("vqgan/encoder/conv_in/bias")),
    )
}
