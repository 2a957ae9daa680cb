"""Lineage of everything in a workspace: the graph, rechecked, as a tree, a picture, or OpenLineage's events.

``words`` finds what a person means, ``nouns`` says what each record refers to, ``reading`` builds the graph from the
ledger's edges and the records' own words, ``verifying`` recomputes; ``tree``, ``drawing`` and ``openlineage`` show it.
"""
