"""IPython's configuration for every kernel of the image: `exit` and `quit()` in a cell do not end a shared kernel.

The one rule: a cell of one client must not take the kernel away from the others. Only the person can undo it: a
`profile_default/ipython_kernel_config.py` in HOME comes after this file.
"""

from traitlets.config import get_config

SENTENCE = (
    "exit and quit() do not end this kernel: others may be using it. "
    "Close your client to leave, or stop it with: kernel-bridge stop NAME"
)

c = get_config()
c.IPKernelApp.exec_lines.append(f"get_ipython().ask_exit = lambda: print({SENTENCE!r})")
