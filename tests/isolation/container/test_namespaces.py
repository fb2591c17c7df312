from isolation.container import namespaces
from isolation.syscalls import CLONE_NEWNET, CLONE_NEWPID


def test_names_and_flags_are_each_others_inverse():
    assert namespaces.flags(("pid", "network")) == CLONE_NEWPID | CLONE_NEWNET
    assert namespaces.names(CLONE_NEWPID | CLONE_NEWNET) == ("pid", "network")
    assert namespaces.flags(namespaces.names(namespaces.flags(namespaces.FLAGS))) == namespaces.flags(namespaces.FLAGS)
