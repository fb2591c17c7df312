"""Shared by all tests: a real browser with the network off."""

from __future__ import annotations

import shutil

import pytest

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
FLAGS = (
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
)  # fmt: skip

BROKEN_CHARTS = """() => [...document.querySelectorAll("svg.chart")].filter(svg => {
    const box = svg.getBoundingClientRect();
    const inside = box.left >= 0 && box.right <= document.documentElement.clientWidth + 0.5;
    const seen = svg.checkVisibility() && box.width >= 200 && box.height >= 40;
    const texts = [...svg.querySelectorAll("text")].map(text => text.getBoundingClientRect());
    const whole = texts.every(text => text.left >= box.left - 1 && text.right <= box.right + 1);
    return !(inside && seen && whole);
}).map(svg => svg.getAttribute("aria-labelledby"))"""


@pytest.fixture(scope="session")
def browser(tmp_path_factory):
    if CHROMIUM is None:
        pytest.skip("no Chromium in PATH")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        context = playwright.chromium.launch_persistent_context(
            tmp_path_factory.mktemp("profile"), executable_path=CHROMIUM, headless=True, args=list(FLAGS), offline=True
        )
        yield context
        context.close()


@pytest.fixture
def view(browser):
    """Opens a page and collects what it says and asks for."""
    tab = browser.new_page()
    tab.said, tab.asked = [], []
    tab.on("console", lambda message: tab.said.append(message.text))
    tab.on("pageerror", lambda error: tab.said.append(str(error)))
    tab.on("dialog", lambda dialog: tab.said.append(dialog.message) or dialog.dismiss())
    tab.on("request", lambda request: tab.asked.append(request.url))
    yield tab
    tab.close()


@pytest.fixture
def broken_charts():
    """Names of the charts on a page that are not visible, or not whole."""
    return lambda tab: tab.evaluate(BROKEN_CHARTS)
