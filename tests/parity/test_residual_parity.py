"""Our residual quantizer beside that of `vector-quantize-pytorch`, as far as the two mean the same.

They do for codes, sums, commitment and a step of the moving averages without restarts; its restarts, its single
codebook for all depths and its loss in evaluation are others.
"""

import jax.numpy as jnp
import numpy as np
import pytest

from unitok_jax.quantizers import residual

pytestmark = pytest.mark.parity
torch = pytest.importorskip("torch")
library = pytest.importorskip("vector_quantize_pytorch")

CONFIG = residual.ResidualConfig(features=6, size=24, depth=3, decay=0.9, restart=False, shared=False)


@pytest.fixture(scope="module")
def both():
    """(their module, our books, a map) with the same rows, whose averages begin as the released ones do."""
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(CONFIG.depth, CONFIG.size, CONFIG.features)).astype(np.float32)
    theirs = library.ResidualVQ(
        dim=CONFIG.features,
        num_quantizers=CONFIG.depth,
        codebook_size=CONFIG.size,
        decay=CONFIG.decay,
        eps=CONFIG.epsilon,
        kmeans_init=False,
        threshold_ema_dead_code=0,
        rotation_trick=False,
    )
    for layer, weight in zip(theirs.layers, rows, strict=True):
        book = layer._codebook
        book.embed.data.copy_(torch.from_numpy(weight)[None])
        book.embed_avg.data.copy_(torch.from_numpy(weight)[None])
        book.cluster_size.data.zero_()
    ours = {
        f"book_{depth}": {"weight": jnp.asarray(w), "count": jnp.zeros(CONFIG.size), "total": jnp.asarray(w)}
        for depth, w in enumerate(rows)
    }
    return theirs, ours, rng.normal(size=(2, 5, 4, CONFIG.features)).astype(np.float32)


def test_codes_sums_commitment_and_one_step_of_the_averages_agree(both):
    theirs, ours, x = both
    flat = torch.from_numpy(x.reshape(2, 20, -1))
    sums, codes, losses = theirs.train()(flat)
    quantized, moved, _ = residual.learn(CONFIG, ours, jnp.asarray(x), None)
    np.testing.assert_array_equal(quantized.codes.reshape(2, 20, -1), codes.numpy())
    np.testing.assert_allclose(quantized.latents.reshape(2, 20, -1), sums.detach().numpy(), atol=1e-6)
    np.testing.assert_allclose(quantized.commitment.mean(), losses.detach().mean().item(), rtol=1e-5)
    for depth, layer in enumerate(theirs.layers):
        book, own = layer._codebook, moved[f"book_{depth}"]
        np.testing.assert_allclose(own["count"], book.cluster_size[0].numpy(), atol=1e-6)
        np.testing.assert_allclose(own["total"], book.embed_avg[0].numpy(), atol=1e-6)
        np.testing.assert_allclose(own["weight"], book.embed[0].numpy(), rtol=2e-5, atol=1e-5)
