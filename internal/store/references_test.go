package store

import "container/list"

// replayPublished returns the hit ratio of S3-FIFO as algorithm 1 of the paper has
// it, with a small queue of a tenth and a ghost of as many keys as the main queue
// may hold.
func replayPublished(keys []string, entries int) float64 {
	type entry struct {
		key   string
		reads int
	}
	held, ghost := map[string]*entry{}, map[string]int{}
	small, main := list.New(), list.New()
	ghosts, hits := 0, 0
	for _, key := range keys {
		if e := held[key]; e != nil {
			hits++
			e.reads = min(e.reads+1, 3)
			continue
		}
		for len(held) >= entries {
			if 10*small.Len() >= len(held) {
				e := small.Remove(small.Back()).(*entry)
				if e.reads > 1 {
					e.reads = 0
					main.PushFront(e)
					continue
				}
				delete(held, e.key)
				ghosts++
				ghost[e.key] = ghosts
				continue
			}
			e := main.Remove(main.Back()).(*entry)
			if e.reads == 0 {
				delete(held, e.key)
				continue
			}
			e.reads--
			main.PushFront(e)
		}
		e := &entry{key: key}
		held[key] = e
		if at := ghost[key]; at > 0 && ghosts-at < entries*9/10 {
			main.PushFront(e)
		} else {
			small.PushFront(e)
		}
		delete(ghost, key)
	}
	return float64(hits) / float64(len(keys))
}
