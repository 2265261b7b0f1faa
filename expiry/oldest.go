package expiry

// byGeneration is a heap of floors, the lowest generation on top. It is written out,
// and has the generations in itself, because each write pushes to it: through
// container/heap, and following pointers to compare, that was a tenth of a Set.
type byGeneration []aged

type aged struct {
	generation Generation // of the floor
	*raise
}

func (h *byGeneration) push(r *raise) {
	*h = append(*h, aged{r.Floor.Generation, r})
	h.up(len(*h) - 1)
}

// pop removes the top.
func (h *byGeneration) pop() {
	last := len(*h) - 1
	(*h)[0] = (*h)[last]
	(*h)[last] = aged{}
	*h = (*h)[:last]
	h.down(0)
}

// init makes a heap of what is in no order.
func (h byGeneration) init() {
	for i := len(h)/2 - 1; i >= 0; i-- {
		h.down(i)
	}
}

func (h byGeneration) up(i int) {
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

func (h byGeneration) down(i int) {
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
