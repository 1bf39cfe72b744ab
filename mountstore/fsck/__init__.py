"""What is wrong with a mount's state directory and its store, and putting it right without losing anything.

    check       the order of things: `check_state`, `check_store`
    findings    what a check says
    opened      the index as tables
    values      rows that no mount has written
    tree        names, nodes, links, keys
    staged      layers and their files
    objects     the index against the store
    bare        a store alone
    cache       a cache of blocks on the disk
    mending     repairs
    rebuild     an index that cannot be read as a whole

What a killed daemon leaves is no error: the table in vfs/reconcile.py says what the next mount does about it.
"""

from mountstore.fsck.check import check_cache, check_state, check_store
from mountstore.fsck.findings import Finding, Report

__all__ = ["Finding", "Report", "check_cache", "check_state", "check_store"]
