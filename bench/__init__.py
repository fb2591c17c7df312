"""The harness: plan, schedule, engine, workloads, command line.

`plan` and `schedule` are pure; `engine` talks to launchers; `cli` alone prints and exits; `backends` alone names
concrete backends.  `bench.cli` must import nothing heavy (numpy, pandas, pyarrow, matplotlib, libvirt) at the top.
"""
