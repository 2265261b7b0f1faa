# The modules that are checked and tested. tools/* only pin programs.
MODULES := bench docs examples prom .
LINT    := $(CURDIR)/tools/lint/go.mod

.PHONY: demo demo-consul e2e fleet test torture model check bench bench-quick consul fuzz clean

# Nine processes in three regions, with writes and failures; a minute.
demo:
	go run -C examples ./multiregion

# The same on three real Consul datacenters.
demo-consul: consul
	go run -C examples ./multiregion -consul

# 100,000 writes on nine processes, some of which are killed and restarted every few
# seconds, and what anybody reads meanwhile; 4 minutes.
e2e:
	go run -C examples ./multiregion -e2e 100000

# A region of 20 processes: one is killed, one joins, then all are restarted. It prints what each costs the
# others. 3 minutes; it keeps two cores busy.
fleet:
	go run -C bench ./fleet

# Every test, with the race detector. Consul is the real one. The examples are tested one
# after the other: some are ten processes that keep time.
test: consul
	@set -e; for m in $(MODULES); do echo "== test $$m"; \
		go test -C $$m -race -timeout 20m $$(test $$m != examples || echo -p 1) ./...; \
	done

# Many more histories with faults than test runs, on all cores. FIRST is the first seed, and THEME what
# all of them are about, if it is set. How to replay those that fail is in torture-failures.txt.
SEEDS ?= 10000
FIRST ?= 1
THEME ?=
torture:
	go test -race -timeout 0 -parallel $$(getconf _NPROCESSORS_ONLN) -run '^TestHistory$$' \
		-seeds=$(SEEDS) -first=$(FIRST) -theme=$(THEME) -failures=torture-failures.txt .

# Every order of events in two small models of the protocol, by spin, with its parts and without;
# see docs/model/README.md. 3 minutes.
model:
	@docs/model/run.sh

# Where the library has to build, beside here.
PLATFORMS := linux/386 linux/arm64 linux/s390x windows/amd64 darwin/arm64

# What is run where an int has 32 bits, tests of much memory or time left out: numbers and bytes. There is no race
# detector there.
NARROW     := ./expiry ./internal/store ./consistenthash ./peers ./internal/message ./internal/valid ./internal/canonical ./internal/lossless
NARROWSKIP := TestTableMatches|TestHitRatio|TestConcurrentUse|TestSmallQueue|TestLargeRing|TestBalance|TestMovement|TestStoreMatches
NARROWSKIP := $(NARROWSKIP)|Memory|Slow|Idle|Reader|Crowd|Aside|Lease|Health|Latency|Close|Restart|Busy

# What needs no run of the code, but on other machines than this one.
check:
	@set -e; for p in $(PLATFORMS); do echo "== build $$p"; \
		GOOS=$${p%/*} GOARCH=$${p#*/} CGO_ENABLED=0 go build ./...; \
	done
	@echo "== vet and test linux/386"; GOARCH=386 CGO_ENABLED=0 go vet ./... && GOARCH=386 CGO_ENABLED=0 go test -timeout 5m -skip '$(NARROWSKIP)' $(NARROW)
	@set -e; for m in $(MODULES); do echo "== check $$m"; \
		unformatted=$$(gofmt -l $$m); test -z "$$unformatted" || { echo "gofmt: $$unformatted"; exit 1; }; \
		go vet -C $$m ./...; \
		(cd $$m && go tool -modfile=$(LINT) staticcheck ./... && go mod tidy -diff); \
	done

# Side by side with what one would use instead: groupcache, otter, gRPC, Redis and others, in
# one table and in bench/results/latest.json; 15 minutes. Nothing else should run meanwhile.
bench:
	go run -C bench .

# The short form; 2 minutes.
bench-quick:
	go run -C bench . -quick

# Ten seconds for each decoder of the wire, of snapshots and of what discoveries say; make fuzz FUZZTIME=1h for long runs.
FUZZTIME ?= 10s
fuzz:
	@set -e; for p in . ./peers ./regions ./regions/consul ./internal/message ./internal/valid; do for f in $$(go test -list '^Fuzz' $$p | grep '^Fuzz'); do \
		go test -run '^$$' -fuzz "^$$f$$" -fuzztime $(FUZZTIME) $$p; done; done

# The real Consul, from its Go module: about 4 minutes, once.
consul: .bin/consul
.bin/consul: tools/consul/go.mod tools/consul/go.sum
	go build -C tools/consul -o ../../.bin/consul github.com/hashicorp/consul

clean:
	rm -rf .bin
