"""The language model's first tables: Qwen2.5's rows, then rows for the tags, the scales and the visual codes.

Source: ``llava_arch`` of Tar's released code (specification, section 6.2), which cuts and grows the tables so.
"""

from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from unitok_jax.backbones.decoder_config import DecoderConfig
from unitok_jax.errors import UserError
from unitok_jax.systems.tar.vocabulary import TokenIds

Table = Float[Array | np.ndarray, "rows D"]
CodeRows = Literal["released", "projected", "mean"]


def grow(
    table: Table,
    ids: TokenIds,
    codebook: Float[Array | np.ndarray, "codes C"] | None,
    scales: Float[Array | np.ndarray, "scales D"],
    how: CodeRows = "released",
    key: PRNGKeyArray | None = None,
) -> Float[np.ndarray, "size D"]:
    """A table with a row for every id of Tar's vocabulary, float32.

    The rows of the text stay; the two tags take over those that stand behind them (Qwen's unused ones); codes get the
    mean of all rows before them, unless `codebook` serves.

    Args:
        table: Qwen's, [rows, D]; may have more rows than its tokenizer has ids.
        ids: of the new vocabulary.
        codebook: the effective one (`text_aligned.effective_codebook`); None for an output head.
        scales: rows of the scales, see `draw_scales`.
        how: ``released`` takes the codebook where it is as wide as the table (1.5B) and the mean where it is not (7B);
            ``projected`` brings a codebook of another width to the table's by a random projection that keeps
            distances, its mean and spread those of the words; ``mean`` never takes it.
        key: of the projection.

    Raises:
        UserError: if the table lacks rows for the text and the tags.
    """
    table = np.asarray(table, np.float32)
    if len(table) < ids.scale:
        raise UserError(f"the embedding table has {len(table)} rows; the text and the image tags need {ids.scale}")
    front = np.concatenate([table[: ids.scale], np.asarray(scales, np.float32)])
    rows = np.broadcast_to(front.mean(0), (ids.codes, table.shape[1]))
    if codebook is not None and how != "mean":
        codebook = np.asarray(codebook, np.float32)
        if codebook.shape == rows.shape:
            rows = codebook
        elif how == "projected":
            rows = _projected(codebook, front, key)
    return np.concatenate([front, rows])


def draw_scales(table: Table, ids: TokenIds, key: PRNGKeyArray) -> Float[np.ndarray, "scales D"]:
    """Rows around the mean of the text's, with a billionth of their covariance, as the framework draws new ones."""
    text = np.asarray(table, np.float64)[: ids.scale]
    centred = text - text.mean(0)
    noise = jax.random.normal(key, (ids.scales, len(text)))
    spread = np.asarray(noise, np.float64) @ centred / np.sqrt(len(text))
    return (text.mean(0) + np.sqrt(1e-9) * spread).astype(np.float32)


def _projected(codebook: np.ndarray, words: np.ndarray, key: jax.Array | None) -> np.ndarray:
    key = jax.random.key(0) if key is None else key
    across = np.asarray(jax.random.normal(key, (codebook.shape[1], words.shape[1])), np.float32)
    rows = (codebook - codebook.mean(0)) @ across
    return rows / rows.std() * words.std(0).mean() + words.mean(0)


def grow_lm(
    config: DecoderConfig,
    params: dict[str, Any],
    rows: int,
    ids: TokenIds,
    codebook: Float[Array | np.ndarray, "codes C"],
    key: PRNGKeyArray,
    how: CodeRows = "released",
) -> dict[str, Any]:
    """A Qwen2.5's parameters as those of Tar's language model at its first step.

    Args:
        config: of the grown model.
        params: of Qwen2.5, of the same sizes but for its vocabulary.
        rows: of Qwen's tables, padding left out: 151,936 (1.5B), 152,064 (7B).
        ids: of Tar's vocabulary.
        codebook: TA-Tok's effective one.
        key: of the scales' rows and the projection.
        how: see `grow`.
    """
    keys = jax.random.split(key, 3)
    table = params["embed"]["embedding"][:rows]
    grown = grow(table, ids, codebook, draw_scales(table, ids, keys[0]), how, keys[1])
    made = {**params, "embed": {"embedding": _padded(grown, config)}}
    if not config.tied_embeddings:
        head = np.asarray(params["head"]["kernel"]).T[:rows]
        grown = grow(head, ids, None, draw_scales(head, ids, keys[2]))
        made["head"] = {"kernel": _padded(grown, config).T}
    return made


def _padded(table: np.ndarray, config: DecoderConfig) -> Array:
    return jnp.pad(jnp.asarray(table), ((0, config.padded_vocab - len(table)), (0, 0)))
