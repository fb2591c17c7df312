"""The slim launcher: a resident process that starts instances and takes the stamps.

Runs under `python -I -S` with the standard library and ctypes only, so that neither the harness's size nor its
libraries are in any figure.  `isolation.remote.Launcher` is its other end.  When that end closes, also because the
harness was killed, the launcher ends its instances and removes what they left.
"""

from __future__ import annotations

import contextlib
import dataclasses
import gc
import importlib
import os
import select
import signal
import socket
import sys
import traceback
from collections.abc import Callable, Sequence
from typing import Any

from isolation.accounting import Accounting
from isolation.api import (
    Availability,
    Backend,
    Exit,
    Finished,
    Instance,
    IsolationError,
    Lane,
    Launched,
    LaunchFailed,
    Site,
    Spec,
    Unsupported,
)
from isolation.messages import (
    Describe,
    Failure,
    Finish,
    Launch,
    Load,
    Prepare,
    Probe,
    Reply,
    Tool,
    Words,
    receive,
    send,
)
from isolation.spawn import LOG_FLAGS, now_ns

FIRST_BYTE = b"T"
QUIT = b"quit\n"
KILL_TIMEOUT_S = 5.0
TAIL_BYTES = 2000


@dataclasses.dataclass(slots=True)
class _Alive:
    instance: Instance
    spec: Spec
    accounting: Accounting | None
    log_start: int
    """Size of the log when it started: several instances of a backend append to one."""
    removed: bool = False


