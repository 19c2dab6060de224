"""A toy system: a regression, and a two-phase game, on rows of four small numbers."""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from clu import metrics

from unitok_jax.data.example import Example
from unitok_jax.data.rows import ExampleRow, Modality, RowSpec, View
from unitok_jax.systems.base import Phase, Stage, System

WEIGHTS = np.array([0.5, -1.0, 2.0, 0.25], np.float32)
SHARDING = (
    ("kernel$", ("fsdp", "tensor")),
    ("bias$", ("tensor",)),
    ("scale$", ()),
)


@dataclasses.dataclass(frozen=True)
class ToySystem(System):
    """`noise` adds key-drawn noise to the inputs; `bad_from` makes the loss infinite once a token is that large.

    `exact` keeps the frozen part in float32; `judged` gives validation a loss of its own, 7.
    """

    model: Mapping[str, Any]
    sharding: tuple = SHARDING
    artefacts: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    @property
    def stages(self) -> Mapping[str, Any]:
        return {"fit": functools.partial(fit_stage, **self.model), "game": game_stage}


def config(**changes: Any) -> dict[str, Any]:
    """A recipe of the regression."""
    rng = np.random.default_rng(0)
    records = [{"text": " ".join(map(str, rng.integers(0, 9, 4)))} for _ in range(40)]
    recipe = {
        "system": "toy",
        "stage": "fit",
        "steps": 12,
        "data": {
            "batch_size": 8,
            "train": [{"kind": "memory", "task": "text", "records": records}],
            "validation": {"same": [{"kind": "memory", "task": "text", "records": records[:10]}]},
            "prefetch": 0,
        },
        "optimizer": {"lr": 0.05},
        "fresh": ["net", "fixed"],
        "log_every": 2,
        "checkpoint_every": 4,
    }
    return recipe | changes


def layout(example: Example, rng: np.random.Generator) -> ExampleRow:
    """The four numbers of the text."""
    tokens = np.array(example.turns[-1].text.split(), np.int32)
    return ExampleRow(
        tokens=tokens,
        targets=tokens,
        loss_weights=(tokens > 1).astype(np.float32),
        modality=np.full(4, Modality.TEXT, np.int8),
        slots=np.zeros(4, np.int32),
        task=example.task,
    )


def fit_stage(
    options: Mapping[str, Any],
    noise: float = 0.0,
    bad_from: int = 99,
    width: int = 8,
    exact: bool = False,
    judged: bool = False,
) -> Stage:
    """Learns weights behind a frozen random projection, from squared errors over the supervised rows."""

    def init(key: jax.Array) -> tuple[dict, dict]:
        projection = jax.random.normal(key, (4, width))
        net = {"kernel": jnp.zeros((width, 2)), "bias": jnp.zeros(2), "scale": jnp.ones(())}
        return {"net": net, "fixed": {"kernel": projection}}, {"seen": jnp.zeros(())}

    def loss(params: dict, state: dict, batch: dict, key: jax.Array, carry: dict) -> Any:
        x = batch["tokens"].astype(jnp.float32)
        x = x + noise * jax.random.normal(key, x.shape)
        net = params["net"]
        y = (x @ params["fixed"]["kernel"].astype(jnp.float32)) @ net["kernel"] * net["scale"] + net["bias"]
        errors = (y.sum(-1) - x @ WEIGHTS) ** 2 * supervised(batch)
        errors = jnp.where(jnp.max(batch["tokens"]) >= bad_from, jnp.inf, errors)
        aux = {"error": metrics.Average.from_model_output(errors)}
        return errors.sum() / batch["totals"]["rows"], aux, {"seen": state["seen"] + len(x)}, carry

    def evaluate(params: dict, state: dict, batch: dict, key: jax.Array, carry: dict) -> Any:
        return jnp.float32(7), {}, state, carry

    return Stage(
        RowSpec(4, {"photo": View(2, 1, 1)}),
        init,
        layout,
        lambda batch: {"rows": supervised(batch).sum()},
        (Phase("fit", ("^net/",), loss, evaluate=evaluate if judged else None),),
        float32=("^fixed/",) if exact else (),
    )


def supervised(batch: dict) -> jax.Array:
    """Rows whose first number is large: micro-batches hold different numbers of them."""
    return (batch["loss_weights"][:, 0] > 0).astype(jnp.float32)


def game_stage(options: Mapping[str, Any]) -> Stage:
    """A generator that scales its input, and a critic of what it hands over."""

    def init(key: jax.Array) -> tuple[dict, dict]:
        return {"maker": {"kernel": jnp.eye(4)}, "critic": {"kernel": jnp.ones((4, 1))}}, {"mean": jnp.zeros(4)}

    def make(params: dict, state: dict, batch: dict, key: jax.Array, carry: dict) -> Any:
        x = batch["tokens"].astype(jnp.float32)
        fake = x @ params["maker"]["kernel"]
        score = fake @ params["critic"]["kernel"]
        total = batch["totals"]["rows"]
        return (0.1 * (fake - x - 1) ** 2 - score).sum() / total, {}, state, {"fake": fake}

    def judge(params: dict, state: dict, batch: dict, key: jax.Array, carry: dict) -> Any:
        x, total = batch["tokens"].astype(jnp.float32), batch["totals"]["rows"]
        kernel = params["critic"]["kernel"]
        loss = ((carry["fake"] @ kernel) ** 2 + (x @ kernel - 1) ** 2).sum() / total
        return loss, {}, {"mean": state["mean"] + carry["fake"].sum(0) / total}, {}

    phases = (Phase("make", ("^maker/",), make), Phase("judge", ("^critic/",), judge))
    return Stage(
        RowSpec(4, {"photo": View(2, 1, 1)}), init, layout, lambda batch: {"rows": len(batch["tokens"])}, phases
    )
