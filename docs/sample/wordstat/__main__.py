"""`wordstat [--top N] < text`: one word a line, the most frequent first."""

from __future__ import annotations

import argparse
import sys

from wordstat import top


def main() -> None:
    parser = argparse.ArgumentParser(prog="wordstat")
    parser.add_argument("--top", type=int, default=10, metavar="N")
    for word, count in top(sys.stdin.read(), parser.parse_args().top):
        print(f"{count:6d} {word}")


if __name__ == "__main__":
    main()
