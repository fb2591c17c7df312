"""What a run has on this machine, written down before it is made, so that anybody can remove it later.

A journal is one small JSON file per run in `/run/tare` (an ordinary user: `$XDG_RUNTIME_DIR/tare`).  It names
the run's folders and cgroup, and the supervisor by pid and start time.  `tare ps` reads it, `tare gc` removes
what the journals of dead supervisors name, and nothing else.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from isolation.api import IsolationError
from isolation.container.cgroup import remove_tree
from isolation.syscalls import MNT_DETACH, umount2

LABEL = "TARE_RUN"
"""Environment variable that every process of a run carries: its run id."""
KILL_ROUNDS = 50


def journal_folder() -> Path:
    if os.geteuid() == 0:
        return Path("/run/tare")
    return Path(os.environ.get("XDG_RUNTIME_DIR") or f"/tmp/tare-{os.geteuid()}") / "tare"


@dataclass(frozen=True, slots=True)
class Journal:
    """Everything of a run that could outlive it."""

    run_id: str
    supervisor: int
    started_ticks: int
    """The supervisor's start time in clock ticks since boot (proc(5), stat field 22): tells a reused pid."""
    scratch: str
    runtime: str
    cgroup: str

    @property
    def path(self) -> Path:
        return journal_folder() / f"{self.run_id}.json"

    def write(self) -> None:
        self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        temporary = self.path.with_suffix(".tmp")
        temporary.write_text(json.dumps(asdict(self)), encoding="utf-8")
        temporary.replace(self.path)

    def alive(self) -> bool:
        """Whether the supervisor that wrote it still runs."""
        return start_ticks(self.supervisor) == self.started_ticks


def journals() -> Iterator[Journal]:
    """All journals on this machine that we may read; a broken one is reported by its name in ValueError."""
    folder = journal_folder()
    if not folder.is_dir():
        return
    for path in sorted(folder.glob("*.json")):
        try:
            yield Journal(**json.loads(path.read_text(encoding="utf-8")))
        except (ValueError, TypeError) as error:
            raise ValueError(f"{path} is not a journal of ours ({error}); remove it by hand") from error


def start_ticks(pid: int) -> int | None:
    """Start time of a process in clock ticks since boot; None where there is none of that pid."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return int(stat.rpartition(b")")[2].split()[19])


def labelled(journal: Journal) -> tuple[int, ...]:
    """Pids of the run's processes: its label in their environment, or its runtime folder on their command line.

    libvirt gives QEMU an environment of its own, but the command line names the channel's socket in that folder.
    """
    return tuple(pid for pid in map(int, filter(str.isdigit, os.listdir("/proc"))) if _carries(pid, journal))


def _carries(pid: int, journal: Journal) -> bool:
    try:
        variables = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
        command = Path(f"/proc/{pid}/cmdline").read_bytes()
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return False  # ended meanwhile, or not ours to look at
    return f"{LABEL}={journal.run_id}".encode() in variables or f"{journal.runtime}/".encode() in command


def remove(journal: Journal) -> tuple[str, ...]:
    """Remove what the journal names: processes, mounts below its folders, cgroups, folders, itself.

    Returns what could not be removed, a line each; the journal then stays for a later try.
    """
    troubles: list[str] = []
    own = os.getpid()
    for _ in range(KILL_ROUNDS):
        pids = [pid for pid in labelled(journal) if pid != own]
        if not pids:
            break
        for pid in pids:
            _kill_labelled(pid, journal)
        time.sleep(0.02)  # no event tells that a process which is not our child has ended
    else:
        troubles.append(f"processes {pids} carry the label of {journal.run_id} and do not end")
    troubles += _unmount_below(journal.scratch) + _unmount_below(journal.runtime)
    try:
        remove_tree(journal.cgroup)
    except IsolationError as error:
        troubles.append(error.detail)
    for folder in (journal.scratch, journal.runtime):
        with contextlib.suppress(FileNotFoundError):
            shutil.rmtree(folder)
    if not troubles:
        journal.path.unlink(missing_ok=True)
    return tuple(troubles)


def remove_dead() -> Iterator[tuple[str, tuple[str, ...]]]:
    """Remove what runs without a living supervisor left; yields each run id with what could not be removed."""
    for journal in journals():
        if not journal.alive():
            yield journal.run_id, remove(journal)


def _kill_labelled(pid: int, journal: Journal) -> None:
    """Signal through a pidfd, having looked at the label again behind it: a reused pid is never hit."""
    try:
        pidfd = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        if _carries(pid, journal):
            signal.pidfd_send_signal(pidfd, signal.SIGKILL)
    except ProcessLookupError:
        return
    finally:
        os.close(pidfd)


def _unmount_below(folder: str) -> list[str]:
    troubles = []
    for line in reversed(Path("/proc/self/mountinfo").read_text(encoding="utf-8").splitlines()):
        target = line.split()[4]
        if target.startswith(folder + "/"):
            try:
                umount2(target, MNT_DETACH)
            except OSError as error:
                troubles.append(f"cannot unmount {target}: {error.strerror}")
    return troubles
