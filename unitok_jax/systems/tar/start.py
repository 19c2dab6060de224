"""How parts begin from other models' weights: the names that `config.start` of a recipe may give.

Each is a function of the system and its options that returns a `systems.base.Start`. None of the released code shows
how the authors began, but for the language model's tables; what is assumed is said where it is.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import multihost_utils

from unitok_jax.backbones.ar_image import stretch_positions
from unitok_jax.errors import UserError
from unitok_jax.quantizers import text_aligned
from unitok_jax.settings import from_config
from unitok_jax.systems.base import Params, Start
from unitok_jax.systems.tar.embeddings import CodeRows, grow_lm
from unitok_jax.systems.tar.weights import artefacts
from unitok_jax.weights.rules import Rule, Table


@dataclasses.dataclass(frozen=True)
class Grown:
    """``grown``: the language model from a Qwen2.5, its tables grown to Tar's vocabulary (`embeddings.grow`).

    Attributes:
        rows: of Qwen's tables, see its ``config.json``: 151,936 (1.5B) or 152,064 (7B).
        codes: what the rows of codes begin as, see `embeddings.grow`.
    """

    rows: int = 151_936
    codes: CodeRows = "released"

    def start(self, system: Any) -> Start:
        """Also reads the part ``ta_tok``, whose effective codebook the rows of codes are taken from."""
        if system.config.lm is None:
            raise UserError("config.start.lm: needs config.model.lm")
        other = dataclasses.replace(system.config, lm=dataclasses.replace(system.config.lm, vocab_size=self.rows))

        def make(key: jax.Array, read: Params, loaded: Params) -> Params:
            found = loaded.get("ta_tok")
            if found is None:
                raise UserError("config.start.lm: needs TA-Tok's codebook; name the part ta_tok in config.init_from")
            book = found["codebook"]
            codebook = text_aligned.effective_codebook(
                book["embedding"], book["kernel"], book["bias"], l2_norm=system.config.ta_tok.l2_norm
            )
            whole = multihost_utils.process_allgather(codebook, tiled=True)  # it lies in shards
            ids = system.vocabulary.ids
            return grow_lm(system.config.lm, read["lm"], self.rows, ids, whole, key, self.codes)

        return _start(system, other, "lm", make)


@dataclasses.dataclass(frozen=True)
class Stretched:
    """``stretched``: the AR de-tokenizer from one for smaller pictures, its positions resized.

    Attributes:
        tokens: of the smaller pictures: 256 for 256 pixels, 1024 for 512.
    """

    tokens: int = 256

    def start(self, system: Any) -> Start:
        """See `backbones.ar_image.stretch_positions`, an assumption."""
        config = system.config.ar
        if config is None:
            raise UserError("config.start.ar: needs config.model.ar")
        other = dataclasses.replace(system.config, ar=dataclasses.replace(config, tokens=self.tokens))

        def make(key: jax.Array, read: Params, loaded: Params) -> Params:
            del key, loaded
            table = jnp.asarray(read["ar"]["positions"])
            return {**read["ar"], "positions": stretch_positions(table, config.condition_tokens, config.tokens)}

        return _start(system, other, "ar", make)


WORDS = Table(  # of any language model: no artefact of Tar, as it takes every file that has words
    (Rule("model.embed_tokens.weight", "words/embedding"),),
    {r".*": "all of a language model but its words"},
    aliases=tuple(
        (other, "model.embed_tokens.weight") for other in ("transformer.wte.weight", "tok_embeddings.weight")
    ),
)


@dataclasses.dataclass(frozen=True)
class Words:
    """``words``: TA-Tok from the teacher's tower and a language model's words; the rest is drawn.

    Attributes:
        rows: of the language model's embedding table.
        used: how many of them stand for an id; Qwen2.5's tokenizer has 151,665.
        metric, largest: which of them become codes, see `text_aligned.choose_words`.
    """

    rows: int = 151_936
    used: int = 151_665
    metric: str = "euclidean"
    largest: bool = True

    def start(self, system: Any) -> Start:
        """Reads the embedding table alone of any language model; the tower is the part ``vit`` of the same run."""
        config = system.config.ta_tok
        table = jax.ShapeDtypeStruct((self.rows, config.decoder.channels), jnp.float32)

        def make(key: jax.Array, read: Params, loaded: Params) -> Params:
            if "vit" not in loaded:
                raise UserError("config.start.ta_tok: needs the teacher; name the part vit in config.init_from")
            made = system.init(key, ("ta_tok",))["ta_tok"]
            table = jnp.asarray(read["words"]["embedding"], jnp.float32)[: self.used]
            ids = text_aligned.choose_words(table, config.codebook_size, metric=self.metric, largest=self.largest)
            tower = jax.tree.map(jnp.copy, loaded["vit"])  # the run keeps the teacher beside it
            return {**made, "encoder": tower, "codebook": {**made["codebook"], "embedding": table[ids]}}

        return Start({"words": WORDS}, {"words": {"embedding": table}}, make)


@dataclasses.dataclass(frozen=True)
class Recaptioned:
    """``recaptioned``: SANA's transformer but for the condition's first layer, which is drawn.

    Attributes:
        caption: channels of the condition that it was trained with.
    """

    caption: int = 2304

    def start(self, system: Any) -> Start:
        """TA-Tok's features have other channels than SANA's text encoder (specification, section 5.1)."""
        if system.config.sana is None:
            raise UserError("config.start.sana: needs config.model.sana")
        other = dataclasses.replace(system.config, sana=dataclasses.replace(system.config.sana, caption=self.caption))

        def make(key: jax.Array, read: Params, loaded: Params) -> Params:
            del loaded
            drawn = system.init(key, ("sana",))["sana"]["projection"]["fc1"]
            return {**read["sana"], "projection": {**read["sana"]["projection"], "fc1": drawn}}

        return _start(system, other, "sana", make)


KINDS = {"grown": Grown, "stretched": Stretched, "words": Words, "recaptioned": Recaptioned}


def starts(system: Any) -> Mapping[str, Callable[[Mapping[str, Any]], Start]]:
    """By name, what `config.start` may say, from its options."""

    def named(name: str) -> Callable[[Mapping[str, Any]], Start]:
        return lambda options: from_config(KINDS[name], options, f"config.start ({name})").start(system)

    return {name: named(name) for name in KINDS}


def _start(system: Any, other: Any, part: str, make: Callable[[jax.Array, Params, Params], Params]) -> Start:
    """A start from the same part of a model with other settings."""
    there = type(system)(other, system.vocabulary)
    return Start(artefacts(other), jax.eval_shape(lambda: there.init(jax.random.key(0), (part,))), make)
