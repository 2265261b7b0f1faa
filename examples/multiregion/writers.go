package main

import (
	"context"
	"errors"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/geocache/geocache"
)

// writers do what a node is told to do with accounts.
type writers struct {
	db       *originClient
	accounts *geocache.Group[row]
	patience patience
	parent   *parent
}

// do does a job and tells the parent when it is done.
func (w *writers) do(j *job) {
	done := jobDone{ID: j.ID}
	switch {
	case j.Write != nil:
		w.run(j.Write, func(id int, _ time.Time) { w.parent.send(nodeMessage{Wrote: w.write(id)}) })
	case j.Sight != nil:
		w.run(j.Sight, w.sight)
	case j.Show != nil:
		done.At, done.Missing = w.show(j.Show)
	case j.Clear:
		ctx, cancel := context.WithTimeout(context.Background(), w.patience.caller())
		defer cancel()
		c := &clearing{Began: time.Now()}
		err := w.accounts.Clear(ctx, geocache.WithAck(geocache.AckWorld))
		c.Ended = time.Now()
		if done.Clear = c; err != nil {
			done.Err = err.Error()
		}
	}
	w.parent.send(nodeMessage{Done: &done})
}

// run calls one for each row of the plan, by as many writers as that asks for, and
// returns when all have returned.
func (w *writers) run(p *plan, one func(id int, due time.Time)) {
	rows := slices.DeleteFunc(p.Rows, func(id int) bool {
		return p.Owner != "" && w.accounts.Locate(strconv.Itoa(id))[0].Owner.ID != p.Owner
	})
	var running sync.WaitGroup
	for i := range p.Writers {
		running.Go(func() {
			for ; i < len(rows); i += p.Writers {
				id := rows[i]
				if id == leftOut {
					continue
				}
				due := p.Start.Add(time.Duration(i) * p.Every)
				time.Sleep(time.Until(due))
				one(id, due)
			}
		})
	}
	running.Wait()
}

// write writes a row: in the origin first, so that whoever loads it after the Set
// finds what was set, and then in the cache.
func (w *writers) write(id int) *wrote {
	ctx, cancel := context.WithTimeout(context.Background(), w.patience.caller())
	defer cancel()
	key := strconv.Itoa(id)
	out := &wrote{Row: id, Outcome: notBegun}
	r, err := w.db.put(ctx, key)
	if err != nil {
		out.Err = err.Error()
		return out
	}
	out.Version, out.Began = r.Version, time.Now()
	err = w.accounts.Set(ctx, key, r)
	out.Ended = time.Now()
	switch {
	case err == nil:
		out.Outcome = acked
		return out
	case errors.Is(err, geocache.ErrUncertain):
		out.Outcome = uncertain
	case errors.Is(err, geocache.ErrUnconfirmed):
		out.Outcome = unconfirmed
	default:
		out.Outcome = failed
	}
	out.Err = err.Error()
	return out
}

// sightPatience is how late a write may show before nobody looks any more.
const sightPatience = 10 * time.Second

// poll lets pass what whoever has waited for a write since then leaves between two
// reads: little enough for a figure within a percent, and more the longer it takes, so that
// those who wait do not take the time away from what they wait for.
func poll(since time.Time) { time.Sleep(max(time.Millisecond, time.Since(since)/128)) }

// sight reads a row until it shows a later version than at first. The row must be
// in the region's memory when the write is due, so that it is only the Set that can
// make it go.
func (w *writers) sight(id int, due time.Time) {
	var last *seen
	for time.Since(due) < sightPatience {
		s, err := w.read(id)
		switch {
		case err != nil: // the readers are told of errors
		case last != nil && s.Version > last.Version:
			w.parent.send(nodeMessage{Sighting: &sighting{Row: id, Version: s.Version, Started: s.Start, At: time.Now(), Last: last}})
			return
		default:
			last = s
		}
		poll(due)
	}
}

func (w *writers) read(id int) (*seen, error) {
	ctx, cancel := context.WithTimeout(context.Background(), w.patience.caller())
	defer cancel()
	start := time.Now()
	item, err := w.accounts.GetItem(ctx, strconv.Itoa(id))
	if err != nil {
		return nil, err
	}
	s := seenOf(item, start)
	return &s, nil
}

func seenOf(item geocache.Item[row], start time.Time) seen {
	return seen{Row: item.Value.ID, Version: item.Value.Version, Start: start, Read: item.Value.Read, Source: item.Source.String()}
}

// show reads rows until each has given its version or a later one. It returns when
// the last has, and those that have not as long as patience lasted.
func (w *writers) show(s *show) (at time.Time, missing []seen) {
	ctx, cancel := context.WithTimeout(context.Background(), s.Patience)
	defer cancel()
	left := make([]string, 0, len(s.Versions))
	for id := range s.Versions {
		left = append(left, strconv.Itoa(id))
	}
	last := make(map[string]seen)
	for began := time.Now(); ; poll(began) {
		start := time.Now()
		rows, _ := w.accounts.GetMany(ctx, left) // what is not in it is missing
		at = time.Now()
		left = slices.DeleteFunc(left, func(key string) bool {
			r, ok := rows[key]
			if ok {
				last[key] = seen{Row: r.ID, Version: r.Version, Start: start, Read: r.Read}
			}
			return ok && r.Version >= s.Versions[r.ID]
		})
		if len(left) == 0 {
			return at, nil
		}
		if ctx.Err() == nil {
			continue
		}
		for _, key := range left {
			l, ok := last[key]
			if !ok { // no read of it was answered
				l.Row, _ = strconv.Atoi(key)
				l.Start = start
			}
			missing = append(missing, l)
		}
		return at, missing
	}
}
