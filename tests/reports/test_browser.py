"""The page in a real browser with the network off: nothing logged, nothing asked for, every chart to be seen."""

from __future__ import annotations

import pytest

from reports import page
from reports.charts import CHARTS

WIDTHS = (390, 1280, 1920)

pytestmark = pytest.mark.browser

ILLEGIBLE = """() => {
    const luminance = colour => {
        const [r, g, b] = colour.match(/[0-9.]+/g).slice(0, 3)
            .map(c => c / 255).map(c => c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4);
        return 0.2126 * r + 0.7152 * g + 0.0722 * b;
    };
    const paper = luminance(getComputedStyle(document.querySelector("figure")).backgroundColor);
    return [...document.querySelectorAll("svg.chart text")].filter(text => {
        const ink = luminance(getComputedStyle(text).fill);
        return (Math.max(ink, paper) + 0.05) / (Math.min(ink, paper) + 0.05) < 4.5;
    }).map(text => text.textContent);
}"""


@pytest.fixture(scope="module")
def pages(make, empty, tmp_path_factory):
    folder = tmp_path_factory.mktemp("pages")
    runs = {"rich": make(), "hostile": make(hostile=True), "empty": empty}
    for name, analysis in runs.items():
        page.write(analysis, folder / f"{name}.html", generated="now")
    return {name: f"file://{folder}/{name}.html" for name in runs}


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("name", ["rich", "hostile"])
def test_every_chart_is_seen_whole_and_nothing_is_loaded_or_logged(view, broken_charts, pages, name, width, scheme):
    view.set_viewport_size({"width": width, "height": 900})
    view.emulate_media(color_scheme=scheme)
    view.goto(pages[name])
    assert view.said == []
    assert view.asked == [pages[name]]
    assert view.locator("svg.chart").count() > 20
    assert broken_charts(view) == []
    assert view.evaluate("document.documentElement.scrollWidth <= document.documentElement.clientWidth")
    assert view.evaluate(ILLEGIBLE) == []


def test_each_section_has_its_charts(view, pages):
    view.goto(pages["rich"])
    for section, charts in CHARTS.items():
        assert view.locator(f"#{section} figure").count() == len(charts)
        assert view.locator(f"#{section} figure svg").count() >= len(charts)


def test_charts_have_a_name_and_a_description(view, pages):
    view.goto(pages["rich"])
    charts = view.get_by_role("img").all()
    assert len(charts) == view.locator("svg.chart").count()
    assert view.get_by_role("img", name="Time to the first byte: Native", exact=True).count() == 1
    assert "container: 2.03" in view.locator("#startup-ready-ready-native-desc").text_content()


def test_dark_charts_follow_the_scheme(view, pages):
    inks = set()
    for scheme in ("light", "dark"):
        view.emulate_media(color_scheme=scheme)
        view.goto(pages["rich"])
        inks.add(view.evaluate("getComputedStyle(document.querySelector('svg.chart text')).fill"))
    assert len(inks) == 2


def test_the_hostile_label_is_read_as_text(view, pages):
    view.goto(pages["hostile"])
    assert view.locator("#answer").inner_text().startswith("<script>alert('x')</script>")


def test_the_tables_behind_the_charts_open_without_script(view, pages):
    view.goto(pages["rich"])
    details = view.locator("#startup-ready details")
    details.locator("summary").click()
    assert details.locator("table").is_visible()


def test_an_empty_run_opens_quietly(view, pages):
    view.goto(pages["empty"])
    assert view.said == []
    assert view.get_by_text("The data do not carry an answer.").is_visible()
