"""Which kernels there are, and which of them are connected: host kernels by their files, sandboxes by their launcher.

The one rule: whoever asks for a kernel, by whatever form of name, gets exactly one or an error that lists the
candidates; what is ambiguous is never guessed.
"""
