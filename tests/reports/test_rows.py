"""The form of every chart: thinning, axes, and SVG that the page's policy accepts."""

import re
from xml.etree import ElementTree

import pytest

from reports.rows import MAX_POINTS, Axis, Mark, Panel, Row, describe, draw, thin
from reports.svg import LIGHT


def panel(*rows, axis=None, legend=()):
    return Panel("a-key", "A title", "", axis or Axis("time", "ns"), rows, legend)


def test_thinning_keeps_both_ends_and_is_deterministic():
    values = [float(v) for v in range(100_000)]
    kept = thin(values[::-1])
    assert len(kept) == MAX_POINTS
    assert (kept[0], kept[-1]) == (0.0, 99_999.0)
    assert kept == thin(values[::-1])


def test_few_points_stay_as_they_are():
    assert thin([3.0, 1.0, 2.0]) == (3.0, 1.0, 2.0)


def test_every_sample_is_drawn_once():
    svg = draw(panel(Row("x", (Mark("vm", 500.0, 400.0, 600.0, tuple(float(v) for v in range(100, 1000))),))))
    cloud = max(re.findall(r' d="([^"]+)"', svg), key=len)
    assert cloud.count("M ") == 900


def test_equal_panels_give_equal_bytes():
    row = Row("x", (Mark("vm", 5.0, 4.0, 6.0, (3.0, 5.0, 9.0)),), "5 ns")
    assert draw(panel(row)) == draw(panel(row))


def test_svg_has_no_style_no_ids_but_its_names_and_only_colours_with_a_class():
    row = Row("x", (Mark("vm", 5.0, 4.0, 6.0, (3.0,)), Mark("runtime", 6.0)), band=(4.0, 5.0))
    root = ElementTree.fromstring(draw(panel(row, Row("gone", text="failed: oom"), legend=(("vm", "s", "vm"),))))
    assert {element.get("id") for element in root.iter()} == {None, "a-key-title", "a-key-desc"}
    for element in root.iter():
        assert "style" not in element.attrib
        assert element.tag.rpartition("}")[2] in {"svg", "title", "desc", "path", "text"}
        for name in ("fill", "stroke"):
            if (colour := element.get(name, "none")) != "none":
                role = next(role for role, light in LIGHT.items() if light == colour)
                assert f"{name[0]}-{role}" in element.get("class", "").split()


def test_hostile_labels_are_text():
    svg = draw(panel(Row('<script>"$\\frac{1}$" \x00漢', (Mark("vm", 5.0),), "</svg><b>")))
    assert "<script" not in svg
    assert "</svg><b>" not in svg
    ElementTree.fromstring(svg)


def test_a_row_without_figures_keeps_its_place_and_says_why():
    told = panel(Row("runc", text="unsupported: not_installed"), Row("vm", (Mark("vm", 5.0),), "5 ns"))
    assert "unsupported: not_installed" in draw(told)
    assert "runc: unsupported: not_installed" in describe(told)


def test_all_rows_may_be_without_figures():
    assert "failed: oom" in draw(panel(Row("vm", text="failed: oom")))


@pytest.mark.parametrize(
    ("axis", "values"),
    [
        (Axis("time", "ns"), (1e2, 1e9)),
        (Axis("time", "ns"), (100.0, 101.0)),
        (Axis("time", "ns"), (5.0, 5.0)),
        (Axis("time", "ns"), (-3.0, 0.0)),
        (Axis("size", "bytes"), (2e5, 3e6)),
        (Axis("rate", "bytes/s", log=False), (0.0, 0.0)),
        (Axis("left", "bytes", log=False, reference=0.0), (-2e5, -1e5)),
        (Axis("ratio", "ratio", reference=1.0), (1.0, 1.0)),
    ],
)
def test_axes_of_any_span_have_ticks_inside_the_picture(axis, values):
    rows = [Row(str(v), (Mark("vm", v, points=(v,)),)) for v in values]
    root = ElementTree.fromstring(draw(panel(*rows, axis=axis)))
    width = float(root.get("width"))
    texts = [element for element in root.iter() if element.tag.endswith("}text")]
    ticks = [t for t in texts if t.get("text-anchor") == "middle"][:-1]
    assert len(ticks) >= 1
    assert all(0 <= float(t.get("x")) <= width for t in ticks)
    assert len({t.text for t in ticks}) == len(ticks)


def test_the_axis_says_its_kind():
    assert "logarithmic axis" in draw(panel(Row("a", (Mark("vm", 5.0),))))
    assert "axis includes zero" in draw(panel(Row("a", (Mark("vm", 5.0),)), axis=Axis("x", "bytes/s", log=False)))
