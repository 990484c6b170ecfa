# Print the package of command $1 as the indexes in this image know it: the manager, `command` or (a package of that very name)
# `name`, and the package. Prints nothing without an index. It only reads files.
export LC_ALL=C
exec </dev/null 2>/dev/null

lists() {
    for list in /var/lib/apt/lists/*"$1"*; do
        [ -f "$list" ] && /usr/lib/apt/apt-helper cat-file "$list"
    done
}

{
    /usr/lib/command-not-found -- "$1" 2>&1 | sed -nE 's/^(sudo )?apt +install ([^ ]+).*/apt command \2/p' | grep . ||
        # Of apt-file: a path, and section/package of each that has it.
        lists Contents- | grep -F "bin/$1" | awk -v name="$1" '
            $1 == "usr/bin/" name || $1 == "usr/sbin/" name || $1 == "bin/" name || $1 == "sbin/" name {
                sub(/,.*/, "", $NF); sub(/.*\//, "", $NF); print "apt command " $NF
            }' | grep . ||
        apk search --no-network -q -x "cmd:$1" | sed 's/^/apk command /' | grep . ||
        lists _Packages | grep -Fx "Package: $1" | sed 's/^Package:/apt name/'
} | head -n 1
