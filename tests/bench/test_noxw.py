"""The wrapper, as a user meets it: with a Python that is too old, without ensurepip, and the second time."""

import subprocess
import sys

import pytest

from bench.paths import CHECKOUT

NOXW = str(CHECKOUT / "noxw")
OLD_PYTHON = "#!/bin/sh\nexit 1\n"
BARE_PYTHON = f"""#!/bin/sh
# A Python like Debian's without python3-venv: all but ensurepip.
case "$*" in *ensurepip*) exit 1;; esac
exec {sys.executable} "$@"
"""


@pytest.fixture
def commands(tmp_path):
    """A PATH of our own, with the few programs that the wrapper calls."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for name in ("dirname", "sh", "env"):
        (folder / name).symlink_to(f"/usr/bin/{name}")
    return folder


def program(folder, name, text):
    path = folder / name
    assert not path.is_symlink()
    path.write_text(text)
    path.chmod(0o755)


def noxw(path, cache, *arguments, cwd="/"):
    environment = {"PATH": str(path), "HOME": "/nonexistent", "XDG_CACHE_HOME": str(cache)}
    return subprocess.run(
        [NOXW, *arguments],
        env=environment,
        cwd=cwd,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )


def fake_nox(cache, key):
    """An environment that says what it was called with in nox's place."""
    venv = cache / "tare-bench" / f"nox-{key}"
    (venv / "bin").mkdir(parents=True)
    program(venv / "bin", "python", '#!/bin/sh\necho "in $PWD: $*"\nexit 7\n')
    (venv / "ready").touch()


def test_hands_arguments_and_exit_code_on_from_the_checkout(commands, tmp_path):
    program(commands, "python3", "#!/bin/sh\necho 3.12-0000abcd\n")
    fake_nox(tmp_path, "3.12-0000abcd")
    done = noxw(commands, tmp_path, "-s", "tests", "--", "-k", "a b")
    assert done.stdout == f"in {CHECKOUT}: -m nox -s tests -- -k a b\n"
    assert (done.returncode, done.stderr) == (7, "")


def test_a_newer_python_is_taken_where_python3_is_old(commands, tmp_path):
    program(commands, "python3", OLD_PYTHON)
    program(commands, "python3.12", "#!/bin/sh\necho 3.12-0000abcd\n")
    fake_nox(tmp_path, "3.12-0000abcd")
    assert noxw(commands, tmp_path).returncode == 7


def test_without_ensurepip_apt_is_asked_for_it(commands, tmp_path):
    program(commands, "python3", BARE_PYTHON)
    program(commands, "id", "#!/bin/sh\necho 0\n")
    program(commands, "apt-get", f'#!/bin/sh\necho "$*" >>{tmp_path}/asked\n')
    done = noxw(commands, tmp_path)
    asked = (tmp_path / "asked").read_text()
    assert f"install -y --no-install-recommends python3.{sys.version_info.minor}-venv" in asked
    assert done.returncode == 2
    assert "did not bring it" in done.stderr


def test_without_ensurepip_and_root_the_command_is_printed(commands, tmp_path):
    program(commands, "python3", BARE_PYTHON)
    program(commands, "id", "#!/bin/sh\necho 1000\n")
    program(commands, "apt-get", "#!/bin/sh\nexit 99\n")
    done = noxw(commands, tmp_path)
    assert done.returncode == 2
    assert f"as root run: apt-get install --no-install-recommends python3.{sys.version_info.minor}-venv" in done.stderr
