"""The decoder beside tiny random `transformers` models: every layer's output, left padding, gradients, decoding."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from unitok_jax.backbones.decoder_lm import DecoderConfig, DecoderLM, decoder_cache, init_decoder
from unitok_jax.backbones.decoder_lm_rules import decoder_table
from unitok_jax.weights.source import InMemory
from unitok_jax.weights.transfer import export_tree, import_tree

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
pytestmark = pytest.mark.parity

SIZES = {
    "vocab_size": 301,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "attn_implementation": "eager",
    "pad_token_id": 0,
    "eos_token_id": None,
}
TINY_VQ = {"base_channels": 32, "channel_multiplier": [1], "num_res_blocks": 1, "embed_dim": 8, "num_embeddings": 8}
CHAMELEON = {
    "vq_config": {**TINY_VQ, "latent_channels": 32, "resolution": 16, "attn_resolutions": None},
    "vocabulary_map": {"<image>": 300},  # no image ids, whose logits transformers always masks
    "rms_norm_eps": 1e-5,
}
MODELS = {
    "chameleon": (lambda: transformers.ChameleonConfig(**SIZES, **CHAMELEON), {"qk_norm": "layernorm"}),
    "chameleon_swin": (
        lambda: transformers.ChameleonConfig(**SIZES, **CHAMELEON, swin_norm=True),
        {"qk_norm": "layernorm", "swin_norm": True},
    ),
    "qwen2": (lambda: transformers.Qwen2Config(**SIZES), {"qkv_bias": True}),
    "qwen2_tied": (
        lambda: transformers.Qwen2Config(**SIZES, tie_word_embeddings=True),
        {"qkv_bias": True, "tied_embeddings": True},
    ),
    "qwen3": (lambda: transformers.Qwen3Config(**SIZES, head_dim=8), {"qk_norm": "rmsnorm"}),
}
TOKENS = np.random.default_rng(0).integers(1, 299, (2, 10)).astype(np.int32)
PADDING = 3  # positions on the left of row 0


class Pair:
    """The same weights in torch and here."""

    def __init__(self, name):
        make, changes = MODELS[name]
        config = make()
        kind = transformers.ChameleonForConditionalGeneration if "chameleon" in name else None
        self.torch = kind(config) if kind else transformers.AutoModelForCausalLM.from_config(config)
        _randomise(self.torch.eval())
        theta = (getattr(config, "rope_parameters", None) or vars(config))["rope_theta"]
        self.config = DecoderConfig(301, 32, 48, 3, 4, 2, 8, rope_theta=theta, norm_eps=config.rms_norm_eps, **changes)
        self.table = decoder_table(self.config)
        state = {key: value.numpy() for key, value in self.torch.state_dict().items() if "vqmodel" not in key}
        abstract = jax.eval_shape(lambda: init_decoder(self.config, jax.random.key(0)))
        self.params = import_tree(self.table, InMemory(state), abstract)
        self.model = DecoderLM(self.config)

    def apply(self, *args, **kwargs):
        return self.model.apply({"params": self.params}, *args, **kwargs)


def _randomise(model):
    torch.manual_seed(0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.normal_(mean=1.0 if "norm" in name and "weight" in name else 0.0, std=0.2)
            if parameter.ndim == 2 and "_norm" in name:
                parameter.copy_(parameter[:1].expand_as(parameter))  # a row a head, as converted checkpoints have them


@pytest.fixture(scope="module", params=MODELS)
def pair(request):
    return Pair(request.param)


def close(ours, expected, tolerance=3e-5):
    expected = expected.detach().numpy() if isinstance(expected, torch.Tensor) else np.asarray(expected)
    np.testing.assert_allclose(ours, expected, rtol=0, atol=tolerance * np.abs(expected).max() + 1e-7)  # key biases: 0


def test_every_layer(pair):
    theirs = pair.torch.model(torch.tensor(TOKENS), output_hidden_states=True).hidden_states
    embeds = pair.apply(TOKENS, method="embed_tokens")
    (hidden, _), seen = pair.apply(embeds, capture_intermediates=True, mutable="intermediates")
    (states, _), _ = seen["intermediates"]["layers"]["span_0_3"]["__call__"][0]
    for ours, expected in zip((embeds, *states[:-1], hidden), theirs, strict=True):
        close(ours, expected)


def test_left_padding(pair):
    seen = np.ones_like(TOKENS)
    seen[0, :PADDING] = 0
    positions = np.where(seen, np.cumsum(seen, 1) - 1, 1)
    theirs = pair.torch.model(
        torch.tensor(TOKENS), attention_mask=torch.tensor(seen), position_ids=torch.tensor(positions, dtype=torch.long)
    ).last_hidden_state
    hidden, _ = pair.apply(pair.apply(TOKENS, method="embed_tokens"), positions=positions, segments=seen)
    close(np.asarray(hidden)[seen != 0], theirs.detach().numpy()[seen != 0])


def test_gradients(pair):
    def loss(params):
        logits = pair.model.apply({"params": params}, TOKENS, method="predict")[:, :-1]
        logs = jax.nn.log_softmax(logits)
        return -jnp.take_along_axis(logs, TOKENS[:, 1:, None], -1).mean()

    value, gradients = jax.jit(jax.value_and_grad(loss))(pair.params)
    hidden = pair.torch.model(torch.tensor(TOKENS)).last_hidden_state
    logits = hidden @ pair.torch.get_output_embeddings().weight.T
    pair.torch.zero_grad()
    theirs = torch.nn.functional.cross_entropy(
        logits[:, :-1].flatten(0, 1), torch.tensor(TOKENS[:, 1:]).long().flatten()
    )
    theirs.backward()
    close(value, theirs)
    ours = export_tree(pair.table, gradients)
    for name, parameter in pair.torch.named_parameters():
        if parameter.grad is None or "vqmodel" in name:
            continue
        if "_norm." in name and parameter.ndim == 2:
            close(np.asarray(ours.read(name))[0], parameter.grad.sum(0), 1e-4)  # one row here serves all heads
        else:
            close(ours.read(name), parameter.grad, 1e-4)


def test_greedy_decoding_with_the_cache(pair):
    steps = 8

    @jax.jit
    def decode(prompt, cache):
        def read(tokens, cache):
            hidden, aux = pair.apply(pair.apply(tokens, method="embed_tokens"), cache=cache)
            return pair.apply(hidden[:, -1], method="logits").argmax(-1).astype(jnp.int32), aux["cache"]

        def step(state, _):
            return read(state[0][:, None], state[1]), state[0]

        return jax.lax.scan(step, read(prompt, cache), None, length=steps)[1].T

    ours = decode(TOKENS, decoder_cache(pair.config, 2, TOKENS.shape[1] + steps))
    ids = torch.tensor(TOKENS).long()
    for _ in range(steps):
        hidden = pair.torch.model(ids).last_hidden_state[:, -1]
        ids = torch.cat([ids, (hidden @ pair.torch.get_output_embeddings().weight.T).argmax(-1, keepdim=True)], 1)
    np.testing.assert_array_equal(ours, ids[:, TOKENS.shape[1] :])
