"""What set-up made, and where: recorded in `.venv/`, so that each checkout finds its own, whoever calls it.

Standard library only.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from bench.paths import CHECKOUT

VENV = CHECKOUT / ".venv"
RECORD = Path(os.environ.get("TARE_ASSETS") or VENV / "tare-assets.json")
"""Another record may be named, to measure with another payload or root filesystem."""
_SETUP = "run `./noxw -s setup`"


@dataclass(frozen=True, slots=True)
class Assets:
    """What set-up made, as paths; None where it could not, with the reason."""

    payload: Path | None = None
    """The static probe."""
    rootfs: Path | None = None
    """The shared root filesystem: busybox and its links, `/probe`, mount points. Not to be changed."""
    tools_tree: Path | None = None
    """fio with its libraries and loader at their usual places, an overlay layer for containers."""
    tools_image: Path | None = None
    """The same as a raw ext4 image, for VMs."""
    kernel: Path | None = None
    initramfs: Path | None = None
    spawn_floor: Path | None = None
    """bench/suite/spawn_floor.c, compiled."""
    reasons: Mapping[str, str] = field(default_factory=dict)
    """Name of a field above that is None -> why."""


ASSETS = tuple(item.name for item in fields(Assets) if item.name != "reasons")


def locate() -> Assets:
    """What this checkout's set-up made, as recorded, less what is gone since. Never raises, hashes nothing."""
    try:
        record: dict[str, Any] = json.loads(RECORD.read_text())
    except FileNotFoundError:
        return Assets(reasons=dict.fromkeys(ASSETS, f"not set up: {_SETUP}"))
    except (OSError, ValueError) as error:
        return Assets(reasons=dict.fromkeys(ASSETS, f"{RECORD} is not readable ({error}): {_SETUP}"))
    reasons: dict[str, str] = dict(record.get("reasons", {}))
    found: dict[str, Path] = {}
    for name in ASSETS:
        path = record.get(name)
        if path is None:
            reasons.setdefault(name, f"not set up: {_SETUP}")
        elif not os.path.exists(path):
            reasons[name] = f"{path} is gone: {_SETUP}"
        else:
            found[name] = Path(path)
    return Assets(**found, reasons=reasons)


def remember(assets: Assets) -> None:
    """Write the record, whole or not at all."""
    new = RECORD.with_suffix(".new")
    new.write_text(json.dumps(asdict(assets), indent=1, default=str) + "\n")
    new.replace(RECORD)
