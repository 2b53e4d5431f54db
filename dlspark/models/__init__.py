"""The networks, by name, and the arithmetic of their layers."""
