"""The launchers of a run: one slim process per host of backends, started when first needed, replaced when lost."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Self

from bench.backends import Entry, registry
from isolation.api import Availability, Finished, IsolationError, Site, Spec
from isolation.messages import Words
from isolation.remote import Launcher, LauncherLost, Started


class Fleet:
    """Hosts the named backends; a context manager that ends every launcher with all it started."""

    def __init__(self, names: Iterable[str], *, environment: Mapping[str, str] | None = None) -> None:
        self._entries = {name: registry()[name] for name in names}
        self._environment = dict(environment or {})
        self._launchers: dict[str, Launcher] = {}
        self._prepared: dict[str, Site] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for launcher in self._launchers.values():
            launcher.close()
        self._launchers.clear()

    def availability(self) -> tuple[Availability, ...]:
        """What each backend says of this host, in the order of the names."""
        found: dict[str, Availability] = {}
        for host in dict.fromkeys(entry.host for entry in self._entries.values()):
            members = [entry for entry in self._entries.values() if entry.host == host]
            try:
                found.update({item.backend: item for item in self._launcher(members[0].name).probe()})
            except IsolationError as error:
                for entry in members:
                    found[entry.name] = Availability(
                        entry.name, available=False, reason=error.reason, detail=error.detail
                    )
        return tuple(found[name] for name in self._entries)

    def prepare(self, backend: str, site: Site) -> Availability:
        """Raises Unsupported with the reason where this host cannot run it."""
        found = self._launcher(backend).prepare(backend, site)
        self._prepared[backend] = site
        return found

    def describe(self, backend: str) -> Words:
        return self._launcher(backend).describe(backend)

    def launch(self, backend: str, specs: Sequence[Spec], *, accounting: bool = False) -> tuple[Started, ...]:
        launcher = self._launcher(backend)
        try:
            return launcher.launch(backend, specs, accounting=accounting)
        except LauncherLost:
            self._drop(backend)
            raise

    def finish(self, backend: str, instance: str, *, timeout_s: float, force: bool = False) -> Finished:
        try:
            return self._launcher(backend).finish(instance, timeout_s=timeout_s, force=force)
        except LauncherLost:
            self._drop(backend)
            raise

    def tool(self, backend: str, *, timeout_s: float) -> int | None:
        try:
            return self._launcher(backend).tool(backend, timeout_s=timeout_s)
        except LauncherLost:
            self._drop(backend)
            raise

    def _launcher(self, backend: str) -> Launcher:
        entry = self._entries[backend]
        launcher = self._launchers.get(entry.host)
        if launcher is None:
            launcher = self._launchers[entry.host] = self._start(entry)
        return launcher

    def _start(self, entry: Entry) -> Launcher:
        members = [other for other in self._entries.values() if other.host == entry.host]
        launcher = Launcher(
            [member.factory() for member in members],
            site_packages=not entry.slim,
            environment=self._environment,
        )
        for member in members:
            if member.name in self._prepared:
                launcher.prepare(member.name, self._prepared[member.name])
        return launcher

    def _drop(self, backend: str) -> None:
        """End a launcher that hangs or died; the next call starts another."""
        launcher = self._launchers.pop(self._entries[backend].host, None)
        if launcher is not None:
            launcher.close()
