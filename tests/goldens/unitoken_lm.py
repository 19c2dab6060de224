"""UniToken's decoding around its language model alone, for the goldens without tower and tokenizer."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np

from unitok_jax.backbones.decoder_config import DecoderConfig
from unitok_jax.backbones.decoder_lm import DecoderLM, decoder_cache, init_decoder
from unitok_jax.backbones.decoder_lm_rules import decoder_table
from unitok_jax.sampling.settings import Decoding, Sampling
from unitok_jax.systems.unitoken import decoding as machine
from unitok_jax.systems.unitoken.vocabulary import TokenIds

IDS = TokenIds()


@dataclasses.dataclass(frozen=True)
class DrawingLM:
    """The part of the System contract that a decode needs, over ids."""

    config: DecoderConfig

    @property
    def grammar(self):
        return machine.Grammar(IDS, self.config.vocab_size)

    def _apply(self, params, *args, **kwargs):
        return DecoderLM(self.config).apply({"params": params}, *args, **kwargs)

    def embed_ids(self, params, ids):
        return self._apply(params, ids[:, None], method=DecoderLM.embed_tokens)

    def logits(self, params, hidden):
        return self._apply(params, hidden, method=DecoderLM.logits)

    def embed(self, params, batch):
        return self._apply(params, batch["tokens"], method=DecoderLM.embed_tokens)

    def new_cache(self, rows, length):
        return decoder_cache(self.config, rows, length)

    def advance(self, params, embeds, cache, valid):
        hidden, aux = self._apply(params, embeds, cache=cache, valid=valid)
        return hidden, aux["cache"]

    def decode_init(self, params, batch, decoding):
        return machine.decode_init(self.grammar, batch, decoding)

    def decode_step(self, params, hidden, state, decoding, keys):
        embed = functools.partial(self.embed_ids, params)
        return machine.decode_step(self.grammar, self.logits(params, hidden), embed, state, decoding, keys)

    def predict(self, params, ids):
        """Raw logits at every position of one row of ids, without a cache."""
        return self._apply(params, jnp.asarray(ids)[None], method=DecoderLM.predict)[0]


def load(case):
    """(system, params) of a case's language model."""
    llm = case.config["llm"]
    config = DecoderConfig(
        vocab_size=llm["vocab_size"],
        width=llm["hidden_size"],
        ffn=llm["intermediate_size"],
        layers=llm["num_hidden_layers"],
        heads=llm["num_attention_heads"],
        kv_heads=llm["num_key_value_heads"],
        head_dim=llm["hidden_size"] // llm["num_attention_heads"],
        rope_theta=llm["rope_theta"],
        norm_eps=llm["rms_norm_eps"],
        qk_norm="layernorm",
        qk_norm_groups=llm["model_parallel_size"],
        swin_norm=llm["swin_norm"],
    )
    abstract = jax.eval_shape(functools.partial(init_decoder, config), jax.random.key(0))
    return DrawingLM(case.settings(config)), case.params(decoder_table(config), abstract)


def decoding(case, max_steps):
    """Arg-max in both modes, guided as the case says."""
    greedy = (Sampling(temperature=0.0, top_k=case.config[f"{mode}_top_k"]) for mode in ("text", "image"))
    return Decoding(*greedy, guidance=case.config["cfg"], max_steps=max_steps)


def padded(rows):
    """Rows of ids, right-padded, as a batch."""
    tokens = np.zeros((len(rows), max(map(len, rows))), np.int32)
    segments = np.zeros_like(tokens)
    for i, row in enumerate(rows):
        tokens[i, : len(row)], segments[i, : len(row)] = row, 1
    return {"tokens": jnp.asarray(tokens), "segments": jnp.asarray(segments)}


def replay(system, params, prompt, path, steps, how):
    """What decoding sees at some steps of a given path, from two plain forward passes.

    Returns:
        (conditional logits [n, V], unconditional ones (zeros where guidance does not act), state) of those steps.
    """
    ids = np.concatenate([prompt, path])
    begin = int(np.argmax(ids == IDS.boi))
    vocabulary = system.config.vocab_size
    conditional = system.predict(params, ids)[np.asarray(steps) + len(prompt) - 1, :vocabulary]
    prefixes = padded([ids[: len(prompt) + t] for t in steps])
    state = machine.decode_init(system.grammar, prefixes, dataclasses.replace(how, guidance=1.0))
    since = np.clip(np.asarray(steps) + len(prompt) - 1 - begin, 0, None)
    unconditional = system.predict(params, ids[begin:])[since, :vocabulary]
    return conditional, jnp.where(state.in_codes[:, None], unconditional, 0.0), state
