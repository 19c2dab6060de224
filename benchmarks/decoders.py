"""The same decoder twice: one of `transformers` in torch, and ours with its weights."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.options import Options
from unitok_jax.backbones.decoder_lm import DecoderConfig, DecoderLM, init_decoder
from unitok_jax.backbones.decoder_lm_rules import decoder_table
from unitok_jax.weights.source import InMemory
from unitok_jax.weights.transfer import import_tree

FAMILIES = {
    "llama": {},
    "chameleon": {"qk_norm": "layernorm"},
    "qwen2": {"qkv_bias": True},
    "qwen3": {"qk_norm": "rmsnorm"},
}
CLOSE = {"float32": 1e-4, "bfloat16": 5e-2}  # of the largest logit: the two are the same model
TINY_VQ = {"base_channels": 32, "channel_multiplier": [1], "num_res_blocks": 1, "embed_dim": 8, "num_embeddings": 8}
TINY_VQ |= {"latent_channels": 32, "resolution": 16, "attn_resolutions": None}


@dataclasses.dataclass(frozen=True)
class Dims:
    """Sizes of a decoder, as in `DecoderConfig`."""

    vocab_size: int
    width: int
    ffn: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int


@dataclasses.dataclass(frozen=True)
class Pair:
    """One decoder in torch and here.

    Attributes:
        torch: a model of `transformers` with a head, on its device.
        config, params: ours; float32 parameters.
    """

    torch: Any
    config: DecoderConfig
    params: Any


def pair(torch: Any, family: str, dims: Dims, options: Options, **ours: Any) -> Pair:
    """Draws a torch model and reads its weights into ours; `ours` are more fields of `DecoderConfig`.

    Raises:
        RuntimeError: if the two do not say the same.
    """
    torch.manual_seed(0)
    model = _build(family, dims).eval()
    config = DecoderConfig(
        **dataclasses.asdict(dims),
        rope_theta=model.config.rope_parameters["rope_theta"],
        norm_eps=model.config.rms_norm_eps,
        dtype=options.dtype,
        **FAMILIES[family],
        **ours,
    )
    state = {key: value.numpy() for key, value in model.state_dict().items() if "vqmodel" not in key}
    abstract = jax.eval_shape(lambda: init_decoder(config, jax.random.key(0)))
    params = jax.tree.map(jnp.asarray, import_tree(decoder_table(config), InMemory(state), abstract))
    made = Pair(model.to(torch_device(options)), config, params)
    _check(torch, made, options)
    return made


def torch_device(options: Options) -> str:
    """torch's name of the device."""
    return "cuda" if options.device == "gpu" else "cpu"


def torch_logits(model: Any, tokens: Any, **cached: Any) -> Any:
    """Logits of the last position; the head runs on that one alone, as in generation."""
    return model.lm_head(model.model(input_ids=tokens, **cached).last_hidden_state[:, -1]).float()


def _build(family: str, dims: Dims) -> Any:
    import transformers

    sizes = {
        "vocab_size": dims.vocab_size,
        "hidden_size": dims.width,
        "intermediate_size": dims.ffn,
        "num_hidden_layers": dims.layers,
        "num_attention_heads": dims.heads,
        "num_key_value_heads": dims.kv_heads,
        "attn_implementation": "sdpa",
        "pad_token_id": None,
        "eos_token_id": None,
    }
    if family == "chameleon":
        vocabulary = {"<image>": dims.vocab_size - 1}
        config = transformers.ChameleonConfig(**sizes, vq_config=TINY_VQ, vocabulary_map=vocabulary)
        return transformers.ChameleonForConditionalGeneration(config)
    kind = {"llama": "Llama", "qwen2": "Qwen2", "qwen3": "Qwen3"}[family]
    given = {"head_dim": dims.head_dim} if family == "qwen3" else {}
    return getattr(transformers, f"{kind}ForCausalLM")(getattr(transformers, f"{kind}Config")(**sizes, **given))


def _check(torch: Any, made: Pair, options: Options) -> None:
    tokens = np.random.default_rng(0).integers(1, made.config.vocab_size - 1, (1, 16)).astype(np.int32)
    with torch.inference_mode(), autocast(torch, options):
        theirs = torch_logits(made.torch, torch.tensor(tokens, dtype=torch.long, device=torch_device(options)))
    logits = jax.jit(lambda p: DecoderLM(made.config).apply({"params": p}, tokens, method="predict")[:, -1])(
        made.params
    )
    same(np.asarray(logits)[:, : made.config.vocab_size], theirs.cpu().numpy(), options, "logits")


def in_dtype(params: Any, options: Options) -> Any:
    """Parameters as inference keeps them: in the dtype that is computed in."""
    return jax.tree.map(lambda leaf: jnp.asarray(leaf, options.dtype), params)


def autocast(torch: Any, options: Options) -> Any:
    """The mixed precision of torch that is ours: float32 parameters, products in bfloat16."""
    return torch.autocast(torch_device(options), torch.bfloat16, enabled=options.dtype == "bfloat16")


def same(ours: np.ndarray, theirs: np.ndarray, options: Options, what: str) -> None:
    """Sees to it that two contestants do the same work.

    Raises:
        RuntimeError: if they do not.
    """
    error = np.abs(ours - theirs).max() / np.abs(theirs).max()
    if not error < CLOSE[options.dtype]:
        raise RuntimeError(f"{what}: ours differ from torch's by {error:.1e} of the largest; nothing to compare")
