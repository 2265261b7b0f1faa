package expiry

// floorHeap is a heap of floors with the lowest generation on top. Every write pushes to it. With
// container/heap, and a pointer to follow for each comparison, that took a tenth of the time of a Set. So
// the heap is hand-written, and its items include the generation.
type floorHeap []heapItem

type heapItem struct {
	generation Generation // of the floor
	*floorRecord
}

func (h *floorHeap) push(r *floorRecord) {
	*h = append(*h, heapItem{r.Floor.Generation, r})
	h.up(len(*h) - 1)
}

// pop removes the top item.
func (h *floorHeap) pop() {
	last := len(*h) - 1
	(*h)[0] = (*h)[last]
	(*h)[last] = heapItem{}
	*h = (*h)[:last]
	h.down(0)
}

// init establishes the heap order.
func (h floorHeap) init() {
	for i := len(h)/2 - 1; i >= 0; i-- {
		h.down(i)
	}
}

func (h floorHeap) up(i int) {
	moving := h[i]
	for i > 0 {
		parent := (i - 1) / 2
		if h[parent].generation <= moving.generation {
			break
		}
		h[i] = h[parent]
		i = parent
	}
	h[i] = moving
}

func (h floorHeap) down(i int) {
	if i >= len(h) {
		return
	}
	moving := h[i]
	for {
		child := 2*i + 1
		if child >= len(h) {
			break
		}
		if right := child + 1; right < len(h) && h[right].generation < h[child].generation {
			child = right
		}
		if h[child].generation >= moving.generation {
			break
		}
		h[i] = h[child]
		i = child
	}
	h[i] = moving
}
