"""A process that races others for the same names; ``python -m tests.contract.racers URL COUNT ID``.

Says "ready", waits for a line, tries to create every name in turn, and prints the numbers it won.
"""

from __future__ import annotations

import sys

from pghaven.errors import ObjectExists
from pghaven.store.open import open_store


def main() -> None:
    url, count, identity = sys.argv[1], int(sys.argv[2]), sys.argv[3]
    store = open_store(url)
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
