"""Small charts as inline SVG, coloured by the page's style sheet so that they follow its light and dark themes."""

import math
from collections.abc import Mapping, Sequence
from html import escape

import numpy as np
from jaxtyping import Float

WIDTH, HEIGHT = 360, 210
_LEFT, _RIGHT, _TOP, _BOTTOM = 40, 10, 12, 30
_POINTS = 160  # more would not be seen at this width, and bloat the page


def ticks(low: float, high: float, about: int = 4) -> list[float]:
    """Round numbers (1, 2 or 5 times a power of ten) that cover [low, high], roughly `about` of them."""
    high = high if high > low else low + 1  # a curve without a range still needs a scale
    span = (high - low) / about
    power = 10.0 ** math.floor(math.log10(span))
    step = next(power * m for m in (1, 2, 5, 10) if power * m >= span * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(i * step, 12) for i in range(first, last + 1)]


def thin(
    steps: Sequence[float], values: Sequence[float], points: int = _POINTS
) -> tuple[Float[np.ndarray, " n"], Float[np.ndarray, " n"]]:
    """Means over at most `points` equal stretches of the finite values of a curve."""
    x, y = np.asarray(steps, float), np.asarray(values, float)
    finite = np.isfinite(y)
    pieces = np.array_split(np.arange(len(x))[finite], min(points, max(finite.sum(), 1)))
    means = [(x[p].mean(), y[p].mean()) for p in pieces if len(p)]
    return np.array([m[0] for m in means]), np.array([m[1] for m in means])


def line_chart(curves: Mapping[str, tuple[Sequence[float], Sequence[float]]], title: str, unit: str = "step") -> str:
    """Lines over steps, with a legend where there are several.

    Args:
        curves: name -> (steps, values); values that are not finite are left out.
        title: heading, also what a screen reader says, with the first and last values.
        unit: the name of the horizontal axis.
    """
    thinned = {name: thin(*curve) for name, curve in curves.items()}
    thinned = {name: curve for name, curve in thinned.items() if len(curve[0])}
    if not thinned:
        return _chart(title, "no values yet", '<text class="tick" x="180" y="105">no values yet</text>', {})
    steps = np.concatenate([x for x, _ in thinned.values()])
    values = np.concatenate([y for _, y in thinned.values()])
    across = (min(steps.min(), 0.0), max(steps.max(), 1.0))
    up = ticks(min(values.min(), 0), np.quantile(values, 0.995))
    body = [_axes(across, up, unit)]
    for i, (xs, ys) in enumerate(thinned.values()):
        points = " ".join(f"{_x(x, across):.1f},{_y(y, up):.1f}" for x, y in zip(xs, ys, strict=True))
        body.append(f'<polyline class="line s{i % 5}" points="{points}"/>')
    told = "; ".join(f"{name} from {ys[0]:.3g} to {ys[-1]:.3g}" for name, (_, ys) in thinned.items())
    return _chart(title, told, "".join(body), {name: float(ys[-1]) for name, (_, ys) in thinned.items()})


def bar_chart(values: Sequence[float], title: str, told: str, unit: str) -> str:
    """Thin bars side by side, such as a histogram; `told` is what a screen reader says of them."""
    up = ticks(0, max(max(values), 1e-9))
    across = (0.0, float(len(values)))
    width = (WIDTH - _LEFT - _RIGHT) / len(values)
    floor = HEIGHT - _BOTTOM
    bars = "".join(
        f"M{_x(i, across):.1f} {floor}V{_y(v, up):.1f}h{max(width * 0.85, 0.5):.2f}V{floor}z"
        for i, v in enumerate(values)
        if v > 0
    )
    return _chart(title, told, _axes(across, up, unit) + f'<path class="bars" d="{bars}"/>', {})


def _x(value: float, across: tuple[float, float]) -> float:
    return _LEFT + (value - across[0]) / (across[1] - across[0]) * (WIDTH - _LEFT - _RIGHT)


def _y(value: float, marks: Sequence[float]) -> float:
    share = min((value - marks[0]) / (marks[-1] - marks[0]), 1.0)  # an early spike leaves through the top
    return HEIGHT - _BOTTOM - share * (HEIGHT - _BOTTOM - _TOP)


def _axes(across: tuple[float, float], up: Sequence[float], unit: str) -> str:
    right, floor = WIDTH - _RIGHT, HEIGHT - _BOTTOM
    # The axis' own name stands at its right end, where a mark would collide with it.
    marks = [v for v in ticks(*across) if _x(v, across) < right - 36]
    parts = [f'<path class="grid" d="M{_LEFT} {_y(v, up):.1f}H{right}"/>' for v in up]
    parts += [f'<text class="tick end" x="{_LEFT - 6}" y="{_y(v, up) + 4:.1f}">{_short(v)}</text>' for v in up]
    parts += [f'<text class="tick" x="{_x(v, across):.1f}" y="{floor + 14}">{_short(v)}</text>' for v in marks]
    return "".join(parts) + f'<text class="tick end" x="{right}" y="{floor + 14}">{escape(unit)}</text>'


def _short(value: float) -> str:
    return f"{value / 1000:g}k" if abs(value) >= 10_000 else f"{value:g}"


def _chart(title: str, told: str, body: str, last: Mapping[str, float]) -> str:
    legend = "".join(f"<li>{_key(i)}{escape(n)} <b>{v:.3g}</b></li>" for i, (n, v) in enumerate(last.items()))
    return (
        f'<figure class="chart"><figcaption>{escape(title)}</figcaption>'
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(f"{title}: {told}")}">{body}</svg>'
        + (f'<ul class="legend">{legend}</ul>' if legend else "")
        + "</figure>"
    )


def _key(i: int) -> str:
    return f'<svg class="key" viewBox="0 0 24 4" aria-hidden="true"><path class="line s{i % 5}" d="M0 2H24"/></svg>'
