"""Prove the acceleration anew: boot the real guest under KVM in a process of its own (`tare doctor --prove`)."""

from __future__ import annotations

import multiprocessing
import tempfile
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

from isolation.api import IsolationError
from vmdriver.accel import Proof
from vmdriver.accel import prove as boot
from vmdriver.hypervisor import Hypervisor
from vmdriver.image import current_guest

LIMIT_S = 120.0


class CannotProve(Exception):
    """One line that says what is missing."""


def prove(cache: Path) -> Proof:
    """Boot and keep what was seen. Raises CannotProve where there is no guest image, or libvirt cannot be used.

    libvirt forks QEMU from its caller and reaps in a thread of its own: hence a fresh process, spawned, not forked.
    """
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        try:
            return pool.submit(_boot, cache).result(LIMIT_S)
        except IsolationError as error:
            raise CannotProve(error.detail) from error


def _boot(cache: Path) -> Proof:
    guest = current_guest(cache)
    if guest is None:
        raise CannotProve("no guest image has been built: run `./noxw -s setup`")
    with tempfile.TemporaryDirectory(prefix="tare-prove-") as folder:
        hypervisor = Hypervisor(Path(folder))
        try:
            return boot(cache, guest, hypervisor)
        finally:
            hypervisor.close()
