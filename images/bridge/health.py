"""Exit status 0 if a web address answers: the health check of compose.yaml for the bridge and JupyterLab."""

import sys
import urllib.request

PATIENCE = 5.0

with urllib.request.urlopen(sys.argv[1], timeout=PATIENCE):  # noqa: S310 - the address is in compose.yaml; raises for an answer that tells of an error
    pass
