"""Tables that pair the tensors of a published checkpoint with our parameters, read alike by import and export.

A `Rule` is a pair of templates::

    Rule("model.layers.{i}.self_attn.q_proj.weight", "layers/span_{i}/attention/q/kernel", HEADS_IN)

``{name}`` stands for a number. ``span_{i}`` in a path stands for every span ``span_a_b`` of a layer stack: layer i
upstream is slice ``i - a`` along the leaf's leading axis. So one rule covers all layers, wherever the config cuts.
"""

import dataclasses
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from unitok_jax.errors import UserError
from unitok_jax.weights.kinds import ONE, Kind
from unitok_jax.weights.transforms import SAME, Shape, Transform

Names = str | tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Rule:
    """One line of a table.

    Attributes:
        upstream: key template, or several (`Tie`, `Fuse`).
        path: our path template, or several (`Split`).
        transform: from the upstream layout to ours, the same for every tensor of the rule.
        kind: how the tensors on both sides correspond.
        also: other upstream layouts that import takes as well; export writes `transform`'s.
    """

    upstream: Names
    path: Names
    transform: Transform = SAME
    kind: Kind = ONE
    also: tuple[Transform, ...] = ()

    @property
    def upstreams(self) -> tuple[str, ...]:
        return (self.upstream,) if isinstance(self.upstream, str) else self.upstream

    @property
    def paths(self) -> tuple[str, ...]:
        return (self.path,) if isinstance(self.path, str) else self.path

    @property
    def part(self) -> str:
        """First level of the path."""
        return self.paths[0].split("/")[0]

    def under(self, upstream: str, path: str) -> "Rule":
        """The same rule below a key prefix and a path prefix."""
        keys, paths = tuple(upstream + key for key in self.upstreams), tuple(path + p for p in self.paths)
        return dataclasses.replace(self, upstream=keys, path=paths)

    def key_shapes(self, transform: Transform, shapes: Sequence[Shape]) -> tuple[Shape, ...]:
        """The shapes upstream of tensors that have `shapes` here."""
        return self.kind.upstream_shapes(len(self.upstreams), [transform.upstream_shape(s) for s in shapes])


@dataclasses.dataclass(frozen=True)
class Table:
    """The rules of one published artefact.

    Attributes:
        rules: its lines.
        ignored: regexes of upstream keys that are neither read nor written, each with the reason.
        absent: regexes of our paths that the artefact does not hold, each with the reason; import leaves them out.
        aliases: key prefixes that import reads as others, ``(("vision_model.", ""),)``; export writes the latter.
        constants: tensors that export writes beside the rules', and import does not ask for.
        hint: says, given the shapes of a checkpoint that does not fit, what would; "" where it cannot tell.
    """

    rules: tuple[Rule, ...]
    ignored: Mapping[str, str] = dataclasses.field(default_factory=dict)
    absent: Mapping[str, str] = dataclasses.field(default_factory=dict)
    aliases: tuple[tuple[str, str], ...] = ()
    constants: Mapping[str, np.ndarray] = dataclasses.field(default_factory=dict)
    hint: Callable[[Mapping[str, Shape]], str] | None = None

    def __add__(self, other: "Table") -> "Table":
        return Table(
            self.rules + other.rules,
            {**self.ignored, **other.ignored},
            {**self.absent, **other.absent},
            self.aliases + other.aliases,
            {**self.constants, **other.constants},
            self.hint or other.hint,
        )

    def under(self, upstream: str, path: str) -> "Table":
        """The same table for tensors that lie below the key prefix `upstream` and the path prefix `path`."""
        return Table(
            tuple(rule.under(upstream, path) for rule in self.rules),
            {re.escape(upstream) + regex: reason for regex, reason in self.ignored.items()},
            {re.escape(path) + regex: reason for regex, reason in self.absent.items()},
            tuple((upstream + old, upstream + new) for old, new in self.aliases),
            {upstream + key: value for key, value in self.constants.items()},
        )

    def only(self, *parts: str) -> "Table":
        """The table for some parts alone (first level of the paths); the keys of the others are passed over."""
        inside = tuple(rule for rule in self.rules if rule.part in parts)
        keys = [key for rule in self.rules if rule.part not in parts for key in rule.upstreams]
        unasked = {key_regex(key): "of a part that was not asked for" for key in keys}
        return dataclasses.replace(self, rules=inside, ignored={**self.ignored, **unasked})

    @property
    def parts(self) -> tuple[str, ...]:
        """The parts of the system's parameters that the table speaks of."""
        return tuple(dict.fromkeys(rule.part for rule in self.rules))

    def canonical(self, key: str) -> str:
        """The name that the rules know an upstream key by."""
        for old, new in self.aliases:
            if key.startswith(old):
                return new + key.removeprefix(old)
        return key

    def ignores(self, key: str) -> bool:
        """Whether an upstream key is listed as ignored."""
        return any(re.fullmatch(regex, key) for regex in self.ignored)

    def lacks(self, path: str) -> bool:
        """Whether a parameter of ours is listed as absent from the artefact."""
        return any(re.fullmatch(regex, path) for regex in self.absent)


