"""Figures as people read them: three significant digits, a unit that fits, an interval in the unit of its value."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

from results.analysis import Interval

_UNPRINTABLE = re.compile("[\x00-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]")
NONE = "–"
"""What stands where there is no figure."""


@dataclass(frozen=True, slots=True)
class Scale:
    """A unit to show values in: `value / factor` followed by `symbol`."""

    factor: float
    symbol: str

    def number(self, value: float, digits: int = 3) -> str:
        return significant(value / self.factor, digits)

    def text(self, value: float, digits: int = 3) -> str:
        """The value with its unit, as `1.84 ms`."""
        return self._with_symbol(self.number(value, digits))

    def tick(self, value: float) -> str:
        """A round value with its unit and without zeros at its end, as `2 ms`."""
        number = self.number(value)
        return self._with_symbol(number.rstrip("0").rstrip(".") if "." in number else number)

    def _with_symbol(self, number: str) -> str:
        if self.symbol in {"", "×"}:
            return number + self.symbol
        return f"{number}\N{NO-BREAK SPACE}{self.symbol}"


_SCALES: dict[str, tuple[Scale, ...]] = {
    "ns": (Scale(1, "ns"), Scale(1e3, "µs"), Scale(1e6, "ms"), Scale(1e9, "s")),
    "bytes": (Scale(1, "B"), Scale(1 << 10, "KiB"), Scale(1 << 20, "MiB"), Scale(1 << 30, "GiB")),
    "bytes/s": (Scale(1, "B/s"), Scale(1e3, "kB/s"), Scale(1e6, "MB/s"), Scale(1e9, "GB/s")),
    "count": (Scale(1, ""),),
    "ratio": (Scale(1, "×"),),
    "relative": (Scale(0.01, "%"),),
}


def significant(value: float, digits: int = 3) -> str:
    """`value` at so many significant digits, never in powers of ten, with a thin space between thousands."""
    return _fixed(value, _decimals(value, digits)) if value else "0"


def _decimals(value: float, digits: int) -> int:
    """Places after the point that show `digits` significant ones."""
    if value == 0 or not math.isfinite(value):
        return 0
    exponent = int(f"{value:.{digits - 1}e}".rpartition("e")[2])  # after rounding: 999.6 is 1000
    return max(0, digits - 1 - exponent)


def _fixed(value: float, decimals: int) -> str:
    if not math.isfinite(value):
        return NONE
    text = f"{value:,.{min(decimals, 9)}f}".replace(",", "\N{NARROW NO-BREAK SPACE}").replace("-", "\N{MINUS SIGN}")
    return "0" if not text.strip("0.\N{MINUS SIGN}") else text


def scale_for(unit: str, magnitude: float) -> Scale:
    """The largest unit in which `magnitude` is at least one (0.9995 counts as one: it would be shown so)."""
    scales = _SCALES[unit]
    fitting = [scale for scale in scales if abs(magnitude) / scale.factor >= 0.9995]
    return fitting[-1] if fitting else scales[0]


def value_text(value: float | None, unit: str) -> str:
    return NONE if value is None else scale_for(unit, value).text(value)


def interval_text(interval: Interval | None, unit: str, magnitude: float | None) -> str:
    """`[1.80, 1.91]` in the unit that fits `magnitude`, so that it may follow the value; empty where there is none.

    Both edges have the decimals of the value, and up to two more where the interval is narrower than they show.
    """
    if interval is None or magnitude is None:
        return ""
    factor = scale_for(unit, magnitude).factor
    width = abs(interval.high - interval.low) / factor
    decimals = _decimals(magnitude / factor, 3)
    if width > 0 and math.isfinite(width):
        decimals = max(decimals, min(-math.floor(math.log10(width)), decimals + 2))
    return f"[{_fixed(interval.low / factor, decimals)}, {_fixed(interval.high / factor, decimals)}]"


def with_interval(value: float | None, interval: Interval | None, unit: str) -> str:
    """`1.84 ms [1.80, 1.91]`."""
    return f"{value_text(value, unit)} {interval_text(interval, unit, value)}".rstrip()


def percent(value: float | None, *, signed: bool = False) -> str:
    """A fraction as per cent: 0.052 is `5.2 %`."""
    if value is None or not math.isfinite(value):
        return NONE
    sign = "+" if signed and value > 0 else ""
    digits = 2 if abs(value) < 0.1 else 3
    return f"{sign}{significant(100 * value, digits)}\N{NO-BREAK SPACE}%"


def duration_text(seconds: float) -> str:
    """A length of time for a person: `42 s`, `4 min 05 s`, `1 h 12 min`."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def plain(text: str, limit: int | None = None) -> str:
    """Text that any XML parser and encoding accepts: control characters and lone surrogates become U+FFFD."""
    kept = _UNPRINTABLE.sub("\N{REPLACEMENT CHARACTER}", text)
    return kept if limit is None or len(kept) <= limit else kept[: limit - 1] + "…"
