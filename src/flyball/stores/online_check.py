"""Whether an online store is whole, and what to do when it is not: set it aside and fill it anew."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from flyball.errors import Unavailable
from flyball.stores.online import open_online

_REBUILD = "fill it again: flyball features materialize --rebuild"
_CHECK = """
import sys
from flyball.errors import FlyballError
from flyball.stores.online import open_online
try:
    print(open_online(sys.argv[1], readonly=True).check())
except FlyballError as error:
    sys.exit(error.what)
"""


def check(url: str, *, timeout_s: float = 3600.0) -> int:
    """Read every chunk of a store and compare its sum; returns how many there are.

    A store that is damaged is :class:`Unavailable`, and says so. Some GB a second; in a process of its own, since the
    damaged pages of a memory map can end the process that follows them.
    """
    if not url.startswith("lmdb:"):
        return open_online(url, readonly=True).check()
    asked = [sys.executable, "-c", _CHECK, url]
    try:
        done = subprocess.run(asked, capture_output=True, text=True, timeout=timeout_s, check=False)
    except subprocess.TimeoutExpired as error:
        raise Unavailable(
            f"the online store {url} was not read through in {timeout_s:.0f} s", _REBUILD
        ) from error
    if done.returncode == 0:
        return int(done.stdout)
    because = done.stderr.strip().splitlines()[-1:] if done.returncode > 0 else []
    said = because[0] if because else f"reading it ended with signal {-done.returncode}"
    raise Unavailable(f"the online store {url} is corrupt: {said}", _REBUILD, store=url)


def set_aside(url: str) -> Path | None:
    """Put an empty store in the place of one that is corrupt or of another version; returns where the old one lies now.

    ``None`` when there was nothing, and for a store elsewhere, whose views are cleared instead. Marks go with the rows:
    what fills the store next begins at the beginning.
    """
    if not url.startswith("lmdb:"):
        store = open_online(url)
        for view in store.views():
            store.clear(view)
        store.close()
        return None
    from flyball.stores.online_lmdb_files import set_aside as move

    return move(url)
