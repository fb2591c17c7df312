"""The virtual machine through libvirt: domain XML, guest images, acceleration, life cycle.

Imports `isolation.api` for the backend contract and nothing else of the project.  libvirt-python is imported
only inside `hypervisor` and `machine`, lazily, since it is the optional extra `[vm]`.
"""
