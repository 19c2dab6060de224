"""Our train step of a decoder against torch eager on the same `transformers` model.

    python -m benchmarks.train_step
    python -m benchmarks.train_step --device gpu --dtype bfloat16 --preset 7b --largest

Same weights, tokens, AdamW, clipping and cores. Ours is `training.step` as runs use it: packed rows with segments, the
chunked loss, metrics, the guard against numbers that are not finite. torch's is a plain loop with fused AdamW.
"""

import dataclasses
import functools
import sys
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import options as asked
from benchmarks.contest import fits_in_memory, largest, race
from benchmarks.decoders import Dims, Pair, autocast, pair, same, torch_device
from benchmarks.report import Row, peak_memory, publish
from unitok_jax.backbones import decoder_lm
from unitok_jax.data.rows import RowSpec
from unitok_jax.losses.vocabulary import vocabulary_loss
from unitok_jax.parallel.mesh import batch_sharding, build_mesh
from unitok_jax.parallel.rules import under
from unitok_jax.systems.base import Phase, Stage
from unitok_jax.training.flops import count_flops
from unitok_jax.training.optimizers import build_optimizers
from unitok_jax.training.state import abstract_state, init_state, state_maker
from unitok_jax.training.step import make_train_step

FAMILIES = ("chameleon", "qwen2", "qwen3")
ADAMW = {"lr": 1e-4, "betas": (0.9, 0.95), "weight_decay": 0.1, "clip": 1.0}


@dataclasses.dataclass(frozen=True)
class Sizes:
    """A decoder and a batch of `rows` x `length` tokens; `remat` as in the recipes of that width."""

    dims: Dims
    rows: int
    length: int
    remat: bool = False


PRESETS = {
    "tiny": Sizes(Dims(301, 32, 48, 2, 4, 2, 8), 2, 16),
    "cpu": Sizes(Dims(8192, 512, 1408, 4, 8, 4, 64), 2, 256),
    "7b": Sizes(Dims(65536, 4096, 11008, 2, 32, 32, 128), 2, 4096),  # two layers of Chameleon-7B and its vocabulary
}


def run(options: asked.Options) -> None:
    """A row a family of decoders."""
    torch, sizes = asked.load_torch(options), options.pick(PRESETS)
    rows = []
    for family in options.extra.families:
        made = pair(torch, family, sizes.dims, options, remat=sizes.remat, **_layout(sizes))
        tokens = _tokens(sizes, sizes.rows)
        ours, theirs = Ours(made, sizes), Theirs(torch, made, options)
        same(np.asarray(ours.step(tokens)), np.asarray(theirs.step(tokens)), options, "loss of the first step")
        times = race(
            {"ours": functools.partial(ours.step, tokens), "torch": functools.partial(theirs.step, tokens)},
            options.rounds,
        )
        more = {"parameters": f"{ours.parameters / 1e6:.0f} M"} | peak_memory(torch, options)
        if asked.searches(options):
            more |= {
                f"largest {name}": _largest(side, sizes, torch) for name, side in (("ours", ours), ("torch", theirs))
            }
        rows.append(Row(family, sizes.rows * sizes.length, "tokens", times, ours.flops(tokens), more))
    publish("train_step", f"Train step, {sizes.rows} rows of {sizes.length} tokens, AdamW", options, rows)


class Ours:
    """The real train step around a decoder alone."""

    def __init__(self, made: Pair, sizes: Sizes):
        self._mesh = build_mesh(devices=jax.devices()[:1])
        stage = _stage(made, sizes.length)
        abstract_params, _ = jax.eval_shape(lambda: stage.init(jax.random.key(0)))
        optimizers = build_optimizers(stage, abstract_params, ADAMW, {}, steps=1000)
        make = state_maker(stage, optimizers, compute_dtype=jnp.float32, ema=False)
        abstract, _ = abstract_state(make, under("lm", decoder_lm.SHARDING), self._mesh)
        self._step = make_train_step(stage, optimizers, abstract, self._mesh, seed=0)
        self._state = init_state(make, abstract, jax.random.key(0), {"lm": made.params})
        self.parameters = sum(leaf.size for leaf in jax.tree.leaves(abstract.params))

    def step(self, tokens: np.ndarray) -> float:
        """One step; its loss."""
        with jax.set_mesh(self._mesh):
            self._state, aux = self._step(self._state, self._batch(tokens))
        return float(aux["loss/lm"].compute())

    def flops(self, tokens: np.ndarray) -> float:
        """Of one step, counted in what JAX traced."""
        with jax.set_mesh(self._mesh):
            return count_flops(self._step.trace(self._state, self._batch(tokens)).jaxpr.jaxpr)

    def _batch(self, tokens: np.ndarray) -> dict[str, jax.Array]:
        ones = np.ones(tokens.shape, np.int32)
        weights = ones.astype(np.float32)
        weights[:, -1] = 0
        batch = {"tokens": tokens, "targets": np.roll(tokens, -1, 1), "loss_weights": weights, "segments": ones}
        batch["positions"] = np.broadcast_to(np.arange(tokens.shape[1], dtype=np.int32), tokens.shape)
        return jax.device_put(batch, batch_sharding(self._mesh))


