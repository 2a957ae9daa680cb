"""What we are measured beside, where that takes more than a line: the least code that does the same."""
