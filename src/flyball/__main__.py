"""``python -m flyball`` is ``flyball``."""

from flyball.cli import main

main()
