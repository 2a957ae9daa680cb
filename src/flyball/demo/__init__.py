"""The demo: nine months of a model's life on the real flights of 2013, in under three minutes.

``flights`` (the data), ``story`` (what happens when), ``replay`` (the year, through the real data plane), ``summary`` (what
it came to), ``timeline`` (what a person sees), ``report`` (the page with pictures), ``project`` (what a user would write).
"""

from __future__ import annotations

from pathlib import Path


def run_demo(folder: Path, *, as_json: bool, keep_up: bool) -> int:
    """Run the demo into ``folder``; exit code 0 when it went as the year was measured to go."""
    from flyball.demo.play import play

    return play(folder, as_json=as_json, keep_up=keep_up)
