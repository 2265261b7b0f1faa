/*
 * One region whose nodes differ in whom they see, and in who owns a key.
 *
 * MODELLED
 *   Three nodes (TWO: two), each with its own discovery (list and weights), what it sees of the
 *   others, and hence its view and ring. Pings carry a view; a node that is pinged grants a lease or not,
 *   and says which leases under other views still run. Leases that are held, lost and resumed; journals.
 *   Two compare-and-swaps of the same version, or (SET) a Set by node 0. The rules of "The lease protocol"
 *   in docs/design.md are named by their numbers below.
 *   All have been in one view for long when the following happens at any moment, each as often as
 *   its switch says: a discovery lists others than before (LISTS); it has other weights (WEIGHTS); the
 *   links in CUT, a set of bits, are cut and heal, unless it STAYS (CUTS); node VICTIM dies (CRASHES);
 *   a node pauses until a lease ends (PAUSES); 2 becomes a guest of the region, and comes back (GUESTS).
 *   GONE: 2 has just died. LATE: a ping may arrive after its sender has another view.
 *   LAG: all have just come, nothing happens to them, but 0's discovery never lists 1.
 *
 * ABSTRACTED
 *   Time: a lease ends at any moment from when it cannot be renewed, at its granter as early as at
 *   its holder. A ring is its IDs and one bit: the lowest or the highest node owns the key. Of values
 *   there is only whether a node's floor is above the version that both swaps expect. Messages take no
 *   time, late pings excepted. Outside of LAG nobody vouches: to the rest it is a list that changes.
 *
 * CHECKED
 *   S1  No two swaps of one version are acknowledged, unless in parts of a region that was parted.
 *   S2  When the Set has returned, each node that holds a lease has its floor, unless it was in another part.
 *   L   (LAG) In the end each node holds a lease of each other, for ever.
 *
 * SWITCHES, each of which takes something out                           what fails
 *   NO_A         weights in a view's hash, and of rule 11 all but a     S1
 *                lease of any kind
 *   NO_SAMEVIEW  leases must be for pings with this view (rule 11)      S1, if both are out
 *   NO_ANSWERS   all have answered this view; their leases are over (6)
 *   NO_OTHERS    only the latter (6)                                    S2
 *   NO_OWN       this node's own leases to others are over (6)          S2; S1 if NO_HEARD, too
 *   NO_HEARD     nobody pings this node with another view (11)          S1
 *   NO_STANDING  after a loss all journals have been fetched (5)        S1
 *   NO_TAKEN     those of newcomers to the view have been fetched (11)  S1
 *   NO_CHANGE    same view since the first look (11)                    S1
 *   NO_BREAK     no lease lost since the first look (11)                S1
 *   NO_SECOND, NO_LAST, NO_AGAIN   in a term after the stamp, and when all are told; the value is
 *                the expected one at the stamp, too                     nothing, with the last two rules
 *   NO_I         vouching                                               L
 *   NO_SURRENDER a guest gives its lease up before it says so (10)      S2
 * and those that add something:
 *   RING_AHEAD   who owns the key is looked up in a newer ring than the view's   S1
 *   MUTUAL, TWO  nor does 1 find 0; there is no third                            L
 *   WEIGHT_LAGS  0 has other weights for ever                                    L
 */

#define N 3
#ifdef TWO
#define ALL 3
#else
#define ALL 7
#endif
#ifndef LISTS
#define LISTS 0
#endif
#ifndef WEIGHTS
#define WEIGHTS 0
#endif
#ifndef CUT
#define CUT 1
#endif
#ifndef VICTIM
#define VICTIM 2
#endif
#ifndef CUTS
#define CUTS 0
#endif
#ifndef CRASHES
#define CRASHES 0
#endif
#ifndef PAUSES
#define PAUSES 0
#endif
#ifndef GUESTS
#define GUESTS 0
#endif
#define at(a, b) ((a) * N + (b))
#define bit(j) (1 << (j))
#define has(m, j) (((m) >> (j)) & 1)
#define ids(v) ((v) & 7)
#define J1 ((i + 1) % N) /* the other two, for node i */
#define J2 ((i + 2) % N)

/* What each node knows of its region. A view is the IDs in it, and 8 with the second weights. */
byte list[N], wt[N], see[N], view[N];

