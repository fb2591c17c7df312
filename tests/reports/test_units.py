"""Figures as people read them."""

import pytest

from reports.units import (
    duration_text,
    interval_text,
    percent,
    plain,
    scale_for,
    significant,
    value_text,
    with_interval,
)
from results.analysis import Interval

NBSP = "\N{NO-BREAK SPACE}"
THIN = "\N{NARROW NO-BREAK SPACE}"


@pytest.mark.parametrize(
    ("value", "unit", "words"),
    [
        (520_000, "ns", "520 µs"),
        (1_840_000, "ns", "1.84 ms"),
        (999_600, "ns", "1.00 ms"),
        (7.04e12, "ns", f"7{THIN}040 s"),
        (0, "ns", "0 ns"),
        (1536, "bytes", "1.50 KiB"),
        (-(3 << 20), "bytes", "−3.00 MiB"),
        (1.9e9, "bytes/s", "1.90 GB/s"),
        (3.9, "ratio", "3.90×"),
        (None, "ns", "–"),
        (float("nan"), "ns", "– ns"),
    ],
)
def test_values_have_a_unit_that_fits_and_three_significant_digits(value, unit, words):
    assert value_text(value, unit).replace(NBSP, " ") == words


def test_interval_is_in_the_unit_of_its_value():
    assert with_interval(1.0e6, Interval(0.95e6, 1.04e6), "ns").replace(NBSP, " ") == "1.00 ms [0.95, 1.04]"
    assert interval_text(Interval(1.0262, 1.0341), "ratio", 1.03) == "[1.026, 1.034]"
    assert interval_text(Interval(941e6, 1035e6), "ns", 988e6) == f"[941, 1{THIN}035]"
    assert interval_text(None, "ns", 5.0) == ""


def test_small_and_large_numbers_are_never_in_powers_of_ten():
    assert significant(0.00001234) == "0.0000123"
    assert significant(1_234_567) == f"1{THIN}234{THIN}567"


def test_percent_keeps_its_sign_where_asked():
    assert percent(0.052, signed=True).replace(NBSP, " ") == "+5.2 %"
    assert percent(-0.2).replace(NBSP, " ") == "−20.0 %"


def test_ticks_carry_no_zeros_at_their_end():
    assert scale_for("ns", 2e6).tick(2e6).replace(NBSP, " ") == "2 ms"
    assert scale_for("ns", 10e6).tick(10e6).replace(NBSP, " ") == "10 ms"


@pytest.mark.parametrize(("seconds", "words"), [(42, "42 s"), (245, "4 min 05 s"), (4320, "1 h 12 min")])
def test_durations(seconds, words):
    assert duration_text(seconds) == words


def test_what_no_parser_or_encoding_takes_is_replaced():
    text = plain("a\x00b\ud800c\x1b[0m")
    text.encode("utf-8")
    assert text == "a�b�c�[0m"
    assert plain("abcdef", 4) == "abc…"
