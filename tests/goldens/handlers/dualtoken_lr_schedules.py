"""The learning rates of DualToken's tokenizer training."""

import re

import jax.numpy as jnp
import numpy as np

from unitok_jax.training.schedules import ScheduleSettings, build_schedule

EXACT = {"rtol": 1e-6, "atol": 1e-9}  # the README's
DISCRIMINATOR_FLOOR = 4e-5


def check(case):
    for name, said in case.config["cosine"].items():
        rate, warmup, total = (number(said, word) for word in ("lr", "warmup", "total"))
        settings = ScheduleSettings("cosine", warmup=warmup, warmup_offset=1)
        compare(case, f"cosine.{name}", rate, settings, total)
    check_cooldown(case, case.config["const_cooldown"])
    for name, said in case.config["disc"].items():
        words = said.split(",") if "," in said else [number(said, w) for w in ("steps_per_epoch", "max_epoch", "lr")]
        per_epoch, epochs, rate = map(float, words)
        settings = ScheduleSettings("cosine_after", warmup=per_epoch / 2, floor=DISCRIMINATOR_FLOOR / rate)
        compare(case, f"disc.{name}", rate, settings, per_epoch * epochs)


def check_cooldown(case, said):
    words = ("lr", "warmup", "total", "cooldown", "power", "end")
    rate, warmup, total, cooldown, power, end = (number(said, word) for word in words)
    settings = ScheduleSettings(
        "constant", warmup=warmup, warmup_offset=1, floor=end / rate, cooldown=int(cooldown), power=power
    )
    compare(case, "const_cooldown", rate, settings, total)


def number(said, word):
    return float(re.search(rf"{word} ([\d.e-]+)", said)[1])


def compare(case, name, rate, settings, total):
    schedule = build_schedule(settings, int(total))
    ours = [rate * np.float64(schedule(jnp.asarray(step))) for step in range(len(case.expected(name)))]
    case.compare(name, np.array(ours), **EXACT)
