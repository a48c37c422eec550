"""The operator: judges facts by policies, and acts on workloads, Events and roll-outs."""
