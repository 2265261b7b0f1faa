package consul

import (
	"os/exec"
	"syscall"
)

// dieWithParent makes the kernel kill the process when this one dies, for whatever reason: a test
// that exceeds its time limit leaves no agents behind.
func dieWithParent(cmd *exec.Cmd) {
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
}