class Theirs:
    """torch eager, as a training script has it."""

    def __init__(self, torch: Any, made: Pair, options: asked.Options):
        self._torch, self._model, self._options = torch, made.torch.train(), options
        self._trained = [p for name, p in self._model.named_parameters() if "vqmodel" not in name]
        self._optimizer = torch.optim.AdamW(
            self._trained, lr=ADAMW["lr"], betas=ADAMW["betas"], weight_decay=ADAMW["weight_decay"], fused=True
        )

    def step(self, tokens: np.ndarray) -> float:
        """One step; its loss."""
        torch = self._torch
        ids = torch.tensor(tokens, dtype=torch.long, device=torch_device(self._options))
        with autocast(torch, self._options):
            hidden = self._model.model(input_ids=ids, use_cache=False).last_hidden_state
            logits = self._model.lm_head(hidden[:, :-1]).float()
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten())
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self._trained, ADAMW["clip"])
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)
        return loss.item()


def _layout(sizes: Sizes) -> dict[str, Any]:
    """Layers apart, as torch has them: a CPU would copy them out of their stack and their gradients into it."""
    return {"cuts": tuple(range(1, sizes.dims.layers))}


def _stage(made: Pair, length: int) -> Stage:
    model = decoder_lm.DecoderLM(made.config)

    def init(key: jax.Array) -> Any:
        return {"lm": decoder_lm.init_decoder(made.config, key)}, {}

    def loss(params: Any, state: Any, batch: Any, key: jax.Array, carry: Any) -> Any:
        embeds = model.apply({"params": params["lm"]}, batch["tokens"], method="embed_tokens")
        reading = {name: batch[name] for name in ("positions", "segments")}
        hidden, _ = model.apply({"params": params["lm"]}, embeds, **reading)
        weights, head = batch["loss_weights"].reshape(-1), decoder_lm.head_kernel(made.config, params["lm"])
        rows = hidden.reshape(-1, hidden.shape[-1])
        scored = vocabulary_loss(rows, head, batch["targets"].reshape(-1), weights, made.config.vocab_size)
        return jnp.sum(scored.nll * weights) / batch["totals"]["supervised"], {}, state, carry

    def no_layout(*_: Any) -> Any:
        raise TypeError("rows are made here, not laid out")

    return Stage(RowSpec(length), init, no_layout, _supervised, (Phase("lm", ("^lm/",), loss),))


def _supervised(batch: Any) -> dict[str, jax.Array]:
    return {"supervised": jnp.sum(batch["loss_weights"] > 0)}


def _tokens(sizes: Sizes, rows: int) -> np.ndarray:
    return np.random.default_rng(1).integers(1, sizes.dims.vocab_size - 1, (rows, sizes.length)).astype(np.int32)


def _largest(side: Ours | Theirs, sizes: Sizes, torch: Any) -> int:
    """The most rows a step that memory allows beside the other contestant's model."""
    errors = (jax.errors.JaxRuntimeError, torch.OutOfMemoryError)

    def fits(rows: int) -> bool:
        found = fits_in_memory(lambda: side.step(_tokens(sizes, rows)), errors)
        torch.cuda.empty_cache()
        return found

    return largest(fits)


def add(parser: Any) -> None:
    """Options of this benchmark."""
    parser.add_argument("--families", nargs="+", default=FAMILIES, choices=FAMILIES, help="(default: all)")
    parser.add_argument("--largest", action="store_true", help="also search the largest batch (GPU)")


main: Callable[..., int] = functools.partial(asked.main, doc=__doc__, run=run, add=add)

if __name__ == "__main__":
    sys.exit(main(None))
