"""Operations: their words, and the order of their system calls, seen by a recording double."""

from isolation.api import Site, Spec, Volume
from isolation.container import operations as ops
from isolation.container.plan import born_in, hostname, plan
from isolation.container.profile import DEFAULT, NAMESPACES
from isolation.container.storage import Upper

SITE = Site("r", "/scratch", "/run", "/probe", "/rootfs")
SPEC = Spec("box", "5eed", arguments=("delay_ns=5",))
UPPER = Upper("/scratch/box.upper", "/scratch/box.work")


def the_plan(profile=NAMESPACES, spec=SPEC, **more):
    return plan(spec, SITE, profile, upper=UPPER, target="/scratch/root", **more)


def words(operations):
    return [operation.describe() for operation in operations]


def test_plan_of_namespaces_in_words():
    assert words(the_plan()) == [
        "be killed when the launcher ends",
        "set the host name to box",
        "make all mounts slaves of the host's",
        "mount an overlay of /scratch/box.upper over /rootfs",
        "mount proc on /proc",
        "mount tmpfs on /dev",
        "make in /dev: null zero full random urandom tty",
        "make in /dev: fd stdin stdout stderr ptmx, and the directories pts and shm",
        "mount devpts on /dev/pts",
        "make the overlay the root and detach the host's",
        "execute /probe nonce=5eed delay_ns=5",
    ]


def test_default_profile_joins_its_group_before_its_cgroup_namespace():
    described = words(the_plan(DEFAULT, entrances=("/sys/fs/cgroup/memory/tare/r/box/tasks",)))
    joined = described.index("enter the control groups /sys/fs/cgroup/memory/tare/r/box")
    assert described[joined + 1] == "enter new namespaces: cgroup"
    assert "cgroup" not in born_in(DEFAULT, None)
    assert "cgroup" in born_in(NAMESPACES, None)


def test_no_new_privs_is_the_last_before_the_program():
    assert words(the_plan(DEFAULT))[-2:] == ["set no_new_privs", "execute /probe nonce=5eed delay_ns=5"]


def test_ordinary_user_maps_itself_first_and_makes_no_nodes():
    operations = the_plan(user=ops.MapUser(1000, 100))
    assert operations[0].describe() == "map user 1000 and group 100 to root of the user namespace"
    assert ops.DeviceBinds() in operations
    assert ops.DeviceNodes() not in operations
    assert born_in(NAMESPACES, ops.MapUser(1000, 100))[0] == "user"


def test_layers_lie_over_the_root_filesystem_last_on_top():
    spec = Spec("box", "5eed", layers=("/one", "/two"))
    assert "mount an overlay of /scratch/box.upper over /two over /one over /rootfs" in words(the_plan(spec=spec))


def test_volumes_are_bound_before_the_host_is_detached():
    spec = Spec("box", "5eed", volumes=(Volume("/data", "/mnt/data", read_only=True),))
    described = words(the_plan(spec=spec))
    pivot = described.index("make the overlay the root and detach the host's")
    assert described[pivot - 1] == "bind /data on /mnt/data read-only"


def test_overlay_options_escape_what_overlayfs_would_split(recorder):
    ops.Overlay(("/a:b", "/c,d"), "/u", "/w", "/t").execute(recorder)
    assert "lowerdir=/a\\\\:b:/c\\\\,d,upperdir=/u,workdir=/w" in recorder.tried[0]
    assert recorder.tried[1] == "chdir /t"


def test_mounts_in_the_new_root_go_through_a_descriptor_that_follows_no_link(recorder):
    ops.PROC.execute(recorder)
    assert recorder.tried == [
        "open proc below the new root, symbolic links refused",
        "mount proc on /proc/self/fd/101 (flags 0xe, options '')",
        "close descriptor 101",
    ]


def test_pivot_root_stacks_then_detaches_then_goes_to_the_new_root(recorder):
    ops.PivotRoot().execute(recorder)
    assert recorder.tried == ["pivot_root to ., old root at .", "umount . (flags 0x2)", "chdir /"]


def test_read_only_bind_is_made_read_only_before_it_is_attached(recorder):
    ops.Bind("/data", "/mnt", read_only=True).execute(recorder)
    order = [text.split()[0] for text in recorder.tried]
    assert order.index("mount_setattr") < order.index("move_mount")


def test_user_map_denies_setgroups_first(recorder):
    ops.MapUser(1000, 1000).execute(recorder)
    written = [text for text in recorder.tried if text.startswith("write")]
    assert written == [
        "write 'deny' to /proc/self/setgroups",
        "write '0 1000 1' to /proc/self/uid_map",
        "write '0 1000 1' to /proc/self/gid_map",
    ]


def test_every_operation_closes_what_it_opens_but_the_first_keeps_the_channel(recorder):
    for operation in the_plan(DEFAULT, entrances=("/g/tasks",), user=ops.MapUser(1, 1)):
        before = len(recorder.tried)
        operation.execute(recorder)
        mine = recorder.tried[before:]
        opened = sum(text.startswith(("open", "socket", "create")) for text in mine)
        assert opened == sum(text.startswith("close descriptor") for text in mine), operation.describe()


def test_long_instance_names_are_cut_to_what_a_host_name_may_be():
    assert len(hostname("x" * 200)) == 64
