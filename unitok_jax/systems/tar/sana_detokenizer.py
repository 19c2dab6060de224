"""Drawing pictures with the diffusion de-tokenizer, and the loss that it is trained by.

Source: ``dif_dtok_sana`` of Tar's released code: diffusers' SANA pipeline with TA-Tok's decoded features in the place
of the prompt's. The loss is the public SANA recipe's; Tar's own trainer is not public.
"""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from unitok_jax.backbones.sana import Sana, SanaConfig
from unitok_jax.layers.applied import applied
from unitok_jax.sampling import flow
from unitok_jax.sampling.draw import Keys
from unitok_jax.systems.base import Params

Latents = Float[Array, "batch rows columns channels"]
Condition = Float[Array, "batch T C"]

# what the paper trains: cross-attention and what embeds the condition; all else stays SANA's
TRAINED = (r"^sana/blocks/.*/attn2/", r"^sana/projection/", r"^sana/caption_norm/")


@dataclasses.dataclass(frozen=True)
class SanaDrawing:
    """How pictures are drawn; the defaults are those of the released text-to-image script.

    Attributes:
        guidance: scale g of ``u + g (c - u)``, where u has the stored negative condition; 1 runs no second row.
        steps: of the solver.
        shift: of its grid of sigmas.
    """

    guidance: float = 4.0
    steps: int = 20
    shift: float = 3.0


def draw_latents(
    config: SanaConfig,
    params: Params,
    condition: Condition,
    negative: Float[Array, "stored C"],
    noise: Latents,
    drawing: SanaDrawing,
) -> tuple[Latents, Float[Array, "steps batch rows columns channels"]]:
    """Latents, as training scales them, for each condition, and what they are after each step.

    Args:
        config: the transformer's.
        params: the transformer's.
        condition: decoded features.
        negative: what guidance compares with; its vectors are cut to as many as the condition's.
        noise: the drawings' beginning.
        drawing: how to draw.
    """
    model, rows = Sana(config), len(condition)
    guided = drawing.guidance > 1
    if guided:
        unlike = jnp.broadcast_to(negative[: condition.shape[1]], condition.shape).astype(condition.dtype)
        condition = jnp.concatenate([condition, unlike])

    def velocity(x: Latents, timestep: Array) -> Latents:
        x = jnp.concatenate([x, x]) if guided else x
        found, _ = applied(model, params, x, condition, jnp.full(len(x), timestep))
        found = found.astype(jnp.float32)
        return found[rows:] + drawing.guidance * (found[:rows] - found[rows:]) if guided else found

    return flow.solve(velocity, noise, drawing.steps, drawing.shift)


def flow_loss(
    model: Sana,
    params: Params,
    clean: Latents,
    condition: Condition,
    index: Int[Array, "batch"],
    noise: Latents,
    shift: float = 3.0,
) -> Float[Array, "batch"]:
    """Mean squared error of each picture's velocity at a place of the training's grid (`flow.draw_indices`)."""
    sigma, timesteps = flow.training_sigmas(index, shift)
    found, _ = applied(model, params, flow.noised(clean, noise, sigma), condition, timesteps)
    return jnp.square(found.astype(jnp.float32) - (noise - clean)).mean((1, 2, 3))


def noise_for(config: SanaConfig, keys: Keys, side: int) -> Float[Array, "rows side side channels"]:
    """Unit normal latents, one key a picture."""
    return jax.vmap(lambda key: jax.random.normal(key, (side, side, config.channels)))(keys)
