package peers

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	ca "github.com/geocache/geocache/internal/testcluster/authority"
)

// accepting has a node accept these names.
func accepting(config *tls.Config, names ...string) func(*Config) {
	return func(c *Config) {
		withTLS(config)(c)
		c.PeerNames = names
	}
}

// met is what two nodes make of each other that list each other.
type met struct {
	us, them       *node
	dialled, asked *refusal // our refusal of them as a server, and as a client
}

// meet has us and them connect to each other. They accept us.
func meet(t *testing.T, us, them func(*Config)) met {
	t.Helper()
	m := met{us: newNode(t, "us", us).listen(t), them: newNode(t, "them", them).listen(t)}
	m.us.SetPeers([]Endpoint{m.them.endpoint()})
	m.them.SetPeers([]Endpoint{m.us.endpoint()})
	require.NoError(t, m.us.Tried(t.Context()))
	require.NoError(t, m.them.Tried(t.Context()))
	m.dialled = refusalOf(m.us.Peer("them").downErr())
	m.asked = refusalOf(m.them.Peer("us").downErr())
	return m
}

func refusalOf(err error) *refusal {
	if err == nil {
		return nil
	}
	refused := (*refusal)(nil)
	if !errors.As(err, &refused) {
		panic(err)
	}
	return refused
}

func requireIn(t *testing.T, m met) {
	t.Helper()
	require.Nil(t, m.dialled, "%v", m.dialled)
	require.Nil(t, m.asked, "%v", m.asked)
	require.True(t, m.us.Peer("them").Up())
	require.True(t, m.them.Peer("us").Up())
}

// requireOut: neither as a server nor as a client are they let in, both are counted and logged, on both
// sides.
func requireOut(t *testing.T, m met, reason Reason, texts ...string) {
	t.Helper()
	require.False(t, m.us.Peer("them").Up())
	require.False(t, m.them.Peer("us").Up())
	require.NotNil(t, m.dialled)
	require.NotNil(t, m.asked)
	eventually(t, func() bool { return m.us.Stats().Refused[reason] >= 2 }, "%v", m.us.Stats().Refused)
	require.Equal(t, reason, m.dialled.Reason)
	require.False(t, m.dialled.Remote)
	eventually(t, func() bool { return strings.Contains(m.them.log.String(), "bad certificate") || reason != ReasonName }, "they see an alert")
	for _, text := range texts {
		require.Contains(t, m.dialled.Text, text)
		require.Contains(t, m.us.log.String(), text)
		require.Contains(t, m.asked.Text, text)
		require.Contains(t, m.them.log.String(), text)
	}
	_, err := m.them.Peer("us").Fetch(t.Context(), Request{Group: "g", Key: "k"})
	require.Error(t, err)
}

const service = "cache.profile-api"

