"""The node's sysctl writer: the only part of the project that changes a node, and a program of its own."""