byte lease[N * N]; /* at(granter, holder): the view under which the lease that runs was granted, or 0 */
byte heard[N * N]; /* at(granter, client): the view of the client's last ping; 0 when forgotten */
byte ans[N * N];   /* at(client, granter): 8 if it has answered this view; whose leases under others run */
byte late[N * N];  /* at(client, granter): the former view of a ping that is still under way */
byte copies[N];    /* the lease that is held: 8 and its granters; 0 when it has been lost */
byte resume[N];    /* the same of one that is coming back */
byte taken[N];     /* whose journals have been fetched since they came into the view */
bit floor[N];      /* is above the old version */
bit dead[N];
byte cut;          /* links: bit(0) is 0-1, bit(1) 0-2, bit(2) 1-2 */
bit parted;        /* the network has been */
bit guest;         /* 2 is one */
bit knows[N];      /* that it is */
byte lists = LISTS, weights = WEIGHTS, cuts = CUTS, crashes = CRASHES, pauses = PAUSES, guests = GUESTS;
bit ready;

/* The writes: op[0] and op[1] swap the old version, or op[0] is a Set. */
mtype = { idle, looked, stamped, telling, done, failed };
mtype op[2] = idle;
byte by[2], told[2], under[2];
byte apart;        /* who had no node in common with the view of the first when that was acknowledged */

/* Once one has failed, nothing is to be found any more. */
#define running (ready && op[0] != failed && op[1] != failed && !(op[0] == done && op[1] == done))

#define link(i, j) (!dead[i] && !dead[j] && !has(cut, (i) + (j) - 1))
#define alone(i, j, k) (!dead[i] && !link(i, j) && !link(i, k) && !(dead[j] && dead[k]))
#define isParted (alone(0, 1, 2) || alone(1, 0, 2) || alone(2, 0, 1))

#if defined(LAG) && !defined(NO_I)
#define vouched(i, j, k) (heard[at(i, j)] && has(list[i], k) && has(list[k], j))
#else
#define vouched(i, j, k) false
#endif
#define listed(i) (list[i] | (vouched(i, J1, J2) << J1) | (vouched(i, J2, J1) << J2))
#define seen(i) ((listed(i) & see[i] & ~(knows[i] << 2)) | bit(i))
#define isGuest(i) ((i) == 2 && guest)
#define asGuest 16 /* its view, with nobody in it */

#ifdef NO_A
#define hash(i) (isGuest(i) -> asGuest : seen(i))
#else
#define hash(i) (isGuest(i) -> asGuest : seen(i) | (wt[i] << 3))
#endif
#define lowest(m) (has(m, 0) -> 0 : (has(m, 1) -> 1 : 2))
#define highest(m) (has(m, 2) -> 2 : (has(m, 1) -> 1 : 0))
#if defined(NO_A) || defined(RING_AHEAD)
#define owns(i) (!isGuest(i) && (wt[i] -> highest(seen(i)) : lowest(seen(i))) == i)
#else
#define owns(i) (!isGuest(i) && (has(view[i], 3) -> highest(view[i]) : lowest(view[i])) == i)
#endif

#define in(i, j) has(view[i], j)
#define others(i) (ids(view[i]) & ~bit(i))
#define holds(i, j) (!in(i, j) || lease[at(j, i)])
#define leased(i) (others(i) && holds(i, J1) && holds(i, J2))

#ifdef NO_SAMEVIEW
#define granted(i, j) holds(i, j)
#else
#define granted(i, j) (!in(i, j) || lease[at(j, i)] == view[i])
#endif
#ifdef NO_ANSWERS
#define answered(i, j) true
#elif defined(NO_OTHERS)
#define answered(i, j) (!in(i, j) || ans[at(i, j)])
#else
#define answered(i, j) (!in(i, j) || ans[at(i, j)] == 8)
#endif
#ifdef NO_OWN
#define ended(i, j) true
#else
#define ended(i, j) (lease[at(i, j)] == 0 || lease[at(i, j)] == view[i])
#endif
#define settled(i) (answered(i, J1) && answered(i, J2) && ended(i, J1) && ended(i, J2))
#ifdef NO_STANDING
#define standing(i) true
#else
#define standing(i) (copies[i] || !others(i))
#endif
#ifdef NO_TAKEN
#define acquainted(i) true
#else
#define acquainted(i) ((others(i) & ~taken[i]) == 0)
#endif
#ifdef NO_HEARD
#define agrees(i, j) true
#else
#define agrees(i, j) (heard[at(i, j)] == 0 || heard[at(i, j)] == view[i])
#endif
#ifdef NO_A
#define undisputed(i) (copies[i] || !others(i))
#else
#define undisputed(i) (granted(i, J1) && granted(i, J2) && settled(i) && standing(i) && acquainted(i) && \
	agrees(i, J1) && agrees(i, J2))
