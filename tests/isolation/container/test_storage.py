"""Upper directories: all of them goes, and nothing outside."""

import os

import pytest

from isolation.api import IsolationError
from isolation.container import storage


def test_removal_takes_what_the_instance_wrote_and_follows_no_link(tmp_path):
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "precious").write_text("stay")
    upper = storage.Upper.of(str(tmp_path), "box")
    upper.create()
    deep = tmp_path / "box.upper" / "a" / "b"
    deep.mkdir(parents=True)
    (deep / "file").write_text("x")
    (deep / "link").symlink_to(outside)
    locked = tmp_path / "box.work" / "work"
    locked.mkdir(mode=0)
    upper.remove()
    assert sorted(os.listdir(tmp_path)) == ["outside"]
    assert (outside / "precious").read_text() == "stay"


def test_removal_of_what_was_never_made_is_no_error(tmp_path):
    storage.Upper.of(str(tmp_path), "box").remove()


def test_what_stays_is_a_leak_that_names_it(tmp_path):
    path = tmp_path / "file"
    path.write_text("not a directory")
    with pytest.raises(IsolationError, match=r"leak: cannot remove .*file: Not a directory"):
        storage.remove(str(path))
