"""The C++ engine's sources, and how many threads it uses."""
