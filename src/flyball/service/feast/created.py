"""Whether a table's created timestamps say when rows became known, or only when the table was written."""

from __future__ import annotations


def written_at_once(url: str, happened: str, known: str) -> str:
    """The one time in every row's ``known``, when that is after the last row happened; else nothing. Parquet files only."""
    path = url.removeprefix("parquet:")
    if path == url or not happened:
        return ""
    import polars as pl

    try:
        frame = pl.scan_parquet(path).select(
            low=pl.col(known).min(), high=pl.col(known).max(), last=pl.col(happened).max(), rows=pl.len()
        )
        row = frame.collect().row(0, named=True)
    except (OSError, pl.exceptions.PolarsError):
        return ""
    low, high, last = row["low"], row["high"], row["last"]
    if row["rows"] < 2 or low is None or last is None or low != high:
        return ""
    aware = [one if one.tzinfo is None else one.replace(tzinfo=None) for one in (low, last)]
    return str(aware[0]) if aware[0] >= aware[1] else ""
