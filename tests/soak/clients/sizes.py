"""How large bodies are."""

SIZES = (0, 1, 1000, 20_000, 65_536, 300_000, 700_000, 4_000_000)
"""Of bodies: on both sides of every bound."""
SIZES_FOR_FAULTS = (20_000, 20_000, 1_500_000)
