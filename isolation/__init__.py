"""Ways to start a process in isolation: bare, chroot, our own container, other runtimes.

Standard library and ctypes only, since every module here is imported by the slim launcher process
(`isolation.launcher`), whose fork and exec are what the suite times.  Imports nobody else of the project.
`isolation.api` holds the contract that every backend, also a VM, fulfils.
"""
