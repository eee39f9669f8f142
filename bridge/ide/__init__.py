"""Any IDE on the same kernel: kernelspecs that put a kernel into its picker, and what such a kernelspec starts.

The one rule: a kernel that somebody else uses too never ends, and its files never go, because an IDE was closed.
"""
