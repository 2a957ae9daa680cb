"""How Flyball compares with the bare libraries underneath it: ratios measured side by side in one run."""
