"""One mount, from start to drained end.

    request     what a mount is asked to be, and the checks that need no store
    statedir    the state directory: private, locked by one daemon, of one store
    detach      into the background, with a pipe that tells when the mount works
    serve       composes a mount: state, store, vfs, FUSE, signals, drain
    service     answers `status`, `sync` and `umount` over a unix socket
    control     the other end of that socket, blocking
    runtime     which daemons run, and for which mount points
    mounttab    what the kernel says is mounted
    machine     limits, read-ahead, and what C libraries say
    logs        a log file that stays small

Only `serve` and `service` import trio, pyfuse3 and the stores: everything else is loaded by a process
that is about to fork, or that only talks to a daemon.
"""
