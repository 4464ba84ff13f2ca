"""Models: one port (`driver`), and a driver for each wire protocol."""
