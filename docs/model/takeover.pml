/*
 * A key changes owners while its region, eu, is cut off from another, us.
 *
 * MODELLED
 *   One key and one write of it in eu, by the key's owner at that time. Three nodes, which
 *   join, leave, crash and (RESTARTS) come back under their ID, in any order, each event noticed
 *   at some later moment. What each node has: the write's floor with the node whose task it is to
 *   send it to us (its sender), the write in its outbox, and whether it has fetched the journals
 *   since it joined. In us: the floor, and a value from before the write, which lives for LIFE
 *   ticks from the write at most. Floors and outboxes are emptied after RETENTION ticks.
 *   The link between the regions is cut and heals at any moment, whatever the time.
 *
 * ABSTRACTED
 *   eu's views agree (that is lease.pml's subject), a write is told to all of a view in one step,
 *   and us is one node. A ring is an order of the nodes, one of two. A tick is longer than a repair
 *   takes: time stands still while the regions are joined and one is possible.
 *
 * CHECKED
 *   When the regions are joined and nothing more is to be done, us does not serve the value from
 *   before an acknowledged write, unless no node is left that knows of the write.
 *
 * SWITCHES      what is taken out                             alone     with RESTARTS=1
 *   (none)                                                    holds     holds
 *   NO_C        senders: the next owner looks at the owner    holds     holds: comparing finds it
 *               in the view before a death only
 *   NO_COVER    comparing covers less time than floors are    holds     fails: a sender that is back is
 *               kept for                                                a member, without its outbox
 *   NO_C NO_COVER                                             fails
 *   NO_COMPARE  comparing                                     holds     fails, for the same reason
 *   NO_COMPARE NO_C                                           fails
 *   NO_COMPARE NO_CARRY   journals have no senders            fails
 *   NO_HEIRS    sending for the dead                          holds
 *   NO_HEIRS NO_COVER                                         fails
 *   FOLDS=1     nothing; floors may collapse into that of     fails: nobody tells us of the floor of
 *               the group before their time                   eu's group
 */

#define N 3
#define RETENTION 4
#define LIFE 3
#ifdef NO_COVER
#define COVER 2
#else
#define COVER RETENTION
#endif
#ifndef RESTARTS
#define RESTARTS 0
#endif
#ifndef FOLDS
#define FOLDS 0
#endif

#define bit(j) (1 << (j))
#define has(m, j) (((m) >> (j)) & 1)
#define lowest(m) (has(m, 0) -> 0 : (has(m, 1) -> 1 : 2))
#define highest(m) (has(m, 2) -> 2 : (has(m, 1) -> 1 : 0))
#define owner(m) (order -> lowest(m) : highest(m))
#define NOBODY 3

/* eu */
byte alive;              /* the nodes that run */
byte members;            /* the view of all of them */
byte born;               /* those that have ever run */
bit order;               /* of the ring */
bit standing[N];         /* holds its lease: has fetched the journals since it joined */
bit floor[N];
bit folded[N];          /* into the floor of the group, which is no matter of other regions */
byte sender[N] = NOBODY; /* of the floor */
bit outbox[N];           /* has the write */
bit look[N];             /* members have changed, and this node has not looked yet for what it is to send */
byte departed[N];        /* owners in earlier views that it has not looked at yet */
bit written;
byte restarts = RESTARTS, folds = FOLDS;

/* us, and the way there */
bit told;                /* has the floor */
bit apart;               /* the regions are cut off from each other */
byte age;                /* of the write, in ticks */

#define runs(i) has(alive, i)
#define knows(i) (runs(i) && (floor[i] || folded[i]))
#define known (knows(0) || knows(1) || knows(2))

/* What each node may do, if it runs. */
#define mayJournal(i) (runs(i) && !standing[i] && has(members, i) && alive == members)
#define mayLook(i) (runs(i) && standing[i] && look[i] && has(members, i))
#define mayPush(i) (runs(i) && !apart && outbox[i] && !told)
#ifdef NO_COMPARE
#define mayCompare(i) false
#else
#define mayCompare(i) (runs(i) && !apart && floor[i] && !told && age < COVER)
#endif
#define may(i) (mayJournal(i) || mayLook(i) || mayPush(i) || mayCompare(i))
#define busy (alive != members || may(0) || may(1) || may(2))

