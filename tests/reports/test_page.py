"""The page as a file: what it says, what it may load, and how it is written."""

import base64
import errno
import hashlib
import re
from dataclasses import replace
from html.parser import HTMLParser

import pytest

from reports import page

AT = "2025-09-14 10:19 UTC"


@pytest.fixture(scope="module")
def html(rich):
    return page.render(rich, generated=AT)


class Elements(HTMLParser):
    def __init__(self, text):
        super().__init__()
        self.tags, self.ids, self.attributes, self.links = [], [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [name for name, _ in attrs]
        self.ids += [value for name, value in attrs if name == "id"]
        self.links += [value for name, value in attrs if name in {"href", "src"}]


def test_sections_and_claims_have_their_ids_and_no_id_is_used_twice(html):
    ids = Elements(html).ids
    assert len(ids) == len(set(ids))
    wanted = {"startup", "memory", "syscalls", "storage", *(f"claim-C{n}" for n in range(1, 16))}
    assert wanted <= set(ids)


def test_links_lead_to_places_in_the_page(html):
    found = Elements(html)
    assert {link.removeprefix("#") for link in found.links if link.startswith("#")} <= set(found.ids)


@pytest.mark.parametrize("hostile", [False, True])
def test_the_page_loads_nothing_and_its_policy_allows_one_style(make, hostile):
    html = page.render(make(hostile=hostile), generated=AT)
    found = Elements(html)
    assert not {"script", "iframe", "img", "object", "embed"} & set(found.tags)
    assert "style" not in found.attributes
    assert not [name for name in found.attributes if name.startswith("on")]
    assert all(link.startswith("#") or link == "data:," for link in found.links)
    (style,) = re.findall(r"<style>(.*?)</style>", html, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    assert f"default-src 'none'; style-src 'sha256-{digest}'" in html


def test_hostile_texts_are_shown_as_text(make):
    html = page.render(make(hostile=True), generated=AT)
    html.encode("utf-8")
    assert "<script>alert" not in html
    assert html.count("&lt;script&gt;alert") > 10


def test_the_answer_stands_on_top(html, rich):
    answer = html.index('id="answer"')
    assert answer < html.index('id="overview"')
    assert all(sentence in html for sentence in rich.sentences)


def test_an_empty_run_has_a_page_that_says_so(empty):
    html = page.render(empty, generated=AT)
    assert "The data do not carry an answer." in html
    assert "This run ended early" in html
    assert "Nothing to draw" in html
    assert {"startup", "claim-C15"} <= set(Elements(html).ids)


def test_emulation_is_named_in_plain_words(html, make):
    assert "software emulation: not a measurement of virtualisation" in html
    native = make()
    native = replace(native, cells=tuple(cell for cell in native.cells if cell.key.lane == "native"))
    assert "lane-banner" not in re.sub(r"<style>.*?</style>", "", page.render(native, generated=AT), flags=re.DOTALL)


def test_failed_and_unsupported_cells_are_listed_with_their_reason(html):
    assert "20 × not_installed: systemd-nspawn is not in PATH" in html
    assert "8 × exited_early: fio: No space left on device" in html
    assert "100 ok, 3 timeout" in html


def test_run_identity_notes_and_payload_are_shown(html, rich):
    text = html.replace("\N{NO-BREAK SPACE}", " ")
    for words in ("20250914-101502-7c1e", "6.18.5", "AMD EPYC 7B13, 2 CPUs", "3 min 42 s", AT, *rich.manifest.notes):
        assert words in text
    assert html.count(rich.manifest.backends[0].payload_sha256) >= 5
    assert "apt-get install systemd-container" in html


def test_a_comparison_without_a_verdict_says_why(html):
    assert "different lanes" in html
    assert "under 20 blocks" in html


def test_equal_input_gives_equal_bytes(rich, html):
    assert page.render(rich, generated=AT) == html


def test_a_quick_run_stays_small(html):
    assert len(html.encode()) < 3_000_000


def test_write_replaces_the_file_and_leaves_nothing_beside_it(rich, html, tmp_path):
    path = tmp_path / "report.html"
    path.write_text("old")
    page.write(rich, path, generated=AT)
    assert path.read_text(encoding="utf-8") == html
    assert list(tmp_path.iterdir()) == [path]


def test_a_full_disk_keeps_the_old_file(rich, tmp_path, monkeypatch):
    path = tmp_path / "report.html"
    path.write_text("old")

    def full(descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="No space left"):
        page.write(rich, path, generated=AT)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("stamp", ["yesterday", "2025-09-14T10:18:44"])
def test_odd_times_do_not_stop_the_report(rich, stamp):
    manifest = replace(rich.manifest, finished=stamp)
    assert "finished, after –" in page.render(replace(rich, manifest=manifest), generated=AT)
