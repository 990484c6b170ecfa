# Completion of loom's commands, options, jobs and runs in fish. The wheel installs it; loom itself computes the answers.
set --local ask "env COLUMNS=1000 _LOOM_COMPLETE=complete_fish _TYPER_COMPLETE_ARGS=(commandline -cp)"
complete --command loom --no-files \
    --arguments "($ask _TYPER_COMPLETE_FISH_ACTION=get-args loom)" \
    --condition "$ask _TYPER_COMPLETE_FISH_ACTION=is-args loom"
