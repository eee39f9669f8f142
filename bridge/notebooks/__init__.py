"""A kernel's history as files that Jupyter's programs open: a notebook, or a script with cells.

The one rule: text in pieces, made from one cell after the other, so that a history of any size can be written; whatever
code printed, what comes out is valid.
"""
