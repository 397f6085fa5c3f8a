"""Hostile input: bytes into every parser of rnet. `python -m tests.fuzz --count 500000` is the long run.

A target takes bytes to a parser. The parser returns, or raises UserError; everything else is a finding, and so are more
than 5 s, 1 GB, a message of more than one line, and a file, process or connection opened outside of the work folder.
"""
