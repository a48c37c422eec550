"""What the targets are held against: `make bench`, or `python -m benchmarks --help`."""
