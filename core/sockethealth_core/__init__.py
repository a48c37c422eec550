"""Judgement and vocabulary shared by node agent, operator and command line: no I/O, no clock."""
