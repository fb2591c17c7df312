"""The home-grown container: namespaces, mounts as operations, cgroups, storage; `container` composes them.

Each privileged set-up is a tuple of small frozen operations that can `describe()` themselves and run against a
`System` (the real system calls, or a recording double in tests).
"""
