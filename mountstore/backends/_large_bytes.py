"""Large results in memory that is asked for in large pieces, for a fault for each page costs half of a read.

Not in huge pages, which cost less still: on a machine that is itself virtual, and gave its free ones back,
64 MiB of these took five times as long now and then.
"""

from __future__ import annotations

import ctypes
import mmap
import os
from collections.abc import Callable

LARGE_BYTES = 4 << 20
"""From which size on this is worth it."""

_PAGE = mmap.PAGESIZE
_POPULATE_WRITE = 23  # of madvise(2), since Linux 5.14
_WRITE = 0x200  # PyBUF_WRITE

_python = ctypes.PyDLL(None)  # not `ctypes.pythonapi`, whose types others may set, too
_new = _python.PyBytes_FromStringAndSize
_new.restype, _new.argtypes = ctypes.py_object, (ctypes.c_void_p, ctypes.c_ssize_t)
_address = _python.PyBytes_AsString
_address.restype, _address.argtypes = ctypes.c_void_p, (ctypes.py_object,)
_view = _python.PyMemoryView_FromMemory
_view.restype, _view.argtypes = ctypes.py_object, (ctypes.c_void_p, ctypes.c_ssize_t, ctypes.c_int)
_madvise = ctypes.CDLL(None).madvise
_madvise.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)


def large_bytes(size: int, fill: Callable[[int, memoryview], None], step: int = 1 << 20) -> bytes:
    """`size` bytes (more than none), written by `fill`, which is called for each `step` of them, in order.

    It gets the number of the first, and where to write these, all of them; that is of no use afterwards.
    What it raises comes through. As C code may, it writes to a bytes object that nobody else has yet.
    """
    whole: bytes = _new(None, size)
    begin = _address(whole)
    view: memoryview = _view(begin, size, _WRITE)
    try:
        for at in range(0, size, step):
            with view[at : at + step] as piece:
                # Now, while what the kernel clears is in the processor's cache.
                have_pages(begin + at, begin + at + len(piece))
                fill(at, piece)
    finally:
        view.release()
    return whole


def have_pages(first: int, last: int) -> None:
    """Have the whole pages between two addresses there for writing; a hint, which may fail."""
    first, last = -(-first // _PAGE) * _PAGE, last // _PAGE * _PAGE
    if first < last:
        _madvise(first, last - first, _POPULATE_WRITE)


def read_fully(fd: int, view: memoryview, start: int) -> bool:
    """Fill `view` from a file at `start`; False if the file ends before. Raises OSError."""
    at = os.preadv(fd, [view], start) if view else 0
    while at < len(view):
        count = os.preadv(fd, [view[at:]], start + at)
        if not count:
            return False
        at += count
    return True
