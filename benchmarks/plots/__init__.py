"""Plots: lines over two logarithmic axes, as small SVG files beside this one."""

import math
from pathlib import Path

FOLDER = Path(__file__).resolve().parent
_WIDTH, _HEIGHT, _LEFT, _BOTTOM = 640, 400, 70, 50
_COLOURS = ("#1f77b4", "#d62728", "#2ca02c", "#9467bd")
Line = list[tuple[float, float]]


def write(name: str, title: str, across: str, up: str, lines: dict[str, Line]) -> None:
    """Write NAME.svg. Values must be over 0."""
    (FOLDER / f"{name}.svg").write_text(svg(title, across, up, lines))


def svg(title: str, across: str, up: str, lines: dict[str, Line]) -> str:
    """Return the plot; each axis begins and ends at a power of ten."""
    points = [point for line in lines.values() for point in line]
    x_axis, y_axis = _Axis([x for x, _y in points]), _Axis([y for _x, y in points])

    def at(x: float, y: float) -> tuple[float, float]:
        return _LEFT + x_axis.share(x) * (_WIDTH - _LEFT - 20), _HEIGHT - _BOTTOM - y_axis.share(y) * (_HEIGHT - _BOTTOM - 50)

    out = [f'<svg xmlns="http://www.w3.org/2000/svg" width="{_WIDTH}" height="{_HEIGHT}" font-family="sans-serif" font-size="12">']
    out += ['<rect width="100%" height="100%" fill="white"/>', _text(_WIDTH / 2, 20, title)]
    out += [_text(_WIDTH / 2, _HEIGHT - 10, across), _text(15, _HEIGHT / 2, up, turned=True)]
    for power in x_axis.powers():
        (x, low), (_x, high) = at(10.0**power, 10.0**y_axis.low), at(10.0**power, 10.0**y_axis.high)
        out += [_line(x, low, x, high), _text(x, low + 18, f"10^{power}")]
    for power in y_axis.powers():
        (left, y), (right, _y) = at(10.0**x_axis.low, 10.0**power), at(10.0**x_axis.high, 10.0**power)
        out += [_line(left, y, right, y), _text(left - 25, y + 4, f"10^{power}")]
    for number, (name, line) in enumerate(lines.items()):
        colour = _COLOURS[number % len(_COLOURS)]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in (at(*point) for point in line))
        out.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>')
        out.append(f'<text x="{_LEFT + 15}" y="{65 + 18 * number}" fill="{colour}">{name}</text>')
    return "\n".join([*out, "</svg>\n"])


class _Axis:
    def __init__(self, values: list[float]) -> None:
        self.low, self.high = math.floor(math.log10(min(values))), math.ceil(math.log10(max(values)))
        self.high = max(self.high, self.low + 1)

    def share(self, value: float) -> float:
        return (math.log10(value) - self.low) / (self.high - self.low)

    def powers(self) -> range:
        return range(self.low, self.high + 1)


def _line(x1: float, y1: float, x2: float, y2: float) -> str:
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="#ddd"/>'


def _text(x: float, y: float, text: str, *, turned: bool = False) -> str:
    turn = f' transform="rotate(-90 {x:.1f} {y:.1f})"' if turned else ""
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="middle"{turn}>{text}</text>'