// TestNamesAreDemanded: that an authority has issued a certificate lets nobody in. The name does, in both
// directions.
func TestNamesAreDemanded(t *testing.T) {
	t.Parallel()
	a := ca.New(t)
	const id = "spiffe://example.org/ns/prod/sa/profile-api"
	mine := a.Issue(ca.DNS(service), ca.IP("127.0.0.1"), ca.URI(id))
	serverName := a.Config(mine)
	serverName.ServerName = service
	for name, c := range map[string]struct {
		us     func(*Config)
		theirs []ca.Change
		in     bool
		texts  []string
	}{
		"the same service":               {withTLS(serverName), []ca.Change{ca.DNS(service)}, true, nil},
		"another service":                {withTLS(serverName), []ca.Change{ca.DNS("some-other-service")}, false, []string{"is for DNS some-other-service", "accepted is " + service}},
		"a wildcard":                     {withTLS(serverName), []ca.Change{ca.DNS("*.profile-api")}, true, nil},
		"a wildcard elsewhere":           {withTLS(serverName), []ca.Change{ca.DNS("*.other-api")}, false, nil},
		"a wildcard a level too high":    {withTLS(serverName), []ca.Change{ca.DNS("*.*.profile-api")}, false, nil},
		"no name":                        {withTLS(serverName), nil, false, []string{"no name"}},
		"the listed address":             {withTLS(a.Config(mine)), []ca.Change{ca.IP("127.0.0.1")}, true, nil},
		"another address":                {withTLS(a.Config(mine)), []ca.Change{ca.IP("127.0.0.2"), ca.DNS("127.0.0.1")}, false, []string{"is for DNS 127.0.0.1, IP 127.0.0.2", "accepted is 127.0.0.1"}},
		"a name beside ServerName":       {accepting(serverName, "other", "b.example"), []ca.Change{ca.DNS("b.example")}, true, nil},
		"ServerName where names are set": {accepting(serverName, "other"), []ca.Change{ca.DNS(service)}, false, nil},
		"an address that is named":       {accepting(serverName, "10.1.2.3"), []ca.Change{ca.IP("10.1.2.3")}, true, nil},
		"an exact ID":                    {accepting(serverName, id), []ca.Change{ca.URI(id)}, true, nil},
		"an ID below an exact one":       {accepting(serverName, id), []ca.Change{ca.URI(id + "/x")}, false, []string{"is for URI " + id + "/x", "accepted is " + id}},
		"a prefix of an exact ID":        {accepting(serverName, id), []ca.Change{ca.URI(id[:len(id)-1])}, false, nil},
		"an ID by prefix":                {accepting(serverName, "spiffe://example.org/ns/prod/*"), []ca.Change{ca.URI(id)}, true, nil},
		"a sibling of a prefix":          {accepting(serverName, "spiffe://example.org/ns/prod/*"), []ca.Change{ca.URI("spiffe://example.org/ns/production/x")}, false, nil},
		"the prefix itself":              {accepting(serverName, "spiffe://example.org/ns/prod/*"), []ca.Change{ca.URI("spiffe://example.org/ns/prod")}, false, nil},
		"a trust domain":                 {accepting(serverName, "spiffe://example.org/*"), []ca.Change{ca.URI(id)}, true, nil},
		"another trust domain":           {accepting(serverName, "spiffe://example.org/*"), []ca.Change{ca.URI("spiffe://example.org.evil/ns/prod")}, false, nil},
		"an ID among other names":        {accepting(serverName, "other", id), []ca.Change{ca.URI(id), ca.DNS("any")}, true, nil},
		"an ID with a second URI":        {accepting(serverName, id), []ca.Change{ca.URI(id, "https://example.org")}, false, nil},
		"an ID that goes up":             {accepting(serverName, "spiffe://example.org/ns/prod/*"), []ca.Change{ca.URI("spiffe://example.org/ns/prod/../test/x")}, false, nil},
		"an ID with a query":             {accepting(serverName, id), []ca.Change{ca.URI(id + "?x")}, false, nil},
		"an ID as a DNS name":            {accepting(serverName, id), []ca.Change{ca.DNS(id)}, false, nil},
	} {
		t.Run(name, func(t *testing.T) {
			theirs := a.Issue(c.theirs...)
			m := meet(t, c.us, accepting(a.Config(theirs), service))
			if c.in {
				requireIn(t, m)
			} else {
				requireOut(t, m, ReasonName, c.texts...)
			}
		})
	}
}

