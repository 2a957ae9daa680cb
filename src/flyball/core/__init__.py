"""Records, ids, hashing, clock, events, lineage and configuration: what every practice speaks in.

Only the standard library, msgspec and blake3; nothing here opens a file but :mod:`flyball.core.config`.
"""
