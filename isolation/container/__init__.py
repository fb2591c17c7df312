"""The home-grown container: namespaces, mounts as operations, cgroups, storage; `container` composes them.

A launch is data: `plan` lists small frozen operations that `describe()` themselves, `table` writes them down as
system calls, `executor` has a child make them.  `cgroup` knows version 1, version 2 and mixtures; `probe` finds out
what this host allows by doing it once.
"""
