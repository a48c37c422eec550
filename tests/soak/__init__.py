"""The product under churn for a long time: what is measured of it, and when that is too much.

| module | what |
|---|---|
| `judgement` | pure: flat or not, from a series of readings |
| `limits` | pure: how much of each figure, and which counters are errors |
| `containers` | reads the figures of each container of the product |
| `churn` | pods, sockets, leaks, profiles and policies that come and go |
| `leftovers` | what must be gone once the churn is |
| `record` | a table for people, and a file with every reading |
"""
