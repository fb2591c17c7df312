"""Where things lie, also under sudo: outputs and caches belong to who called it."""

from __future__ import annotations

import os
import pwd
import stat
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parent.parent

_GENERATED = (
    ".venv", "__pycache__", "tare_bench.egg-info", ".pytest_cache", ".mypy_cache", ".ruff_cache",
    ".import_linter_cache", ".benchmarks", ".hypothesis", ".nox",
)  # fmt: skip


def invoking_user() -> tuple[int, int] | None:
    """(uid, gid) of who called sudo, where we are root because of it; else None."""
    uid, gid = os.environ.get("SUDO_UID", ""), os.environ.get("SUDO_GID", "")
    if os.geteuid() != 0 or not (uid.isdecimal() and gid.isdecimal()) or int(uid) == 0:
        return None
    return int(uid), int(gid)


def cache_folder() -> Path:
    """The user's cache folder (freedesktop.org's base directories); under sudo, the invoking user's.

    sudo drops XDG_CACHE_HOME and changes HOME, so there the home folder comes from the user database.
    """
    if (user := invoking_user()) is not None:
        return Path(pwd.getpwuid(user[0]).pw_dir) / ".cache" / "tare-bench"
    import platformdirs  # not there before set-up has made the environment

    return Path(platformdirs.user_cache_dir("tare-bench"))


def hand_back(*paths: str | os.PathLike[str]) -> None:
    """Give what root made below `paths` to the user who called sudo; without sudo, or where absent, do nothing.

    The tree belongs to that user, who may change it meanwhile: everything is reached through descriptors, no
    symbolic link is followed, and a file with further hard links (which may be anyone's) is left alone.
    """
    if (user := invoking_user()) is None:
        return
    for path in paths:
        if not os.path.lexists(path):
            continue
        parent, name = os.path.split(os.path.abspath(path))
        directory = os.open(parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            _give(name, directory, user)
        finally:
            os.close(directory)
        for _, folders, files, fd in os.fwalk(path, follow_symlinks=False):
            for entry in (*folders, *files):
                _give(entry, fd, user)


def hand_back_generated() -> None:
    """Give back what tools write into a checkout: the environment, caches, compiled modules."""
    if invoking_user() is None:
        return
    hand_back(*(CHECKOUT / name for name in _GENERATED), *CHECKOUT.glob("[a-z]*/**/__pycache__"))


def _give(name: str, directory: int, user: tuple[int, int]) -> None:
    try:
        entry = os.stat(name, dir_fd=directory, follow_symlinks=False)
        if entry.st_uid == 0 and (stat.S_ISDIR(entry.st_mode) or entry.st_nlink == 1):
            os.chown(name, *user, dir_fd=directory, follow_symlinks=False)
    except FileNotFoundError:  # gone since it was listed
        return
