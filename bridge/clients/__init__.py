"""MCP clients: where each keeps its configuration, what an entry for the bridge holds, and how it gets there.

The one rule: nothing but our own entry in a configuration is ever changed, and an entry holds only what a bare
environment lacks: clients start servers with hardly more than HOME and PATH.
"""
