"""Builds the payload from `probe.c`: once, reproducibly, so that its SHA-256 names it in every manifest."""

from __future__ import annotations

import hashlib
import json
import os
import pathlib
import subprocess
import tempfile

SOURCE = pathlib.Path(__file__).with_name("probe.c")
FLAGS = (
    "-std=gnu11",
    "-O2",
    "-Wall",
    "-Wextra",
    "-static",  # no dynamic linking: its time would be part of every start
    "-s",  # symbols carry names of temporary objects
    "-fno-ident",
    "-Wl,--build-id=none",
)
COMPILE_TIMEOUT_S = 120.0


class BuildError(Exception):
    """The payload could not be built: what was run, and the compiler's last lines."""


def build(target: pathlib.Path, compiler: str = "cc") -> str:
    """Compile the payload to `target` unless it is there already; return the SHA-256 of its bytes, in hex.

    A stamp beside it (`NAME.stamp`) holds what it was made from and its hash; source, flags or compiler changed,
    or the binary altered, means a new build. Both files appear by rename, so nobody sees half of one.

    Raises BuildError.
    """
    stamp = target.with_name(target.name + ".stamp")
    recipe = _recipe(compiler)
    known = _stamped_sha256(stamp, recipe)
    if known is not None and known == _sha256(target):
        return known
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{target.name}-", dir=target.parent) as folder:
            made = pathlib.Path(folder, "probe")
            _compile(compiler, made)
            made.chmod(0o755)
            digest = hashlib.sha256(made.read_bytes()).hexdigest()
            note = pathlib.Path(folder, "stamp")
            note.write_text(json.dumps({"recipe": recipe, "sha256": digest}) + "\n", encoding="ascii")
            os.replace(made, target)
            os.replace(note, stamp)
    except OSError as error:
        raise BuildError(f"cannot write the payload to {target}: {error}") from error
    return digest


def _recipe(compiler: str) -> str:
    words = "\0".join((compiler, *FLAGS)).encode()
    return hashlib.sha256(words + b"\0" + SOURCE.read_bytes()).hexdigest()


def _stamped_sha256(stamp: pathlib.Path, recipe: str) -> str | None:
    """The hash noted for this recipe; None where there is no readable stamp or it is of another one."""
    try:
        noted = json.loads(stamp.read_text(encoding="ascii"))
        return str(noted["sha256"]) if noted["recipe"] == recipe else None
    except (OSError, ValueError, KeyError, TypeError):
        return None  # whatever is wrong with the stamp, building anew puts it right


def _sha256(path: pathlib.Path) -> str | None:
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError:
        return None


def _compile(compiler: str, output: pathlib.Path) -> None:
    command = [compiler, *FLAGS, "-o", str(output), str(SOURCE)]
    shown = " ".join(command)
    try:
        done = subprocess.run(
            command,
            env={**os.environ, "LC_ALL": "C"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=COMPILE_TIMEOUT_S,
            check=False,
        )
    except FileNotFoundError as error:
        raise BuildError(f"no C compiler named {compiler}: install gcc and the C library's headers") from error
    except OSError as error:
        raise BuildError(f"cannot run {shown}: {error.strerror}") from error
    except subprocess.TimeoutExpired as error:
        raise BuildError(f"no result after {COMPILE_TIMEOUT_S:.0f} s from {shown}") from error
    if done.returncode != 0:
        last_lines = "\n".join(done.stdout.decode(errors="replace").splitlines()[-20:])
        raise BuildError(f"exit code {done.returncode} from {shown}\n{last_lines}")
