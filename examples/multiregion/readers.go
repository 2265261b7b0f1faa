package main

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/geocache/geocache"
)

// readers read rows at a steady rate and tally what they see. A read that takes
// long holds up no other, so a slow cache does not hide behind fewer reads.
type readers struct {
	rows     table
	accounts table
	ttl      time.Duration // of rows
	patience patience
	rate     float64

	end     context.CancelFunc // ends the reading; nil before the first scene
	running sync.WaitGroup     // everything that stop waits for

	mu      sync.Mutex // guards the following
	scene   int
	table   *table         // that is read
	tallies map[int]*tally // by scene, since the last report
	read    []bool         // by key: read before by this process
	watched []bool         // by key: read before, and owned by the watched node; nil if there is none
}

// A table is a group, and which of its keys are read.
type table struct {
	group *geocache.Group[row]
	keys  func() int
}

func newReaders(config nodeConfig, rows, accounts *geocache.Group[row]) (*readers, error) {
	account := zipfKeys(config.Seed, config.Zipf, config.Accounts)
	r := &readers{
		rows:     table{rows, zipfKeys(config.Seed, config.Zipf, config.Rows)},
		accounts: table{accounts, func() int { return config.Rows + account() }},
		ttl:      config.TTL,
		patience: config.Patience,
		rate:     config.Rate,
		tallies:  make(map[int]*tally),
		read:     make([]bool, config.Rows+config.Accounts),
	}
	var err error
	if config.Keys != "" {
		r.rows.keys, err = fileKeys(config.Keys)
	}
	return r, err
}

// enter counts reads to another scene from now on. The first one starts the
// reading.
func (r *readers) enter(c command, p *parent) {
	r.mu.Lock()
	r.scene, r.watched, r.table = c.Scene, nil, &r.rows
	if c.Accounts {
		r.table = &r.accounts
	}
	r.mu.Unlock()
	r.report(p)
	if c.Watch != "" {
		r.watch(c.Watch)
	}
	if r.end != nil {
		return
	}
	ctx, cancel := context.WithCancel(context.Background())
	r.end = cancel
	r.running.Go(func() { r.issue(ctx) })
	r.running.Go(func() {
		for ticker := time.NewTicker(reportEvery); ; {
			select {
			case <-ticker.C:
				r.report(p)
			case <-ctx.Done():
				return
			}
		}
	})
}

// watch measures the waits for what a node owns now, of the keys that have been read before: when
// it is gone, that can not be asked any more.
func (r *readers) watch(node string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.watched = slices.Clone(r.read)
	for key, read := range r.read {
		r.watched[key] = read && r.rows.group.Locate(strconv.Itoa(key))[0].Owner.ID == node
	}
}

// stop ends the reading, waits for the reads under way, and reports.
func (r *readers) stop(p *parent) {
	if r.end != nil {
		r.end()
	}
	r.running.Wait()
	r.report(p)
}

// issue begins reads at random times, on average rate a second.
func (r *readers) issue(ctx context.Context) {
	for next := time.Now(); ; next = next.Add(time.Duration(rand.ExpFloat64() / r.rate * float64(time.Second))) {
		select {
		case <-time.After(time.Until(next)):
			r.mu.Lock()
			scene, table := r.scene, r.table
			r.mu.Unlock()
			key := table.keys()
			r.running.Go(func() { r.readOne(scene, table, key) })
		case <-ctx.Done():
			return
		}
	}
}

// readNow reads an account beside the steady reading, if that has begun.
func (r *readers) readNow(key int) {
	if r.end == nil {
		return
	}
	r.mu.Lock()
	scene := r.scene
	r.mu.Unlock()
	r.running.Go(func() { r.readOne(scene, &r.accounts, key) })
}

func (r *readers) readOne(scene int, table *table, key int) {
	r.mu.Lock()
	watched := r.watched != nil && r.watched[key]
	r.mu.Unlock()

	ctx, cancel := context.WithTimeout(context.Background(), r.patience.caller())
	defer cancel()
	start := time.Now()
	item, err := table.group.GetItem(ctx, strconv.Itoa(key))
	end := time.Now()
	if err == nil && item.Value.ID != key {
		err = fmt.Errorf("got row %d", item.Value.ID)
	}

	r.mu.Lock()
	defer r.mu.Unlock()
	t := r.tallyLocked(scene)
	if watched {
		t.MaxWait = max(t.MaxWait, end.Sub(start))
	}
	if err != nil {
		t.Failures = append(t.Failures, failure{Key: key, Start: start, End: end, Err: err.Error()})
		return
	}
	t.Answered[item.Source.String()]++
	t.Latency.add(end.Sub(start))
	if !r.read[key] {
		r.read[key] = true
		t.First = append(t.First, key)
	}
	if table == &r.accounts {
		t.Seen = append(t.Seen, seenOf(item, start))
		return // none of them lives to see its TTL
	}
	if item.Source == geocache.SourceStale {
		return
	}
	// What the cache says, and what the row itself says.
	age := max(item.Age, end.Sub(item.Value.Read))
	t.MaxAge = max(t.MaxAge, age)
	if age > r.ttl {
		t.TooOld = append(t.TooOld, oldValue{Key: key, Age: age, Source: item.Source.String()})
	}
}

func (r *readers) tallyLocked(scene int) *tally {
	t := r.tallies[scene]
	if t == nil {
		t = &tally{Scene: scene, Answered: make(map[string]uint64), Latency: make(histogram)}
		r.tallies[scene] = t
	}
	return t
}

// report sends what has been tallied since the last report.
func (r *readers) report(p *parent) {
	r.mu.Lock()
	tallies := r.tallies
	r.tallies = make(map[int]*tally)
	r.mu.Unlock()
	for _, t := range tallies {
		t.At = time.Now()
		p.send(nodeMessage{Tally: t})
	}
}
