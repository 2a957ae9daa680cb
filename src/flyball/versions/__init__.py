"""Practice 1: what data, code and environment a thing was made from, kept by digest.

:mod:`~flyball.versions.data` keeps snapshots, :mod:`~flyball.versions.code` the project's code as it ran,
:mod:`~flyball.versions.environment` Python and every installed package.
"""
