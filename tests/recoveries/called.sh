# Calls a restore_command as PostgreSQL does, notes how it ended, and does around it what the case has asked for.
# $1: the directory of this recovery; $2, $3: what PostgreSQL puts in place of %f and %p.
RC=$1 RC_FILE=$2 RC_PATH=$3
export RC_FILE RC_PATH
if [ -f "$RC/before-$2" ]; then . "$RC/before-$2" >&2; fi
if [ -f "$RC/kill-$2" ]; then
    rm -f "$RC/kill-$2"
    sh "$RC/command" &
    shell=$!
    # Its first child is the program; a shell that has become the program has none.
    while kill -0 $shell 2>/dev/null; do
        read -r child rest <"/proc/$shell/task/$shell/children" 2>/dev/null && [ -n "$child" ] && break
        case $(tr '\0' ' ' <"/proc/$shell/cmdline" 2>/dev/null) in "sh $RC/command "*) ;; *) child=$shell; break ;; esac
    done
    kill -KILL ${child:-$shell} 2>/dev/null
    wait $shell
    status=$?
else
    sh "$RC/command"
    status=$?
fi
if [ -f "$RC/after-$2" ]; then . "$RC/after-$2" >&2; fi
echo "$2 $status" >>"$RC/calls"
exit $status