// TestCertificatesAreDemanded: without one that is good for its role nobody gets in, whatever callbacks say.
func TestCertificatesAreDemanded(t *testing.T) {
	t.Parallel()
	a, other := ca.New(t), ca.New(t)
	mine, theirs := a.Issue(ca.DNS(service)), a.Issue(ca.DNS(service))
	usual := func(c tls.Certificate, change func(*tls.Config)) func(*Config) {
		config := a.Config(c)
		config.ServerName = service
		if change != nil {
			change(config)
		}
		return withTLS(config)
	}
	bare := func(c *tls.Config) { // how authorities are often rotated
		c.GetConfigForClient = func(*tls.ClientHelloInfo) (*tls.Config, error) {
			return &tls.Config{Certificates: []tls.Certificate{mine}}, nil
		}
	}
	open := func(c *tls.Config) {
		c.ClientAuth = tls.NoClientCert
		c.VerifyConnection = func(tls.ConnectionState) error { return nil }
		c.VerifyPeerCertificate = func([][]byte, [][]*x509.Certificate) error { return nil }
		bare(c)
	}
	showsNone := func(c *tls.Config) {
		c.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return new(tls.Certificate), nil }
	}
	refuses := func(c *tls.Config) {
		c.VerifyConnection = func(tls.ConnectionState) error { return errors.New("I do not like it") }
	}
	ofOther := other.Issue(ca.DNS(service))
	for name, c := range map[string]struct {
		us, them   func(*Config)
		serverIsIn bool // we dial them
		clientIsIn bool // they dial us
	}{
		"as it should be":                             {usual(mine, nil), usual(theirs, nil), true, true},
		"GetConfigForClient":                          {usual(mine, bare), usual(theirs, nil), true, true},
		"GetConfigForClient, no certificate":          {usual(mine, bare), usual(theirs, showsNone), true, false},
		"all callbacks, no certificate":               {usual(mine, open), usual(theirs, showsNone), true, false},
		"GetConfigForClient, other name":              {usual(mine, bare), usual(a.Issue(ca.DNS("other")), nil), false, false},
		"all callbacks, other authority":              {usual(mine, open), usual(ofOther, nil), false, false},
		"a callback that refuses":                     {usual(mine, refuses), usual(theirs, nil), false, false},
		"for servers only":                            {usual(mine, open), usual(a.Issue(ca.DNS(service), ca.For(x509.ExtKeyUsageServerAuth)), nil), true, false},
		"for clients only":                            {usual(mine, open), usual(a.Issue(ca.DNS(service), ca.For(x509.ExtKeyUsageClientAuth)), nil), false, true},
		"for e-mail only":                             {usual(mine, open), usual(a.Issue(ca.DNS(service), ca.For(x509.ExtKeyUsageEmailProtection)), nil), false, false},
		"that has ended":                              {usual(mine, open), usual(a.Issue(ca.DNS(service), ca.Until(time.Now().Add(-time.Second))), nil), false, false},
		"TLS 1.2, GetConfigForClient, no certificate": {usual(mine, func(c *tls.Config) { bare(c); c.MaxVersion = tls.VersionTLS12 }), usual(theirs, showsNone), true, false},
	} {
		for _, names := range [][]string{nil, {service}} { // verified by crypto/tls, and by us
			t.Run(name+" "+strings.Join(names, ","), func(t *testing.T) {
				m := meet(t, func(config *Config) { c.us(config); config.PeerNames = names }, c.them)
				require.Equal(t, c.serverIsIn, m.us.Peer("them").Up(), "%v", m.dialled)
				// With TLS 1.3 the client is done before the server has judged it.
				require.Equal(t, c.clientIsIn, m.them.Peer("us").Up(), "%v", m.asked)
				if !c.clientIsIn && c.serverIsIn {
					require.Equal(t, ReasonTLS, m.asked.Reason)
					require.Contains(t, m.them.log.String(), "level=WARN")
				}
				if !c.clientIsIn || !c.serverIsIn {
					eventually(t, func() bool { return m.us.Stats().Refused[ReasonTLS]+m.us.Stats().Refused[ReasonName] > 0 })
				}
			})
		}
	}
}

// TestCallbacksSeeVerifiedChains: also where the name is not one that crypto/tls can verify.
func TestCallbacksSeeVerifiedChains(t *testing.T) {
	a := ca.New(t)
	const id = "spiffe://example.org/cache"
	config := a.Config(a.Issue(ca.URI(id)))
	var calls atomic.Int32
	config.VerifyConnection = func(state tls.ConnectionState) error {
		if len(state.VerifiedChains) == 0 {
			return errors.New("no chains")
		}
		calls.Add(1)
		return nil
	}
	requireIn(t, meet(t, accepting(config, id), accepting(config, id)))
	require.EqualValues(t, 4, calls.Load())
}