#endif

/* A swap that is under way at i ends as "uncertain". */
inline fail(i) {
	if :: op[0] != idle && op[0] != done && by[0] == i -> op[0] = failed :: else fi;
	if :: op[1] != idle && op[1] != done && by[1] == i -> op[1] = failed :: else fi
}
#ifdef SET
#define disturbed(i) skip
#define broken(i) skip
#else
#ifdef NO_CHANGE
#define disturbed(i) skip
#else
#define disturbed(i) fail(i)
#endif
#ifdef NO_BREAK
#define broken(i) skip
#else
#define broken(i) fail(i)
#endif
#endif

inline renew(i) { if :: copies[i] && leased(i) -> copies[i] = 8 | others(i) :: else fi }

inline over(g, h) { /* g's lease to h does not count any more */
	ans[at(0, g)] = ans[at(0, g)] & ~bit(h);
	ans[at(1, g)] = ans[at(1, g)] & ~bit(h);
	ans[at(2, g)] = ans[at(2, g)] & ~bit(h)
}

/* Members: this node follows what it knows now. */
inline follow() {
	if
	:: hash(i) != view[i] ->
#ifdef LATE
		late[at(i, J1)] = (in(i, J1) -> view[i] : 0);
		late[at(i, J2)] = (in(i, J2) -> view[i] : 0);
#endif
		ans[at(i, J1)] = 0; ans[at(i, J2)] = 0;
		view[i] = hash(i);
		printf("%d has view %d\n", i, view[i]);
		taken[i] = taken[i] & view[i];
		renew(i);
		disturbed(i)
	:: else
	fi
}
#ifdef RING_AHEAD
#define followed skip
#else
#define followed follow()
#endif
inline discovers(m) { d_step { lists && list[i] != (m) -> lists--; list[i] = m; followed } }
inline notices(j) {
	d_step { has(see[i], j) != link(i, j) -> see[i] = see[i] ^ bit(j); followed }
}

/* Guests. */
inline surrenders() {
	d_step { guests && i == 2 && !guest ->
		printf("%d becomes a guest\n", i);
		guests--; guest = 1;
#ifndef NO_SURRENDER
		copies[i] = 0;
#endif
		resume[i] = 0; follow() }
}
inline comesBack() { d_step { isGuest(i) -> printf("%d comes back\n", i); guest = 0; taken[i] = 0; follow() } }
inline learns() { d_step { i != 2 && link(i, 2) && knows[i] != guest -> knows[i] = guest; followed } }

/* Leases: this node pings g with view v. The answer counts for settling if that is its present view. */
#define agree(g, k) (heard[at(g, k)] == 0 || heard[at(g, k)] == view[g])
#define agreeAll(g) (agree(g, 0) && agree(g, 1) && agree(g, 2))
#define other(g, h, v) ((lease[at(g, h)] != 0 && lease[at(g, h)] != v) << (h))
inline exchange(g, v, present) {
	printf("%d pings %d with view %d\n", i, g, v);
	heard[at(g, i)] = (v == asGuest -> 0 : v);
	if
	:: v == asGuest -> lease[at(g, i)] = 0; over(g, i)
	:: v != asGuest && v == view[g] && agreeAll(g) ->
		lease[at(g, i)] = (dead[i] -> 0 : v);
		over(g, i);
		renew(i);
		printf("%d has a lease of %d\n", i, g)
	:: else
	fi;
	if
	:: present ->
		ans[at(i, g)] = (ans[at(i, g)] -> ans[at(i, g)] : 15) &
			(8 | other(g, 0, v) | other(g, 1, v) | other(g, 2, v))
	:: else
	fi
}
#define changes(g) (isGuest(i) -> lease[at(g, i)] || heard[at(g, i)] : heard[at(g, i)] != view[i] || !ans[at(i, g)] || \
	lease[at(g, i)] != view[i] && view[g] == view[i] && agreeAll(g))
