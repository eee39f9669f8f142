"""JupyterLab beside a shared kernel: that kernel is the only one in the picker. The token comes from a file."""

import os

from traitlets.config import get_config

c = get_config()
c.ServerApp.ip = "0.0.0.0"  # noqa: S104 - of its own container; compose publishes the port on 127.0.0.1 only
c.ServerApp.port = 8888
c.ServerApp.custom_display_url = os.environ["LAB_URL"]
c.ServerApp.open_browser = False
c.ServerApp.root_dir = "/notebooks"
# Host names that lead here from elsewhere are refused, as they are where it listens on the loopback address.
c.ServerApp.allow_remote_access = False
# Code is for the kernel, which is sealed; a shell in here would only be beside it.
c.ServerApp.terminals_enabled = False
c.MultiKernelManager.default_kernel_name = f"kernel-bridge-{os.environ['KERNEL_NAME']}"
c.KernelSpecManager.ensure_native_kernel = False
