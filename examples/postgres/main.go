// Postgres is an HTTP service whose users are in PostgreSQL, and are read and written
// through a cache that its instances share. The database is where PGHOST, PGDATABASE and
// so on say:
//
//	createdb geocache
//	PGDATABASE=geocache go run -C examples ./postgres
//
//	curl -X PUT localhost:8080/users/42 -d '{"name":"Ada Lovelace","team":"engines"}'
//	curl -i localhost:8080/users/42      # X-Cache says where the answer came from
//	curl localhost:8080/teams/engines    # the first page of the team's members
//	curl -X POST 'localhost:8080/teams/engines/rename?to=compilers'
//
// A second instance, in another shell. What is written at one is read at the other:
//
//	PGDATABASE=geocache go run -C examples ./postgres -http localhost:8081 -listen 127.0.0.1:7947
//	curl -i localhost:8081/users/42
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"log"
	"log/slog"
	"net/http"
	"os"
	"os/signal"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/geocache/geocache"
	"github.com/geocache/geocache/regions"
)

func main() {
	address := flag.String("http", "localhost:8080", "serve HTTP at this address")
	listen := flag.String("listen", "127.0.0.1:7946", "serve the cache's peers at this address")
	peers := flag.String("peers", "127.0.0.1:7946,127.0.0.1:7947", "where all instances serve their peers")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, *address, *listen, strings.Split(*peers, ",")); err != nil {
		log.Fatal(err)
	}
}

// run serves until ctx ends. The cache closes before the database: until then it
// writes what other instances ask this one, as the owner of a key, to write.
func run(ctx context.Context, address, listen string, peers []string) error {
	pool, err := openDatabase(ctx, "")
	if err != nil {
		return err
	}
	defer pool.Close()
	var nodes []regions.Node
	for _, p := range peers {
		nodes = append(nodes, regions.Node{ID: p, Region: "local", Address: p})
	}
	cache, err := geocache.Open(ctx, geocache.WithListen(listen), geocache.WithDiscovery(regions.Static(nodes...)))
	if err != nil {
		return err
	}
	defer cache.Close()
	s, err := newService(cache, &database{pool})
	if err != nil {
		return err
	}
	server := &http.Server{Addr: address, Handler: s.handler(), ReadHeaderTimeout: patience}
	failed := make(chan error, 1)
	go func() { failed <- server.ListenAndServe() }()
	select {
	case err := <-failed:
		return err
	case <-ctx.Done():
	}
	ending, cancel := context.WithTimeout(context.Background(), 2*patience)
	defer cancel()
	return server.Shutdown(ending)
}

const (
	// patience is the deadline of a request.
	patience = 3 * time.Second

	// loadTimeout bounds what the database may take to answer, reads and writes alike.
	// It is below patience, so that there is time to serve a stale value instead.
	loadTimeout = time.Second

	pageSize = 100  // users on a page of a team's listing
	maxPages = 1000 // of a listing
)

// A User is a row of the table users.
type User struct {
	Name string `json:"name"`
	Team string `json:"team"`
}

// A service keeps users by their ids, and the ids of a team's members by the page of
// its listing. A page has no users in it: they are cached once, and one that gets another
// name has it on all pages. Users and pages bear the tag of their team.
type service struct {
	db    *database
	users *geocache.Group[User]
	pages *geocache.Group[[]string]
}

// newService makes the service. The options come on top of the users' own.
func newService(cache *geocache.Cache, db *database, opts ...geocache.GroupOption) (*service, error) {
	s := &service{db: db}
	var err error
	if s.pages, err = geocache.NewGroup(cache, "pages", geocache.ItemGetterFunc[[]string](s.loadPage),
		geocache.WithTTL(time.Minute),
		geocache.WithStaleIfError(time.Hour),
		geocache.WithLoadTimeout(loadTimeout)); err != nil {
		return nil, err
	}
	s.users, err = geocache.NewGroup(cache, "users", geocache.ItemGetterFunc[User](s.loadUser), append([]geocache.GroupOption{
		geocache.WithTTL(time.Minute),
		geocache.WithNegativeTTL(10 * time.Second), // who asks for what is not there asks the database only so often
		geocache.WithStaleIfError(time.Hour),       // the database may be away for that long
		geocache.WithLoadTimeout(loadTimeout),
		geocache.WithSetter(s.set),
		geocache.WithRemover(s.remove),
	}, opts...)...)
	return s, err
}

