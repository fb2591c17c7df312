"""What adapters share: finding a tool, its version, a first try on this host."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Sequence

from isolation.api import Availability

PROBE_TIMEOUT_S = 10


def probe_tool(backend: str, tool: str, package: str, try_out: Sequence[str] = ()) -> Availability:
    """Look for `tool` on PATH, ask its version, and let it do `try_out` once where given."""
    fix = f"install the package {package} (`nox -s setup` does)"
    if shutil.which(tool) is None:
        return Availability(backend, available=False, reason="not_installed", detail=f"{tool} is not on PATH", fix=fix)
    version = _first_line(_run((tool, "--version")).stdout)
    if try_out:
        outcome = _run((tool, *try_out))
        if outcome.returncode != 0:
            detail = _first_line(outcome.stderr) or f"{tool} ended with {outcome.returncode}"
            denied = any(word in outcome.stderr for word in ("ermission denied", "not permitted"))
            return Availability(
                backend,
                available=False,
                version=version,
                reason="no_permission" if denied else "kernel_lacks",
                detail=detail,
                fix="run as root, or allow unprivileged user namespaces" if denied else None,
            )
    return Availability(backend, available=True, lane="native", version=version)


def _run(command: Sequence[str]) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(
            command, capture_output=True, text=True, timeout=PROBE_TIMEOUT_S, check=False, stdin=subprocess.DEVNULL
        )
    except subprocess.TimeoutExpired:
        return subprocess.CompletedProcess(command, 124, "", f"no answer within {PROBE_TIMEOUT_S} s")


def _first_line(text: str) -> str:
    return text.strip().splitlines()[0].strip() if text.strip() else ""
