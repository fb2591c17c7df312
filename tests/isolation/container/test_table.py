"""The table: the operations' calls in order, with descriptors foreseen and pointers that hold."""

import ctypes
import errno
import struct

from isolation.container import operations as ops
from isolation.container.table import ENTRY_BYTES, encode

MKDIR, CLOSE, EXECVE = 83, 3, 59


def rows(table):
    return list(struct.iter_unpack("=7Qq", table.entries))


def test_it_holds_what_the_operations_do_in_order(recorder):
    operations = (ops.Hostname("box"), ops.PROC, ops.DeviceNodes(), ops.PivotRoot(), ops.Execute("/probe", ("/probe",)))
    table = encode(operations)
    for operation in operations:
        operation.execute(recorder)
    assert [row[0] for row in rows(table)] == recorder.numbers
    assert len(table.notes) == len(recorder.numbers) == len(table.entries) // ENTRY_BYTES


def test_notes_say_which_operation_a_call_belongs_to():
    table = encode((ops.Hostname("box"), ops.PivotRoot()))
    described = [note.operation.describe() for note in table.notes]
    assert described == ["set the host name to box", *["make the overlay the root and detach the host's"] * 3]


def test_lowest_free_descriptor_is_foreseen():
    table = encode((ops.Bind("/etc/hostname", "/a/b", read_only=False),))
    assert [row[1] for row in rows(table) if row[0] == CLOSE] == [3, 3, 4, 4, 3]


def test_an_existing_directory_is_tolerated_and_nothing_else_is():
    table = encode((ops.Bind("/etc/hostname", "/a/b", read_only=False),))
    assert {note.tried.split()[0]: row[7] for note, row in zip(table.notes, rows(table), strict=True) if row[7]} == {
        "mkdir": -errno.EEXIST
    }


def test_pointers_lead_to_the_strings():
    table = encode((ops.Execute("/probe", ("/probe", "nonce=5eed"), (("A", "b"),)),))
    ((number, path, argv, environment, *_),) = rows(table)
    assert number == EXECVE
    assert ctypes.string_at(path) == b"/probe"
    assert list((ctypes.c_char_p * 3).from_address(argv)) == [b"/probe", b"nonce=5eed", None]
    assert list((ctypes.c_char_p * 2).from_address(environment)) == [b"A=b", None]