// TestNoSessionIsResumed: a resumed session has the certificates of a connection before.
func TestNoSessionIsResumed(t *testing.T) {
	a := ca.New(t)
	theirs := a.Issue(ca.DNS(service))
	for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
		config := a.Config(a.Issue(ca.DNS(service)))
		config.ServerName, config.MaxVersion = service, version
		config.ClientSessionCache = tls.NewLRUClientSessionCache(8)
		nested := config.Clone()
		config.GetConfigForClient = func(*tls.ClientHelloInfo) (*tls.Config, error) { return nested, nil }
		us := newNode(t, "us", withTLS(config)).listen(t)

		client := a.Config(theirs)
		client.ServerName, client.ClientSessionCache = service, tls.NewLRUClientSessionCache(8)
		for range 3 { // as a server
			c, err := tls.Dial("tcp", us.address, client)
			require.NoError(t, err)
			r := &rogue{c, t}
			r.join()
			require.False(t, c.ConnectionState().DidResume)
			require.NoError(t, c.Close())
			eventually(t, func() bool { return us.Stats().Connections == 0 })
		}

		l, err := tls.Listen("tcp", "127.0.0.1:0", a.Config(theirs)) // as a client
		require.NoError(t, err)
		done := make(chan bool)
		go func() {
			for range 3 {
				c, err := l.Accept()
				if err != nil {
					break
				}
				err = c.(*tls.Conn).Handshake()
				done <- err == nil && !c.(*tls.Conn).ConnectionState().DidResume
				_ = c.Close()
			}
			close(done)
		}()
		us.SetPeers([]Endpoint{{ID: "them", Region: "here", Address: l.Addr().String()}})
		for full := range done {
			require.True(t, full)
		}
		require.NoError(t, l.Close())
	}
}

// TestUnlistedNodes: where a certificate is judged by the listed address, a node that is not listed
// stays out, and is in soon after it has been.
func TestUnlistedNodes(t *testing.T) {
	t.Parallel()
	a := ca.New(t)
	config := func() func(*Config) { return withTLS(a.Config(a.Issue(ca.IP("127.0.0.1")))) }
	old, young := newNode(t, "old", config()).listen(t), newNode(t, "young", config()).listen(t)
	peer := young.connect(t, old)
	require.False(t, peer.Up())
	refused := refusalOf(peer.downErr())
	require.Equal(t, ReasonUnlisted, refused.Reason)
	require.True(t, refused.Remote)
	require.NotContains(t, old.log.String()+young.log.String(), "level=WARN", "a node that joins is nothing to warn of")
	require.NotContains(t, old.log.String()+young.log.String(), "level=ERROR")
	eventually(t, func() bool { return old.Stats().Refused[ReasonUnlisted] > 0 })

	nobody, everybody := func(string) bool { return false }, func(string) bool { return true }
	require.False(t, old.StrangersEnd(nobody).IsZero(), "it knows that there is somebody")
	require.True(t, old.StrangersEnd(everybody).IsZero())

	old.SetPeers([]Endpoint{young.endpoint()})
	eventually(t, func() bool { return old.Peer("young").Up() && peer.Up() })
}

// TestAnIDIsBound: who says that it is a node which is connected must have the certificate of
// that one, or one for the same names.
func TestAnIDIsBound(t *testing.T) {
	t.Parallel()
	a := ca.New(t)
	config := func(names ...string) func(*Config) {
		return accepting(a.Config(a.Issue(ca.DNS(append(names, service)...))), service)
	}
	us := newNode(t, "us", config()).listen(t)
	first := newNode(t, "them", config("one"))
	require.True(t, first.connect(t, us).Up())

	second := newNode(t, "them", config("two")).listen(t)
	peer := second.connect(t, us)
	require.False(t, peer.Up(), "as a client")
	refused := refusalOf(peer.downErr())
	require.Equal(t, ReasonTaken, refused.Reason)
	require.Contains(t, refused.Text, "DNS one")
	require.Contains(t, refused.Text, "DNS two")
	eventually(t, func() bool { return us.Stats().Refused[ReasonTaken] > 0 })

	require.False(t, us.connect(t, second).Up(), "as a server")
	require.Equal(t, ReasonTaken, refusalOf(us.Peer("them").downErr()).Reason)
	us.SetPeers(nil)
	second.stop()

	renewed := newNode(t, "them", config("one"))
	require.True(t, renewed.connect(t, us).Up(), "with the same names in another certificate")
	first.stop()
	third := newNode(t, "them", config("two"))
	require.False(t, third.connect(t, us).Up())
	third.stop()
	renewed.stop()
	eventually(t, func() bool { return us.Stats().Connections == 0 })
	require.True(t, newNode(t, "them", config("two")).connect(t, us).Up(), "when nobody is there any more")
}

