"""Between matplotlib and the page: a canvas in pixels, and SVG that follows the page's colours and its policy.

matplotlib writes colours and sizes into `style` attributes, which a strict Content-Security-Policy forbids. Each
becomes a presentation attribute instead, and a colour of the palette also becomes a class (`f-ink`, `s-ink`) that
the page's style sheet overrides, for dark mode too. Taken out of the page, the SVG still shows the light palette.
"""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from types import MappingProxyType
from xml.etree import ElementTree

import matplotlib
from matplotlib.figure import Figure
from matplotlib.patches import PathPatch
from matplotlib.path import Path

from reports.units import plain

LIGHT = MappingProxyType(
    {
        "ink": "#16202b",
        "muted": "#5a6672",
        "rule": "#dde2e7",
        "band": "#e9edf1",
        "paper": "#fffffe",
        "baseline": "#4d5b69",
        "container": "#0a5fc0",
        "runtime": "#067a63",
        "vm": "#b8480a",
        "control": "#8b3aa8",
        "missing": "#a3202c",
    }
)
"""Role -> colour in the light scheme; `report.css` holds the same roles for both schemes. All differ, so that a
colour names its role. Hues after Okabe and Ito (2008), darkened to 4.5:1 on paper."""

_ROLE_OF = {colour: role for role, colour in LIGHT.items()}
_SVG = "http://www.w3.org/2000/svg"
_NUMBER = re.compile(r"-?\d+\.\d+")
# One unit of the canvas is one CSS pixel: matplotlib writes SVG at 72 dots an inch.
_DOTS_PER_INCH = 72

ElementTree.register_namespace("", _SVG)


@dataclass(frozen=True, slots=True)
class Canvas:
    """A figure measured in pixels from its top left corner; only what the charts need."""

    figure: Figure
    width: float
    height: float

    @classmethod
    def of(cls, width: float, height: float) -> Canvas:
        figure = Figure(figsize=(width / _DOTS_PER_INCH, height / _DOTS_PER_INCH), dpi=_DOTS_PER_INCH)
        figure.patch.set_visible(False)
        axes = figure.add_axes((0, 0, 1, 1))
        axes.set_axis_off()
        axes.set_xlim(0, width)
        axes.set_ylim(height, 0)
        return cls(figure, width, height)

    def text(
        self,
        x: float,
        y: float,
        words: str,
        *,
        role: str = "ink",
        size: float = 12,
        align: str = "left",
        bold: bool = False,
    ) -> None:
        """Words on the baseline `y`. Never parsed as mathematics: labels are data."""
        self.figure.axes[0].text(
            x, y, plain(words), color=LIGHT[role], fontsize=size, ha=align, va="baseline",
            weight="bold" if bold else "normal", parse_math=False,
        )  # fmt: skip

    def line(
        self,
        points: Sequence[tuple[float, float]],
        *,
        role: str,
        width: float = 1,
        dashed: bool = False,
        cap: str = "butt",
    ) -> None:
        codes = [Path.MOVETO, *[Path.LINETO] * (len(points) - 1)]
        self._path(Path(list(points), codes), role, width, dashed, cap)

    def dots(self, points: Sequence[tuple[float, float]], *, role: str, diameter: float, opacity: float) -> None:
        """Many dots as one path of lines without length and with round ends: a tenth of the size of markers."""
        if points:
            twice = [point for point in points for _ in range(2)]
            path = Path(twice, [Path.MOVETO, Path.LINETO] * len(points))
            path.should_simplify = False  # it would drop the lines without length
            self._path(path, role, diameter, False, "round", opacity)

    def shape(
        self, outline: Sequence[tuple[float, float]], *, role: str, edge: str | None = None, width: float = 1.5
    ) -> None:
        """A closed polygon, filled with `role`, or with an `edge` of another role."""
        codes = [Path.MOVETO, *[Path.LINETO] * (len(outline) - 1), Path.CLOSEPOLY]
        path = Path([*outline, outline[0]], codes)
        edge_colour = LIGHT[edge] if edge else "none"
        patch = PathPatch(path, fc=LIGHT[role], ec=edge_colour, lw=width if edge else 0, joinstyle="miter")
        self._add(patch)

    def _path(self, path: Path, role: str, width: float, dashed: bool, cap: str, opacity: float | None = None) -> None:
        style = (0, (3, 3)) if dashed else "solid"
        patch = PathPatch(path, fc="none", ec=LIGHT[role], lw=width, ls=style, capstyle=cap, joinstyle="round")
        patch.set_alpha(opacity)
        self._add(patch)

    def _add(self, patch: PathPatch) -> None:
        patch.set_clip_on(False)
        self.figure.axes[0].add_artist(patch)

    def svg(self, *, key: str, title: str, description: str) -> str:
        """The finished picture. `key` is unique in the page and a plain word: it names title and description."""
        out = io.StringIO()
        with matplotlib.rc_context({"svg.fonttype": "none"}), warnings.catch_warnings():
            # Measuring only: the browser has the glyph that matplotlib's font may lack.
            warnings.filterwarnings("ignore", message=r"Glyph \d+ .* missing from font")
            self.figure.savefig(out, format="svg", metadata={"Date": None})
        root = ElementTree.fromstring(out.getvalue())  # noqa: S314 - our own output a line above
        drawing = ElementTree.Element(
            f"{{{_SVG}}}svg",
            {
                "class": "chart", "viewBox": f"0 0 {self.width:g} {self.height:g}",
                "width": f"{self.width:g}", "height": f"{self.height:g}", "role": "img",
                "aria-labelledby": f"{key}-title", "aria-describedby": f"{key}-desc",
                "fill": "none", "stroke-linejoin": "round", "font-family": "DejaVu Sans, system-ui, sans-serif",
            },
        )  # fmt: skip
        for tag, words in (("title", title), ("desc", description)):
            ElementTree.SubElement(drawing, f"{{{_SVG}}}{tag}", {"id": f"{key}-{tag}"}).text = plain(words)
        drawing.extend(
            _adopt(element) for element in root.iter() if element.tag in {f"{{{_SVG}}}path", f"{{{_SVG}}}text"}
        )
        return ElementTree.tostring(drawing, encoding="unicode")


def _adopt(source: ElementTree.Element) -> ElementTree.Element:
    """One path or text without ids and inline style; nothing is ever turned, so a transformation says nothing."""
    attributes = {name: value for name, value in source.attrib.items() if name in {"d", "x", "y"}}
    if "d" in attributes:
        attributes["d"] = " ".join(_round(attributes["d"]).split())
    classes = []
    for declaration in filter(None, map(str.strip, source.get("style", "").split(";"))):
        name, value = (part.strip() for part in declaration.split(":", 1))
        if name == "font-family":
            continue
        attributes[name] = value.removesuffix("px")
        if value in _ROLE_OF:
            classes.append(f"{name[0]}-{_ROLE_OF[value]}")
    if classes:
        attributes["class"] = " ".join(classes)
    element = ElementTree.Element(source.tag, attributes)
    element.text = source.text
    return element


def _round(numbers: str) -> str:
    return _NUMBER.sub(lambda match: f"{float(match[0]):.1f}".removesuffix(".0"), numbers)
