package cli

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/user"
	"strconv"
	"text/tabwriter"
	"time"

	"bulkhead/runtime/bundle"
	"bulkhead/runtime/container"
	"bulkhead/runtime/state"

	"github.com/opencontainers/runtime-spec/specs-go"
	"github.com/spf13/cobra"
)

// row is a container as list and state print it: runc's fields and ours.
type row struct {
	Version     string               `json:"ociVersion"`
	ID          string               `json:"id"`
	PID         int                  `json:"pid"`
	Status      specs.ContainerState `json:"status"`
	Bundle      string               `json:"bundle"`
	Rootfs      string               `json:"rootfs"`
	Created     time.Time            `json:"created"`
	Annotations map[string]string    `json:"annotations,omitempty"`
	Owner       string               `json:"owner"`
	Isolation   string               `json:"isolation,omitempty"`
	Platform    string               `json:"platform,omitempty"`
}

func describe(c *container.Container) row {
	s, oci := c.State, c.OCI()
	r := row{
		Version: s.OCIVersion, ID: s.ID, PID: oci.Pid, Status: oci.Status, Bundle: s.Bundle, Rootfs: s.Rootfs,
		Created: s.Created, Annotations: s.Annotations, Owner: strconv.Itoa(s.Owner),
		Isolation: s.Isolation, Platform: s.Platform,
	}
	if u, err := user.LookupId(r.Owner); err == nil {
		r.Owner = u.Username
	}
	return r
}

func listIDs(root string) ([]string, error) { return state.List(root) }

func (a *app) list() *cobra.Command {
	var (
		format string
		quiet  bool
	)
	c := &cobra.Command{
		Use:     "list [flags]",
		Aliases: []string{"ls"},
		Short:   "List the containers under --root",
		Args:    cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			ids, err := listIDs(a.rt.Root)
			if err != nil {
				return err
			}
			rows := []row{}
			for _, id := range ids {
				switch c, err := a.rt.Open(id); {
				case quiet && !errors.Is(err, state.ErrForeign):
					fmt.Println(id)
				case err == nil:
					rows = append(rows, describe(c))
				case errors.Is(err, state.ErrForeign):
					a.log.Debug("not ours", "container", id, "err", err)
				default:
					// The remains of a creation that was cut off, or removed meanwhile.
					a.log.Warn("state cannot be read; delete --force removes it", "container", id, "err", err)
					rows = append(rows, row{ID: id, Status: specs.StateStopped})
				}
			}
			switch {
			case quiet:
				return nil
			case format == "json":
				return json.NewEncoder(os.Stdout).Encode(rows)
			case format == "table":
				return table(os.Stdout, rows)
			}
			return fmt.Errorf("list: --format=%s is neither table nor json", format)
		},
	}
	c.Flags().StringVarP(&format, "format", "f", "table", "table or json")
	c.Flags().BoolVarP(&quiet, "quiet", "q", false, "IDs alone")
	return c
}

// table begins with runc's columns.
func table(w io.Writer, rows []row) error {
	t := tabwriter.NewWriter(w, 12, 1, 3, ' ', 0)
	fmt.Fprint(t, "ID\tPID\tSTATUS\tBUNDLE\tCREATED\tOWNER\tPLATFORM\n")
	for _, r := range rows {
		created := ""
		if !r.Created.IsZero() {
			created = r.Created.Format(time.RFC3339Nano)
		}
		fmt.Fprintf(t, "%s\t%d\t%s\t%s\t%s\t%s\t%s\n", r.ID, r.PID, r.Status, bundle.OneLine(r.Bundle), created, r.Owner, r.Platform)
	}
	return t.Flush()
}

func (a *app) state() *cobra.Command {
	return &cobra.Command{
		Use: "state ID", Short: "Print a container's state as JSON", Args: exactly("ID"), ValidArgsFunction: a.ids,
		RunE: func(_ *cobra.Command, args []string) error {
			c, err := a.rt.Open(args[0])
			if err != nil {
				return on(args[0], err)
			}
			out := json.NewEncoder(os.Stdout)
			out.SetIndent("", "  ")
			return out.Encode(describe(c))
		},
	}
}
