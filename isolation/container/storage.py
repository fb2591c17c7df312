"""Copy-on-write storage: an upper and a work directory per instance, over the shared root file system."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from dataclasses import dataclass

from isolation.api import IsolationError


@dataclass(frozen=True, slots=True)
class Upper:
    """Where one instance's changes go. Both directories lie on one file system, as overlayfs wants."""

    upper: str
    work: str

    @classmethod
    def of(cls, folder: str, instance: str) -> Upper:
        """The instance's directories in `folder`; nothing is made yet."""
        return cls(f"{folder}/{instance}.upper", f"{folder}/{instance}.work")

    def create(self) -> None:
        os.mkdir(self.upper, 0o755)
        os.mkdir(self.work, 0o700)

    def remove(self) -> None:
        """Remove both with all that the instance wrote. Raises IsolationError(`leak`)."""
        for path in (self.upper, self.work):
            remove(path)


def remove(path: str) -> None:
    """Remove a directory tree without following symbolic links. Raises IsolationError(`leak`) naming what stays.

    An instance that wrote nothing leaves an empty upper and `work/work`: few calls, no walk.
    """
    try:
        _remove(path)
    except FileNotFoundError:
        return
    except OSError as error:
        raise IsolationError("leak", f"cannot remove {error.filename or path}: {error.strerror}") from error


def _remove(path: str) -> None:
    try:
        os.rmdir(path)
    except OSError as error:
        if error.errno != errno.ENOTEMPTY:
            raise
        for name, is_directory in _entries(path):
            if is_directory:
                _remove(f"{path}/{name}")
            else:
                os.unlink(f"{path}/{name}")
        os.rmdir(path)


def _entries(path: str) -> Iterator[tuple[str, bool]]:
    """Overlayfs makes `work/work` with mode 0: an ordinary user must open it first."""
    try:
        scan = os.scandir(path)
    except PermissionError:
        os.chmod(path, 0o700)
        scan = os.scandir(path)
    with scan as entries:
        for entry in entries:
            yield entry.name, entry.is_dir(follow_symlinks=False)