inline start(i) {
	printf("%d joins\n", i);
	alive = alive | bit(i); born = born | bit(i)
}
inline stop(i) {
	printf("%d is gone\n", i);
	alive = alive & ~bit(i);
	floor[i] = 0; folded[i] = 0; sender[i] = NOBODY; outbox[i] = 0; look[i] = 0; departed[i] = 0; standing[i] = 0
}

/* Members change, and all that run notice. */
inline notice() {
	departed[0] = departed[0] | bit(owner(members));
	departed[1] = departed[1] | bit(owner(members));
	departed[2] = departed[2] | bit(owner(members));
	members = alive;
	look[0] = 1; look[1] = 1; look[2] = 1;
	if /* a node that is alone has nobody to fetch journals from */
	:: alive == bit(0) || alive == bit(1) || alive == bit(2) -> standing[lowest(alive)] = 1
	:: else
	fi;
	printf("members: %d\n", members)
}

inline from(i, j) {
	if
	:: j != i && has(members, j) && floor[j] && !floor[i] ->
		floor[i] = 1;
#ifndef NO_CARRY
		sender[i] = sender[j]
#endif
	:: else
	fi
}

inline send(i) { outbox[i] = 1; printf("%d is to send the floor now\n", i) }

inline lookAround(i) {
	look[i] = 0;
	if
#ifdef NO_HEIRS
	:: false
#else
#ifdef NO_C
	:: floor[i] && owner(members) == i && (departed[i] & ~members) -> send(i)
#else
	:: floor[i] && owner(members) == i && sender[i] != NOBODY && !has(members, sender[i]) -> send(i)
#endif
#endif
	:: else
	fi;
	departed[i] = 0
}

inline tell(i) {
	if :: has(members, i) -> floor[i] = 1; sender[i] = owner(members) :: else fi
}

inline fold(i) { folded[i] = floor[i]; floor[i] = 0 }

inline node(i) {
	if
	:: d_step { !has(born, i) || restarts && !runs(i) && !has(members, i) ->
		if :: has(born, i) -> restarts-- :: else fi;
		start(i) }
	:: d_step { runs(i) && alive != bit(i) -> stop(i) }
	:: d_step { folds && i == 0 && known -> folds--; printf("floors are folded\n"); fold(0); fold(1); fold(2) }
	:: d_step { mayJournal(i) ->
		printf("%d takes the journals\n", i);
		from(i, 0); from(i, 1); from(i, 2);
		standing[i] = 1 }
	:: d_step { mayLook(i) -> lookAround(i) }
	:: d_step { mayPush(i) -> outbox[i] = 0; told = 1; printf("us hears from %d\n", i) }
	:: d_step { mayCompare(i) -> told = 1; printf("us compares floors with %d\n", i) }
	:: d_step { !written && alive == members && owner(members) == i && standing[i] ->
		written = 1;
		tell(0); tell(1); tell(2);
		outbox[i] = 1;
		printf("%d writes\n", i) }
	fi
}

init {
	d_step { start(0); standing[0] = 1; members = alive }
	if
	:: order = 0
	:: order = 1
	fi;
end:	do
	:: node(0)
	:: node(1)
	:: node(2)
	:: d_step { alive != members -> notice() }
	:: d_step { apart = !apart; printf("regions apart: %d\n", apart) }
	:: d_step { written && age < RETENTION && (apart || !busy) ->
		age++;
		printf("age of the write: %d\n", age);
		if :: age == RETENTION ->
			floor[0] = 0; floor[1] = 0; floor[2] = 0; outbox[0] = 0; outbox[1] = 0; outbox[2] = 0
		:: else fi }
	:: atomic { written && known && !apart && !busy && !told && age < LIFE ->
		assert(false) /* us serves what is older */ }
	od
}