@dataclasses.dataclass(frozen=True)
class Slot:
    """A leaf of ours, or one layer's slice of it."""

    path: str
    index: int | None
    shape: Shape


@dataclasses.dataclass(frozen=True)
class Link:
    """A rule with its placeholders filled in: these upstream keys are these slots."""

    rule: Rule
    keys: tuple[str, ...]
    slots: tuple[Slot, ...]

    def key_shapes(self, transform: Transform | None = None) -> tuple[Shape, ...]:
        """The shapes upstream, in the layout of the rule's transform or of one of its `also`."""
        try:
            return self.rule.key_shapes(transform or self.rule.transform, [slot.shape for slot in self.slots])
        except IndexError:
            text = f"parameter {self.slots[0].path} {self.slots[0].shape}: has not the rank that its rule expects"
            raise UserError(text) from None


def links(table: Table, shapes: Mapping[str, Shape]) -> tuple[Link, ...]:
    """Fills the table's templates for the parameters at hand.

    Args:
        table: the artefact's rules.
        shapes: of every parameter by path; the spans are read off the paths.

    Raises:
        UserError: for a parameter that no rule, or more than one, covers, or a key that two rules give.
    """
    found = tuple(link for rule in table.rules for link in _links_of(rule, shapes))
    owner: dict[tuple[str, int | None] | str, Rule] = {}
    for link in found:
        for claim in (*link.keys, *((slot.path, slot.index) for slot in link.slots)):
            if claim in owner:
                name = claim if isinstance(claim, str) else claim[0]
                raise UserError(f"{name}: matched by two rules, {owner[claim].upstream} and {link.rule.upstream}")
            owner[claim] = link.rule
    covered = {slot.path for link in found for slot in link.slots}
    for path in shapes:
        if path not in covered and not table.lacks(path):
            raise UserError(f"parameter {path} {shapes[path]}: no rule of the table covers it")
    return found


def _links_of(rule: Rule, shapes: Mapping[str, Shape]) -> Iterator[Link]:
    pattern = re.compile(_path_regex(rule.paths[0]))
    for path in shapes:
        match = pattern.fullmatch(path)
        if not match:
            continue
        spans = sorted({name[:-3] for name in match.groupdict() if name.endswith("__a")})
        values = {name: text for name, text in match.groupdict().items() if not name.endswith(("__a", "__b"))}
        if not spans:
            yield _link(rule, values, {}, None, shapes)
            continue
        first, last = int(match[f"{spans[0]}__a"]), int(match[f"{spans[0]}__b"])
        for layer in range(first, last):
            ours = {spans[0]: f"{first}_{last}"}
            yield _link(rule, {**values, spans[0]: str(layer)}, ours, layer - first, shapes)


def _link(
    rule: Rule, values: dict[str, str], spans: dict[str, str], index: int | None, shapes: Mapping[str, Shape]
) -> Link:
    slots = []
    for template in rule.paths:
        path = template.format(**{**values, **spans})
        if path not in shapes:
            raise UserError(f"parameter {path}: the rule for {rule.upstream} needs it, and the model has none")
        slots.append(Slot(path, index, tuple(shapes[path][0 if index is None else 1 :])))
    return Link(rule, tuple(key.format(**values) for key in rule.upstreams), tuple(slots))


def key_regex(template: str) -> str:
    """The regex of the keys that a template stands for."""
    return _regex(template, lambda name: rf"(?P<{name}>\d+)")


def matcher(regexes: Iterable[str]) -> Callable[[str], bool]:
    """Whether a key matches one of several regexes whole."""
    compiled = [re.compile(regex) for regex in regexes]
    return lambda key: any(regex.fullmatch(key) for regex in compiled)


def _path_regex(template: str) -> str:
    spanned = re.sub(r"span_\{(\w+)\}", r"{SPAN\1}", template)

    def group(name: str) -> str:
        if name.startswith("SPAN"):
            return rf"span_(?P<{name[4:]}__a>\d+)_(?P<{name[4:]}__b>\d+)"
        return rf"(?P<{name}>\d+)"

    return _regex(spanned, group)


def _regex(template: str, group: Any) -> str:
    seen: set[str] = set()
    out = []
    for text in re.split(r"(\{\w+\})", template):
        name = text[1:-1]
        if not text.startswith("{"):
            out.append(re.escape(text))
        elif name in seen:
            out.append(f"(?P={name})")
        else:
            seen.add(name)
            out.append(group(name))
    return "".join(out)
