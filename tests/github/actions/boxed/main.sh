#!/bin/sh
echo "main $# $1/$2 $OF_ACTION $STATE_kept $(pwd) $HOME"
cat seen; touch left; echo "$GIT_CONFIG_KEY_0=$GIT_CONFIG_VALUE_0"
test -s "$GITHUB_EVENT_PATH" && echo "said=$INPUT_WHO" >> "$GITHUB_OUTPUT"
echo "BOXED=1" >> "$GITHUB_ENV"
echo "::warning file=a.txt,line=3::careful"
