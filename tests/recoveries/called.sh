# Calls a restore_command as PostgreSQL does, notes how it ended, and does around it what the case has asked for.
# $1: the directory of this recovery; $2, $3: what PostgreSQL puts in place of %f and %p.
RC=$1 RC_FILE=$2 RC_PATH=$3
export RC_FILE RC_PATH
if [ -f "$RC/before-$2" ]; then . "$RC/before-$2" >&2; fi
if [ -f "$RC/kill-$2" ]; then
    rm -f "$RC/kill-$2"
    # The shell with all that it has started, as soon as they are a group of their own.
    setsid sh "$RC/command" &
    shell=$!
    until kill -KILL -$shell 2>/dev/null; do kill -0 $shell 2>/dev/null || break; done
    wait $shell
    status=$?
else
    sh "$RC/command"
    status=$?
fi
if [ -f "$RC/after-$2" ]; then
    . "$RC/after-$2" >&2
    if [ -f "$RC/once" ]; then rm -f "$RC/before-$2" "$RC/after-$2"; fi
fi
echo "$2 $status" >>"$RC/calls"
exit $status
