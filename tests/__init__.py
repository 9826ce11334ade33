"""The tests, flat by subject; they run the real entry points on the offline worlds."""
