"""A process that races others for the same names; ``python -m tests.contract.racers STORE COUNT ID``.

STORE is a pickled store in Base64. Says "ready", waits for a line, tries to create every name in turn, and prints the
numbers it won.
"""

from __future__ import annotations

import base64
import pickle
import sys

from pghaven.errors import ObjectExists
from pghaven.store.api import Store


def main() -> None:
    count, identity = int(sys.argv[2]), sys.argv[3]
    store: Store = pickle.loads(base64.b64decode(sys.argv[1]))
    print("ready", flush=True)
    sys.stdin.readline()
    for number in range(count):
        try:
            store.create(f"race/{number % 7}/{number}", [identity.encode(), b" wrote this"])
        except ObjectExists:
            continue
        print(number)


if __name__ == "__main__":
    main()
