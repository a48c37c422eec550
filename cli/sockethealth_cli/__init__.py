"""The command line: scan without a cluster, and the kubectl plugin."""
