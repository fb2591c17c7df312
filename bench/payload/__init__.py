r"""The payload: `probe.c`, one static binary, the same bytes in every backend, and the Python side of its protocol.

Standard library only.

Start
    argv: `probe nonce=HEX [delay_ns=N] [guest=1]`, words in any order, unknown words refused (exit 2).
    Speaks over stdin/stdout; with `guest=1` (PID 1 of a VM) over the virtio-serial port named `tare`, after having
    mounted devtmpfs, proc, sysfs and loaded the modules listed in `/modules/boot` (one path a line, in order).
    First act is one `write` of the byte `T`; then a second write of `are/1 HEX\n`: the first line reads
    `Tare/1 HEX`.  `delay_ns` (the startup control's dose) is waited out before the first byte; absent, nothing is.

Requests: one a line, words separated by one space, each word percent-encoded (RFC 3986); one JSON object a line
comes back: `{"ok":true,...}` or `{"ok":false,"error":"one line"}`.  Replies are ASCII; bytes of output are escaped
as `\u00XX` (Latin-1).

    loop NAME COUNT      {"ok":true,"count":COUNT,"elapsed_ns":N}   elapsed by the payload's CLOCK_MONOTONIC, the
                         cross-check only; what is measured is the host's time between request and reply.
                         NAME: getppid read write stat open_close pipe fork_exit page_fault_cold page_fault_backed
                         mmap clock_gettime.  Set-up that does not grow with COUNT is done on the first `loop` of a
                         name with COUNT 0, which callers send first.  page_fault_cold maps and touches COUNT fresh
                         pages (MADV_NOHUGEPAGE) and keeps them; page_fault_backed touches COUNT pages of a region
                         that was touched before and given back by MADV_DONTNEED (COUNT 0 makes it; COUNT at most
                         16384).  Pages are given back after the reply: a COUNT 0 before each timed loop keeps that
                         out of the figure.
    release              drops what `loop page_fault_cold` and `touch` hold
    touch BYTES          {"ok":true,"bytes":BYTES}: allocates and dirties, keeps (the memory control's dose)
    where                pid ppid uid gid euid hostname kernel boot_id namespaces{mnt:inode,...} mounts[{source,
                         target,type,options}] cgroup[lines of /proc/self/cgroup] capabilities{effective,permitted,
                         inheritable,bounding,ambient} (hex strings) no_new_privs seccomp seccomp_filters uid_map
                         gid_map rlimits{name:[soft,hard]} cpus cpu_model cpu_flags mitigations{name:text} clocksource
                         page_size thp memory_total_bytes lsm (label of this process) descriptors[{fd,target}]
                         (inherited ones) cwd exe.  What cannot be read is null, an rlimit of -1 is none.
    exec TIMEOUT_MS WORD...  {"ok":true,"code":N|null,"signal":N|null,"timeout":bool,"stdout":"..","stderr":"..",
                         "truncated":bool,"elapsed_ns":N,"cpu_ns":N}: runs a program (execvp), 1 MiB of each output
                         kept, until it ends (not its background children); on time-out its process group is
                         killed; what cannot be started is refused
    mount SOURCE TARGET TYPE FLAGS DATA   FLAGS a number, DATA `-` for none; makes TARGET; umount TARGET
    insmod PATH          loads a module (already loaded is ok);  sync;  rusage {"ok":true,"user_ns":..,"system_ns":..}
    quit                 no reply: exits 0; as PID 1 of a VM powers the machine off.  End of file on the channel does
                         the same.

As PID 1 (of a VM or a PID namespace) it reaps every child that it did not itself start.
Exit codes: 0 told to quit, 2 wrong use, 3 channel broken, 4 guest set-up failed (said on the console).
"""
