package main

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"strconv"
	"strings"
	"time"

	"go.etcd.io/bbolt"
)

var rowsBucket = []byte("rows")

// runOrigin is the process that owns the data: a database file, served over
// HTTP. It tells of every query that it answers.
func runOrigin(ctx context.Context, p *parent) error {
	var config originConfig
	if err := p.receive(&config); err != nil {
		return err
	}
	db, err := openRows(config.File, config.Rows)
	if err != nil {
		return err
	}
	defer db.Close()

	server := http.Server{Handler: &origin{db: db, query: config.Query, parent: p}}
	go func() { // the origin takes no commands: this waits for the end
		p.receive(&struct{}{})
		server.Close()
	}()
	listener, err := net.Listen("tcp", config.Listen)
	if err != nil {
		return err
	}
	p.send(originMessage{Ready: true})
	if err := server.Serve(listener); err != http.ErrServerClosed {
		return err
	}
	return nil
}

// openRows opens the database, which it fills if there is none.
func openRows(file string, n int) (*bbolt.DB, error) {
	db, err := bbolt.Open(file, 0o600, &bbolt.Options{Timeout: 5 * time.Second, NoSync: true})
	if err != nil {
		return nil, err
	}
	db.MaxBatchDelay = time.Millisecond
	err = db.Update(func(tx *bbolt.Tx) error {
		if tx.Bucket(rowsBucket) != nil {
			return nil
		}
		bucket, err := tx.CreateBucket(rowsBucket)
		if err != nil {
			return err
		}
		bucket.FillPercent = 1 // rows come in order
		for id := range n {
			text := fmt.Sprintf("row %d: %s", id, strings.Repeat(strconv.Itoa(id%10), 100))
			if err := bucket.Put(rowKey(id), record(0, text)); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		db.Close()
		return nil, err
	}
	return db, nil
}

func rowKey(id int) []byte { return binary.BigEndian.AppendUint64(nil, uint64(id)) }

// A record is what the file has under a row's key: its version and its text.
func record(version uint64, text string) []byte {
	return append(binary.BigEndian.AppendUint64(nil, version), text...)
}

func (r *row) decode(record []byte) {
	r.Version, r.Text = binary.BigEndian.Uint64(record), string(record[8:])
}

type origin struct {
	db     *bbolt.DB
	query  time.Duration
	parent *parent
}

// ServeHTTP answers GET /<id> with the row, and PUT /<id> with what the row is
// after one more write.
func (o *origin) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	id, err := strconv.Atoi(strings.TrimPrefix(r.URL.Path, "/"))
	if err != nil {
		http.Error(w, "the path must be the id of a row", http.StatusBadRequest)
		return
	}
	began := time.Now()
	select {
	case <-time.After(o.query): // the database is a small file; let it be a busy server
	case <-r.Context().Done():
		return // the client is gone, or was long before its query arrived
	}
	var out row
	var found bool
	if r.Method == http.MethodPut {
		out, found, err = o.write(id)
	} else {
		out, found, err = o.read(id)
		o.parent.send(originMessage{Load: &load{Key: id, Region: r.Header.Get(regionHeader), At: began}})
	}
	switch {
	case err != nil:
		http.Error(w, err.Error(), http.StatusInternalServerError)
	case !found:
		http.NotFound(w, r)
	default:
		json.NewEncoder(w).Encode(out)
	}
}

func (o *origin) read(id int) (out row, found bool, err error) {
	out.ID = id
	err = o.db.View(func(tx *bbolt.Tx) error {
		if record := tx.Bucket(rowsBucket).Get(rowKey(id)); record != nil {
			found = true
			out.decode(record)
		}
		out.Read = time.Now()
		return nil
	})
	return out, found, err
}

// write gives the row its next version. Writes at the same time share a transaction, so
// that many of them do not wait for one another.
func (o *origin) write(id int) (out row, found bool, err error) {
	err = o.db.Batch(func(tx *bbolt.Tx) error { // may be called again
		bucket := tx.Bucket(rowsBucket)
		old := bucket.Get(rowKey(id))
		if found = old != nil; !found {
			return nil
		}
		out.ID = id
		out.decode(old)
		out.Version++
		out.Read = time.Now()
		return bucket.Put(rowKey(id), record(out.Version, out.Text))
	})
	return out, found, err
}
