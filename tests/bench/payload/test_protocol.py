"""The host's side against peers that do not keep to the protocol."""

from __future__ import annotations

import os
import threading
import urllib.parse

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.clock import now_ns
from bench.payload.protocol import (
    MAX_REPLY,
    MAX_REQUEST,
    Channel,
    ExecReply,
    LoopReply,
    ProtocolError,
    Refused,
    encode,
)


class Peer:
    """The other end, in the test's hand: what it says is written beforehand."""

    def __init__(self):
        self.read_fd, ours = os.pipe()
        theirs, self.write_fd = os.pipe()
        self.channel = Channel(theirs, ours)

    def say(self, text: bytes):
        os.write(self.write_fd, text)

    def hang_up(self):
        os.close(self.write_fd)
        self.write_fd = -1

    def close(self):
        self.channel.close()
        os.close(self.read_fd)
        if self.write_fd >= 0:
            os.close(self.write_fd)


@pytest.fixture
def peer():
    peer = Peer()
    yield peer
    peer.close()


@pytest.fixture
def greeted(peer):
    peer.say(b"are/1 ab\n")
    peer.channel.greet("ab", 10)
    return peer


def test_greeting_goes_on_after_the_launcher_took_the_first_byte(peer):
    peer.say(b"are/1 ab\n")
    peer.channel.greet("ab", 10)


@pytest.mark.parametrize(
    "text",
    [b"are/1 ac\n", b"are/2 ab\n", b"are/1 ab ", b"are/1 ab\r\n", b"Hello", b"\0", b"are/1 ab\nmore", b"x" * 9999],
)
def test_wrong_greeting_is_garbage_at_once(peer, text):
    peer.say(text)
    with pytest.raises(ProtocolError) as caught:
        peer.channel.greet("ab", 10)
    assert caught.value.reason == "garbage"


def test_end_before_the_greeting_is_an_early_exit(peer):
    peer.say(b"are/1")
    peer.hang_up()
    with pytest.raises(ProtocolError) as caught:
        peer.channel.greet("ab", 10)
    assert (caught.value.reason, "are/1" in caught.value.detail) == ("exited_early", True)


def test_silence_is_a_time_out(peer):
    with pytest.raises(TimeoutError):
        peer.channel.greet("ab", 0.01)


@pytest.mark.parametrize("text", [b"hello\n", b"[]\n", b"{}\n", b'{"ok":1}\n', b'{"ok":true\n', b"\xff\n", b"\n"])
def test_reply_that_is_no_reply_is_garbage(greeted, text):
    greeted.say(text)
    with pytest.raises(ProtocolError) as caught:
        greeted.channel.request("where", timeout_s=10)
    assert caught.value.reason == "garbage"


def test_endless_output_is_capped(greeted):
    def shout():
        try:
            while True:
                os.write(greeted.write_fd, b"x" * 65536)
        except BrokenPipeError:
            pass  # the other side has had enough: what the test waits for

    shouter = threading.Thread(target=shout)
    shouter.start()
    with pytest.raises(ProtocolError) as caught:
        greeted.channel.request("where", timeout_s=60)
    greeted.channel.close()
    shouter.join(30)
    assert not shouter.is_alive()
    assert (caught.value.reason, f"{MAX_REPLY >> 20} MiB" in caught.value.detail) == ("garbage", True)


def test_end_before_the_reply_is_an_early_exit(greeted):
    greeted.hang_up()
    with pytest.raises(ProtocolError) as caught:
        greeted.channel.request("where", timeout_s=10)
    assert caught.value.reason == "exited_early"


def test_nobody_to_ask_is_an_early_exit(greeted):
    os.close(greeted.read_fd)
    greeted.read_fd = os.open("/dev/null", os.O_RDONLY)
    with pytest.raises(ProtocolError) as caught:
        greeted.channel.request("where", timeout_s=10)
    assert caught.value.reason == "exited_early"


def test_late_reply_is_never_taken_for_the_next_one(greeted):
    with pytest.raises(TimeoutError):
        greeted.channel.request("loop", "getppid", "1", timeout_s=0.01)
    greeted.say(b'{"ok":true,"count":1,"elapsed_ns":1}\n')
    with pytest.raises(ProtocolError, match="earlier exchange"):
        greeted.channel.request("where", timeout_s=10)


def test_unasked_reply_is_never_taken_for_the_next_one(greeted):
    greeted.say(b'{"ok":true}\n{"ok":true}\n')
    assert greeted.channel.request("sync", timeout_s=10) == {"ok": True}
    with pytest.raises(ProtocolError, match="earlier exchange"):
        greeted.channel.request("sync", timeout_s=10)


def test_refusal_carries_the_error_and_leaves_the_channel_usable(greeted):
    greeted.say(b'{"ok":false,"error":"no such thing"}\n')
    with pytest.raises(Refused) as caught:
        greeted.channel.request("fly", timeout_s=10)
    assert (caught.value.detail, caught.value.reason) == ("no such thing", "refused")
    greeted.say(b'{"ok":true}\n')
    assert greeted.channel.request("sync", timeout_s=10) == {"ok": True}


def test_peer_that_does_not_read_is_a_time_out(greeted):
    greeted.say(b'{"ok":true}\n')
    greeted.channel.request("exec", "x" * 60_000, timeout_s=10)  # a pipe holds 64 KiB
    with pytest.raises(TimeoutError, match="room to send exec"):
        greeted.channel.request("exec", "x" * 60_000, timeout_s=0.05)


def test_stamps_enclose_the_exchange(process):
    before_ns = now_ns()
    timed = process.channel.timed("loop", "getppid", "1000", timeout_s=30)
    assert before_ns <= timed.sent_ns < timed.received_ns <= now_ns()
    assert timed.elapsed_ns >= LoopReply.parse(timed.reply).elapsed_ns


def test_closing_twice_is_harmless_and_one_descriptor_may_serve_both_ways(peer):
    both = os.dup(peer.read_fd)
    channel = Channel(both, both)
    channel.close()
    channel.close()
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(both)


def test_replies_with_missing_fields_are_garbage():
    with pytest.raises(ProtocolError) as caught:
        LoopReply.parse({"ok": True, "count": 3})
    assert caught.value.reason == "garbage"
    with pytest.raises(ProtocolError):
        ExecReply.parse({"ok": True, "code": "zero"})


@given(st.lists(st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"])), min_size=1))
def test_request_is_one_line_of_ascii_words(words):
    line = encode(*words)
    assert line.count(b"\n") == 1
    assert [urllib.parse.unquote(word) for word in line.decode("ascii")[:-1].split(" ")] == words


@pytest.mark.parametrize("words", [(), ("a\0b",), ("x" * MAX_REQUEST,)])
def test_what_no_payload_can_take_is_refused_beforehand(words):
    with pytest.raises(ValueError, match="request"):
        encode(*words)
