"""A plan in words for a terminal, and as a row of docs/plans.md."""

from collections.abc import Mapping, Sequence

from unitok_jax.planning.plan import Plan, gib

FORMULA = "FLOPs: 2mnk of every matrix product and convolution as traced, loops times their length, nothing else"


def tell(plan: Plan) -> str:
    """Several lines."""
    mesh = " x ".join(f"{axis}={size}" for axis, size in plan.mesh.items())
    where = f"{plan.slices} x {plan.topology}" if plan.slices > 1 else plan.topology
    lines = [f"{plan.program} on {where}: {plan.chips} chips, mesh {mesh}, batch {plan.batch}"]
    lines.append("  parameters  " + ", ".join(f"{part} {_count(size)}" for part, size in plan.parameters.items()))
    verdict = "fits" if plan.fits else "DOES NOT FIT"
    lines.append(f"  memory      {gib(plan.needed)} a chip of {gib(plan.hbm)}: {verdict}")
    if plan.memory:
        memory = plan.memory
        lines.append(
            f"              arguments {gib(memory.arguments)}, temporaries {gib(memory.temporaries)}, "
            f"results {gib(memory.outputs)} of which {gib(memory.aliased)} in the arguments' place"
        )
    lines.append(f"  work        {plan.flops:.3e} FLOPs a step, {plan.model_flops:.3e} without what is recomputed")
    lines.append(f"              {plan.model_flops / plan.batch:.3e} a row; {FORMULA}")
    if plan.kernels:
        lines.append(f"  kernels     {', '.join(plan.kernels)}")
    for number, each in enumerate(plan.collectives):
        head = "  sends       " if not number else " " * 14
        lines.append(
            f"{head}{each.network} {each.kind} over {each.group}: {each.count} x, {gib(each.bytes)} a step, "
            f"{gib(each.wire)} on the wire of each chip"
        )
    if plan.estimate:
        lines += _estimate(plan.estimate, _hours(plan))
    lines.append(f"  compiled in {plan.compile_seconds:.0f} s")
    return "\n".join(lines)


def _estimate(e: Mapping[str, float], hours: str) -> list[str]:
    lines = [
        "  ESTIMATE    from the maker's peaks, not measured:",
        f"              step {e['fastest_s']:.3f} s (network hidden) to {e['slowest_s']:.3f} s (nothing hidden), "
        f"MFU {e['mfu_best']:.0%} to {e['mfu_worst']:.0%}",
        f"              compute {e['compute_s']:.3f} s, memory {e['memory_s']:.3f} s, ICI {e['ici_s']:.3f} s, "
        f"DCN {e['dcn_s']:.3f} s",
    ]
    return [*lines, f"              the whole run {hours} chip-hours"] if hours else lines


def _hours(plan: Plan) -> str:
    """Of the recipe's whole run, which only a train step has."""
    e = plan.estimate or {}
    return f"{e['chip_hours_fastest']:,.0f} to {e['chip_hours_slowest']:,.0f}" if "chip_hours_fastest" in e else ""


HEADER = (
    "| recipe | chips | mesh (data, fsdp, tensor, context) | batch | GiB a chip | FLOPs a step | "
    "ICI GiB | DCN GiB | estimated step, s | estimated MFU | estimated chip-hours |"
)


def row(recipe: str, plan: Plan) -> str:
    """A line of the table of all plans."""
    where = f"{plan.slices} x {plan.topology}" if plan.slices > 1 else plan.topology
    needed = f"{plan.needed / 2**30:.1f} of {plan.hbm / 2**30:.0f}" + ("" if plan.fits else ", **does not fit**")
    cells = [recipe, where, ", ".join(map(str, plan.mesh.values())), str(plan.batch), needed, f"{plan.model_flops:.2e}"]
    for network in ("ICI", "DCN"):
        cells.append(f"{sum(c.wire for c in plan.collectives if c.network == network) / 2**30:.1f}")
    e = plan.estimate
    if e is None:
        return "| " + " | ".join([*cells, "", "", ""]) + " |"
    cells += [f"{e['fastest_s']:.2f} to {e['slowest_s']:.2f}", f"{e['mfu_best']:.0%} to {e['mfu_worst']:.0%}"]
    cells.append(_hours(plan))
    return "| " + " | ".join(cells) + " |"


def table(rows: Sequence[str]) -> str:
    """Rows below their header."""
    columns = HEADER.count("|") - 1
    return "\n".join([HEADER, "|" + "---|" * columns, *rows])


def _count(size: int) -> str:
    for unit, name in ((1e9, "B"), (1e6, "M"), (1e3, "k")):
        if size >= unit:
            return f"{size / unit:.2f} {name}"
    return str(size)