// set is the setter of the users. It is called by the instance that owns the key,
// whichever was asked to Set, for one write of a key at a time.
//
// An error of the database is not a promise that nothing has changed: the answer to a
// COMMIT may be lost on its way. The cache does not guess. The caller of Set gets the
// error, and whatever any instance has of the key is dropped, so that the next read asks
// the database, which knows. What is left to do here is the same for what depends on
// the user and is cached under other keys: it goes, whatever the commit came to.
//
// It must go after the commit. If it went before, a load in between would find the old
// rows, and nothing would tell the cache that what it has is old.
func (s *service) set(ctx context.Context, key string, u User) error {
	teams, err := s.db.put(ctx, key, u)
	return errors.Join(err, s.forgetPages(ctx, teams))
}

// remove is the remover of the users, and like set otherwise.
func (s *service) remove(ctx context.Context, key string) error {
	teams, err := s.db.delete(ctx, key)
	return errors.Join(err, s.forgetPages(ctx, teams))
}

// forgetPages has the listings of the teams loaded anew, however many pages there are.
func (s *service) forgetPages(ctx context.Context, teams []string) error {
	ctx, cancel := afterwards(ctx)
	defer cancel()
	var errs []error
	for _, team := range teams {
		errs = append(errs, s.pages.RemoveTag(ctx, teamTag(team)))
	}
	return errors.Join(errs...)
}

// afterwards returns a context for what is to be done after a commit that may have failed
// because ctx had ended.
func afterwards(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.WithoutCancel(ctx), loadTimeout)
}

func teamTag(team string) string { return "team:" + team }

func pageKey(team string, page int) string { return team + "/" + strconv.Itoa(page) }

// loadUser is the getter of the users.
func (s *service) loadUser(ctx context.Context, key string) (geocache.Loaded[User], error) {
	u, err := s.db.get(ctx, key)
	return geocache.Loaded[User]{Value: u, Tags: []string{teamTag(u.Team)}}, err
}

// loadPage is the getter of the pages.
func (s *service) loadPage(ctx context.Context, key string) (geocache.Loaded[[]string], error) {
	team, number, _ := strings.Cut(key, "/")
	page, err := strconv.Atoi(number)
	if err != nil {
		return geocache.Loaded[[]string]{}, err
	}
	ids, err := s.db.members(ctx, team, page*pageSize, pageSize)
	return geocache.Loaded[[]string]{Value: ids, Tags: []string{teamTag(team)}}, err
}

// handler routes requests. Each has a deadline, and errors are answered in one place.
func (s *service) handler() http.Handler {
	mux := http.NewServeMux()
	handle := func(pattern string, do func(http.ResponseWriter, *http.Request) error) {
		mux.HandleFunc(pattern, func(w http.ResponseWriter, r *http.Request) {
			ctx, cancel := context.WithTimeout(r.Context(), patience)
			defer cancel()
			if err := do(w, r.WithContext(ctx)); err != nil {
				fail(w, r, err)
			}
		})
	}
	handle("GET /users/{id}", s.getUser)
	handle("PUT /users/{id}", s.putUser)
	handle("DELETE /users/{id}", s.deleteUser)
	handle("GET /teams/{team}", s.listTeam)
	handle("POST /teams/{team}/rename", s.renameTeam)
	return mux
}

// errBadRequest is wrapped by errors whose text is for the client.
var errBadRequest = errors.New("bad request")

func fail(w http.ResponseWriter, r *http.Request, err error) {
	status := http.StatusBadGateway
	switch {
	case errors.Is(err, errBadRequest):
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	case errors.Is(err, geocache.ErrNotFound):
		status = http.StatusNotFound
	case errors.Is(err, geocache.ErrTimeout), errors.Is(err, context.DeadlineExceeded):
		status = http.StatusGatewayTimeout
	}
	if status != http.StatusNotFound {
		slog.Warn("request failed", "method", r.Method, "path", r.URL.Path, "err", err)
	}
	http.Error(w, http.StatusText(status), status)
}

