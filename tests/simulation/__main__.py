"""``make simulate``: see ``check``."""

from __future__ import annotations

import sys

from tests.simulation.check import main

if __name__ == "__main__":
    sys.exit(1 if main(float(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 0) else 0)
