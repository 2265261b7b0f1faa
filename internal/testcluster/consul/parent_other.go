//go:build !linux

package consul

import "os/exec"

// dieWithParent does nothing: it is possible on Linux only.
func dieWithParent(*exec.Cmd) {}
