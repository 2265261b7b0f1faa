package main

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"strings"
	"text/tabwriter"
	"time"
)

// A row is one line of the table: a quantity of ours beside that of one other.
type row struct {
	Section string `json:"section"`
	Name    string `json:"name"`
	Unit    string `json:"unit"`
	Higher  bool   `json:"higher_is_better"`

	Ours   float64 `json:"ours"`
	Theirs float64 `json:"theirs"` // meaningless if Them is empty
	Them   string  `json:"them"`   // who that is; empty if there is nobody to compare with
	Floor  float64 `json:"floor"`  // meaningless if Limit is empty
	Limit  string  `json:"limit"`  // what the floor is

	// Ratio is Ours / Theirs, and FloorRatio Ours / Floor; 0 where there is none.
	Ratio      float64 `json:"ratio"`
	FloorRatio float64 `json:"floor_ratio"`
}

// add adds a row.
func (b *bench) add(r row) {
	r.Section = b.section
	if r.Them != "" && r.Theirs != 0 {
		r.Ratio = r.Ours / r.Theirs
	}
	if r.Limit != "" && r.Floor != 0 {
		r.FloorRatio = r.Ours / r.Floor
	}
	b.rows = append(b.rows, r)
}

// verdict says in words what the ratio is.
func (r *row) verdict() string {
	if r.Ratio == 0 {
		return ""
	}
	better := 1 / r.Ratio
	if r.Higher {
		better = r.Ratio
	}
	switch {
	case better > 1.02:
		return fmt.Sprintf("%.3g× better", better)
	case better < .98:
		return fmt.Sprintf("%.3g× worse", 1/better)
	}
	return "equal"
}

func printTable(w io.Writer, title string, rows []row) {
	fmt.Fprintf(w, "\n%s\n\n", title)
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "what\tunit\tgeocache\tthem\twho\tratio\t\tfloor\twhat it is\tratio\t")
	for _, r := range rows {
		theirs, floor := "", ""
		if r.Them != "" {
			theirs = number(r.Theirs)
		}
		if r.Limit != "" {
			floor = number(r.Floor)
		}
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t\n", r.Name, r.Unit, number(r.Ours),
			theirs, r.Them, ratio(r.Ratio), r.verdict(), floor, r.Limit, ratio(r.FloorRatio))
	}
	t.Flush()
}

func ratio(r float64) string {
	if r == 0 {
		return ""
	}
	return fmt.Sprintf("%.3g", r)
}

// number formats v with three digits or all that are before the point.
func number(v float64) string {
	if v >= 1000 {
		return fmt.Sprintf("%.0f", v)
	}
	return fmt.Sprintf("%.3g", v)
}

// results is what is in latest.json.
type results struct {
	Machine  string            `json:"machine"`
	Cores    int               `json:"cores"`
	Go       string            `json:"go"`
	When     time.Time         `json:"when"`
	Seconds  float64           `json:"seconds"`
	Quick    bool              `json:"quick"`
	Versions map[string]string `json:"versions"` // of what is compared with
	Rows     []row             `json:"rows"`
	Aims     []outcome         `json:"aims"`
	Notes    []string          `json:"notes"`
}

func writeResults(file string, b *bench) error {
	r := results{
		Machine: machine(), Cores: runtime.GOMAXPROCS(0), Go: runtime.Version(), When: b.begun.UTC(), Seconds: time.Since(b.begun).Seconds(),
		Quick: b.quick, Versions: map[string]string{}, Rows: b.rows, Aims: judge(b.rows), Notes: b.notes,
	}
	if info, ok := debug.ReadBuildInfo(); ok {
		for _, d := range info.Deps {
			r.Versions[d.Path] = d.Version
		}
	}
	text, err := json.MarshalIndent(r, "", "\t")
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		return err
	}
	return os.WriteFile(file, append(text, '\n'), 0o644)
}

// machine returns the name of the processor, where the system tells.
func machine() string {
	info, _ := os.ReadFile("/proc/cpuinfo")
	for line := range strings.Lines(string(info)) {
		if name, ok := strings.CutPrefix(line, "model name"); ok {
			return strings.TrimSpace(strings.TrimLeft(name, " \t:"))
		}
	}
	return runtime.GOARCH
}
