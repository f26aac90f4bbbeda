"""Fuzzing: oracles that take any bytes, the corpus that they are fed with, and what feeds them."""
