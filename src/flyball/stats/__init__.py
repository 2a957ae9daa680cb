"""Numerics on NumPy alone, without I/O: evidence that holds when you peek, quality, drift.

Nothing is imported here, so that a serving worker pays only for the module it names.
"""
