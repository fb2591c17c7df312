import io
import os
import subprocess
import sys
from pathlib import Path

import pytest

from bench import assets, images, packages, provision
from bench.packages import Needs, SetupError
from bench.paths import CHECKOUT

DEBIAN = 'PRETTY_NAME="Debian GNU/Linux 12 (bookworm)"\nVERSION_ID="12"\nID=debian\n'


# Which packages


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (DEBIAN, "debian 12"),
        ('ID=ubuntu\nID_LIKE=debian\nVERSION_ID="24.04"\n', "ubuntu 24.04"),
        ("ID=arch\n", "arch"),
        ("", "unknown"),
    ],
)
def test_release(text, expected):
    assert packages.release(text) == expected


def test_lint_needs_no_hypervisor_and_only_tests_need_a_browser():
    names = {
        purpose: set(packages.wanted(purpose, "debian 12", "python3.11")) for purpose in ("lint", "bench", "tests")
    }
    assert names["lint"] < names["bench"] < names["tests"]
    assert "qemu-system-x86" not in names["lint"]
    assert "chromium" in names["tests"] - names["bench"]
    assert {"python3.11-dev", "python3.11-venv"} <= names["lint"]


def test_a_python_of_the_users_own_needs_none_of_debians():
    assert not [name for name in packages.wanted("bench", "debian 12", None) if name.startswith("python")]


def test_no_package_brings_a_service_that_libvirt_starts():
    for system in packages.RELEASES:
        assert not {"libvirt-daemon-system", "libvirt-daemon"} & set(packages.wanted("tests", system, None))


def test_ubuntu_has_no_chromium_package():
    assert "chromium" not in packages.wanted("tests", "ubuntu 24.04", None)


def test_missing_lists_what_dpkg_does_not_have():
    assert packages.missing(("dpkg", "no-such-package-anywhere")) == ("no-such-package-anywhere",)


def test_an_unknown_distribution_hears_debians_names(monkeypatch, tmp_path):
    monkeypatch.setattr(packages, "RELEASES", {})
    with pytest.raises(SetupError, match=r"names of .* are not known.*qemu-system-x86"):
        packages.look("bench")


def test_commands_are_what_root_would_type():
    commands = Needs(("fio", "runc"), user=True).commands()
    assert commands[0] == "apt-get install --no-install-recommends fio runc"
    assert [command.split()[0] for command in commands] == ["apt-get", "groupadd", "useradd"]
    assert not Needs((), user=False)


# Without root


@pytest.fixture
def ordinary_user(monkeypatch, tmp_path):
    """Not root, nobody at a terminal, and only what `tmp_path` holds as programs."""
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setattr(sys, "stdin", io.StringIO())
    monkeypatch.setattr(provision, "look", lambda purpose: Needs(("fio",), user=True))
    monkeypatch.setenv("PATH", str(tmp_path))
    return tmp_path


def test_without_sudo_it_stops_and_prints_the_commands(ordinary_user):
    with pytest.raises(SetupError) as caught:
        provision.machine("bench")
    text = str(caught.value)
    assert f"cd {CHECKOUT} && " in text
    assert "-m bench.provision system bench" in text
    assert "apt-get install --no-install-recommends fio" in text


def test_sudo_that_would_ask_is_not_asked_without_a_terminal(ordinary_user):
    sudo = ordinary_user / "sudo"
    sudo.write_text('#!/bin/sh\n[ "$1" = -n ] && exit 1\n/usr/bin/touch "$0.asked"\n')
    sudo.chmod(0o755)
    with pytest.raises(SetupError, match="as root run"):
        provision.machine("bench")
    assert not (ordinary_user / "sudo.asked").exists()


def test_sudo_that_need_not_ask_runs_the_root_part_only(ordinary_user, capfd):
    sudo = ordinary_user / "sudo"
    sudo.write_text('#!/bin/sh\n[ "$1" = -n ] || echo "$*" >"$0.ran"\n')
    sudo.chmod(0o755)
    provision.machine("tests")
    assert (ordinary_user / "sudo.ran").read_text().endswith("-B -m bench.provision system tests\n")


# Nothing starts


