"""Make this machine ready to measure: `python -m bench.provision PURPOSE`, which is what `nox -s setup` calls.

Three stages, each a look that is quick and an act only where something is missing:

1. system packages and one system user, by root or sudo (`bench.packages`);
2. the environment `.venv/`, by pip;
3. payload, root filesystem and guest image (`bench.images`), run by `.venv`'s Python, cached by content.

Standard library only, since stage 1 and 2 run before the environment exists. What was made is recorded for
`locate()` (`bench.assets`).
"""

from __future__ import annotations

import argparse
import fcntl
import hashlib
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import tomllib
from typing import get_args

from bench.assets import VENV, Assets, locate, remember
from bench.packages import Needs, Purpose, SetupError, look, supply
from bench.paths import CHECKOUT, hand_back, hand_back_generated

__all__ = ["Assets", "locate", "main"]

PYTHON = VENV / "bin" / "python"
_STAMP = VENV / "tare-installed"


# Stage 1: what only root can do


def machine(purpose: Purpose) -> None:
    """Bring in packages and the libvirt user, through sudo where we are not root. Raises SetupError."""
    try:
        needs = look(purpose)
    except SetupError as error:
        say(f"packages: {error}; going on with what is there")
        return
    if not needs:
        say("packages: up to date")
    elif os.geteuid() == 0:
        _supply(needs)
    else:
        command = [sys.executable, "-B", "-m", "bench.provision", "system", purpose]
        if not _may_sudo():
            raise SetupError(_by_hand(needs, command))
        say(f"packages: sudo runs: {'; '.join(needs.commands())}")
        if subprocess.run(["sudo", *command], cwd=CHECKOUT, check=False).returncode:
            raise SetupError(_by_hand(needs, command))


def _supply(needs: Needs) -> None:
    if needs.packages:
        say(f"packages: installing {' '.join(needs.packages)}")
    for line in supply(needs):
        say(line)


def _may_sudo() -> bool:
    if shutil.which("sudo") is None:
        return False
    return (
        sys.stdin.isatty() or subprocess.run(["sudo", "-n", "true"], capture_output=True, check=False).returncode == 0
    )


def _by_hand(needs: Needs, command: list[str]) -> str:
    plain = "\n  ".join(needs.commands())
    return (
        f"this needs root; as root run\n  cd {shlex.quote(str(CHECKOUT))} && {shlex.join(command)}\n"
        f"which starts no service while it runs\n  {plain}"
    )


# Stage 2: the environment


def environment() -> None:
    """Make `.venv/` and install the project into it, where pyproject.toml asks for something new. Raises SetupError."""
    extras = "vm,dev" if _has_libvirt_headers() else "dev"
    key = _environment_key(extras)
    if PYTHON.exists() and _STAMP.exists() and _STAMP.read_text() == key:
        say("environment: up to date")
        return
    if not PYTHON.exists():
        _quietly([sys.executable, "-m", "venv", "--clear", str(VENV)])
    say("environment: installing what pyproject.toml names into .venv")
    if extras == "dev":
        say("environment: without libvirt-python, since libvirt's headers are missing: no backend vm")
    pip = [str(PYTHON), "-m", "pip", "--disable-pip-version-check", "install", "--quiet", "--editable", f".[{extras}]"]
    _quietly(pip)
    _STAMP.write_text(key)
    say("environment: ready, .venv/bin/tare")


def _environment_key(extras: str) -> str:
    """Hash of what pip reads in pyproject.toml, so that a linter's setting installs nothing anew."""
    project = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())
    parts = [project["build-system"], project["project"], project["tool"]["setuptools"], extras, list(sys.version_info)]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def _has_libvirt_headers() -> bool:
    if shutil.which("pkg-config") is None:
        return False
    return subprocess.run(["pkg-config", "--exists", "libvirt"], check=False).returncode == 0


def _quietly(command: list[str]) -> None:
    """Run to the end, showing output only where it failed."""
    done = subprocess.run(
        command, cwd=CHECKOUT, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        check=False,
    )  # fmt: skip
    if done.returncode:
        tail = "\n  ".join(done.stdout.strip().splitlines()[-15:])
        raise SetupError(f"{shlex.join(command)}: exit {done.returncode}\n  {tail}")


# The whole


def say(line: str) -> None:
    print(line, flush=True)  # noqa: T201  # set-up is a program of its own, and says what it does


def _whole(purpose: Purpose) -> int:
    with (CHECKOUT / "pyproject.toml").open() as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say("another set-up of this checkout is running: waiting for it")
            fcntl.flock(lock, fcntl.LOCK_EX)
        try:
            machine(purpose)
            environment()
            if purpose == "lint":
                return 0
            # Only now there is a Python with all that the images are made with.
            command = [str(PYTHON), "-m", "bench.provision", "images"]
            return subprocess.run(command, cwd=CHECKOUT, check=False).returncode
        finally:
            hand_back_generated()


def _images() -> int:
    from bench.images import build
    from bench.paths import cache_folder

    cache = cache_folder()
    top = cache if cache.parent.exists() else cache.parent
    try:
        assets = build(cache, locate(), say)
        remember(assets)
    finally:
        hand_back(top)
    return 0 if assets.payload and assets.rootfs else 2


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="bench.provision", description="make this machine ready to measure")
    parser.add_argument("purpose", choices=[*get_args(Purpose), "system", "images", "hand-back"])
    parser.add_argument("system_purpose", nargs="?", choices=get_args(Purpose), default="bench")
    options = parser.parse_args(arguments)
    # A terminated set-up, too, takes away its policy-rc.d.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        match options.purpose:
            case "system":
                _supply(look(options.system_purpose))
            case "images":
                return _images()
            case "hand-back":
                hand_back_generated()
            case purpose:
                return _whole(purpose)
    except SetupError as error:
        print(f"set-up: {error}", file=sys.stderr)  # noqa: T201
        return 2
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
