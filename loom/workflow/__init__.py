"""Load the user's file into values that know file, line and column of everything, before anything is decided.

Each language has a folder (`native`, `gitlab`, `github`); the modules here are what they share.
"""
