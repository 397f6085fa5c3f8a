"""The tables of a paper, made from plain records, and pictures of results."""
