package consul

import (
	"os/exec"
	"syscall"
)

// dieWithParent makes the kernel kill the process when this one dies, however
// it dies: a test that runs into its time limit leaves no agents behind.
func dieWithParent(cmd *exec.Cmd) {
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
}
