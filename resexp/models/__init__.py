"""Nets: blocks, connections, shortcuts, families, and the kernels behind them."""
