#!/bin/sh
# Has spin check every line of the file checks, two at a time, and prints a line for each. The exit
# status is 0 if all outcomes are the expected ones. With a model and switches, as in
#	docs/model/run.sh lease -DLISTS=2 -DNO_HEARD
# it checks that, and prints how what must not happen comes about.
set -u
cd "$(dirname "$0")" || exit 2
for tool in spin gcc; do
	command -v "$tool" >/dev/null && continue
	echo "$tool is missing. On Debian: apt-get install spin gcc" >&2
	exit 2
done

# outcome MODEL FLAGS... builds and runs in the present directory, and says "holds" or "fails" and how
# many states were looked at, or what went wrong.
outcome() {
	model=$1; shift
	case " $* " in *" -DLAG "*) safety=; cycles=-a ;; *) safety=-DSAFETY; cycles= ;; esac
	if ! { spin -a "$@" "$model.pml" && gcc -O2 -w -DNOREDUCE $safety -o pan pan.c; } >build 2>&1; then
		echo "broken: $(tail -n 1 build)"
		return
	fi
	nice ./pan $cycles -m100000 -w22 >out 2>&1
	states=$(sed -n 's/^ *\([0-9]*\) states, stored.*/\1/p' out)
	if grep -q 'assertion violated\|acceptance cycle' out; then
		echo "fails $states"
	elif grep -q 'errors: 0' out && ! grep -q 'too small\|not completed' out; then
		echo "holds $states"
	else
		echo "broken: the search has not come to its end"
	fi
}

tmp=$(mktemp -d) || exit 2
trap 'rm -rf "$tmp"' EXIT
cp ./*.pml "$tmp"
case ${1-} in
'')
	sed 's/#.*//' checks | grep . | xargs -P 2 -I '{}' ./run.sh -expect '{}' || exit 1
	;;
-expect)
	# shellcheck disable=SC2086
	set -- $2
	want=$1; shift
	cd "$tmp" || exit 2
	got=$(outcome "$@")
	verdict=ok; case $got in "$want "*) ;; *) verdict=WRONG ;; esac
	printf '%-5s  %-14s  %s\n' "$verdict" "$got" "$*"
	[ "$verdict" = ok ]
	;;
*)
	cd "$tmp" || exit 2
	outcome "$@"
	if [ -f "$1.pml.trail" ]; then
		model=$1; shift
		spin -t "$@" "$model.pml" | sed '/^spin: trail ends/,$d'
	fi
	;;
esac
