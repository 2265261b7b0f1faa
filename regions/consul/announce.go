package consul

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"time"

	"github.com/hashicorp/consul/api"
)

// An announcer keeps one instance registered and its check up to date.
type announcer struct {
	client       *api.Client
	registration *api.AgentServiceRegistration
	healthy      func() error
	interval     time.Duration // maximum time between reports
	log          *slog.Logger

	registered bool // as far as this process knows
}

// run announces the instance until ctx is cancelled, then withdraws it.
func (a *announcer) run(ctx context.Context) {
	defer a.withdraw(ctx)
	var failures failureLog
	for ctx.Err() == nil {
		err := recovered(func() error { return a.report(ctx) })
		if ctx.Err() == nil {
			failures.record(a.log, "announcing this node to Consul", err)
		}
		pause(ctx, jitter(a.interval))
	}
}

// report sends this process's health to the agent. If the agent does not know the instance, report registers
// it first: at startup, after the agent was restarted without its data, or after the agent took this process
// for dead and removed it.
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
		a.log.Warn("the Consul agent has lost this node's registration, registering again")
	}
	if err := a.register(ctx, status); err != nil {
		return err
	}
	a.registered = true
	return a.update(ctx, status, output)
}

func (a *announcer) register(ctx context.Context, status string) error {
	// This request is not cancelled with ctx: an agent might still carry out a registration that was
	// given up, after the withdrawal that follows.
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

// withdraw removes the instance. It tries even if the instance is not known to be registered, because an
// agent may have registered it without its answer arriving. It tries once: an agent that is gone must not
// delay the end of the process, and cleans up by itself when it is back.
func (a *announcer) withdraw(ctx context.Context) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), requestTimeout)
	defer cancel()
	err := recovered(func() error {
		return a.client.Agent().ServiceDeregisterOpts(a.registration.ID, new(api.QueryOptions).WithContext(ctx))
	})
	if err != nil && !isUnknown(err) {
		a.log.Warn("withdrawing this node from Consul failed, its check will expire instead", "error", err)
	}
}

// isUnknown reports whether err is the agent's answer that it does not know the instance or its check.
func isUnknown(err error) bool {
	var answer api.StatusError
	return errors.As(err, &answer) && answer.Code == http.StatusNotFound
}