@pytest.fixture
def policy(monkeypatch, tmp_path):
    path = tmp_path / "policy-rc.d"
    monkeypatch.setattr(packages, "_POLICY", path)
    return path


def test_no_service_starts_while_packages_come_in(policy):
    with packages._nothing_starts():
        assert subprocess.run([policy, "fio", "start"], check=False).returncode == 101
    assert not policy.exists()


def test_the_policy_goes_also_when_installing_fails(policy):
    with pytest.raises(SetupError), packages._nothing_starts():
        raise SetupError("apt-get: exit 100")
    assert not policy.exists()


def test_an_administrators_policy_is_left_alone(policy):
    policy.write_text("#!/bin/sh\nexit 0\n")
    with packages._nothing_starts():
        assert policy.read_text() == "#!/bin/sh\nexit 0\n"
    assert policy.exists()


def test_a_policy_that_a_killed_set_up_left_goes(policy):
    policy.write_text(packages._POLICY_TEXT)
    with packages._nothing_starts():
        pass
    assert not policy.exists()


def test_a_failed_command_shows_its_last_lines():
    with pytest.raises(SetupError, match=r"exit 3\n  no such package"):
        packages._run(("sh", "-c", "echo no such package; exit 3"))


def test_a_unit_that_was_just_enabled_is_found_and_disabled(tmp_path):
    wants = tmp_path / "systemd/system/multi-user.target.wants"
    wants.mkdir(parents=True)
    (wants / "before.service").symlink_to("/nowhere")
    before = packages._autostarts(tmp_path)
    (wants / "tare-test-unit.service").symlink_to("/nowhere")
    assert packages._disable(packages._autostarts(tmp_path) - before) == ["tare-test-unit"]
    assert [link.name for link in wants.iterdir()] == ["before.service"]


# The record


@pytest.fixture
def record(monkeypatch, tmp_path):
    path = tmp_path / "tare-assets.json"
    monkeypatch.setattr(assets, "RECORD", path)
    return path


def test_before_set_up_every_asset_says_what_to_run(record):
    found = assets.locate()
    assert found.payload is None
    assert set(found.reasons) == set(assets.ASSETS)
    assert "noxw -s setup" in found.reasons["payload"]


def test_what_is_remembered_is_found(record, tmp_path):
    probe = tmp_path / "probe"
    probe.touch()
    assets.remember(assets.Assets(payload=probe, reasons={"kernel": "apt knows none"}))
    found = assets.locate()
    assert found.payload == probe
    assert found.reasons["kernel"] == "apt knows none"


def test_what_is_gone_is_not_found(record, tmp_path):
    assets.remember(assets.Assets(rootfs=tmp_path / "gone"))
    found = assets.locate()
    assert found.rootfs is None
    assert "is gone" in found.reasons["rootfs"]


@pytest.mark.parametrize("text", ["", "{", '{"payload": "/bin'])
def test_a_torn_record_is_a_reason_and_no_crash(record, text):
    record.write_text(text)
    assert "not readable" in assets.locate().reasons["payload"]


def test_locate_loads_nothing_heavy():
    code = "import sys; from bench.provision import locate; locate(); print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], cwd=CHECKOUT, capture_output=True, text=True, check=True)
    assert not {"numpy", "pandas", "libvirt", "platformdirs", "vmdriver"} & set(loaded.stdout.split())


# The images


@pytest.fixture
def busybox():
    path = Path("/bin/busybox")
    if not path.exists() or b"ld-linux" in path.read_bytes()[:4096]:
        pytest.skip("needs busybox-static")
    return path


@pytest.fixture
def probe(tmp_path):
    path = tmp_path / "probe"
    path.write_bytes(b"the payload")
    return path


def test_rootfs_holds_the_payload_a_shell_and_every_mount_point(busybox, probe, tmp_path):
    root = images.rootfs(tmp_path / "cache", probe)
    assert (root / "probe").read_bytes() == b"the payload"
    assert (root / "bin/sh").readlink() == Path("/bin/busybox")
    for name in ("proc", "sys", "dev", "tmp", "run", "etc"):
        assert (root / name).is_dir()
    assert (root / "tmp").stat().st_mode & 0o7777 == 0o1777
    assert not (root / "etc/passwd").stat().st_mode & 0o222