inline ping(g) {
	d_step { link(i, g) && has(listed(i), g) && changes(g) ->
		 late[at(i, g)] = 0; exchange(g, view[i], true) }
}
inline pingLate(g) {
	d_step { late[at(i, g)] && !dead[g] && !has(cut, i + g - 1) ->
		exchange(g, late[at(i, g)], false);
		late[at(i, g)] = 0 }
}

/* A lease ends when it cannot be renewed, or there is a pause. Only a node that does not ping is forgotten. */
#define pings(c) (link(i, c) && has(list[c], i))
#define renewable(g) (link(i, g) && has(list[i], g) && view[i] == view[g] && agreeAll(g))
inline ends(g) {
	d_step { lease[at(g, i)] && (pauses || !renewable(g)) ->
		if :: renewable(g) -> pauses-- :: else fi;
		printf("the lease of %d by %d ends\n", i, g);
		lease[at(g, i)] = 0;
		over(g, i);
		if :: has(copies[i], g) -> copies[i] = 0; broken(i) :: else fi;
		if :: has(resume[i], g) -> resume[i] = 0 :: else fi }
}
inline forgets(c) {
	d_step { heard[at(i, c)] && !lease[at(i, c)] && !pings(c) ->
		printf("%d forgets %d\n", i, c);
		heard[at(i, c)] = 0; ans[at(c, i)] = 0 }
}

/* Journals: of newcomers, and of all after the lease was lost. */
inline acquaints(j) {
	d_step { copies[i] && leased(i) && in(i, j) && !has(taken[i], j) && link(i, j) ->
		printf("%d takes the journal of %d\n", i, j);
		floor[i] = floor[i] | floor[j]; taken[i] = taken[i] | bit(j) }
}
#define reaches(i, j) (!in(i, j) || link(i, j))
inline resumes() {
	if
	:: d_step { !copies[i] && !resume[i] && leased(i) && reaches(i, J1) && reaches(i, J2) ->
		printf("%d takes all journals\n", i);
		floor[i] = floor[i] | (in(i, J1) && floor[J1]) | (in(i, J2) && floor[J2]);
		resume[i] = 8 | others(i) }
	:: d_step { resume[i] ->
		printf("%d has its copy lease back\n", i);
		copies[i] = resume[i]; resume[i] = 0;
		if :: ids(copies[i]) == others(i) -> taken[i] = others(i) :: else fi }
	fi
}

/* Writes. */
#define allTold(k) ((others(i) & ~told[k]) == 0)
inline acknowledge(k) {
	printf("%d acknowledges write %d under view %d\n", i, k, view[i]);
	op[k] = done; under[k] = ids(view[i]);
	if
	:: op[1 - k] == done -> /* S1 */
		assert(!(under[0] & under[1]) && (parted || has(apart, i)))
	:: else ->
		apart = ((view[0] & under[k]) -> 0 : 1) | ((view[1] & under[k]) -> 0 : 2) | ((view[2] & under[k]) -> 0 : 4)
	fi
}
inline tell(k, j) {
	d_step { op[k] == telling && by[k] == i && in(i, j) && !has(told[k], j) && link(i, j) ->
		printf("%d tells %d of write %d\n", i, j, k);
		floor[j] = 1; told[k] = told[k] | bit(j);
#ifndef SET
		if
#ifndef NO_LAST
		:: !undisputed(i) -> op[k] = failed
#endif
		:: else -> if :: allTold(k) -> acknowledge(k) :: else fi
		fi
#endif
	}
}
#define unlocked(k) (k == 0 || op[0] != idle && !(op[0] == looked && by[0] == i))
inline swap(k) {
	if
	:: d_step { op[k] == idle && unlocked(k) && !floor[i] && owns(i) && undisputed(i) ->
		printf("%d looks before swap %d\n", i, k);
		op[k] = looked; by[k] = i }
	:: d_step { op[k] == looked && by[k] == i ->
		printf("%d stamps swap %d\n", i, k);
#ifdef NO_AGAIN
		op[k] = stamped;
#else
		op[k] = (floor[i] -> failed : stamped);
#endif
		floor[i] = 1 }
	:: d_step { op[k] == stamped && by[k] == i ->
		if
#ifndef NO_SECOND
		:: !undisputed(i) -> op[k] = failed
#endif
		:: else -> op[k] = telling; if :: allTold(k) -> acknowledge(k) :: else fi
		fi }
	:: tell(k, J1)
	:: tell(k, J2)
	fi
}
inline set() {
	if
	:: d_step { op[0] == idle && i == 0 ->
		printf("%d stamps a Set\n", i);
		op[0] = telling; by[0] = i; floor[i] = 1 }
	:: tell(0, J1)
	:: tell(0, J2)
	:: d_step { op[0] == telling && by[0] == i && allTold(0) && settled(i) -> acknowledge(0) }
	fi
}

