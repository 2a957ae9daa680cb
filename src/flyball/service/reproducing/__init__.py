"""A run again: ``preparing`` rebuilds its project in a fresh folder, ``again`` runs it there, ``comparing`` judges."""
