"""What systems whose language model is one `DecoderLM` share: reading rows, its softmax, its cache."""

from typing import Any

from jaxtyping import Array, Float, PRNGKeyArray

from unitok_jax.backbones import decoder_lm
from unitok_jax.backbones.kv_cache import KVCache
from unitok_jax.systems import pixels
from unitok_jax.systems.base import Batch, Blocks, Embeds, Params, Valid


class DecoderReading:
    """Methods of a system with `config.lm` and `apply`; its decoder is the part ``lm``.

    Attributes:
        config: of the system.
        longest_block: the most positions of one of its rows' `blocks`; None where they have none.
    """

    config: Any
    longest_block: int | None = None
    to_uint8 = staticmethod(pixels.to_uint8)

    def apply(self, params: Params, part: str, *args: Any, **kwargs: Any) -> Any:
        """Runs one part's module on its parameters."""
        raise NotImplementedError

    def read_rows(
        self, params: Params, embeds: Embeds, batch: Batch, key: PRNGKeyArray | None, packed: bool = True
    ) -> Embeds:
        """Hidden states, [R, S, D], of whole rows; dropout only with `key`; not `packed`: one example a row."""
        reading = (batch["positions"], batch["segments"], batch.get("blocks"))
        how = dict(packed=packed, longest_block=self.longest_block, deterministic=key is None)
        rngs = None if key is None else {"dropout": key}
        return self.apply(params, "lm", embeds, *reading, **how, rngs=rngs)[0]

    def head(self, params: Params) -> Float[Array, "D Vpad"]:
        """The matrix of the LM's softmax."""
        return decoder_lm.head_kernel(self.config.lm, params["lm"])

    def new_cache(self, rows: int, length: int) -> KVCache:
        return decoder_lm.decoder_cache(self.config.lm, rows, length)

    def advance(
        self, params: Params, embeds: Embeds, cache: KVCache, valid: Valid, blocks: Blocks = None
    ) -> tuple[Embeds, KVCache]:
        hidden, aux = self.apply(params, "lm", embeds, blocks=blocks, cache=cache, valid=valid)
        return hidden, aux["cache"]
