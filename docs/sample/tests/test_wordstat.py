from __future__ import annotations

import unittest

from wordstat import top, words


class Words(unittest.TestCase):
    def test_are_lower_cased(self) -> None:
        self.assertEqual(words("Fox and fox"), ["fox", "and", "fox"])

    def test_keep_their_apostrophe(self) -> None:
        self.assertEqual(words("don't"), ["don't"])


class Top(unittest.TestCase):
    def test_counts_and_orders(self) -> None:
        self.assertEqual(top("b a b", 2), [("b", 2), ("a", 1)])

    def test_prefers_the_earlier_of_equals(self) -> None:
        self.assertEqual(top("a b", 1), [("a", 1)])


if __name__ == "__main__":
    unittest.main()
