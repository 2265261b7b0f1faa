package consul

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"time"

	"github.com/hashicorp/consul/api"
)

// An announcer keeps one instance registered and its check alive.
type announcer struct {
	client       *api.Client
	registration *api.AgentServiceRegistration
	healthy      func() error
	interval     time.Duration // between reports, at most
	log          *slog.Logger

	registered bool // as far as we know
}

// run announces until ctx is cancelled and then withdraws.
func (a *announcer) run(ctx context.Context) {
	defer a.withdraw(ctx)
	var t trouble
	for ctx.Err() == nil {
		err := guarded(func() error { return a.report(ctx) })
		if ctx.Err() == nil {
			t.note(a.log, "announcing this node to Consul", err)
		}
		pause(ctx, jitter(a.interval))
	}
}

// report passes this process's health on to the agent, and registers first
// where the agent does not know the instance: at the beginning, after it was
// restarted without its data, or after it took us for dead and cleaned up.
func (a *announcer) report(ctx context.Context) error {
	status, output := api.HealthPassing, "serving"
	if err := a.healthy(); err != nil {
		status, output = api.HealthCritical, err.Error()
	}
	if a.registered {
		err := a.update(ctx, status, output)
		if !isUnknown(err) {
			return err
		}
		a.registered = false
		a.log.Warn("the Consul agent has forgotten this node, registering it again")
	}
	if err := a.register(ctx, status); err != nil {
		return err
	}
	a.registered = true
	return a.update(ctx, status, output)
}

func (a *announcer) register(ctx context.Context, status string) error {
	// Not cut short when ctx is cancelled. The agent might still carry out a
	// registration that we have given up, after the withdrawal that follows.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), requestTimeout)
	defer cancel()
	a.registration.Check.Status = status
	return a.client.Agent().ServiceRegisterOpts(a.registration,
		api.ServiceRegisterOpts{ReplaceExistingChecks: true}.WithContext(ctx))
}

func (a *announcer) update(ctx context.Context, status, output string) error {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	return a.client.Agent().UpdateTTLOpts(a.registration.Check.CheckID, output, status,
		new(api.QueryOptions).WithContext(ctx))
}

// withdraw removes the instance. It tries whether or not we know it to be
// registered, for an agent may have registered us and failed to say so. It
// tries once: an agent that is gone must not hold up the end of the process,
// and cleans up by itself when it is back.
func (a *announcer) withdraw(ctx context.Context) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), requestTimeout)
	defer cancel()
	err := guarded(func() error {
		return a.client.Agent().ServiceDeregisterOpts(a.registration.ID, new(api.QueryOptions).WithContext(ctx))
	})
	if err != nil && !isUnknown(err) {
		a.log.Warn("withdrawing this node from Consul failed, its check will expire instead", "error", err)
	}
}

// isUnknown reports whether err is the agent's answer that it does not know
// the instance or its check.
func isUnknown(err error) bool {
	var answer api.StatusError
	return errors.As(err, &answer) && answer.Code == http.StatusNotFound
}
