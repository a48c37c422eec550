"""`sockethealth report`: one self-contained HTML page that tells an incident.

Sources (live, prometheus) read, timeline and changes make an Incident of what was read, words says it in sentences, svg
and page draw it. Only the sources do I/O.
"""
