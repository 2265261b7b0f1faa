# The modules that are checked and tested. tools/* only pin programs.
MODULES := bench examples .
LINT    := $(CURDIR)/tools/lint/go.mod

.PHONY: demo demo-consul test check bench consul fuzz clean

# Nine processes in three regions, with failures; under a minute.
demo:
	go run -C examples ./multiregion

# The same on three real Consul datacenters.
demo-consul: consul
	go run -C examples ./multiregion -consul

# Every test, with the race detector. Consul is the real one.
test: consul
	@set -e; for m in $(MODULES); do echo "== test $$m"; go test -C $$m -race -timeout 20m ./...; done

# What needs no run of the code.
check:
	@set -e; for m in $(MODULES); do echo "== check $$m"; \
		unformatted=$$(gofmt -l $$m); test -z "$$unformatted" || { echo "gofmt: $$unformatted"; exit 1; }; \
		go vet -C $$m ./...; \
		(cd $$m && go tool -modfile=$(LINT) staticcheck ./... && go mod tidy -diff); \
	done

# Side by side with golang/groupcache. Nothing else should run meanwhile.
bench:
	go test -C bench -run '^$$' -bench . -count 3

# Ten seconds for each decoder of the wire; make fuzz FUZZTIME=1h for long runs.
FUZZTIME ?= 10s
fuzz:
	@set -e; for f in $$(go test -list '^Fuzz' ./peers | grep '^Fuzz'); do \
		go test -run '^$$' -fuzz "^$$f$$" -fuzztime $(FUZZTIME) ./peers; done

# The real Consul, from its Go module: about 4 minutes, once.
consul: .bin/consul
.bin/consul: tools/consul/go.mod tools/consul/go.sum
	go build -C tools/consul -o ../../.bin/consul github.com/hashicorp/consul

clean:
	rm -rf .bin
