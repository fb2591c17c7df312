"""On cgroup v2 under systemd: go into a transient scope whose groups are delegated to us (systemd.resource-control(5)).

The rest of the tree is systemd's; what is made below a delegated scope is ours, and the scope vanishes with us.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys

from isolation.container.cgroup import needs_scope

MARK = "TARE_SCOPED"


def enter_scope() -> None:
    """Replace this process by itself inside a scope, where that is needed and systemd grants it; else return.

    Where it is refused, backends that need groups say so themselves, with the fix.
    """
    if MARK in os.environ or not needs_scope() or shutil.which("systemd-run") is None:
        return
    user = [] if os.geteuid() == 0 else ["--user"]
    command = ["systemd-run", *user, "--scope", "--quiet", "--collect", "--property=Delegate=yes", "--"]
    if subprocess.run([*command, "true"], capture_output=True, stdin=subprocess.DEVNULL, check=False).returncode == 0:
        os.execvpe(command[0], [*command, *sys.orig_argv], {**os.environ, MARK: "1"})