def test_rootfs_is_made_once_and_anew_for_another_payload(busybox, probe, tmp_path):
    cache = tmp_path / "cache"
    first = images.rootfs(cache, probe)
    inode = first.stat().st_ino
    assert images.rootfs(cache, probe) == first
    assert first.stat().st_ino == inode
    probe.write_bytes(b"another payload")
    assert images.rootfs(cache, probe) != first


def test_a_folder_that_fails_half_way_is_not_there(tmp_path):
    def fail(folder):
        (folder / "half").touch()
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space"):
        images._once(tmp_path, ("a",), fail)
    assert list(tmp_path.iterdir()) == []


def test_two_set_ups_at_once_make_one_folder(tmp_path):
    def make(folder):
        (folder / "mine").touch()
        if not (tmp_path / "other-was-here").exists():
            (tmp_path / "other-was-here").touch()
            images._once(tmp_path / "x", ("a",), make)

    folder = images._once(tmp_path / "x", ("a",), make)
    assert [path.name for path in (tmp_path / "x").iterdir()] == [folder.name]


def test_tools_run_from_their_own_tree(tmp_path):
    import shutil

    if shutil.which("fio") is None:
        pytest.skip("needs fio")
    tree = images.tools_tree(tmp_path)
    fio = tree / shutil.which("fio")[1:]
    loader = next((tree / "lib64").glob("ld-linux*"))
    folders = ":".join(str(path) for path in {file.parent for file in tree.rglob("*.so*")})
    done = subprocess.run(
        [loader, "--library-path", folders, "--inhibit-cache", fio, "--version"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.startswith("fio-")


def test_a_step_that_fails_leaves_the_rest_and_says_why(monkeypatch, tmp_path):
    def no_compiler(target):
        raise images.BuildError("no C compiler named cc")

    monkeypatch.setattr(images, "build_payload", no_compiler)
    monkeypatch.setattr(images, "tools_tree", lambda cache: tmp_path)
    monkeypatch.setattr(images, "tools_image", lambda cache, tree: tmp_path / "tools.ext4")
    lines = []
    built = images.build(tmp_path / "cache", assets.Assets(), lines.append)
    assert built.payload is None
    assert built.reasons["payload"] == "no C compiler named cc"
    assert built.reasons["rootfs"] == "needs payload, which was not made"
    assert built.tools_tree == tmp_path
    assert any(line.startswith("tools_tree: made") for line in lines)


def test_spawn_floor_prints_one_start_a_line(tmp_path):
    floor = images.spawn_floor(tmp_path)
    program = tmp_path / "payload"
    program.write_text("#!/bin/sh\nprintf Tare\ncat\n")
    program.chmod(0o755)
    done = subprocess.run([floor, program, "3"], capture_output=True, text=True, check=True)
    assert len(done.stdout.split()) == 3
    assert all(int(word) > 0 for word in done.stdout.split())


def test_spawn_floor_refuses_a_payload_that_fails(tmp_path):
    floor = images.spawn_floor(tmp_path)
    for program, message in (("/bin/false", "wrote nothing"), (tmp_path / "absent", "No such file")):
        done = subprocess.run([floor, program, "1"], capture_output=True, text=True, check=False)
        assert done.returncode == 1
        assert message in done.stderr


# The environment


def test_a_linters_setting_does_not_install_anew(monkeypatch, tmp_path):
    text = (CHECKOUT / "pyproject.toml").read_text()
    monkeypatch.setattr(provision, "CHECKOUT", tmp_path)
    (tmp_path / "pyproject.toml").write_text(text)
    before = provision._environment_key("vm,dev")
    (tmp_path / "pyproject.toml").write_text(text.replace("line-length = 120", "line-length = 100"))
    assert provision._environment_key("vm,dev") == before
    (tmp_path / "pyproject.toml").write_text(text.replace('"rich>=13.7"', '"rich>=14"'))
    assert provision._environment_key("vm,dev") != before
    assert provision._environment_key("dev") != before


def test_wrong_purpose_is_wrong_use(capsys):
    with pytest.raises(SystemExit) as caught:
        provision.main(["everything"])
    assert caught.value.code == 2
