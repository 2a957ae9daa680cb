"""Suites that every engine of a seam must pass; third parties run them on theirs.

Subclass a suite in a test module and give it the fixture it asks for.
"""
