module github.com/geocache/geocache/bench

go 1.26.7

require (
	github.com/geocache/geocache v0.0.0
	github.com/golang/groupcache v0.0.0-20241129210726-2c02b8208cf8
)

require (
	github.com/golang/protobuf v1.5.4 // indirect
	github.com/klauspost/cpuid/v2 v2.2.10 // indirect
	github.com/puzpuzpuz/xsync/v4 v4.5.0 // indirect
	github.com/zeebo/xxh3 v1.1.0 // indirect
	golang.org/x/sync v0.24.0 // indirect
	golang.org/x/sys v0.48.0 // indirect
	google.golang.org/protobuf v1.36.12 // indirect
)

replace github.com/geocache/geocache => ../