active [N] proctype node() provided (running && !dead[_pid]) {
	byte i = _pid;
end:	do
	:: ping(J1)
	:: ping(J2)
#if defined(LAG) || defined(RING_AHEAD)
	:: d_step { hash(i) != view[i] -> follow() }
#endif
#ifndef LAG
#ifdef LATE
	:: pingLate(J1)
	:: pingLate(J2)
#endif
	:: ends(J1)
	:: ends(J2)
	:: forgets(J1)
	:: forgets(J2)
	:: acquaints(J1)
	:: acquaints(J2)
	:: resumes()
	:: notices(J1)
	:: notices(J2)
	:: surrenders()
	:: comesBack()
	:: learns()
	:: discovers(ALL)
	:: discovers(ALL & ~bit(J1))
	:: discovers(ALL & ~bit(J2))
	:: discovers(bit(i))
	:: d_step { weights -> weights--; wt[i] = !wt[i]; followed }
#ifndef GONE
	:: d_step { crashes && i == VICTIM -> crashes--; dead[i] = 1; parted = parted || isParted;
		printf("%d dies\n", i);
		lease[at(0, i)] = 0; over(0, i); lease[at(1, i)] = 0; over(1, i); lease[at(2, i)] = 0; over(2, i);
		fail(i) }
#endif
	:: d_step { cuts && !cut && i == 0 -> cuts--; cut = CUT; parted = parted || isParted; printf("a cut\n") }
#ifndef STAYS
	:: d_step { cut && i == 0 -> cut = 0; printf("the network heals\n") }
#endif
#ifdef SET
	:: set()
#else
	:: swap(0)
	:: swap(1)
#endif
#endif
	od
}

#ifdef SET
#define stale(i) (!dead[i] && copies[i] && !floor[i] && !has(apart, i) && (!parted || has(under[0], i)))
active proctype S2() {
end:	atomic { op[0] == done && (stale(0) || stale(1) || stale(2)) -> assert(false) }
}
#endif

#ifdef LAG
#define stands(g, h) (!has(ALL, g) || !has(ALL, h) || lease[at(g, h)] == ALL)
#define bothStand(g, h) (stands(g, h) && stands(h, g))
#define allStand (bothStand(0, 1) && bothStand(0, 2) && bothStand(1, 2))
ltl L { <> [] allStand }
#endif

inline old(g, h) {
	if
	:: has(ALL, g) && has(ALL, h) -> lease[at(g, h)] = ALL; heard[at(g, h)] = ALL; ans[at(h, g)] = 8
	:: else
	fi
}
/* All have been in one view for long; or under LAG each has just come, and 0 has not found 1. */
inline begin(i) {
	list[i] = ALL; see[i] = ALL; dead[i] = !has(ALL, i);
#ifdef LAG
	view[i] = bit(i);
#else
	view[i] = ALL; taken[i] = ALL; copies[i] = 8 | ALL & ~bit(i);
	old(i, J1); old(i, J2)
#endif
}
init {
	d_step { begin(0); begin(1); begin(2);
#ifdef LAG
		list[0] = ALL & ~bit(1);
#ifdef MUTUAL
		list[1] = ALL & ~bit(0);
#endif
#ifdef WEIGHT_LAGS
		wt[0] = 1;
#endif
#endif
#ifdef GONE
		dead[2] = 1; lease[at(0, 2)] = 0; lease[at(1, 2)] = 0;
#endif
		ready = 1 }
}
