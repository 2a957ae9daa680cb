"""Watch: windows of predictions and labels, quality with its own variation, drift, freshness."""
