#!/bin/sh
echo "before $# $1"; echo "kept=yes" >> "$GITHUB_STATE"
