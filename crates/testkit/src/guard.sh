# Holds one server for a test process. Arguments: a directory to make, then the server's command line.
# Standard input is a pipe from the test process, one command a line; its end means that the process has ended,
# whatever ended it, and then nothing may be left: no process, no shared memory, no directory.
# Every command is answered in one line, "ok ..." or "error ...", within the limits below.

# Ctrl-C and a closed terminal are for the test process, and its end is seen on the pipe.
trap '' HUP INT QUIT TERM PIPE
umask 077
directory=$1
shift
server=

# Sets $tree to process $1 and all its descendants. Not by process group: PostgreSQL's backends each start their own.
find_tree() {
    tree=$1
    level=$1
    while [ -n "$level" ]; do
        next=
        for stat in /proc/[0-9]*/stat; do
            { read -r line <"$stat"; } 2>/dev/null || continue
            line=${line##*) ? }
            case " $level " in
            *" ${line%% *} "*)
                child=${stat#/proc/}
                next="$next ${child%/stat}"
                ;;
            esac
        done
        tree="$tree$next"
        level=$next
    done
}

# Stops all of the tree. A parent that was forking while it was stopped can have one more child: look again.
freeze() {
    seen=
    find_tree "$server"
    while [ "$seen" != "$tree" ]; do
        seen=$tree
        kill -STOP $tree 2>/dev/null
        find_tree "$server"
    done
}

alive() {
    { read -r line <"/proc/$1/stat"; } 2>/dev/null || return 1
    line=${line##*) }
    [ "${line%% *}" != Z ]
}

# Waits until none of the given processes is alive, 10 s at most.
gone() {
    tries=1000
    for process in "$@"; do
        while alive "$process"; do
            tries=$((tries - 1))
            [ "$tries" -gt 0 ] || return 1
            sleep 0.01
        done
    done
}

# A frozen parent cannot start another child or clean up in between, so this is the crash of the whole server.
crash() {
    [ -n "$server" ] || return 0
    freeze
    kill -KILL $tree 2>/dev/null
    gone $tree || return 1
    wait "$server"
    server=
}

shut_down() {
    [ -n "$server" ] || return 0
    find_tree "$server"
    kill -CONT $tree 2>/dev/null
    kill -s "$1" "$server" 2>/dev/null
    gone "$server" || return 1
    wait "$server"
    server=
}

answer() {
    if [ "$1" -eq 0 ]; then echo "ok $server"; else echo "error"; fi
}

mkdir "$directory" || { echo "error cannot make $directory"; exit 1; }
answer 0
while read -r verb argument; do
    case $verb in
    start)
        crash
        "$@" </dev/null >>"$directory/log" 2>&1 &
        server=$!
        answer 0
        ;;
    kill) crash; answer $? ;;
    stop) shut_down "$argument"; answer $? ;;
    pause) freeze; answer 0 ;;
    resume) find_tree "$server"; kill -CONT $tree 2>/dev/null; answer 0 ;;
    *) answer 1 ;;
    esac
done

crash
# A killed PostgreSQL leaves the small System V segment that marks its directory as taken; line 7 names it.
segment=$(sed -n '7s/.* //p' "$directory/data/postmaster.pid" 2>/dev/null)
[ -z "$segment" ] || ipcrm -m "$segment" 2>/dev/null
# The dying test process may still have been writing here.
tries=100
until rm -rf "$directory" || [ "$tries" -eq 0 ]; do
    tries=$((tries - 1))
    sleep 0.01
done
