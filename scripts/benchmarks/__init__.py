"""`scripts/bench`: how long everyday work takes on a mount, compared within one run on one server.

    cli.py        arguments, and the order of things
    rows.py       what is measured, under which names, with which sizes
    inputs.py     the local files that are copied in and compared with
    place.py      the store that everybody uses: a server, a bucket, the added latency
    latency.py    a TCP proxy that adds latency (a program of its own)
    subjects.py   what is measured: our mount, other mounts, the raw client
    run.py        one group of rows on one mount: clocks, time limits, checks
    workloads.py  the work itself, on a mount
    raw.py        the same through the store client alone
    profile.py    py-spy on our daemon while a row runs
    report.py     the table and the JSON
    plot.py       the picture; `scripts/bench plot` draws what was kept
    stores/       `scripts/bench stores`: the stores by themselves

A new row is a line in rows.py and a few lines in workloads.py (and raw.py where the client alone can do
the like). Work is checked: a wrong byte or a failing tool makes the run fail, a time never does.
"""
