import os
import stat

import pytest

from bench import paths


@pytest.fixture
def sudo(monkeypatch):
    monkeypatch.setenv("SUDO_UID", "12345")
    monkeypatch.setenv("SUDO_GID", "54321")


def owner(path):
    entry = os.lstat(path)
    return entry.st_uid, entry.st_gid


root_only = pytest.mark.skipif(os.geteuid() != 0, reason="needs root: only root can give files away")


def test_nobody_called_sudo(monkeypatch):
    monkeypatch.delenv("SUDO_UID", raising=False)
    assert paths.invoking_user() is None


@pytest.mark.parametrize("uid", ["", "0", "-1", "12 34", "root"])
def test_a_strange_sudo_uid_is_nobody(monkeypatch, uid):
    monkeypatch.setenv("SUDO_UID", uid)
    monkeypatch.setenv("SUDO_GID", "1")
    assert paths.invoking_user() is None


def test_cache_follows_the_base_directories(monkeypatch, tmp_path):
    monkeypatch.delenv("SUDO_UID", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert paths.cache_folder() == tmp_path / "tare-bench"


@pytest.mark.root
@root_only
def test_under_sudo_the_cache_is_the_invoking_users(monkeypatch, tmp_path):
    import pwd

    user = next(entry for entry in pwd.getpwall() if entry.pw_uid not in (0, 65534))
    monkeypatch.setenv("SUDO_UID", str(user.pw_uid))
    monkeypatch.setenv("SUDO_GID", str(user.pw_gid))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert str(paths.cache_folder()) == f"{user.pw_dir}/.cache/tare-bench".replace("//", "/")


@pytest.mark.root
@root_only
def test_hand_back_gives_the_whole_tree_and_only_that(sudo, tmp_path):
    run = tmp_path / "runs" / "one"
    run.mkdir(parents=True)
    (run / "manifest.json").touch()
    (run / "logs").mkdir()
    (run / "logs" / "vm.txt").touch()
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "shadow").touch()
    (run / "to-folder").symlink_to(outside)
    (run / "to-file").symlink_to(outside / "shadow")
    os.link(outside / "shadow", run / "hard-link")
    (run / "theirs").touch()
    os.chown(run / "theirs", 4242, 4242)

    paths.hand_back(run)

    for given in (run, run / "manifest.json", run / "logs" / "vm.txt", run / "to-folder"):
        assert owner(given) == (12345, 54321)
    for kept in (outside, outside / "shadow", run.parent):
        assert owner(kept) == (0, 0)
    assert owner(run / "theirs") == (4242, 4242)
    assert stat.S_ISLNK(os.lstat(run / "to-file").st_mode)


@pytest.mark.root
@root_only
def test_hand_back_of_one_file_and_of_what_is_absent(sudo, tmp_path):
    report = tmp_path / "report.html"
    report.touch()
    paths.hand_back(report, tmp_path / "absent")
    assert owner(report) == (12345, 54321)


@pytest.mark.root
@root_only
def test_hand_back_does_not_follow_a_link_at_the_top(sudo, tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "file").touch()
    (tmp_path / "runs").symlink_to("real")
    paths.hand_back(tmp_path / "runs")
    assert owner(tmp_path / "real" / "file") == (0, 0)


def test_without_sudo_nothing_changes_hands(monkeypatch, tmp_path):
    monkeypatch.delenv("SUDO_UID", raising=False)
    before = owner(tmp_path)
    paths.hand_back(tmp_path)
    assert owner(tmp_path) == before
