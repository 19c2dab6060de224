"""UniToken's length-clustered sampler, rank by rank, and its learning rate."""

import re

import numpy as np
from harness import Mutation

from unitok_jax.data import clustered
from unitok_jax.data.clustered import Collection, epoch_order
from unitok_jax.training.schedules import ScheduleSettings, build_schedule

PER_EPOCH = 1_000_000  # steps of an epoch in which the rate's positions are told


def check(case):
    for name in case.matching(r"(resume_)?epoch\d+(_iter\d+)?\.(clustered|plain)\.rank\d+"):
        epoch, start, how, rank = re.search(r"epoch(\d+)(?:_iter(\d+))?\.(\w+)\.rank(\d+)", name).groups()
        own = _order(case, int(epoch), how == "clustered")[:, int(rank)].ravel()
        case.compare(name, own[int(start or 0) * case.config["batch_size"] :])
    _compare_rates(case)


def _order(case, epoch, cluster):
    """The records of an epoch, [batches, ranks, batch]."""
    config = case.config
    collections = [
        Collection(case.input(f"meta{i}.item_len_list"), 1.0 if meta["ratio"] is None else meta["ratio"], meta["type"])
        for i, meta in enumerate(config["metas"])
    ]
    batch = config["batch_size"] * config["num_replicas"]
    order = epoch_order(collections, config["seed"] + epoch, batch, config["acc_grad"], cluster)
    return order.reshape(-1, config["num_replicas"], config["batch_size"])


def _compare_rates(case):
    config, positions = case.config, case.expected("lr_table")[:, 0]
    warmup = config["warmup_epochs"] * PER_EPOCH
    settings = ScheduleSettings("cosine", warmup, floor=config["min_lr"] / config["lr"])
    schedule = build_schedule(settings, config["epochs"] * PER_EPOCH)
    factors = np.array([schedule(position * PER_EPOCH) for position in positions], np.float64)
    rates = np.stack([positions, config["lr"] * config["vit_lr_scale"] * factors, config["lr"] * factors], axis=1)
    for column in range(rates.shape[1]):  # apart, so that the large positions do not set the tolerance of the rates
        case.compare("lr_table", rates, where=np.arange(rates.shape[1]) == column)


MUTATIONS = {
    "sampler_and_schedule": (
        Mutation("sorted within a window", patch=(clustered, "_shuffle_within", lambda records, window, rng: records)),
        Mutation(
            "a step's batches apart", patch=(clustered, "_steps", lambda x, n, rng, f=clustered._steps: f(x, 1, rng))
        ),
    )
}
