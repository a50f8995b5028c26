package cli

import (
	"bytes"
	"compress/gzip"
	_ "embed"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"text/template"

	"github.com/spf13/cobra"

	"bulkhead/hwtest/report"
)

//go:embed gcp-script.sh
var gcpScript string

// gcpOptions fill the script's template.
type gcpOptions struct {
	From     string // a URL, quoted for the shell; empty: Embedded
	Embedded string // this program, gzip in base64, in lines
	PowerOff bool
	Begin    string
	End      string
}

func (a *app) gcpScript() *cobra.Command {
	var from string
	var embed, powerOff bool
	c := &cobra.Command{
		Use:   "gcp-script",
		Short: "Print a start-up script that runs hwtest on a Google Cloud VM",
		Long: `gcp-script prints a start-up script for a Google Cloud VM. There it fetches hwtest
(or carries it with it), runs it and writes the JSON report to the serial console,
from where it is read without logging in. docs/hosts/gcp.md goes through it.`,
		Example: `  gcloud storage cp bin/hwtest gs://BUCKET/hwtest
  hwtest gcp-script --from gs://BUCKET/hwtest > start.sh
  gcloud compute instances create probe --machine-type=n2-standard-4 \
      --enable-nested-virtualization --metadata-from-file=startup-script=start.sh
  gcloud compute instances get-serial-port-output probe > probe.log
  hwtest --from probe.log --html probe.html`,
		Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			if (from == "") != embed {
				return errors.New("gcp-script: give either --from URL or --embed")
			}
			if embed && a.outTerm {
				return errors.New("gcp-script: --embed prints some megabytes: send them to a file")
			}
			if embed {
				self, err := os.Executable()
				if err != nil {
					return fmt.Errorf("gcp-script: find this program: %w", err)
				}
				return writeScript(a.out, gcpOptions{PowerOff: powerOff}, self)
			}
			if !strings.HasPrefix(from, "gs://") && !strings.HasPrefix(from, "https://") {
				return fmt.Errorf("gcp-script: --from %q: want gs://… or https://…", from)
			}
			return writeScript(a.out, gcpOptions{From: from, PowerOff: powerOff}, "")
		},
	}
	f := c.Flags()
	f.StringVar(&from, "from", "", "`URL` of this program, gs://… or https://…")
	f.BoolVar(&embed, "embed", false, "put this program into the script (for startup-script-url: metadata holds 256 KB)")
	f.BoolVar(&powerOff, "poweroff", false, "switch the VM off afterwards")
	return c
}

// writeScript fills the template; program is what it carries, if anything.
func writeScript(w io.Writer, o gcpOptions, program string) error {
	o.Begin, o.End = report.Begin, report.End
	if o.From != "" {
		o.From = "'" + strings.ReplaceAll(o.From, "'", `'\''`) + "'"
	}
	if program != "" {
		text, err := pack(program)
		if err != nil {
			return fmt.Errorf("gcp-script: pack %s: %w", program, err)
		}
		o.Embedded = text
	}
	t, err := template.New("gcp-script").Parse(gcpScript)
	if err != nil {
		return fmt.Errorf("gcp-script: its template: %w", err)
	}
	return t.Execute(w, o)
}

// pack is a file as gzip in base64, 76 letters a line.
func pack(path string) (string, error) {
	program, err := os.ReadFile(path)
	if err != nil {
		return "", err
	}
	var zipped bytes.Buffer
	z, err := gzip.NewWriterLevel(&zipped, gzip.BestCompression)
	if err != nil {
		return "", err
	}
	if _, err := z.Write(program); err != nil {
		return "", err
	}
	if err := z.Close(); err != nil {
		return "", err
	}
	var lines strings.Builder
	for text := base64.StdEncoding.EncodeToString(zipped.Bytes()); text != ""; {
		n := min(76, len(text))
		lines.WriteString(text[:n] + "\n")
		text = text[n:]
	}
	return lines.String(), nil
}
