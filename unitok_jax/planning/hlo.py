"""What a compiled program sends: its collectives by kind, count and bytes, read from XLA's text.

`cost_analysis` counts the body of a loop once and says nothing of collectives. Here each computation is counted as
often as the loops around it run: as many times as the bound that their condition compares with.
"""

import dataclasses
import math
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping

KINDS = ("all-gather", "all-reduce", "reduce-scatter", "all-to-all", "ragged-all-to-all", "collective-permute")
_BYTES = {"pred": 1, "s4": 0.5, "u4": 0.5, "s8": 1, "u8": 1, "f8e4m3fn": 1, "f8e5m2": 1, "s16": 2, "u16": 2, "bf16": 2}
_BYTES |= {"f16": 2, "s32": 4, "u32": 4, "f32": 4, "s64": 8, "u64": 8, "f64": 8, "c64": 8}
_START = re.compile(r"^(ENTRY )?%?([\w.\-]+) \(.*\{\s*$")
_OPCODES = "|".join((*(f"{kind}(?:-start)?" for kind in KINDS), "send", "while", "fusion", "call", "conditional"))
_LINE = re.compile(rf"^\s+(?:ROOT )?%?([\w.\-]+) = (.*?) ({_OPCODES}|custom-call|async-start)\(")
_SHAPE = re.compile(r"\b([a-z]+\d*(?:e\d+m\d+\w*)?)\[([\d,]*)\]")
_CALLED = re.compile(r"(?:calls|to_apply|called_computations|branch_computations)=(\{[^}]*\}|%?[\w.\-]+)")
_NAMES = re.compile(r"%?([\w.\-]+)")


@dataclasses.dataclass(frozen=True)
class Collective:
    """The collectives of one kind over groups of one size.

    Attributes:
        kind: one of `KINDS`; over DCN what the slices exchange.
        network: ``ICI`` or ``DCN``.
        group: devices (over DCN: slices) that take part in one.
        count: how many a step.
        bytes: what they give each device in a step (a reduce-scatter: what it takes).
        wire: what each device sends in a step, as the ring algorithms do it.
    """

    kind: str
    network: str
    group: int
    count: int
    bytes: float
    wire: float


def read_collectives(text: str) -> list[Collective]:
    """The collectives of a program, from the text of the compiled module."""
    entry, computations = _split(text)
    if entry is None:
        return []
    sites: dict[tuple[str, str], tuple[int, re.Match[str], bool]] = {}
    _visit(entry, 1, entry, computations, sites)
    sums: dict[tuple[str, str, int], list[float]] = defaultdict(lambda: [0, 0.0])
    for times, site, scatters in sites.values():
        kind, network, group, size = _describe(site, scatters)
        if group > 1:
            sums[kind, network, group][0] += times
            sums[kind, network, group][1] += times * size
    found = [
        Collective(kind, network, group, int(count), size, size * _sent(kind, group))
        for (kind, network, group), (count, size) in sums.items()
    ]
    return sorted(found, key=lambda each: -each.wire)


def _split(text: str) -> tuple[str | None, Mapping[str, list[str]]]:
    """The entry computation's name, and each computation's lines."""
    entry, name, computations = None, None, {}
    for line in text.splitlines():
        start = _START.match(line)
        if start:
            name = start[2]
            computations[name] = []
            entry = name if start[1] else entry
        elif name is not None:
            computations[name].append(line)
    return entry, computations


def _visit(
    name: str,
    times: int,
    owner: str,
    computations: Mapping[str, list[str]],
    sites: dict[tuple[str, str], tuple[int, re.Match[str], bool]],
) -> None:
    """Walks what `name` calls. One transfer may be spread over several fusions: within `owner` it counts once."""
    for line in computations.get(name, ()):
        found = _LINE.match(line)
        if not found:
            continue
        opcode = found[3]
        if opcode == "while":
            body = _attribute(line, "body")
            turns = times * _turns(_attribute(line, "condition"), line, computations)
            _visit(body, turns, f"{owner}/{body}", computations, sites)
        elif opcode.removesuffix("-start") in KINDS or (opcode == "send" and "is_host_transfer=true" in line):
            channel = re.search(r"channel_id=(\d+)", line)
            key = (owner, channel[1] if channel else found[1])
            sites[key] = (times, found, "all-reduce-scatter" in name)
        else:
            for called in _called(line):
                within = owner if opcode in ("fusion", "custom-call", "async-start") else f"{owner}/{called}"
                _visit(called, times, within, computations, sites)


def _called(line: str) -> Iterable[str]:
    for group in _CALLED.findall(line):
        yield from _NAMES.findall(group)


def _attribute(line: str, name: str) -> str:
    found = re.search(rf"{name}=%?([\w.\-]+)", line)
    return found[1] if found else ""


def _turns(condition: str, line: str, computations: Mapping[str, list[str]]) -> int:
    known = re.search(r'known_trip_count"?:\{"n":"(\d+)"', line)
    if known:
        return int(known[1])
    lines = "\n".join(computations.get(condition, ()))
    bounds = [int(bound) for bound in re.findall(r"s32\[\][^=]*? constant\((\d+)\)", lines)]
    if not bounds or "direction=LT" not in lines:
        return 1
    return max(1, max(bounds) - ("loop_peel" in lines))  # a peeled loop's first turn stands before it


def _describe(site: re.Match[str], scatters: bool) -> tuple[str, str, int, float]:
    line, shapes, opcode = site.string, _SHAPE.findall(site[2]), site[3]
    sizes = [_BYTES.get(dtype, 4) * math.prod(map(int, filter(None, dims.split(",")))) for dtype, dims in shapes]
    if opcode == "send":
        kind = re.search(r'megascale_transfer_type="(\w+)"', line)
        slices = re.search(r'megascale_target="\{([\d,]+)\}', line)
        name = kind[1].lower().replace("_", "-") if kind else "send"
        return name, "DCN", len(slices[1].split(",")) if slices else 2, sizes[0]
    kind = opcode.removesuffix("-start")
    size = max(sizes) if opcode.endswith("-start") else sum(sizes)
    group = _group(line)
    if kind == "all-reduce" and scatters:
        kind = "reduce-scatter"
    elif kind == "reduce-scatter":
        size *= group  # the text shows what it gives
    return kind, "ICI", group, size


def _group(line: str) -> int:
    listed = re.search(r"replica_groups=\{\{([\d,]+)\}", line)
    if listed:
        return len(listed[1].split(","))
    iota = re.search(r"replica_groups=\[\d+,(\d+)\]", line)
    return int(iota[1]) if iota else 2  # a permutation names pairs


def _sent(kind: str, group: int) -> float:
    """What a device sends in a ring, as a share of the collective's bytes."""
    if kind == "collective-permute":
        return 1.0
    share = (group - 1) / group
    return 2 * share if kind == "all-reduce" else share
