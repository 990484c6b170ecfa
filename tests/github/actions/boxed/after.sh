#!/bin/sh
echo "after $STATE_kept"
