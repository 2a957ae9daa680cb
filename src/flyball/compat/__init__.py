"""Other tools' old APIs, spoken by us: what people already have keeps working when its address changes."""