func (s *service) getUser(w http.ResponseWriter, r *http.Request) error {
	key, err := userKey(r)
	if err != nil {
		return err
	}
	item, err := s.users.GetItem(r.Context(), key)
	if err != nil {
		return err
	}
	w.Header().Set("X-Cache", item.Source.String())
	w.Header().Set("Age", strconv.Itoa(int(item.Age.Seconds())))
	return reply(w, item.Value)
}

var teamName = regexp.MustCompile(`^[a-z][a-z0-9-]{0,62}$`)

// putUser checks what it can before it writes: of what the database refuses, an instance
// that does not own the key gets the error's text and not its type.
//
// If it answers with an error the user may have changed or not. A client that does
// the same again does no harm.
func (s *service) putUser(w http.ResponseWriter, r *http.Request) error {
	key, err := userKey(r)
	if err != nil {
		return err
	}
	var u User
	if err := json.NewDecoder(http.MaxBytesReader(w, r.Body, 1<<16)).Decode(&u); err != nil {
		return fmt.Errorf("%w: %w", errBadRequest, err)
	}
	if u.Name == "" || strings.ContainsRune(u.Name, 0) || !teamName.MatchString(u.Team) {
		return fmt.Errorf("%w: a user needs a name, and a team of lower-case letters and digits", errBadRequest)
	}
	if err := s.users.Set(r.Context(), key, u, geocache.WithTags(teamTag(u.Team))); err != nil {
		return err
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}

func (s *service) deleteUser(w http.ResponseWriter, r *http.Request) error {
	key, err := userKey(r)
	if err != nil {
		return err
	}
	if err := s.users.Remove(r.Context(), key); err != nil {
		return err
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}

// A member is a user on a page of a listing.
type member struct {
	ID string `json:"id"`
	User
}

// listTeam gets the page, and then all users on it with one request to each instance
// that owns some. Those that have left since are not shown.
func (s *service) listTeam(w http.ResponseWriter, r *http.Request) error {
	team, page := r.PathValue("team"), 0
	if q := r.URL.Query().Get("page"); q != "" {
		var err error
		if page, err = strconv.Atoi(q); err != nil || page < 0 || page >= maxPages {
			return fmt.Errorf("%w: pages are numbered from 0 to %d", errBadRequest, maxPages-1)
		}
	}
	if !teamName.MatchString(team) {
		return geocache.ErrNotFound
	}
	ids, err := s.pages.Get(r.Context(), pageKey(team, page))
	if err != nil {
		return err
	}
	users, err := s.users.GetMany(r.Context(), ids)
	if err != nil {
		return err
	}
	members := []member{}
	for _, id := range ids {
		if u, ok := users[id]; ok && u.Team == team {
			members = append(members, member{id, u})
		}
	}
	return reply(w, members)
}

// renameTeam changes many users in one transaction, which no Set could. It goes past the
// cache to the database, and then removes all that may have changed from the cache, again
// whatever the commit came to.
//
// No key's turn is waited for. A Set of one of these users that is under way meanwhile
// may be stamped after the removal and have been in the database before the rename; then
// it is the users' TTL that ends what it has left.
func (s *service) renameTeam(w http.ResponseWriter, r *http.Request) error {
	from, to := r.PathValue("team"), r.URL.Query().Get("to")
	if !teamName.MatchString(from) || !teamName.MatchString(to) {
		return fmt.Errorf("%w: teams are lower-case letters and digits", errBadRequest)
	}
	err := s.db.rename(r.Context(), from, to)
	ctx, cancel := afterwards(r.Context())
	defer cancel()
	err = errors.Join(err, s.users.RemoveTag(ctx, teamTag(from)), s.forgetPages(ctx, []string{from, to}))
	if err == nil {
		w.WriteHeader(http.StatusNoContent)
	}
	return err
}

// userKey returns the key of the user that the request is for. There is one for each
// id: if 42 and 042 were two, a write of one would leave the other as it is.
func userKey(r *http.Request) (string, error) {
	id, err := strconv.ParseInt(r.PathValue("id"), 10, 64)
	if err != nil {
		return "", fmt.Errorf("%w: the id is not a number", errBadRequest)
	}
	return strconv.FormatInt(id, 10), nil
}

func reply(w http.ResponseWriter, v any) error {
	w.Header().Set("Content-Type", "application/json")
	return json.NewEncoder(w).Encode(v)
}
