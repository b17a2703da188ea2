"""Measured ratios, for `make bench`. Not part of the product."""