class Server:
    """One launcher's state: its backends and the instances that are alive."""

    def __init__(self, control: socket.socket) -> None:
        self._control = control
        self._backends: dict[str, Backend] = {}
        self._lanes: dict[str, Lane] = {}
        self._sites: dict[str, Site] = {}
        self._alive: dict[str, _Alive] = {}
        self._handlers: dict[type, Callable[[Any], tuple[Any, tuple[int, ...]]]] = {
            Load: self._load,
            Probe: self._probe,
            Prepare: self._prepare,
            Describe: self._describe,
            Launch: self._launch,
            Finish: self._finish,
            Tool: self._tool,
        }

    def serve(self) -> None:
        """Answer until the other end closes, then leave nothing behind."""
        try:
            while True:
                message, _ = receive(self._control)
                descriptors: tuple[int, ...] = ()
                try:
                    value, descriptors = self._handlers[type(message)](message)
                    reply = Reply(value)
                except IsolationError as error:
                    reply = Reply(failure=Failure(type(error).__name__, error.reason, error.detail))
                except Exception:  # noqa: BLE001 - a bug must reach the harness, which raises it
                    reply = Reply(failure=Failure("Error", "bug", traceback.format_exc()))
                send(self._control, reply, descriptors)
        except (EOFError, ConnectionError):
            self._end_all()

    def _load(self, message: Load) -> tuple[None, tuple[int, ...]]:
        for factory in message.factories:
            module, _, attribute = factory.target.partition(":")
            try:
                make = getattr(importlib.import_module(module), attribute)
            except (ImportError, AttributeError) as error:
                raise Unsupported("not_installed", f"backend {factory.name} ({factory.target}): {error}") from error
            self._backends[factory.name] = make(factory.name, **dict(factory.options))
        gc.collect()
        gc.freeze()  # what was imported never dies: later collections need not walk it
        return None, ()

    def _probe(self, _: Probe) -> tuple[tuple[Availability, ...], tuple[int, ...]]:
        return tuple(backend.availability() for backend in self._backends.values()), ()

    def _prepare(self, message: Prepare) -> tuple[Availability, tuple[int, ...]]:
        backend = self._backends[message.backend]
        found = backend.availability()
        if found.available:
            backend.prepare(message.site)
            found = backend.availability()  # preparing may have proved another lane
        if not found.available or found.lane is None:
            raise Unsupported(found.reason or "unknown", found.detail or "no reason given")
        self._lanes[message.backend] = found.lane
        self._sites[message.backend] = message.site
        return found, ()

    def _describe(self, message: Describe) -> tuple[Words, tuple[int, ...]]:
        backend = self._backends[message.backend]
        return Words(backend.medium, backend.cheap, backend.shared, backend.owned, backend.before_first_byte), ()

    def _launch(self, message: Launch) -> tuple[tuple[Launched, ...], tuple[int, ...]]:
        starting: list[_Alive] = []
        gc.disable()
        try:
            for spec in message.specs:
                alive = self._start(message.backend, spec, accounting=message.accounting)
                starting.append(alive)  # at once: should the next one fail, this one must be known
            stamps = self._first_bytes(starting)
        except IsolationError:
            for alive in starting:
                if not alive.removed:
                    self._remove(alive)
            raise
        finally:
            gc.enable()
        for alive in starting:
            self._alive[alive.spec.instance] = alive
        launched = tuple(self._launched(message.backend, alive, stamps[alive.spec.instance]) for alive in starting)
        return launched, tuple(fd for alive in starting for fd in (alive.instance.read_fd, alive.instance.write_fd))

    def _start(self, name: str, spec: Spec, *, accounting: bool) -> _Alive:
        group = f"{self._sites[name].cgroup}/{spec.instance}"
        account = Accounting.begin(group) if accounting else None
        spec = dataclasses.replace(spec, cgroup=account.payload if account else group)
        log_start = _size(spec.log)
        try:
            with account.tool.joined() if account else contextlib.nullcontext():
                instance = self._backends[name].start(spec)
        except IsolationError:
            if account:
                account.end()
            raise
        return _Alive(instance, spec, account, log_start)

    def _launched(self, name: str, alive: _Alive, t1_ns: int) -> Launched:
        return Launched(
            instance=alive.spec.instance,
            backend=name,
            lane=self._lanes[name],
            t0_ns=alive.instance.t0_ns,
            t1_ns=t1_ns,
            processes=alive.instance.processes(),
            cgroup=alive.accounting.group if alive.accounting else alive.spec.cgroup,
        )

    def _first_bytes(self, starting: Sequence[_Alive]) -> dict[str, int]:
        """Wait for each payload's first byte and stamp it: instance -> t1.

        Raises LaunchFailed (`exited_early`, `never_ready`, `garbage` or what the backend diagnoses) after having
        removed the instance that failed.
        """
        poller = select.poll()
        waiting: dict[int, _Alive] = {}
        for alive in starting:
            for descriptor in (alive.instance.read_fd, alive.instance.pidfd):
                poller.register(descriptor, select.POLLIN)
                waiting[descriptor] = alive
        stamps: dict[str, int] = {}
        deadline_ns = now_ns() + round(starting[0].spec.timeout_s * 1e9)
        while waiting:
            ready = {descriptor for descriptor, _ in poller.poll(max(0, deadline_ns - now_ns()) / 1e6)}
            if not ready:
                alive = next(iter(waiting.values()))
                detail = f"no first byte within {alive.spec.timeout_s:g} s"
                raise self._abandon(alive, "never_ready", detail, ended_alone=False)
            for alive in {id(waiting[descriptor]): waiting[descriptor] for descriptor in ready}.values():
                instance = alive.instance
                byte = os.read(instance.read_fd, 1) if instance.read_fd in ready else b""
                t1_ns = now_ns()
                if byte != FIRST_BYTE:
                    raise self._mute(alive, byte)
                stamps[alive.spec.instance] = t1_ns
                for descriptor in (instance.read_fd, instance.pidfd):
                    poller.unregister(descriptor)
                    del waiting[descriptor]
        return stamps

    def _mute(self, alive: _Alive, byte: bytes) -> LaunchFailed:
        """The error of a payload that said something else, or nothing any more."""
        if byte:
            detail = f"first byte is {byte!r}, not {FIRST_BYTE!r}"
            return self._abandon(alive, "garbage", detail, ended_alone=_wait(alive.instance.pidfd, 0))
        ended_alone = _wait(alive.instance.pidfd, 0.2)  # its channel closes a little before it has ended
        return self._abandon(alive, "exited_early", "ended before its first byte", ended_alone=ended_alone)

    def _abandon(self, alive: _Alive, reason: str, detail: str, *, ended_alone: bool) -> LaunchFailed:
        """Remove an instance that failed to start; the reason is the backend's own where it knows better."""
        instance = alive.instance
        if not ended_alone:
            instance.kill()
            _wait(instance.pidfd, KILL_TIMEOUT_S)
        ended = instance.reap()
        if ended_alone:
            detail += f" ({_ending(ended)})"
        reason, detail = instance.diagnose() or (reason, detail)
        _, leak = self._clear(alive)
        tail = _tail(alive.spec.log, alive.log_start)
        words = (detail, f"stderr: {tail}" if tail else "", str(leak or ""))
        return LaunchFailed(reason, "; ".join(word for word in words if word))

    def _remove(self, alive: _Alive) -> None:
        """End an instance by force and remove it, where nobody can be told of what stays: the janitor looks again."""
        alive.instance.kill()
        if _wait(alive.instance.pidfd, KILL_TIMEOUT_S):
            alive.instance.reap()
            self._clear(alive)

    def _clear(self, alive: _Alive) -> tuple[int, IsolationError | None]:
        """Remove what an ended instance left (groups, folders, mounts): the time when that was done, and any leak."""
        alive.removed = True
        leak = None
        try:
            alive.instance.destroy()
        except IsolationError as error:
            leak = error
        t3_ns = now_ns()
        os.close(alive.instance.read_fd)
        os.close(alive.instance.write_fd)
        if alive.accounting:
            alive.accounting.end()
        return t3_ns, leak

    def _finish(self, message: Finish) -> tuple[Finished, tuple[int, ...]]:
        alive = self._alive.pop(message.instance)
        instance = alive.instance
        trouble: tuple[str, str] | None = None
        ended_before = _wait(instance.pidfd, 0)
        tq_ns = now_ns()
        if message.force:
            instance.kill()
        elif not ended_before:
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # it ended meanwhile: seen below
                os.write(instance.write_fd, QUIT)
        if not _wait(instance.pidfd, message.timeout_s):
            trouble = ("hang", f"did not end within {message.timeout_s:g} s after quit")
            instance.kill()
            _wait(instance.pidfd, KILL_TIMEOUT_S)
        t2_ns = now_ns()
        ended = instance.reap()
        if trouble is None and not message.force and (ended_before or ended.code not in (0, None) or ended.signal):
            trouble = instance.diagnose() or ("killed" if ended.signal else "exited_early", _ending(ended))
        t3_ns, leak = self._clear(alive)
        if leak:
            trouble = trouble or (leak.reason, leak.detail)
        return Finished(message.instance, tq_ns, t2_ns, t3_ns, ended, trouble), ()

    def _tool(self, message: Tool) -> tuple[int | None, tuple[int, ...]]:
        command = self._backends[message.backend].tool()
        if command is None:
            return None, ()
        read_fd, write_fd = os.pipe2(os.O_CLOEXEC)
        t0_ns = now_ns()
        actions = [(os.POSIX_SPAWN_DUP2, write_fd, 1), (os.POSIX_SPAWN_OPEN, 2, os.devnull, LOG_FLAGS, 0o600)]
        pid = os.posix_spawn(command[0], list(command), {}, file_actions=actions)
        os.close(write_fd)
        ready = _wait(read_fd, message.timeout_s)
        byte = os.read(read_fd, 1) if ready else b""
        t1_ns = now_ns()
        os.close(read_fd)
        if not ready:
            os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        if not byte:
            raise LaunchFailed("never_ready", f"{' '.join(command)} printed nothing")
        return t1_ns - t0_ns, ()

    def _end_all(self) -> None:
        for alive in self._alive.values():
            self._remove(alive)
        for backend in self._backends.values():
            backend.close()


def _wait(descriptor: int, timeout_s: float) -> bool:
    poller = select.poll()
    poller.register(descriptor, select.POLLIN)
    return bool(poller.poll(timeout_s * 1000))


def _ending(ended: Exit) -> str:
    if ended.signal:
        return f"killed by {signal.Signals(ended.signal).name}"
    return "exit code unknown" if ended.code is None else f"exit code {ended.code}"


def _size(path: str) -> int:
    try:
        return os.stat(path).st_size
    except FileNotFoundError:
        return 0


def _tail(path: str, start: int) -> str:
    """What was written to `path` since `start`, its last lines on one line."""
    if not path or not os.path.exists(path):
        return ""
    with open(path, "rb") as file:
        file.seek(max(start, _size(path) - TAIL_BYTES))
        return " | ".join(file.read().decode("utf-8", "replace").split("\n")).strip(" |")


def main(descriptor: int) -> None:
    """Entry of the launcher process: `descriptor` is its end of the socket pair."""
    control = socket.socket(fileno=descriptor)
    control.set_inheritable(False)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the terminal's Ctrl-C is the harness's to handle
    sys.setswitchinterval(1)
    Server(control).serve()
