"""Pure: from what is to be launched to the list of operations."""

from __future__ import annotations

from isolation.api import Site, Spec
from isolation.container import operations as ops
from isolation.container.profile import SIX_NAMESPACES, Profile
from isolation.container.storage import Upper

_TO_ROOT = (ops.PROC, ops.DEV)
_IN_DEV = (ops.DeviceLinks(), ops.PTS)


def born_in(profile: Profile, user: ops.MapUser | None) -> tuple[str, ...]:
    """The namespaces to give to clone3. The cgroup namespace of a limited container comes after joining its group."""
    names = tuple(name for name in SIX_NAMESPACES if not (profile.limited and name == "cgroup"))
    return ("user", *names) if user else names


def plan(
    spec: Spec,
    site: Site,
    profile: Profile,
    *,
    upper: Upper,
    target: str,
    entrances: tuple[str, ...] = (),
    user: ops.MapUser | None = None,
) -> tuple[ops.Operation, ...]:
    """The launch as data, in order; the namespaces of `born_in` exist before the first operation.

    `target` is an empty directory of the host on which the overlay is mounted, unseen by it; `entrances` are the
    version 1 groups to enter; `user` is set where this is not done by real root.
    """
    lower = (*reversed(spec.layers), site.rootfs)
    binds = tuple(ops.Bind(volume.source, volume.target, volume.read_only) for volume in spec.volumes)
    return (
        *((user,) if user else ()),
        ops.DieWithParent(),
        *((ops.JoinCgroup(entrances),) if entrances else ()),
        *((ops.Unshare(("cgroup",)),) if profile.limited else ()),
        *((ops.NewSession(), ops.LoopbackUp()) if profile.confined else ()),
        ops.Hostname(hostname(spec.instance)),
        ops.ReceiveMountsOnly(),
        ops.Overlay(lower, upper.upper, upper.work, target, user_xattrs=user is not None),
        *_TO_ROOT,
        ops.DeviceBinds() if user else ops.DeviceNodes(),
        *_IN_DEV,
        *((ops.SHM, ops.SYS) if profile.confined else ()),
        *binds,
        ops.PivotRoot(),
        *((ops.NoNewPrivileges(),) if profile.confined else ()),
        ops.Execute("/probe", ("/probe", *spec.payload_arguments()), spec.environment),
    )


def hostname(instance: str) -> str:
    """The instance's name as far as a host name may be long (uname 2)."""
    return instance[:64]
