"""Weft's figures, measured: `make bench`. Shares nothing with the product but its public parts."""
