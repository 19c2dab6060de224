"""Tar's autoregressive de-tokenizer against torch: Llama's layers of `transformers` without rotation, as released."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import options as asked
from benchmarks.contest import race
from benchmarks.decoders import Dims, in_dtype, pair, same, torch_device
from benchmarks.report import Row, peak_memory, publish
from unitok_jax.backbones.ar_image import ARImage, ARImageConfig
from unitok_jax.sampling.draw import sample_keys
from unitok_jax.systems.tar.ar_detokenizer import ARDrawing, draw_codes

DRAWING = ARDrawing(guidance=4.0)
PRESETS = {
    "tiny": ARImageConfig(2, 4, 32, codes=64, condition=16, condition_tokens=4, tokens=4, unroll=2),
    "cpu": ARImageConfig(4, 8, 512, codes=8192, condition=256, condition_tokens=81, tokens=256, unroll=4),
    "released": ARImageConfig(dropout=0.0, unroll=6),  # the 256-pixel file's sizes
}


def run(options: asked.Options) -> None:
    """A row a batch size."""
    torch, config = asked.load_torch(options), dataclasses.replace(options.pick(PRESETS), dtype=options.dtype)
    d = config.decoder
    dims = Dims(d.vocab_size, d.width, d.ffn, d.layers, d.heads, d.kv_heads, d.head_dim)
    made = pair(torch, "llama", dims, options, unroll=config.unroll)
    rng = np.random.default_rng(0)
    table = (0.02 * rng.normal(size=(config.positions, config.width))).astype(np.float32)
    linear = torch.nn.Linear(config.condition, config.width)
    kernel, bias = (p.detach().numpy() for p in (linear.weight.T, linear.bias))
    config = dataclasses.replace(config, norm_eps=made.config.norm_eps)
    params = {**made.params, "positions": table, "condition": {"kernel": kernel, "bias": bias}}
    params = in_dtype(params, options)
    device, dtype = torch_device(options), getattr(torch, options.dtype)
    theirs = Theirs(torch, made.torch.to(dtype), linear.to(device, dtype), torch.tensor(table).to(device, dtype))
    draw = jax.jit(lambda p, c, k: draw_codes(config, p, c, k, DRAWING)[0])
    rows = []
    for count in options.extra.batches:
        condition = rng.normal(size=(count, config.condition_tokens, config.condition)).astype(np.float32)
        _check(config, params, theirs, condition, options)
        keys = sample_keys(np.arange(count))

        def ours(condition: np.ndarray = condition, keys: Any = keys) -> np.ndarray:
            return np.asarray(draw(params, condition, keys))

        torch_draws = functools.partial(theirs.draw, condition, config.tokens)
        times = race({"ours": ours, "torch": torch_draws}, options.rounds, warm_up=1)
        rows.append(Row(f"batch {count}", count * config.tokens, "tokens", times, more=peak_memory(torch, options)))
    publish("decode-tar", f"Tar's AR de-tokenizer: {config.tokens} codes, guidance {DRAWING.guidance}", options, rows)


class Theirs:
    """The released sampler's loop: conditional and unconditional rows in one forward, one cache."""

    def __init__(self, torch: Any, model: Any, condition: Any, positions: Any):
        self._torch, self._model, self._condition, self._positions = torch, model, condition, positions
        head_dim = model.config.hidden_size // model.config.num_attention_heads
        model.model.rotary_emb = _unrotated(torch, head_dim, positions)

    def prefix_logits(self, condition: np.ndarray, cache: Any) -> Any:
        """Logits of the first code, conditional rows first."""
        torch, table = self._torch, self._positions
        given = torch.tensor(condition, device=table.device, dtype=table.dtype)
        read = self._condition(torch.cat([given, torch.zeros_like(given)]))
        return self._logits(read + table[: read.shape[1]], cache)

    def draw(self, condition: np.ndarray, tokens: int) -> np.ndarray:
        """Codes [count, tokens]."""
        from transformers import DynamicCache

        torch, start, written = self._torch, condition.shape[1], []
        with torch.inference_mode():
            cache = DynamicCache(config=self._model.config)
            logits = self.prefix_logits(condition, cache)
            for step in range(tokens):
                c, u = logits.chunk(2)
                code = torch.multinomial(torch.softmax(u + (c - u) * DRAWING.guidance, -1), 1)
                written.append(code)
                if step < tokens - 1:
                    embeds = self._model.model.embed_tokens(torch.cat([code, code]))
                    logits = self._logits(embeds + self._positions[start + step], cache)
            return torch.cat(written, 1).cpu().numpy()

    def _logits(self, embeds: Any, cache: Any) -> Any:
        read = self._model.model(inputs_embeds=embeds, past_key_values=cache, use_cache=True)
        return self._model.lm_head(read.last_hidden_state[:, -1]).float()


def _unrotated(torch: Any, head_dim: int, like: Any) -> Any:
    class Unrotated(torch.nn.Module):
        """Rotary angles of 0 everywhere."""

        def forward(self, x: Any, position_ids: Any) -> Any:
            zeros = torch.zeros(*position_ids.shape, head_dim, device=like.device, dtype=like.dtype)
            return zeros + 1, zeros

    return Unrotated()


def _check(config: ARImageConfig, params: Any, theirs: Theirs, condition: np.ndarray, options: asked.Options) -> None:
    from transformers import DynamicCache

    model = ARImage(config)

    def first(params: Any, condition: jax.Array) -> jax.Array:
        apply = functools.partial(model.apply, {"params": params})
        hidden, _ = apply(apply(condition, method="prefix"), method="run")
        return apply(apply(hidden[:, -1], method="finish"), method="logits")

    both = jnp.concatenate([condition, jnp.zeros_like(condition)])
    with theirs._torch.inference_mode():
        expected = theirs.prefix_logits(condition, DynamicCache(config=theirs._model.config)).cpu().numpy()
    same(np.asarray(jax.jit(first)(params, both)), expected, options, "logits of the first code")