// TestARegionIsAsListed: leases are for the nodes of a region, and only the list says who is in it.
func TestARegionIsAsListed(t *testing.T) {
	us := newNode(t, "us", nil).listen(t)
	them := newNode(t, "them", nil)
	us.SetPeers([]Endpoint{{ID: "them", Region: "there", Address: "127.0.0.1:1"}})
	peer := them.connect(t, us)
	require.False(t, peer.Up())
	require.Equal(t, ReasonIdentity, refusalOf(peer.downErr()).Reason)
	require.Contains(t, refusalOf(peer.downErr()).Text, `in region "here", and is listed in "there"`)
	us.SetPeers([]Endpoint{{ID: "them", Region: "here", Address: "127.0.0.1:1"}})
	eventually(t, peer.Up)
}

// TestNothingIsTakenFromWhoIsRefused: not even the time.
func TestNothingIsTakenFromWhoIsRefused(t *testing.T) {
	a := ca.New(t)
	us := newNode(t, "us", accepting(a.Config(a.Issue(ca.DNS(service))), service)).listen(t)
	client := a.Config(a.Issue(ca.DNS("other")))
	client.ServerName = service
	c, err := tls.Dial("tcp", us.address, client)
	require.NoError(t, err)
	defer c.Close()
	before := us.config.Clock.Read()
	ahead := now() + 100_000_000 // less than what is refused for its own sake
	m := honest
	_, err = c.Write(appendHello(nil, ahead, m))
	require.NoError(t, err)
	eventually(t, func() bool { return us.Stats().Refused[ReasonName] == 1 })
	require.Less(t, us.config.Clock.Read(), max(ahead, before))
}

func TestCheckName(t *testing.T) {
	for _, good := range []string{
		"cache", "cache.example.org", "cache_1", "10.0.0.1", "::1", "spiffe://d/*", "spiffe://d/a", "spiffe://d.e-f_g/a/B.c/*",
	} {
		require.NoError(t, CheckName(good), good)
	}
	for _, bad := range []string{
		"", "*", "*.example.org", "a b", "a..b", ".a", "https://a/b", "spiffe:/d/a", "SPIFFE://d/a", "spiffe://", "spiffe:///a", "spiffe://d",
		"spiffe://d/", "spiffe://d//*", "spiffe://D/a", "spiffe://d/a/", "spiffe://d/a//b", "spiffe://d/./a", "spiffe://d/a/..", "spiffe://d/a*",
		"spiffe://d:1/a", "spiffe://u@d/a", "spiffe://d/a?b", "spiffe://d/a#b", "spiffe://d/a%20b", "spiffe://d/*/a", "spiffe://d/" + strings.Repeat("a", 2048),
		"host:7946", strings.Repeat("a.", 127) + "a",
	} {
		require.Error(t, CheckName(bad), bad)
	}
}

// FuzzSPIFFE: an ID that is accepted is accepted for its bytes as they are in the certificate.
func FuzzSPIFFE(f *testing.F) {
	for _, s := range []string{"spiffe://d/a", "spiffe://d/%61", "spiffe://d/a%2fb", "spiffe://d//a", "spiffe://D/a", "SPIFFE://d/a", "spiffe://d/a/../b", "spiffe:d/a"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		u, err := url.Parse(s)
		if err != nil {
			return
		}
		id, ok := spiffeID(&x509.Certificate{URIs: []*url.URL{u}})
		if ok {
			require.NoError(t, CheckName(id))
			require.Equal(t, strings.ToLower(s[:6])+s[6:], id)
		}
	})
}

// TestNamesInMessages: another's names are quoted, and cut.
func TestNamesInMessages(t *testing.T) {
	require.Equal(t, "a?b, ?c?", listed([]string{"a\nb", `"c"`}))
	require.Less(t, len(listed(make([]string, 1000))), 100)
	require.Less(t, len(listed([]string{strings.Repeat("a", 1<<20)})), 300)
	require.Equal(t, []string{"DNS a", "DNS b", "IP 10.0.0.1"}, namesOf(&x509.Certificate{
		DNSNames: []string{"B", "a", "b"}, IPAddresses: []net.IP{net.IPv4(10, 0, 0, 1)}}))
}
