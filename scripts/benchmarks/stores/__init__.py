"""`scripts/bench stores`: the stores by themselves, beside the least that Python needs for the same.

    cli.py          arguments, and the order of things
    work.py         what is done with every store, and checked
    pairs.py        our stores, and beside each what it is compared with
    yardsticks.py   plain Python: open and write, one SQL statement, a dictionary
    originals.py    the stores of the package `storage`, where a folder with it is named
    table.py        the table and the JSON

Both sides of a pair do the same work in turn, several times, and the best of each side is compared: what
disturbs a run only ever makes it slower. A yardstick writes in place and syncs nothing, so our side is
opened with `durable=False` beside it; the column `durable` shows ours with everything on the disk.
"""
