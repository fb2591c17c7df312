"""The report: one HTML file that needs nothing but itself.

No script, no network, no inline style: the policy in its head allows exactly the one style sheet below, by its hash.
Every text that came from a run is escaped by Jinja2 or, inside charts, by the SVG writer.
"""

from __future__ import annotations

import base64
import hashlib
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from reports import tables
from reports.charts import CHARTS
from reports.claims import claims
from reports.rows import Chart, draw
from reports.trust import TRUST
from reports.units import percent, plain
from results.analysis import Analysis

_HERE = Path(__file__).parent
_STATES = {
    "running": "This run had not finished when the report was made: what follows is what it had stored by then.",
    "partial": "This run ended early: its finished blocks are shown, and it may carry fewer verdicts than planned.",
    "failed": "This run failed: what it had stored until then is shown.",
}


@dataclass(frozen=True, slots=True)
class _Section:
    key: str
    title: str
    lede: str
    figures: tuple[_Figure, ...]


@dataclass(frozen=True, slots=True)
class _Figure:
    chart: Chart
    pictures: tuple[tuple[str, str, Markup], ...]
    """(title, what must be said of the lane, SVG) for each panel."""


_SECTIONS = {
    "startup": ("Startup", "How long from asking for an instance to hearing from it, and until nothing of it is left."),
    "memory": ("Memory", "What one more instance costs the host, by three ledgers that know nothing of each other."),
    "syscalls": ("System calls", "What the isolation adds to every call into the kernel."),
    "storage": ("Storage", "What fio gets from the same data, past the page cache and through it."),
}


def render(analysis: Analysis, *, generated: str) -> str:
    """The whole page. `generated` is the time to print on it, so that equal input gives equal bytes."""
    environment = Environment(
        loader=FileSystemLoader(_HERE), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {"fact": lambda value, name: tables.fact_text(name, value), "percent": percent}
    style = (_HERE / "report.css").read_text(encoding="utf-8")
    columns, lanes = tables.overview(analysis)
    manifest = analysis.manifest
    html = environment.get_template("report.html.j2").render(
        analysis=analysis,
        manifest=manifest,
        generated=generated,
        style=Markup(style),  # noqa: S704 - our own file
        style_hash=_policy_hash(style),
        started=tables.moment(manifest.started),
        duration=tables.duration(manifest.started, manifest.finished),
        state_words=_STATES.get(manifest.state, ""),
        banners=tables.banners(analysis),
        columns=columns,
        lanes=lanes,
        sections=[_section(analysis, key) for key in CHARTS],
        trust=[_figure(analysis, chart) for chart in TRUST],
        verdicts=tables.verdicts(analysis),
        claims=claims(analysis),
        cell_groups=tables.cell_groups(analysis),
        read=[record for record in manifest.backends if record.parity],
        parity=tables.parity([record for record in manifest.backends if record.parity]),
        host=tables.flatten(manifest.host),
        plan=tables.flatten({key: value for key, value in manifest.plan.items() if key != "cells"}),
        raw=tables.raw,
    )
    return _encodable(html)


def write(analysis: Analysis, path: Path, *, generated: str) -> None:
    """Render to `path`: the old file stays whole until the new one is. Raises OSError."""
    content = render(analysis, generated=generated).encode("utf-8")
    unfinished = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with unfinished.open("xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        unfinished.replace(path)
    except OSError:
        unfinished.unlink(missing_ok=True)
        raise


def _section(analysis: Analysis, key: str) -> _Section:
    title, lede = _SECTIONS[key]
    return _Section(key, title, lede, tuple(_figure(analysis, chart) for chart in CHARTS[key]))


def _figure(analysis: Analysis, data: Callable[[Analysis], Chart]) -> _Figure:
    chart = data(analysis)
    pictures = tuple(
        (panel.title, panel.lane, Markup(draw(panel, f"{chart.title}: {panel.title}")))  # noqa: S704 - escaped by the SVG writer
        for panel in chart.panels
    )
    return _Figure(chart, pictures)


def _policy_hash(style: str) -> str:
    return base64.b64encode(hashlib.sha256(style.encode("utf-8")).digest()).decode("ascii")


def _encodable(html: str) -> str:
    """Without the control characters and lone surrogates that a host's texts may hold and no encoding takes."""
    return "\n".join(map(plain, html.split("\n")))
