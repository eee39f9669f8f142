"""kernel-bridge: one live IPython kernel, shared by a person, their IDE and their AI agent. The map is README.md."""
